import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from gptlab.data.text.readers import BLOCK, Chunk, Reading, read
from gptlab.errors import UserError

DOCUMENTS = ["A short story.\r\nWith an accent: é.\n", "Another one,\u2028not two.", "And a third 🙂"]
STRICT = Reading("text", None, "strict")
REPLACE = Reading("text", None, "replace")
PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def write(name: str, content: bytes) -> Path:
    path = Path(name)
    path.write_bytes(content)
    return path


def parquet(name: str, **columns: list[object] | pyarrow.Array) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), name)
    return Path(name)


def json_lines(*records: object) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def documents(path: Path, reading: Reading = STRICT) -> list[str]:
    texts: list[str] = []
    for chunk in read(path, reading, "data.files"):
        assert chunk.text
        if chunk.begins:
            texts.append("")
        texts[-1] += chunk.text
    return texts


def refused(path: Path, why: str, reading: Reading = STRICT) -> None:
    with pytest.raises(UserError, match=rf"^data\.files={path}: {why}") as caught:
        documents(path, reading)
    assert "; " in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("packing", PACK)
def test_a_plain_file_is_one_document_as_it_stands(packing: str) -> None:
    assert documents(write(f"a.txt{packing}", PACK[packing](DOCUMENTS[0].encode()))) == DOCUMENTS[:1]


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("kind", ["jsonl", "ndjson", "JSONL"])
def test_each_line_of_json_is_a_document(kind: str, packing: str) -> None:
    content = json_lines(*({"id": 1, "text": text} for text in DOCUMENTS)).replace(b"}\n{", b"}\n\n{")
    assert documents(write(f"a.{kind}{packing}", PACK[packing](content))) == DOCUMENTS


def test_each_row_of_parquet_is_a_document() -> None:
    texts = [*DOCUMENTS, *map(str, range(1000))]  # several batches
    assert documents(parquet("a.parquet", id=[*range(1003)], text=texts)) == texts


def test_the_endings_may_come_from_another_name() -> None:
    path = write("0123abcd", gzip.compress(json_lines({"text": "one"})))
    assert list(read(path, STRICT, "data.url", "story.jsonl.gz")) == [Chunk("one", True)]


@pytest.mark.parametrize("packing", PACK)
def test_a_long_document_comes_in_chunks_of_which_the_first_begins(packing: str) -> None:
    text = "x" * (BLOCK - 1) + "é\r\n🙂" + "y" * BLOCK  # é lies across the border of the first block
    chunks = list(read(write(f"a.txt{packing}", PACK[packing](text.encode())), STRICT, "data.files"))
    assert "".join(chunk.text for chunk in chunks) == text
    assert [chunk.begins for chunk in chunks] == [True, *[False] * (len(chunks) - 1)]
    assert len(chunks) > 2 and max(len(chunk.text.encode()) for chunk in chunks) <= BLOCK + 1


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz", "a.jsonl.zst"])
def test_an_empty_file_has_no_document(name: str) -> None:
    assert documents(write(name, PACK[Path(name).suffix if name.count(".") > 1 else ""](b""))) == []


def test_a_separator_divides_a_plain_file() -> None:
    path = write("a.txt", b"<|end|>one\r\n<|end|>\n\n<|end|>\n two\nlines \n<|end|><|end|>three\n")
    assert documents(path, Reading("text", "<|end|>", "strict")) == ["one", " two\nlines ", "three"]


def test_a_separator_across_a_border_of_blocks() -> None:
    path = write("a.txt", b"x" * (BLOCK - 3) + b"<|end|>" + b"y" * BLOCK)
    assert documents(path, Reading("text", "<|end|>", "strict")) == ["x" * (BLOCK - 3), "y" * BLOCK]


def test_another_column() -> None:
    reading = Reading("story", None, "strict")
    assert documents(write("a.jsonl", json_lines({"text": "no", "story": "yes"})), reading) == ["yes"]
    assert documents(parquet("a.parquet", text=["no"], story=["yes"]), reading) == ["yes"]


def test_records_without_text_are_skipped() -> None:
    texts = [None, "one", "", "two"]
    assert documents(write("a.jsonl", json_lines(*({"text": text} for text in texts)))) == ["one", "two"]
    assert documents(parquet("a.parquet", text=texts)) == ["one", "two"]


def test_no_such_column_names_those_there_are() -> None:
    lines = json_lines({"text": "a"}, {"id": 1, "story": "b"})
    refused(write("a.jsonl", lines), "no column 'text': line 2 has id, story; choose one with data.column=")
    refused(parquet("a.parquet", id=[1], story=["b"]), "no column 'text': it has id, story; choose one")
    refused(write("list.jsonl", b'["text"]\n'), "no column 'text': line 1 has no columns")


