"""Archives and weights of strangers: read within bounds, never unpacked, refused in one line."""

import gzip
import json
import os
import resource
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
import zstandard
from safetensors.torch import save_file

from gptlab.data.text.readers import LONG, LONGEST, Chunk, Reading, read
from gptlab.data.tokens.encode import jobs
from gptlab.errors import UserError
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers.base import load_tokenizer
from gptlab.tokenizers.byte import Byte
from gptlab.training.resume import checkpoint_of
from tests.faults.conftest import Ask
from tests.forked import in_fork

GIB = 1 << 30
MOST = 400 << 20  # bytes that reading any of these may take


def entry(name: str, link: bool = False) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    if link:
        info.external_attr = 0o120777 << 16
    return info


def added(*entries: tuple[zipfile.ZipInfo, bytes], packing: int = zipfile.ZIP_STORED) -> Callable[[Path], None]:
    """Add records to a checkpoint."""

    def change(path: Path) -> None:
        with zipfile.ZipFile(path, "a") as archive:
            for info, content in entries:
                info.compress_type = packing
                archive.writestr(info, content)

    return change


def packed(path: Path) -> None:
    """Compress all records of a checkpoint, its pickle with 1 GiB of zeros behind it."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content + bytes(64 << 20) * name.endswith("data.pkl"))


def widened(path: Path) -> None:
    """Let a tensor of a few numbers be one of 10^12, all of which are the same number of the file."""
    saved = torch.load(path, weights_only=True)
    saved["model"]["n_embd"] = 10**6
    saved["state_dict"] = {key: torch.zeros(1).expand(10**6, 10**6) for key in saved["state_dict"]}
    torch.save(saved, path)


def sparse(path: Path) -> None:
    saved = torch.load(path, weights_only=True)
    saved["state_dict"] = {key: torch.sparse_coo_tensor(size=(10**6, 10**6)) for key in saved["state_dict"]}
    torch.save(saved, path)


ZIPS: dict[str, Callable[[Path], None]] = {
    "absolute name": added((entry("/tmp/owned"), b"x")),
    "traversal": added((entry("../../owned"), b"x")),
    "traversal below": added((entry("archive/../../owned"), b"x"), (entry("b/c"), b"x")),
    "symbolic link": added((entry("link", link=True), b"/etc/passwd")),
    "drive": added((entry("C:\\owned"), b"x")),
    "duplicate": added((entry("last/data.pkl"), b"x"), (entry("last/data.pkl"), b"y")),
    "bomb": added((entry("archive/bomb"), bytes(64 << 20)), packing=zipfile.ZIP_DEFLATED),
    "compressed": packed,
    "other folder": added((entry("evil/data.pkl"), b"\x80\x02}.")),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-30]) and None,
    "more behind it": lambda path: path.write_bytes(path.read_bytes() + bytes(70_000)) and None,
    "empty archive": lambda path: path.write_bytes(b"PK\5\6" + bytes(18)) and None,
    "tensor of 4 TB": widened,
    "sparse tensor of 4 TB": sparse,
}


@pytest.mark.parametrize("name", ZIPS)
def test_a_checkpoint_that_is_a_hostile_archive(name: str, run: Path) -> None:
    path = run / "checkpoints/last.ckpt"
    for other in [*(run / "checkpoints").glob("step-*"), run / "checkpoints/best.ckpt"]:
        other.unlink()
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    ZIPS[name](path)
    (run / "checkpoints/SHA256SUMS").unlink()
    before = sorted(str(each) for each in Path.cwd().rglob("*"))
    with pytest.raises(UserError, match="is not a whole gptlab checkpoint") as error:
        RunDir.find("run").load()
    assert "\n" not in str(error.value)
    if not name.endswith("TB"):
        with pytest.raises(UserError, match="is not a whole gptlab checkpoint"):
            checkpoint_of(RunDir.find("run"))
    assert sorted(str(each) for each in Path.cwd().rglob("*")) == before
    assert not Path("/tmp/owned").exists()


def with_header(header: bytes, size: int | None = None, content: bytes = bytes(64)) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header + content


def tensor(**fields: object) -> bytes:
    return json.dumps({"wte.weight": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64], **fields}}).encode()


SAFETENSORS = {
    "empty": b"",
    "short": b"\1\2\3",
    "header of 2^63 bytes": with_header(b"{}", size=2**63),
    "header longer than the file": with_header(b"{}", size=10**6),
    "header is no JSON": with_header(b"{" * 64),
    "header is not UTF-8": with_header(b"\xff" * 64),
    "header is a list": with_header(b"[1, 2]"),
    "header is too deep": with_header(b"[" * 200_000),
    "offsets beyond the file": with_header(tensor(data_offsets=[0, 10**9])),
    "offsets backwards": with_header(tensor(data_offsets=[64, 0])),
    "negative offsets": with_header(tensor(data_offsets=[-64, 0])),
    "shape of another size": with_header(tensor(shape=[10**6, 10**6])),
    "shape that overflows": with_header(tensor(shape=[2**63, 4])),
    "unknown type": with_header(tensor(dtype="PICKLE")),
    "a hole": with_header(tensor(data_offsets=[8, 72]), content=bytes(72)),
    "pickle": b"\x80\x02cos\nsystem\nX\x05\0\0\0touchR.",
    "zip": b"PK\3\4" + bytes(100),
}
INDICES = {
    "traversal": {"weight_map": {"wte.weight": "../secret.safetensors"}},
    "absolute": {"weight_map": {"wte.weight": "/etc/passwd"}},
    "no map": {"metadata": {}},
    "a list": {"weight_map": ["a"]},
    "a number": {"weight_map": {"wte.weight": 7}},
    "not there": {"weight_map": {"wte.weight": "none.safetensors"}},
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A Hugging Face directory with a config and a tokenizer."""
    folder = tmp_path / "hf"
    folder.mkdir()
    shape = {"n_layer": 1, "n_head": 1, "n_embd": 4, "n_positions": 8, "vocab_size": 257}
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", **shape}))
    letters = json.loads(Byte().build([]).hf_definition())["model"]["vocab"]
    (folder / "vocab.json").write_text(json.dumps({key: value for key, value in letters.items() if len(key) == 1}))
    return folder


