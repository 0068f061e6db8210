"""Token files of others are read as they declare themselves, or refused."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from gptlab.data.quality import id_counts
from gptlab.data.text.sources import TokenFiles
from gptlab.data.tokens.prepare import Corpus, prepare
from gptlab.data.tokens.shards import TokenStream
from gptlab.data.tokens.token_files import foreign_shards
from gptlab.errors import UserError
from gptlab.tokenizers.byte import Byte

EOT = 256  # of the tokenizer of bytes
IDS = np.random.default_rng(0).integers(0, 256, 1000)


def corpus(*train: str, **fields: Any) -> Corpus:
    return prepare(TokenFiles(train=[*train], **{"val_fraction": 0.1, **fields}), Byte())


def stream(*train: str, **fields: Any) -> TokenStream:
    """All ids of some files."""
    return TokenStream(foreign_shards(TokenFiles(train=[*train], **fields), "data.train", [*train], Byte().build([])))


def refused(message: str, *train: str, **fields: Any) -> None:
    with pytest.raises(UserError, match=f"^{message}") as caught:
        corpus(*train, **fields)
    assert "; " in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<i4", "<u4", "<i8", "<u8"])
def test_numpy_files_are_read_by_their_header(dtype: str) -> None:
    ids = IDS % 250
    np.save("a.npy", ids.astype(dtype))
    assert stream("a.npy")[:].tolist() == ids.tolist()
    found = corpus("a.npy")
    assert [*found.train[0][:].tolist(), *found.val[:].tolist()] == ids.tolist()
    assert len(found.val) == 100
    counts = id_counts([found.train[0], found.val], 257)
    assert counts.tolist() == [*np.bincount(ids, minlength=257).tolist(), 0]
    found.save_held_out(Path("held"))
    assert np.fromfile("held/val.bin", "<u2").tolist() == ids[900:].tolist()


def test_numpy_files_of_something_else() -> None:
    whole = np.arange(100, dtype=np.uint16)
    for array, why in (
        (whole.reshape(10, 10), r"holds an array of uint16 \(10, 10\), not ids"),
        (whole.astype(float), "holds an array of float64"),
        (np.array([{}, {}]), "cannot be read"),
        (np.zeros(3, [("a", "i4")]), "holds an array of"),
    ):
        np.save("a.npy", array, allow_pickle=True)
        refused(rf"data=a\.npy: {why}", "a.npy")
    np.save("a.npy", whole)
    content = Path("a.npy").read_bytes()
    for damaged in (content[:-2], content[:20], b"", content + b"xx"):
        Path("a.npy").write_bytes(damaged)
        refused(r"data=a\.npy: (cannot be read|has)", "a.npy")
    np.save("a.npy", np.array([-1, 2] * 50))
    refused(r"data=a\.npy: it has ids up to 18,446,744,073,709,551,615", "a.npy")
    np.save("a.npy", whole)
    refused(r"data\.dtype=uint32: a\.npy says that it holds uint16; leave it out", "a.npy", dtype="uint32")


@pytest.mark.parametrize("dtype", ["uint32", "int32", "uint64", "int64"])
def test_raw_ids_that_are_wider_than_the_vocabulary_needs_are_found(dtype: str) -> None:
    IDS.astype(dtype).tofile("a.bin")
    named = "uint" + dtype[-2:]
    refused(rf"data=a\.bin: read as uint16, every second id is 0, .+ {named}; give data\.dtype={named}", "a.bin")
    assert stream("a.bin", dtype=dtype)[:].tolist() == IDS.tolist()


def test_raw_ids_of_a_given_type() -> None:
    IDS.astype(np.uint8).tofile("a.bin")
    assert stream("a.bin", dtype="uint8")[:].tolist() == IDS.tolist()
    np.array([1, 0] * 50, np.uint16).tofile("b.bin")
    refused(r"data=b\.bin: read as uint16, every second id is 0", "b.bin")
    assert stream("b.bin", dtype="uint16")[:].tolist() == [1, 0] * 50
    np.array([1, 0, 2, 0], np.uint16).tofile("c.bin")  # too few to tell
    assert stream("c.bin")[:].tolist() == [1, 0, 2, 0]
    with pytest.raises(UserError, match=r"^dtype=float32: no such option; choose one of uint8, "):
        TokenFiles(train=["a.bin"], dtype="float32")


def megatron(name: str, documents: list[list[list[int]]], code: int = 8, dtype: str = "<u2", **changes: Any) -> None:
    """Sequences of documents, as Megatron-LM's IndexedDatasetBuilder writes them."""
    sequences = [sequence for document in documents for sequence in document]
    width = np.dtype(dtype).itemsize
    lengths = [len(sequence) for sequence in sequences]
    pointers = np.cumsum([0, *lengths])[:-1] * width
    borders = np.cumsum([0, *(len(document) for document in documents)])
    Path(f"{name}.bin").write_bytes(b"".join(np.array(sequence, dtype).tobytes() for sequence in sequences))
    Path(f"{name}.idx").write_bytes(
        changes.get("magic", b"MMIDIDX\x00\x00")
        + struct.pack("<Q", changes.get("version", 1))
        + struct.pack("<B", code)
        + struct.pack("<Q", len(sequences))
        + struct.pack("<Q", len(borders))
        + np.array(lengths, "<i4").tobytes()
        + np.array(changes.get("pointers", pointers), "<i8").tobytes()
        + np.array(borders, "<i8").tobytes()
    )