def test_a_column_of_something_else() -> None:
    refused(write("a.jsonl", json_lines({"text": "a"}, {"text": 7})), "line 2 has a int as 'text', not text")
    refused(parquet("a.parquet", text=[b"a"]), "row 1 has a bytes as 'text', not text")


@pytest.mark.parametrize("line", [b'{"text": "cut', b"text", b"[" * 100_000], ids=["cut", "bare", "nested"])
def test_a_line_that_is_not_json_is_named(line: bytes) -> None:
    refused(write("a.jsonl", json_lines({"text": "a"}) + b"\n" + line), "line 3 is not JSON")


def test_half_a_character_in_json() -> None:
    path = write("a.jsonl", json_lines({"text": "one"}, {"text": "🙂a\ud83db"}))
    refused(path, r"line 2 holds half a character \(at 2\)")
    assert documents(path, REPLACE) == ["one", "🙂a\ufffdb"]


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize(
    ("content", "byte"),
    [
        ("abcdé".encode("latin-1"), 4),
        (b"x" * (BLOCK + 5) + b"\xffy", BLOCK + 5),
        (b"x" * (BLOCK - 1) + b"\xc3y", BLOCK - 1),  # a character begins in one block and does not go on in the next
        ("one é".encode()[:-1], 4),  # the file ends within a character
        (b"x" * (BLOCK - 1) + b"\xc3", BLOCK - 1),
    ],
    ids=["short", "second block", "across blocks", "cut", "cut at a block"],
)
def test_what_is_not_utf8_names_the_byte(content: bytes, byte: int, packing: str) -> None:
    path = write(f"a.txt{packing}", PACK[packing](content))
    refused(path, rf"is not UTF-8 \(byte {byte}\)")
    assert documents(path, REPLACE) == [content.decode("utf-8", "replace")]


def test_json_that_is_not_utf8_names_the_byte_in_the_file() -> None:
    path = write("a.jsonl", '{"text": "é"}\n'.encode() + b'{"text": "a\xe9"}\n')
    refused(path, rf"is not UTF-8 \(byte {15 + 11}\)")
    assert documents(path, REPLACE) == ["é", "a\ufffd"]


def test_parquet_that_is_not_utf8_names_the_row() -> None:
    ends = pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0")
    texts = pyarrow.Array.from_buffers(pyarrow.string(), 2, [None, ends, pyarrow.py_buffer(b"abc\xe9")])
    path = parquet("a.parquet", text=texts)
    refused(path, r"is not UTF-8 \(row 2\)")
    assert documents(path, REPLACE) == ["ab", "c\ufffd"]


def test_damaged_archives(tmp_path: Path) -> None:
    text = "".join(str(i * i) for i in range(3000)).encode()
    for name in ("a.txt.gz", "a.txt.zst", "a.jsonl.gz", "a.jsonl.zst"):
        pack = PACK[Path(name).suffix]
        whole = pack(json_lines({"text": text.decode()}) * 2 if "jsonl" in name else text)
        for content in (whole[:-1], whole[: len(whole) // 2], whole[:3], b"garbage " + whole, whole + whole[:9]):
            refused(write(name, content), r"cannot be read \(")
    refused(write("a.parquet", b"garbage"), r"cannot be read \(")
    whole = parquet("b.parquet", text=[text.decode()]).read_bytes()
    refused(write("b.parquet", whole[: len(whole) // 2]), r"cannot be read \(")
    refused(write("b.parquet", whole[:4] + bytes(100) + whole[104:]), r"cannot be read \(")
    refused(tmp_path / "none.txt", r"cannot be read \(")


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_archives_may_hold_several_parts(packing: str) -> None:
    pack = PACK[packing]
    assert documents(write(f"a.txt{packing}", pack(b"one \xc3") + pack(b"\xa9 two"))) == ["one é two"]


@pytest.mark.parametrize(("name", "module"), [("a.parquet", "pyarrow"), ("a.txt.zst", "zstandard")])
def test_what_needs_an_extra_says_so(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    refused(write(name, b""), rf"needs {module}; pip install 'gptlab\[files\]'")


@pytest.mark.parametrize(("name", "content"), [("a.txt", "\ufefftext"), ("a.jsonl", '\ufeff{"text": "text"}\n')])
def test_the_mark_that_some_editors_begin_with_is_no_text(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert [chunk.text for chunk in read(tmp_path / name, Reading("text", None, "strict"), "k")] == ["text"]


def test_a_zero_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": 0}\n')
    with pytest.raises(UserError, match=r"line 1 has a int as 'text', not text"):
        list(read(tmp_path / "a.jsonl", Reading("text", None, "strict"), "k"))