@pytest.mark.parametrize("name", SAFETENSORS)
def test_weights_with_a_wrong_header(name: str, model: Path, ask: Ask) -> None:
    (model / "model.safetensors").write_bytes(SAFETENSORS[name])
    assert ask("import", "hf=hf", "out=out") == 2
    assert not Path("out").exists()


@pytest.mark.parametrize("name", INDICES)
def test_an_index_that_names_other_files(name: str, model: Path, ask: Ask) -> None:
    save_file({"wte.weight": torch.zeros(257, 4)}, "secret.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps(INDICES[name]))
    assert ask("import", "hf=hf", "out=out") == 2
    assert not Path("out").exists()


def json_tokenizer(**changes: object) -> dict[str, object]:
    """A tokenizer.json of ours that holds one of Hugging Face."""
    definition = json.loads(Byte().build([]).hf_definition())
    return {"kind": "json", "eot": 256, "definition": json.dumps({**definition, **changes})}


def split(pattern: str) -> dict[str, object]:
    regex = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return json_tokenizer(pre_tokenizer=regex)


TOKENIZERS: dict[str, object] = {
    "unknown kind": {"kind": "evil.Evil"},
    "kind is a path": {"kind": "../../evil"},
    "kind is a list": {"kind": ["json"]},
    "regex that backtracks": split("(a+)+$"),
    "regex that backtracks more": split("(a|aa)+$"),
    "regex that is none": split("("),
    "regex of 10^9 repeats": split("(a{1000}){1000000}"),
    "definition is no JSON": {"kind": "json", "eot": 0, "definition": "{"},
    "definition is too deep": {"kind": "json", "eot": 0, "definition": "[" * 100_000},
    "definition is a number": {"kind": "json", "eot": 0, "definition": 7},
    "merges of nothing": json_tokenizer(model={"type": "BPE", "vocab": {"a": 0}, "merges": ["x y"]}),
    "ids beyond 2^32": json_tokenizer(model={"type": "BPE", "vocab": {"a": 2**40}, "merges": []}),
    "negative ids": json_tokenizer(model={"type": "BPE", "vocab": {"a": -1}, "merges": []}),
    "unknown model": json_tokenizer(model={"type": "Evil"}),
    "byte pairs without ranks": {"kind": "byte_pair", "split": ".", "eot": 256, "n_vocab": 257},
    "characters as a number": {"kind": "char", "characters": 7},
    "characters twice": {"kind": "char", "characters": ["ab", "c"]},
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_is_none(name: str, tmp_path: Path) -> None:
    """It is refused when it is loaded, or when it is first asked, in one line and soon."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZERS[name]))
    with pytest.raises(UserError, match="^tokenizer=") as error:
        load_tokenizer(folder).encode("a" * 60 + "b")
    assert "\n" not in str(error.value)


def zst_bomb(path: Path) -> None:
    path.write_bytes(64 * zstandard.compress(b"a" * (1 << 24), level=19))


def gz_bomb(path: Path) -> None:
    path.write_bytes(64 * gzip.compress(b"a" * (1 << 24)))


def json_bomb(path: Path) -> None:
    path.write_bytes(gzip.compress(b'{"text": "') + 64 * gzip.compress(b"a" * (1 << 24)))


def parquet_bomb(path: Path) -> None:
    table = pyarrow.table({"text": ["a" * (200 << 20)]})
    pyarrow.parquet.write_table(table, path, compression="zstd", use_dictionary=False, write_statistics=False)


def parquet_dictionary(path: Path) -> None:
    """Fifty million texts of 1 MB, all the same one."""
    values = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 20_000, pyarrow.int32()), ["a" * (1 << 20)])
    pyarrow.parquet.write_table(pyarrow.table({"text": values}), path, compression="zstd")


BOMBS = {
    "bomb.txt.zst": zst_bomb,
    "bomb.txt.gz": gz_bomb,
    "bomb.jsonl.gz": json_bomb,
    "bomb.parquet": parquet_bomb,
    "dictionary.parquet": parquet_dictionary,
}
CASES = len(ZIPS) + len(SAFETENSORS) + len(INDICES) + len(TOKENIZERS) + len(BOMBS)


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_takes_little_memory(name: str) -> None:
    """Each holds a gibibyte or more of text; it is read in pieces, or refused with the limit that it passes."""
    path = Path(name)
    BOMBS[name](path)
    assert path.stat().st_size < 2 << 20
    grown = Path("grown.txt").absolute()

    def work() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said, size = "", 0
        try:
            for chunk in read(path, Reading("text", None, "strict"), "data.files"):
                size += len(chunk.text)
                if size > GIB // 4:
                    break
        except UserError as error:
            said = str(error)
        grown.write_text(json.dumps([(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10, size, said]))

    assert in_fork(work) == (0, "")
    taken, size, said = json.loads(grown.read_text())
    assert taken < MOST
    if name in ("bomb.jsonl.gz", "bomb.parquet"):
        assert f"{LONGEST:,}" in said and "; " in said and "\n" not in said
    else:
        assert said == "" and size > GIB // 4


def test_text_without_a_place_to_cut_is_refused_with_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptlab.data.tokens.encode.LONGEST", 1 << 21)
    chunks = (("train", Chunk("a" * (1 << 20), i == 0)) for i in range(9))
    with pytest.raises(UserError, match=r"^data=text: has 4,194,304 characters in a row"):
        list(jobs(chunks, Byte().build([])))


def test_long_documents_between_separators_come_in_chunks_and_stay_what_they_are() -> None:
    first, second = "one\n" + "a b " * (LONG // 2) + "\n\nend", "x" * (3 * LONG)
    Path("a.txt").write_text(f"\n\n{first}\n\n<|end|>\n{second}<|end|>short\n")
    texts: list[str] = []
    for chunk in read(Path("a.txt"), Reading("text", "<|end|>", "strict"), "data.files"):
        assert len(chunk.text) <= 2 * LONG
        if chunk.begins:
            texts.append("")
        texts[-1] += chunk.text
    assert texts == [first, second, "short"]


SHARDS = ["../../secret.bin", "/etc/passwd", "a/../b.bin", ".."]


@pytest.mark.parametrize("file", SHARDS)
def test_shards_are_files_of_their_folder(file: str, run: Path, ask: Ask) -> None:
    assert ask("tokenize", "data=text", "data.files=[texts/*.txt]", "tokenizer=byte", "out=tokens") == 0
    manifest = json.loads(Path("tokens/manifest.json").read_text())
    manifest["train"]["shards"][0]["file"] = file
    Path("tokens/manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree("run")
    assert ask("train", "data=tokens", "data.folder=tokens", "run_dir=run", "trainer=cpu") == 2
    assert not Path("run").exists()


HASHES = ["../" * 21 + "x", "A" * 64, "g" * 64, "/" * 64, "0" * 63 + "\n", "", "0" * 65]
NAMES = ["a/../c", "a/b/../../c", "..", "/a", "a//b", "a/", "", "."]


@pytest.mark.parametrize("sha256", HASHES)
def test_a_hash_that_names_a_file_is_one(sha256: str, ask: Ask) -> None:
    url = f"file://{os.getcwd()}/none.txt"
    assert ask("train", "data=download", f"data.url={url}", f"data.sha256={sha256}", "run_dir=run") == 2
    assert not Path("run").exists() and not Path("cache/downloads").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_that_of_a_folder(name: str, ask: Ask) -> None:
    assert ask("train", f"name={name}", "data=text") == 2
    assert not Path("outputs").exists()


def test_an_empty_run_dir(ask: Ask) -> None:
    assert ask("train", "run_dir=", "data=text") == 2