DOCUMENTS = [[[1, 2, 3], [4]], [[5, 6]], [[7, 8, 9, 10]]] * 20


@pytest.mark.parametrize(("code", "dtype"), [(1, "u1"), (4, "<i4"), (5, "<i8"), (8, "<u2")])
def test_megatron_documents_get_the_separators_that_they_lack(code: int, dtype: str) -> None:
    megatron("a", DOCUMENTS, code, dtype)
    expected = [EOT, 1, 2, 3, 4, EOT, 5, 6, EOT, 7, 8, 9, 10] * 20
    for name in ("a.bin", "a.idx", "a", "a.*"):
        assert stream(name)[:].tolist() == expected
    np.array([1, 2] * 50, np.uint16).tofile("val.bin")
    assert corpus("a.bin", val=["val.bin"]).manifest["train"]["documents"] == 60


def test_megatron_documents_that_end_with_the_separator_are_read_where_they_lie(tmp_path: Path) -> None:
    ended = [[*document[:-1], [*document[-1], EOT]] for document in DOCUMENTS]
    megatron("a", ended)
    found = stream("a.bin")
    assert found[:].tolist() == [1, 2, 3, 4, EOT, 5, 6, EOT, 7, 8, 9, 10, EOT] * 20
    assert found.shards[0].path == Path("a.bin")
    assert not (tmp_path / "cache/converted").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda: megatron("a", DOCUMENTS, version=2), "has version 2"),
        (lambda: megatron("a", DOCUMENTS, 7), "has version 1 and ids of type 7"),
        (lambda: megatron("a", DOCUMENTS, magic=b"TNTIDX\x00\x00\x00"), "is no index that is known"),
        (lambda: megatron("a", DOCUMENTS, pointers=[0] * 80), "has sequences that do not lie one after another"),
        (lambda: Path("a.idx").write_bytes(Path("a.idx").read_bytes()[:-1]), "has 1,481 bytes instead of 1,482"),
        (lambda: Path("a.idx").write_bytes(Path("a.idx").read_bytes() + bytes(80)), "is of several modes"),
        (lambda: Path("a.bin").write_bytes(Path("a.bin").read_bytes()[:-2]), "tells of 400 bytes, and a.bin has 398"),
        (lambda: Path("a.idx").write_bytes(b""), "is no index that is known"),
    ],
)
def test_an_index_that_does_not_fit(change: Callable[[], None], why: str) -> None:
    megatron("a", DOCUMENTS)
    change()
    refused(rf"data=a\.idx: {why}", "a.bin")


