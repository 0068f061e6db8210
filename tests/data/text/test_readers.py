import csv
import gzip
import io
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
import zstandard

from gptlab.data.text import json_arrays, readers
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
@pytest.mark.parametrize("kind", ["jsonl", "ndjson", "JSONL", "json", "00000-of-00001.json", "txt", "log"])
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


def as_array(records: list[object], indent: int | None = None) -> bytes:
    return json.dumps(records, indent=indent, ensure_ascii=False).encode()


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("size", [1, 7, BLOCK])
def test_an_array_of_objects(size: int, indent: int | None, packing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK", size)
    records = [{"id": 1e-5, "ok": True, "deep": {"a": [[], {}]}, "text": text} for text in [*DOCUMENTS, '"\\ \u2028']]
    path = write(f"a.json{packing}", PACK[packing](b"\n " + as_array(records, indent) + b"\n"))
    assert documents(path) == [*DOCUMENTS, '"\\ \u2028']


def test_a_long_record_of_an_array_is_not_read_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK", 100)
    decoded = []
    decode = json.JSONDecoder.raw_decode
    monkeypatch.setattr(json.JSONDecoder, "raw_decode", lambda *args: decoded.append(1) or decode(*args))
    assert documents(write("a.json", as_array([{"text": "x" * 100_000}] * 2))) == ["x" * 100_000] * 2
    assert len(decoded) < 2 * 12


def test_an_array_is_not_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK", 100)
    held: list[int] = []
    grow = json_arrays._Text.grow
    monkeypatch.setattr(
        json_arrays._Text, "grow", lambda text, size: (grow(text, size), held.append(len(text.buffer)))[0]
    )
    assert len(documents(write("a.json", as_array([{"text": "x" * 50}] * 2000)))) == 2000
    assert max(held) < 400


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'[{"text": "a"}, {"text": "b"', "record 2 is not JSON"),
        (b'[{"text": "a"}, {"text" "b"}' + b" " * 99 + b"]", "record 2 is not JSON"),
        (b'[{"text": "a"}, 7]', "record 2 is no object"),
        (b'[{"text": "a"} {"text": "b"}]', "no comma or bracket follows record 1"),
        (b'[{"text": "a"}', "no comma or bracket follows record 1"),
        (b'[{"text": "a"}] [{"text": "b"}]', "goes on after its array of 1 records"),
        (b'[{"text": ' + b"[" * 100_000, "record 1 is nested too deep"),
        (b'[{"story": "a"}]', "no column 'text': record 1 has story"),
        (b'{\n  "data": [\n    1\n  ]\n}', "line 1 is not JSON"),
        (b'{"data": [{"text": "a"}]}', "no column 'text': line 1 has data"),
        (b"plain text", "line 1 is not JSON"),
    ],
)
def test_json_that_is_no_list_of_records(content: bytes, why: str) -> None:
    refused(write("a.json", content), why)


def test_a_record_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK", 10)
    monkeypatch.setattr(json_arrays, "MOST_RECORD", 100)
    refused(write("a.json", as_array([{"text": "x" * 1000}])), "record 1 has more than 100 characters")


def test_an_array_that_is_not_utf8_or_half_a_character() -> None:
    refused(write("a.json", b'[{"text": "a\xe9"}]'), r"is not UTF-8 \(byte 12\)")
    refused(write("a.json", b'[{"text": "a\\ud83d"}]'), r"record 1 holds half a character \(at 1\)")
    assert documents(write("a.json", b"\xef\xbb\xbf[]")) == []


def test_text_that_only_looks_like_records_is_text() -> None:
    for text in ('{"text": "a"}\nand more\n', '{"story": "a"}\n{"story": "b"}\n', '{"text": 1}\n', "{\n", "[1]\n"):
        assert documents(write("a.txt", text.encode())) == [text]
    lines = json_lines({"text": "a"}, {"text": "b"})
    assert documents(write("a.txt", lines), Reading("text", None, "strict", "text")) == [lines.decode()]
    assert documents(write("a.txt", lines), Reading("text", "\n", "strict")) == lines.decode().splitlines()


