import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def side_by_side(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    import side_by_side

    return side_by_side


def bench(name: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, FOLDER / name, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_results_whose_ranges_overlap_are_ties(side_by_side: Any) -> None:
    first, second, third = (side_by_side.Figure.of(values) for values in ([1.0, 3.0, 2.0], [2.9, 5.0], [3.1]))
    assert (first.median, first.low, first.high, first.repeats) == (2.0, 1.0, 3.0, 3)
    assert first.ties(second) and second.ties(first) and not first.ties(third)


def test_every_round_asks_each_candidate_once_until_it_fails(side_by_side: Any) -> None:
    asked: list[str] = []

    def measure(name: str) -> dict[str, int]:
        asked.append(name)
        if name == "b" and len(asked) > 3:
            raise side_by_side.LeftOut("broken")
        return {"at": len(asked)}

    found, left_out = side_by_side.interleaved(["a", "b", "c"], 3, measure)
    assert asked == ["a", "b", "c", "a", "b", "c", "a", "c"]
    assert left_out == {"b": "broken"}
    assert found == {"a": [{"at": 1}, {"at": 4}, {"at": 7}], "c": [{"at": 3}, {"at": 6}, {"at": 8}]}


def test_the_peak_of_a_process_is_its_own() -> None:
    work = [sys.executable, "-c", "b'1' * (500 * 2**20)"]
    code = f"import side_by_side; print(side_by_side.fresh({work}).peak_mb)"  # from a process that is small itself
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, check=True)
    assert 500 < float(done.stdout) < 550


def test_a_process_that_fails_is_known_by_its_last_line(side_by_side: Any) -> None:
    done = side_by_side.fresh([sys.executable, "-c", "import nothing_like_it"])
    assert done.code == 1 and done.last_line().startswith("ModuleNotFoundError")


@pytest.mark.slow
def test_startup_runs(tmp_path: Path) -> None:
    bench("startup.py", "--repeats", "1", "--json", str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())
    seconds = {name: figure["median"] for name, figure in found["seconds"].items()}
    assert not found["left_out"] and found["machine"]["versions"]["torch"]
    difference = seconds["first step"] - seconds["imports"]
    assert len(seconds) == 6 and seconds["first step - imports"] == pytest.approx(difference)


@pytest.mark.slow
def test_train_runs_and_the_losses_of_two_loops_agree(tmp_path: Path) -> None:
    arguments = ["--workload", "w1", "--steps", "4", "--warmup", "2", "--repeats", "1"]
    bench("train.py", *arguments, "--candidates", "gptlab", "bare", "nanogpt", "--out", str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())["workloads"][0]
    assert found["left_out"] == {"nanogpt": "give its checkout with --nanogpt DIR"}
    ours, bare = (found["candidates"][name] for name in ("gptlab", "bare"))
    assert ours["first_loss"] == pytest.approx(bare["first_loss"], abs=1e-5)
    assert ours["last_loss"] == pytest.approx(bare["last_loss"], abs=1e-4)
    assert ours["own_tokens_per_second"] and not bare["own_tokens_per_second"]
    assert 0 < ours["of_limit"] < 1 and ours["tokens_per_second"]["repeats"] == 1
