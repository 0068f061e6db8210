import hashlib
import io
import random
from collections.abc import Iterable
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.data.text import splits
from gptlab.data.text.readers import Chunk
from gptlab.data.text.splits import bucket, divide, survey
from gptlab.errors import UserError

HEAD = 4  # in the tests that cut documents into chunks
TEXTS = st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=12)
FRACTIONS = st.floats(0.01, 1)


def whole(documents: Iterable[str]) -> list[Chunk]:
    return [Chunk(document, begins=True) for document in documents]


@st.composite
def chunked(draw: st.DrawFn, documents: list[str]) -> list[Chunk]:
    """Yield each document in any number of chunks, the first of which holds its head."""
    chunks = []
    for document in documents:
        inside = range(HEAD, len(document))
        cuts = sorted(draw(st.sets(st.sampled_from(inside)))) if inside else []
        for start, stop in zip([0, *cuts], [*cuts, len(document)], strict=True):
            chunks.append(Chunk(document[start:stop], begins=start == 0))
    return chunks


def sides(chunks: list[Chunk], val_fraction: float) -> tuple[list[str], list[str]]:
    """Return the (training, held-out) documents."""
    found: dict[str, list[str]] = {"train": [], "val": []}
    for part, (text, begins, _) in divide(chunks, survey(chunks, val_fraction)):
        assert text
        found[part] += [""] * begins
        found[part][-1] += text
    return found["train"], found["val"]


def documents(n: int = 300) -> list[str]:
    rng = random.Random(1)
    return [f"document {i} " + "x" * rng.randrange(1000) for i in range(n)]


def whole_share(texts: list[str], fraction: float) -> float:
    """The share that whole documents can make: those that are equal together, in the order of their hashes."""
    buckets: dict[int, int] = {}
    for text in texts:
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:2], "big")
        buckets[number] = buckets.get(number, 0) + len(text.encode())
    total = sum(buckets.values())
    held = 0
    for number in sorted(buckets):
        held += buckets[number] if held + buckets[number] <= fraction * total else 0
    return held / total


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(TEXTS, FRACTIONS)
def test_every_document_once_and_in_order(texts: list[str], fraction: float) -> None:
    chunks = whole(texts)
    found = survey(chunks, fraction)
    size = sum(len(text.encode()) for text in texts)
    assert (found.documents, found.bytes) == (len(texts), size)
    train, val = sides(chunks, fraction)
    if found.cuts:
        cuts = [int((1 - fraction) * len(text)) for text in texts]
        assert train == [text[:cut] for text, cut in zip(texts, cuts, strict=True) if cut]
        assert val == [text[cut:] for text, cut in zip(texts, cuts, strict=True)]
        assert whole_share(texts, fraction) < fraction / 2
    else:
        assert [chunk for _, chunk in divide(chunks, found)] == chunks
        held = sum(len(text.encode()) for text in val)
        assert fraction * size * 0.999 / 2 <= held <= fraction * size
        assert held / size == pytest.approx(whole_share(texts, fraction))
        assert not set(train) & set(val)


@settings(deadline=None, max_examples=200)
@given(TEXTS, FRACTIONS, st.data())
def test_it_does_not_matter_how_a_document_comes_in_chunks(
    texts: list[str], fraction: float, data: st.DataObject
) -> None:
    chunks = data.draw(chunked(texts))
    with mock.patch.object(splits, "HEAD", HEAD):
        assert survey(chunks, fraction) == survey(whole(texts), fraction)
        assert sides(chunks, fraction) == sides(whole(texts), fraction)


@given(st.lists(st.text(min_size=1, max_size=5), min_size=2, max_size=4))
def test_the_hash_knows_where_documents_begin(texts: list[str]) -> None:
    assert survey(whole(texts), 0.1).sha256 != survey(whole(["".join(texts)]), 0.1).sha256


def test_every_document_on_one_side_in_order() -> None:
    every = documents()
    train, val = sides(whole(every), 0.1)
    assert sorted(train + val) == sorted(every)
    assert train == [d for d in every if d in set(train)]
    assert 0.08 < sum(map(len, val)) / sum(map(len, every)) <= 0.1


def test_it_depends_on_the_documents_not_on_their_order() -> None:
    every = documents()
    assert set(sides(whole(every), 0.1)[1]) == set(sides(whole(every[::-1]), 0.1)[1])


def test_copies_stay_together() -> None:
    train, val = sides(whole(documents() * 2), 0.2)
    assert val and not set(train) & set(val)


