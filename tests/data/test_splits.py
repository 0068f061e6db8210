import random

from gptlab.data.splits import split


def documents(n: int = 300) -> list[str]:
    rng = random.Random(1)
    return [f"document {i} " + "x" * rng.randrange(1000) for i in range(n)]


def test_every_document_on_one_side_in_order() -> None:
    every = documents()
    train, val = split(every, 0.1)
    assert sorted(train + val) == sorted(every)
    assert train == [d for d in every if d in set(train)]
    assert 0.08 < sum(map(len, val)) / sum(map(len, every)) <= 0.1


def test_it_depends_on_the_documents_not_on_their_order() -> None:
    every = documents()
    assert set(split(every, 0.1)[1]) == set(split(every[::-1], 0.1)[1])


def test_copies_stay_together() -> None:
    train, val = split(documents() * 2, 0.2)
    assert not set(train) & set(val)


def test_one_book_is_cut_by_position() -> None:
    book = "0123456789" * 10
    assert split([book], 0.1) == ([book[:90]], [book[90:]])
    assert split(["a" * 20479], 0.1)[0] == ["a" * int(0.9 * 20479)]


def test_few_long_documents_are_cut_by_position_each() -> None:
    train, val = split(["a" * 100, "b" * 200], 0.25)
    assert (train, val) == (["a" * 75, "b" * 150], ["a" * 25, "b" * 50])


def test_everything_can_be_held_out() -> None:
    assert split(["a", "b"], 1.0) == ([], ["a", "b"])
