import math

import pytest

from gptlab.evaluation.diversity import bleu, distinct, longest_copy, repetition, self_bleu


def test_distinct_counts_over_all_texts() -> None:
    texts = [[1, 2, 1, 2], [1, 2, 3]]
    assert distinct(texts, 1) == 3 / 7
    assert distinct(texts, 2) == 3 / 5  # 12 21 12 | 12 23
    assert distinct(texts, 3) == 1.0
    assert math.isnan(distinct([[1]], 2))


def test_repetition_is_the_share_of_ngrams_had_before() -> None:
    assert repetition([[1, 2, 1, 2, 1, 2]], 2) == pytest.approx(3 / 5)
    assert repetition([[1, 1, 1], [1, 2, 3]], 1) == pytest.approx((2 / 3 + 0) / 2)


def test_bleu_by_hand() -> None:
    """Papineni et al., example 2: clipped counts; and the brevity penalty."""
    the, cat, is_, on, mat, there, a = range(7)
    references = [[the, cat, is_, on, the, mat], [there, is_, a, cat, on, the, mat]]
    assert bleu([the] * 7, references, most=1) == pytest.approx(2 / 7)
    assert bleu(references[0], references) == pytest.approx(1.0)
    assert bleu([the, cat, is_], references) == pytest.approx(math.exp(1 - 6 / 3))
    # 4 of 5 words, 2 of 4 pairs, 1 of 3 triples, no quadruple of 2: 1 / (2 x 2)
    text = [the, cat, is_, 9, mat]
    assert bleu(text, [[the, cat, is_, 8, mat]]) == pytest.approx((4 / 5 * 2 / 4 * 1 / 3 * 1 / 4) ** 0.25)


def test_self_bleu_tells_copies_from_different_texts() -> None:
    assert self_bleu([[1, 2, 3, 4, 5]] * 3) == pytest.approx(1.0)
    assert self_bleu([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]) < 0.2
    assert math.isnan(self_bleu([[1, 2, 3]]))


def test_the_longest_copy_against_all_slices() -> None:
    import random

    rng = random.Random(0)
    for _ in range(50):
        training, text = ([rng.randrange(4) for _ in range(n)] for n in (60, 20))
        every = [(i, j) for i in range(20) for j in range(i + 1, 21)]
        slices = {tuple(training[i : i + n]) for n in range(21) for i in range(60 - n + 1)}
        expected = max((j - i for i, j in every if tuple(text[i:j]) in slices), default=0)
        assert longest_copy(text, b"".join(i.to_bytes(4, "little") for i in training)) == expected


def test_bytes_that_match_across_two_ids_are_no_copy() -> None:
    training = (0x01000000).to_bytes(4, "little") + (0).to_bytes(4, "little")
    assert longest_copy([1], training) == 0
