import contextlib
import functools
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from gptlab.data.text.readers import Chunk
from gptlab.data.tokens import encode as encoding
from gptlab.data.tokens.encode import encode, jobs, write_sections
from gptlab.data.tokens.shards import dtype_for
from gptlab.data.tokens.workers import workers
from gptlab.errors import UserError
from gptlab.tokenizers import EOT, Tokenizer, load_tokenizer
from gptlab.tokenizers.bpe import BPE, BytePairTokenizer
from gptlab.tokenizers.byte import Byte
from gptlab.tokenizers.char import Char
from gptlab.tokenizers.openai import OpenAI

Parts = list[tuple[str, Chunk]]
PIECES = [
    *["'s", "'LL", "’t", "don't", "a", "the", " the", "Bc", "é", "e\u0301", "猫", "ß", "²", "½", "Ⅷ", "123", "4"],
    *[
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\u00a0",
        "\u3000",
        "\u2028",
        ".",
        "...",
        "!/",
        "_",
        "-",
        "\x00",
        "🐈‍⬛",
        "。",
        "，",
        EOT,
    ],
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=25).map("".join)
CORPUS = ["The cat sat on the mat; the mat's the cat's.\n\n  123 cats sat " * 9, "naïve café 猫 " * 9]
FEW = settings(deadline=None, max_examples=150)


def by_pattern(name: str) -> Tokenizer:
    """Return a tokenizer of a few merges under the pattern of one of OpenAI's later encodings."""
    with mock.patch.object(openai_public, "load_tiktoken_bpe", lambda *_, **__: {}):
        split = getattr(openai_public, name)()["pat_str"]
    merges = [b" t", b"th", b" th", b" the", b"  ", b"\n\n", b"'s", b"12", b"ca", b"at", b"at ", b"a.", b".\n"]
    return BytePairTokenizer({token: i for i, token in enumerate([*(bytes([b]) for b in range(256)), *merges])}, split)