def saved(rows: dict[str, list[Any]], name: str = "saved") -> str:
    datasets.Dataset.from_dict(rows).save_to_disk(name, num_shards=2)
    return name


ROWS = [[5, 6, 7], [8], [], [9, 10, 11, 12]] * 5


def test_rows_of_a_saved_data_set_are_documents() -> None:
    expected = [EOT, 5, 6, 7, EOT, 8, EOT, 9, 10, 11, 12] * 5
    assert stream(saved({"input_ids": ROWS}))[:].tolist() == expected
    ended = [[*row, EOT] for row in ROWS]
    begun = [[EOT, *row] for row in ROWS]
    for number, rows in enumerate((ended, begun)):
        assert stream(saved({"ids": rows}, f"other{number}"), column="ids")[:].tolist() == expected
    pyarrow.parquet.write_table(pyarrow.table({"input_ids": ROWS}), "a.parquet")
    assert stream("a.parquet")[:].tolist() == expected
    assert not stream("a.parquet").has_mask
    assert stream("saved", joined=True)[:].tolist() == [i for row in ROWS for i in row]


def test_rows_of_one_length_may_be_blocks_of_a_stream() -> None:
    rows = IDS.reshape(100, 10).tolist()
    saved({"input_ids": rows})
    refused("data=saved/.*: its rows all have 10 ids, as blocks of one stream have; give data.joined=true", "saved")
    assert stream("saved", joined=True)[:].tolist() == IDS.tolist()
    assert stream("saved", joined=False)[:].tolist() == [i for row in rows for i in (EOT, *row)]


def test_padding_is_left_out_and_labels_are_the_loss_mask() -> None:
    saved({
        "input_ids": [[5, 6, 7, 0], [8, 9, 0, 0]] * 9,
        "attention_mask": [[1, 1, 1, 0], [1, 1, 0, 0]] * 9,
        "labels": [[-100, 6, -100, -100], [8, 9, -100, -100]] * 9,
    })  # fmt: skip
    found = stream("saved")
    assert found[:].tolist() == [EOT, 5, 6, 7, EOT, 8, 9] * 9
    mask = found.mask(slice(None))
    assert mask is not None
    assert mask.tolist() == [0, *([1, 0, 1, 0, 0, 1, 1] * 9)[1:]]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ({"text": ["a"]}, "no column 'input_ids': it has text"),
        ({"input_ids": ["a"]}, "row 1 has a string as 'input_ids', not a list of ids"),
        ({"input_ids": [[0.5]]}, "row 1 has double in 'input_ids', not whole numbers"),
        ({"input_ids": [[1, None]]}, "row 1 has int64 in 'input_ids', not whole numbers"),
        ({"input_ids": [[1, -2]]}, "it has ids below 0"),
        ({"input_ids": [[1, 2]], "labels": [[1, 3]]}, "row 1 has labels that are not its ids"),
        ({"input_ids": [[1, 2]], "labels": [[1]]}, "row 1 has columns of different lengths"),
        ({"input_ids": [[1, 300]]}, "it has ids up to 300, the vocabulary ends at 256"),
    ],
)
def test_tables_that_hold_no_ids(rows: dict[str, list[Any]], why: str) -> None:
    pyarrow.parquet.write_table(pyarrow.table(rows), "a.parquet")
    refused(f"data=.*: {why}", "a.parquet")


def test_a_table_that_is_damaged_leaves_nothing_that_is_taken_for_whole() -> None:
    pyarrow.parquet.write_table(pyarrow.table({"input_ids": [[1, 2], [3, 70_000_000_000]]}), "a.parquet")
    for _ in range(2):
        refused("data=a.parquet: it has ids below 0 or beyond 32 bits", "a.parquet")
    Path("a.parquet").write_bytes(b"x")
    refused("data=a.parquet: cannot be read", "a.parquet")