def test_documents_that_begin_alike_stay_together() -> None:
    head = "a" * splits.HEAD
    assert len({bucket(head + end) for end in ("", "x", "y" * 99)}) == 1
    assert bucket("b" + head) != bucket(head)


@pytest.mark.parametrize("size", [1, 7, 10, 90, 100])
def test_one_book_is_cut_by_position_in_whatever_chunks_it_comes(size: int) -> None:
    book = "0123456789" * 10
    chunks = [Chunk(book[i : i + size], begins=i == 0) for i in range(0, len(book), size)]
    assert sides(chunks, 0.1) == ([book[:90]], [book[90:]])


def test_a_cut_is_rounded_down() -> None:
    assert sides(whole(["a" * 20479]), 0.1)[0] == ["a" * int(0.9 * 20479)]


def test_few_long_documents_are_cut_by_position_each() -> None:
    train, val = sides(whole(["a" * 100, "b" * 200]), 0.25)
    assert (train, val) == (["a" * 75, "b" * 150], ["a" * 25, "b" * 50])


def test_everything_can_be_held_out() -> None:
    assert sides(whole(["a", "b"]), 1.0) == ([], ["a", "b"])


def test_many_documents_of_which_none_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "FEW", 2)
    assert survey(whole(["a", "b"]), 0.1).cuts == [0, 0]
    with pytest.raises(UserError, match=r"^data\.val_fraction=0\.1: no document .+; raise it"):
        survey(whole(["a", "b", "c"]), 0.1)
    assert sides(whole(["a", "b", "c"]), 0.4)[1] != []


def test_where_nothing_is_to_be_held_out_nothing_has_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "FEW", 2)
    assert sides(whole(["a", "b", "c"]), 0.0) == (["a", "b", "c"], [])


def test_two_books_and_a_licence() -> None:
    rng = random.Random(0)
    books = ["".join(rng.choices("abcdefgh ", k=50_000)) for _ in range(2)]
    texts = [*books, "x" * 170]
    train, val = sides(whole(texts), 0.1)
    assert (train, val) == (
        [text[: int(0.9 * len(text))] for text in texts],
        [text[int(0.9 * len(text)) :] for text in texts],
    )
    found = survey(whole(texts), 0.1)
    assert found.whole_share == pytest.approx(170 / 100_170)


def test_half_of_the_share_in_whole_documents_is_enough() -> None:
    texts = ["a" * 50, "b" * 475, "c" * 475]  # a is 5% of the text
    assert sides(whole(texts), 0.1)[1] == texts[:1]
    assert sides(whole(texts), 0.101)[1] == ["a" * 6, "b" * 48, "c" * 48]


def test_the_list_of_documents() -> None:
    file = io.BytesIO()
    texts = ["one", "two", "one"]
    survey(whole(texts), 0.1, file)
    listed = np.frombuffer(file.getvalue(), splits.DOCUMENT)
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    assert listed["digest"].tolist() == [int.from_bytes(digest[:8], "little") for digest in digests]
    assert listed["bucket"].tolist() == [bucket(text) for text in texts]


def test_documents_that_are_left_out() -> None:
    texts = ["a" * 100, "b" * 200]
    found = survey(whole(texts), 0.25)
    assert [text for part, (text, _, _) in divide(whole(texts), found, {0}) if part == "train"] == ["b" * 150]
    assert [text for part, (text, _, _) in divide(whole(texts), found, {0}) if part == "val"] == ["a" * 25, "b" * 50]
    pieces = [Chunk("a" * 60, True), Chunk("a" * 40, False), Chunk("b" * 200, True)]
    assert list(divide(pieces, found, {1})) == [
        ("train", Chunk("a" * 60, True)),
        ("train", Chunk("a" * 15, False)),
        ("val", Chunk("a" * 25, True)),
        ("val", Chunk("b" * 50, True)),
    ]


@given(st.integers(1, 15))
def test_marks_are_counted_across_chunks_but_not_across_documents(cut: int) -> None:
    mark = "<|endoftext|>"
    text = f"a{mark}b{mark}{mark}<|end_of_text|>"
    pieces = [Chunk(text[i : i + cut], begins=i == 0) for i in range(0, len(text), cut)]
    assert survey(pieces, 0.1).marks == {mark: 3, "<|end_of_text|>": 1}
    assert survey([Chunk("<|endof", True), Chunk("text|>", True)], 0.1).marks == {}
