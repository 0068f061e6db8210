"""A ledger only grows; what was changed or taken out of it is found, and what a kill left unfinished is cut off."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from gptlab.errors import UserError
from gptlab.sweep.ledger import Ledger


@pytest.fixture
def written(tmp_path: Path) -> Path:
    ledger = Ledger(tmp_path)
    ledger.add("begun", base="run", settings={"alpha": 0.05})
    for number, name in enumerate(("a", "b"), 1):
        ledger.add(
            "trial", trial=number, change={"sha256": name, "told": [name]}, level=0.01, seeds=[number, 10 + number]
        )
        ledger.add("run", trial=number, side="changed", seed=10 + number, decides=2.5, reports=2.6)
        ledger.add("run", trial=number, side="base", seed=10 + number, decides=2.0, reports=2.1)
        ledger.add("run", trial=number, side="changed", seed=number, decides=None, reports=None)
        if name == "a":
            ledger.add("verdict", trial=1, verdict="kept")
    return tmp_path


def state(ledger: Ledger) -> list[Any]:
    return [vars(trial) for trial in ledger.trials]


def test_it_is_read_as_it_was_written(written: Path) -> None:
    ledger = Ledger(written)
    first, second = ledger.trials
    assert ledger.begun["base"] == "run" and ledger.kept == [first] and ledger.open_trial is second
    assert ledger.of("b") is second and ledger.of("c") is None and ledger.used_seeds() == {1, 11, 2, 12}
    assert first.scores("changed") == [float("inf"), 2.5] and first.scores("base", "reports") == [2.1]
    assert first.pairs() == [11]


def test_a_line_that_a_kill_left_unfinished_is_cut_off(written: Path) -> None:
    path = written / "ledger.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    ledger = Ledger(written)
    assert len(ledger.trials[1].runs) == 2
    ledger.add("run", trial=2, side="changed", seed=2, decides=None, reports=None)
    assert path.read_bytes() == whole and state(Ledger(written)) == state(ledger)


def test_what_another_process_wrote_is_not_written_over(written: Path) -> None:
    one, other = Ledger(written), Ledger(written)
    one.add("run", trial=2, side="base", seed=2, decides=2.0, reports=2.0)
    whole = (written / "ledger.jsonl").read_bytes()
    with pytest.raises(RuntimeError, match="was written by another process"):
        other.add("run", trial=2, side="base", seed=2, decides=3.0, reports=3.0)
    assert (written / "ledger.jsonl").read_bytes() == whole


def test_what_was_changed_or_taken_out_is_found(written: Path) -> None:
    path = written / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    verdict = json.loads(lines[5])
    assert verdict["verdict"] == "kept"
    other = json.dumps({**verdict, "verdict": "rejected"}).encode() + b"\n"
    for number, damaged in {
        6: [*lines[:5], other, *lines[6:]],
        5: [*lines[:4], *lines[5:]],
        3: [*lines[:2], b"[]\n"],
        1: [b"{}\n", *lines],
    }.items():
        path.write_bytes(b"".join(damaged))
        with pytest.raises(UserError, match=rf"ledger=.*line {number} is not as it was written"):
            Ledger(written)


@pytest.mark.parametrize(
    "line",
    [
        {"event": "begun", "base": "again", "settings": {}},
        {"event": "trial", "trial": 5, "change": {"sha256": "c", "told": []}, "level": 0.01, "seeds": [3]},
        {"event": "trial", "trial": 3, "change": {"sha256": "c", "told": []}, "level": 2.0, "seeds": [3]},
        {"event": "trial", "trial": 3, "change": {"sha256": "c", "told": []}, "level": 0.01, "seeds": ["3"]},
        {"event": "run", "trial": 0, "side": "base", "seed": 2, "decides": 2.0, "reports": 2.0},
        {"event": "run", "trial": 2, "side": "other", "seed": 2, "decides": 2.0, "reports": 2.0},
        {"event": "run", "trial": 2, "side": "base", "seed": 77, "decides": 2.0, "reports": 2.0},
        {"event": "run", "trial": 2, "side": "base", "seed": 2, "decides": "low", "reports": 2.0},
        {"event": "verdict", "trial": 9, "verdict": "kept"},
    ],
)
def test_a_line_with_a_right_hash_that_no_gate_writes_is_refused(written: Path, line: dict[str, Any]) -> None:
    """The hashes show what was changed; whoever writes a ledger by hand can make them as well."""
    path = written / "ledger.jsonl"
    before = json.loads(path.read_bytes().splitlines()[-1])["sha256"]
    digest = hashlib.sha256((before + json.dumps(line, sort_keys=True)).encode()).hexdigest()
    path.write_bytes(path.read_bytes() + json.dumps({**line, "sha256": digest}).encode() + b"\n")
    with pytest.raises(UserError, match=r"ledger=.*line 11 is not as it was written"):
        Ledger(written)