@pytest.fixture(scope="module", params=["bpe", "byte", "char", "gpt2", "cl100k_base", "o200k_base"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "gpt2":
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TIKTOKEN_CACHE_DIR", str(request.getfixturevalue("real_data") / "tiktoken_cache"))
            return OpenAI("gpt2").build([])
    options = {"bpe": BPE(vocab_size=300), "byte": Byte(), "char": Char()}
    return options[request.param].build(CORPUS) if request.param in options else by_pattern(request.param)


@FEW
@given(before=TEXTS, after=TEXTS)
def test_a_text_may_be_cut_there_whatever_comes_after(tokenizer: Tokenizer, before: str, after: str) -> None:
    cut = tokenizer.last_cut(before)
    assert 0 <= cut <= len(before)
    text = before + after
    assert tokenizer.encode(text[:cut]) + tokenizer.encode(text[cut:]) == tokenizer.encode(text)


@FEW
@given(TEXTS)
def test_arrays_hold_the_same_ids(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode_array(text).tolist() == tokenizer.encode(text)


@FEW
@given(st.lists(TEXTS, max_size=5))
def test_several_texts_at_once_have_the_same_ids(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert [ids.tolist() for ids in tokenizer.encode_arrays(texts)] == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("after", [0, 1, 4094, 4095, 4096, 4097, 4098, 8191, 8192, 8193, 9000])
@pytest.mark.parametrize("before", [1, 4096])
def test_the_last_cut_is_the_last_wherever_it_is(before: int, after: int) -> None:
    words = Byte().build([])
    assert words.last_cut("x " + "-" * before + "a" + " " + "b" * after) == before + 3
    assert words.last_cut("a" * before + ". 1, " + "b" * after) == 0
    assert words.last_cut("。" * before + "猫。" + "猫" * after) == before + 1  # a language without spaces


@st.composite
def streams(draw: st.DrawFn) -> tuple[Parts, dict[str, list[str]]]:
    """Documents of both parts, in chunks, and what they are."""
    chunks: Parts = []
    documents: dict[str, list[str]] = {"train": [], "val": []}
    for part in draw(st.lists(st.sampled_from(["train", "val"]), min_size=1, max_size=6)):
        pieces = draw(st.lists(TEXTS.filter(bool), min_size=1, max_size=5))
        chunks += [(part, Chunk(text, begins=i == 0)) for i, text in enumerate(pieces)]
        documents[part].append("".join(pieces))
    return chunks, documents


@pytest.mark.slow
@FEW
@given(streams(), st.integers(1, 60))
def test_jobs_add_up_to_whole_documents_behind_separators(
    tokenizer: Tokenizer, stream: tuple[Parts, dict[str, list[str]]], size: int
) -> None:
    chunks, documents = stream
    with mock.patch.object(encoding, "JOB", size):
        every = [encode(job, tokenizer) for job in jobs(chunks, tokenizer)]
    for part, texts in documents.items():
        ids: list[int] = []
        starts: list[int] = []
        begun = 0
        for done in every:
            if done.part == part:
                assert len(done.ids)
                starts += [begun + start for start in done.starts.tolist()]
                begun += len(done.ids) // np.dtype(dtype_for(tokenizer.n_vocab)).itemsize
                ids += np.frombuffer(done.ids, dtype_for(tokenizer.n_vocab)).tolist()
        alone = [[tokenizer.eot, *tokenizer.encode(text)] for text in texts]
        assert ids == [token for document in alone for token in document]
        assert starts == np.cumsum([0, *map(len, alone)])[:-1].tolist()
        assert sum(done.bytes for done in every if done.part == part) == len("".join(texts).encode())


CHUNKS: Parts = [
    ("val" if i % 5 == 3 else "train", Chunk(f"document {i} " + "the cat sat on a mat. " * (i % 7), begins=i % 4 != 2))
    for i in range(60)
]


@pytest.fixture(autouse=True)
def _small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "JOB", 200)


def write(folder: Path, section: int = 1000, processes: int = 1, chunks: Parts = CHUNKS) -> list[dict[str, Any]]:
    """Return the sections of `chunks` written in `folder`, in bytes."""
    saved = folder.parent / "tokenizer"
    if not saved.exists():
        saved.mkdir()
        Byte().build([]).save(saved)
    folder.mkdir(exist_ok=True)
    tokenizer = load_tokenizer(saved)
    with workers(processes) as pool:
        used = pool if processes > 1 else None
        return write_sections(folder, jobs(chunks, tokenizer), (tokenizer, saved), used, lambda size: None, section)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_processes_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    assert write(tmp_path / "one") == write(tmp_path / "two", processes=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_sections_continue_one_another(tmp_path: Path) -> None:
    (one,) = write(tmp_path / "one", section=10**9)
    several = write(tmp_path / "several")
    assert len(several) > 3
    for part in ("train", "val"):
        ids, starts, begun = b"", [], 0
        shards = [record[part] for record in several if part in record]
        for shard in shards:
            path = tmp_path / "several" / shard["file"]
            starts += (np.load(path.with_suffix(".starts.npy")) + begun).tolist()
            ids += path.read_bytes()
            begun += shard["tokens"]
        whole = tmp_path / "one" / one[part]["file"]
        assert ids == whole.read_bytes()
        assert starts == np.load(whole.with_suffix(".starts.npy")).tolist()
        for count in ("documents", "bytes", "tokens"):
            assert sum(shard[count] for shard in shards) == one[part][count]


def test_a_killed_run_goes_on_after_its_last_whole_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = write(tmp_path / "work")
    before = files(tmp_path / "work")
    last = len(records) - 1
    (tmp_path / f"work/section-{last:05d}.json").unlink()
    for shard in records[last].values():
        (tmp_path / "work" / shard["file"]).write_bytes(b"garbage" * 10_000)
    encoded = []
    monkeypatch.setattr(encoding, "encode", lambda job, tokenizer: encoded.append(job) or encode(job, tokenizer))
    assert write(tmp_path / "work") == records
    assert files(tmp_path / "work") == before
    assert sum(len(text.encode()) for job in encoded for text in job.texts) == sum(
        shard["bytes"] for shard in records[last].values()
    )


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Keep files from growing beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


LONG: Parts = [*[("train", Chunk("short" * 50, True))] * 2, ("train", Chunk("long " * 900, True))]
SHORT: Parts = [("train", Chunk("a", True))] * 2000  # their starts take more room than they do


@pytest.mark.parametrize(("chunks", "room"), [(LONG, 4096), (SHORT, 1600), (CHUNKS, 0)])
def test_a_full_disk_is_one_line_and_afterwards_it_goes_on(tmp_path: Path, chunks: Parts, room: int) -> None:
    fill = functools.partial(write, section=400, chunks=chunks)
    expected = fill(tmp_path / "expected")
    write(tmp_path / "work", chunks=[])
    with pytest.raises(UserError, match=r"^data=.*work: cannot be written \(.+\); make room.+$"), full_disk(room):
        fill(tmp_path / "work")
    assert fill(tmp_path / "work") == expected
    left = files(tmp_path / "work")
    assert {name: left[name] for name in files(tmp_path / "expected")} == files(tmp_path / "expected")
