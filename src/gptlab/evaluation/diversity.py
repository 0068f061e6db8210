"""Measure how varied generated texts are, and how much they copy, from their tokens; `texts` are lists of ids."""

import math
from collections import Counter
from collections.abc import Sequence

Ids = Sequence[int]


def ngrams(ids: Ids, n: int) -> list[tuple[int, ...]]:
    """Return all sequences of n consecutive ids."""
    return [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]


def distinct(texts: Sequence[Ids], n: int) -> float:
    """Return distinct-n (Li et al. 2016): the number of different n-grams over that of all n-grams, in all texts."""
    every = [gram for ids in texts for gram in ngrams(ids, n)]
    return len(set(every)) / len(every) if every else math.nan


def repetition(texts: Sequence[Ids], n: int = 4) -> float:
    """Return seq-rep-n (Welleck et al. 2020): the mean share of a text's n-grams that occur earlier in it."""
    shares = [1 - len(set(grams)) / len(grams) for ids in texts if (grams := ngrams(ids, n))]
    return sum(shares) / len(shares) if shares else math.nan


def bleu(text: Ids, references: Sequence[Ids], most: int = 4) -> float:
    """Return the BLEU (Papineni et al. 2002) of a text against references.

    An order without a match counts 1 / (2 x its n-grams), the smoothing of NIST (Chen & Cherry 2014, method 3).
    """
    if not text or not references:
        return math.nan
    logs, missed = 0.0, 0
    orders = min(most, len(text))
    for n in range(1, orders + 1):
        counts = Counter(ngrams(text, n))
        limit: Counter[tuple[int, ...]] = Counter()
        for reference in references:
            limit |= Counter(ngrams(reference, n))
        matches, total = sum((counts & limit).values()), sum(counts.values())
        if not matches:
            missed += 1
        logs += math.log(matches / total if matches else 1 / (2**missed * total))
    nearest = min((len(r) for r in references), key=lambda length: (abs(length - len(text)), length))
    brevity = min(0.0, 1 - nearest / len(text))
    return math.exp(brevity + logs / orders)


def self_bleu(texts: Sequence[Ids]) -> float:
    """Return Self-BLEU (Zhu et al. 2018): the mean BLEU of each text against all others; high if texts are alike."""
    if len(texts) < 2:
        return math.nan
    scores = [bleu(text, [*texts[:i], *texts[i + 1 :]]) for i, text in enumerate(texts) if text]
    return sum(scores) / len(scores) if scores else math.nan


def longest_copy(text: Ids, training: bytes) -> int:
    """Return the length of the longest run of a text's ids in the training text, given as the bytes of uint32 ids."""
    best = 0
    spelled = b"".join(int(i).to_bytes(4, "little") for i in text)
    start = 0
    while start + best < len(text):
        if _has(training, spelled[4 * start : 4 * (start + best + 1)]):
            best += 1
        else:
            start += 1
    return best


def _has(training: bytes, piece: bytes) -> bool:
    at = training.find(piece)
    while at >= 0 and at % 4:  # a match across the borders of ids is none
        at = training.find(piece, at + 1)
    return at >= 0