def table(name: str, rows: list[list[str]], delimiter: str) -> bytes:
    """As Python's csv, and so Excel and pandas, write it."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue().encode()


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize(("kind", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_a_column_of_a_table(kind: str, delimiter: str, packing: str) -> None:
    texts = [*DOCUMENTS, 'say "hi", or\tnot\n\nat all', "", "x" * 200_000]
    content = table(kind, [["id", "text"], *([str(i), text] for i, text in enumerate(texts))], delimiter)
    path = write(f"a.{kind}{packing}", PACK[packing](b"\xef\xbb\xbf" + content + b"\r\n"))
    assert documents(path) == [text for text in texts if text]
    assert documents(path, Reading("id", None, "strict")) == [*map(str, range(len(texts)))]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"id,story\n1,a\n", "no column 'text': it has id, story; choose one with data.column=NAME"),
        (b"text,text\n1,a\n", "more than one column 'text'"),
        (b"id,text\n1,a\n2,b,c\n", "row 2 has 3 fields, and there are 2 columns"),
        (b'id,text\n1,a\n2,"b', "row 2 cannot be read"),
        (b'id,text\n1,"a"b\n', "row 1 cannot be read"),
        (b"id,text\n1,a\n2,\xff\n", r"is not UTF-8"),
        (b"Just some text, with commas.\n", "no column 'text'"),
    ],
)
def test_a_table_that_cannot_be_read(content: bytes, why: str) -> None:
    refused(write("a.csv", content), why)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.csv.gz"])
def test_an_empty_table_has_no_document(name: str) -> None:
    assert documents(write(name, PACK[".gz" if name.endswith(".gz") else ""](b""))) == []


def arrow(name: str, texts: pyarrow.Array, stream: bool) -> Path:
    table = pyarrow.table({"id": range(len(texts)), "text": texts})
    make = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with pyarrow.OSFile(name, "wb") as sink, make(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=700)
    return Path(name)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())]
)
def test_each_row_of_arrow_is_a_document(kind: pyarrow.DataType, stream: bool) -> None:
    texts = [*DOCUMENTS, *map(str, range(1000)), None]
    assert documents(arrow("a.arrow", pyarrow.array(texts).cast(kind), stream)) == texts[:-1]


def test_feather_is_arrow() -> None:
    pyarrow.feather.write_feather(pyarrow.table({"text": DOCUMENTS}), "a.feather")
    assert documents(Path("a.feather")) == DOCUMENTS


def test_arrow_that_is_cut_short() -> None:
    for stream in (True, False):
        whole = arrow("whole.arrow", pyarrow.array(map(str, range(3000))), stream).read_bytes()
        for size in (0, 3, len(whole) // 2, len(whole) - 8, len(whole) - 1):
            refused(write("a.arrow", whole[:size]), "(is no Arrow file|cannot be read)")
    refused(write("a.arrow.gz", gzip.compress(whole)), ".gz around arrow is not read; decompress it")
    refused(arrow("a.arrow", pyarrow.array([1]), stream), "row 1 has a int as 'text', not text")


def windowed(content: bytes, log: int) -> bytes:
    """A zstd frame that declares a window of 2^log bytes, as `zstd --long` writes it (RFC 8878, 3.1.1.1.2)."""
    packer = zstandard.ZstdCompressor().compressobj()  # it does not know how much comes
    frame = bytearray(packer.compress(content) + packer.flush())
    assert frame[4] & 0b11100011 == 0  # a window descriptor follows, no dictionary, no content size
    frame[5] = log - 10 << 3
    return bytes(frame)


def test_long_windows_are_read_up_to_a_bound() -> None:
    text = "".join(random.Random(0).choices("abcdefgh ", k=200_000))
    for log in (27, 30, 31):
        assert documents(write("a.txt.zst", windowed(text.encode(), log))) == [text]
    refused(
        write("a.txt.zst", windowed(text.encode(), 32)), r"cannot be read \(its window is longer than 2,147,483,648"
    )


@pytest.mark.parametrize("name", ["a.txt.bz2", "a.zip", "a.tar.gz", "a.jsonl.xz", "ids.npy", "train.bin"])
def test_what_is_no_text_by_its_name(name: str) -> None:
    refused(write(name, b"x"), r"\.\w+ (is not read|holds tokens, not text); ", REPLACE)
    assert documents(
        write(name, PACK[".gz" if name.endswith(".gz") else ""](b"x")), REPLACE._replace(format="text")
    ) == ["x"]
