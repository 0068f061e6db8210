"""Held-out text in two parts, of which one decides and the other reports."""

import random

from gptlab.evaluation.halves import halves


def test_each_document_is_in_one_part_and_the_parts_are_about_as_long() -> None:
    documents = [bytes([97 + n % 26]) * (50 + 7 * n) + str(n).encode() for n in range(60)]
    decides, reports = halves(documents)
    assert sorted(decides + reports) == sorted(documents)
    longest = max(map(len, documents))
    assert abs(sum(map(len, decides)) - sum(map(len, reports))) <= longest
    other = random.Random(1).sample(documents, len(documents))
    assert halves(other) == (decides, reports)


def test_a_few_documents_are_cut_before_a_character() -> None:
    text = "äöü" * 7 + "x"
    (first,), (second,) = halves([text.encode()])
    assert first.decode() + second.decode() == text and abs(len(first) - len(second)) <= 3
    assert halves([b""]) == ([], [])
