"""Copies with a tenth of their words edited are found, and others are not."""

import random
import sys
from pathlib import Path

import pytest

from gptlab.data.near_copies import near_copies, near_figures
from gptlab.data.text.bundled import english
from gptlab.data.text.sources import Files
from gptlab.data.tokens.prepare import prepare
from gptlab.errors import UserError
from gptlab.tokenizers.byte import Byte

pytest.importorskip("rensa")


def edited(text: str, share: float, rng: random.Random, words: list[str]) -> str:
    """A share of the words replaced, dropped, or with another one before them."""
    found = text.split()
    for at in sorted(rng.sample(range(len(found)), max(1, round(share * len(found)))), reverse=True):
        other = rng.choice(words)
        found[at : at + 1] = rng.choice([[other], [], [other, found[at]]])
    return " ".join(found)


def similarity(one: str, other: str) -> float:
    """The Jaccard index of three words in a row."""
    sets = []
    for text in (one, other):
        words = text.lower().split()
        sets.append({tuple(words[i : i + 3]) for i in range(len(words) - 2)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.mark.slow
def test_planted_copies_are_found_and_no_others() -> None:
    rng = random.Random(0)
    words = " ".join(english()).split()
    # real text, cut so that no two pieces overlap; some of it repeats itself, which is no mistake of the search
    pieces = [" ".join(words[i : i + n]) for i, n in zip(range(0, 200_000, 400), [60, 120, 390] * 200, strict=False)]
    planted = {len(pieces) + k: i for k, i in enumerate(rng.sample(range(len(pieces)), 200))}
    texts = [*pieces, *(edited(pieces[i], 0.1, rng, words) for i in planted.values())]
    found = {pair.document: pair for pair in near_copies(texts)}
    recall = sum(number in found for number in planted) / len(planted)
    assert recall >= 0.95
    true = [
        number in planted or similarity(texts[number], texts[pair.earlier]) >= 0.3 for number, pair in found.items()
    ]
    assert sum(true) / len(true) >= 0.95
    right = [found[number].earlier == i for number, i in planted.items() if number in found]
    assert sum(right) / len(right) >= 0.95
    for number, pair in [*found.items()][::10]:
        assert pair.similarity == pytest.approx(similarity(texts[number], texts[pair.earlier]), abs=0.18)  # 4 s.e.


def test_what_has_no_words_between_spaces_is_compared_by_characters() -> None:
    rng = random.Random(0)
    texts = ["".join(chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(300)) for _ in range(20)]
    copy = list(texts[3])
    for at in rng.sample(range(300), 30):
        copy[at] = "一"
    assert [(pair.document, pair.earlier) for pair in near_copies([*texts, "".join(copy)])] == [(20, 3)]


def test_small_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    words = [f"word{i}" for i in range(500)]
    texts = [" ".join(rng.choices(words, k=40)) for _ in range(30)]
    texts += [edited(texts[i], 0.05, rng, words) for i in (3, 3, 11)] + ["", texts[7]]
    whole = list(near_copies(texts))
    assert [(pair.document, pair.earlier) for pair in whole] == [(30, 3), (31, 3), (32, 11), (34, 7)]
    monkeypatch.setattr("gptlab.data.partitions.MOST", 5)
    monkeypatch.setattr("gptlab.data.near_copies.COMPARED", 1)
    monkeypatch.setattr("gptlab.data.near_copies.AT_ONCE", 42 * 4)
    assert list(near_copies(texts)) == whole


def test_short_texts_and_none() -> None:
    assert list(near_copies([])) == list(near_copies(["", "a b", "a b"])) == []
    (pair,) = near_copies(["a b c", "", "a b c"])
    assert pair == (2, 0, 1.0)


def test_held_out_documents_near_training_ones() -> None:
    rng = random.Random(1)
    words = [f"word{i}" for i in range(500)]
    texts = [" ".join(rng.choices(words, k=80)) for _ in range(6)]
    for i, text in enumerate(texts):
        Path(f"{i}.txt").write_text(text)
    Path("val.txt").write_text(edited(texts[2], 0.1, rng, words))
    Path("other.txt").write_text(edited(texts[4], 0.1, rng, words))
    corpus = prepare(Files(files=["?.txt", "other.txt"], val_files=["val.txt"]), Byte())
    found = near_figures(corpus)
    assert (found["documents"], found["held_out_of_training"]) == (2, 1)
    assert [(pair["document"], pair["earlier"]) for pair in found["pairs"]] == [(6, 4), (7, 2)]
    assert found["pairs"][1]["earlier_begins"] == texts[2][:60]


def test_what_it_needs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(UserError, match=r"^near=true: needs rensa; pip install 'gptlab\[near\]'$"):
        list(near_copies(["a b c"]))
