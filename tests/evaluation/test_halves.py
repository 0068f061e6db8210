"""Held-out text in two parts, of which one decides and the other reports."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gptlab.errors import UserError
from gptlab.evaluation.halves import halves, write_halves


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


def test_folders_of_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of another base, whose gate was killed before its ledger was there, or of other work with that name."""
    run: Any = SimpleNamespace(path=Path("base"))
    monkeypatch.setattr("gptlab.evaluation.halves.common_documents", lambda runs, data: ([b"some words"], None, None))
    first = write_halves(run, "base", tmp_path)
    (tmp_path / "reports/00000.txt").unlink()
    (tmp_path / "reports").rmdir()  # a kill between the two
    assert write_halves(run, "base", tmp_path) == first
    monkeypatch.setattr("gptlab.evaluation.halves.common_documents", lambda runs, data: ([b"other words"], None, None))
    with pytest.raises(
        UserError, match=r"^ledger=.+: has a folder decides of other files than the held-out text of base"
    ):
        write_halves(run, "base", tmp_path)
