import os
import time
from pathlib import Path

import pytest

from gptlab.errors import UserError
from gptlab.runs.reader import differences, find_runs, read, same_but_seed
from tests.written_runs import MODEL, MakeRun


def test_every_run_below_once_in_natural_order(make_run: MakeRun, tmp_path: Path) -> None:
    for name in ("day/10-a", "day/9-a", "day/2-a", "other/x"):
        make_run(name)
    (tmp_path / "runs/latest").symlink_to("day/2-a")
    hidden = tmp_path / "runs/day/2-a/.hydra"
    hidden.mkdir()
    (hidden / "config.yaml").write_text("")
    runs = find_runs([str(tmp_path / "runs"), str(tmp_path / "runs/latest")])
    assert [run.name for run in runs] == ["day/2-a", "day/9-a", "day/10-a", "other/x"]
    assert [run.name for run in find_runs([str(tmp_path / "runs/latest")])] == ["2-a"]
    assert [run.name for run in find_runs(["runs/day/*0-?", "runs/*/9-*"])] == ["9-a", "10-a"]


@pytest.mark.parametrize(("name", "why"), [("nope", "no such directory; "), (".", "there is no run in it; ")])
def test_no_runs(name: str, why: str) -> None:
    with pytest.raises(UserError, match=f"^runs={name}: {why}"):
        find_runs([name])


@pytest.mark.parametrize(
    ("config", "summary", "status"),
    [
        ("model: {n_la", '{"status": "finished"}', "finished"),
        ("model: {n_la", None, "unreadable"),
        ("", None, "unknown"),
        ("- a list", '{"status": "fin', "unreadable"),
        ("seed: 1", "[1]", "unreadable"),
        ("seed: 1", '{"steps": "many"}', "unknown"),
    ],
)
def test_half_written_runs(config: str, summary: str | None, status: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(config)
    if summary is not None:
        (tmp_path / "summary.json").write_text(summary)
    run = read(tmp_path, "r")
    assert run.status == status and run.tokens_per_step == 0 and run.tokenizer is None and run.data_hash is None
    assert run.figure("steps") is None


def test_how_long_a_running_run_has_been_silent(make_run: MakeRun) -> None:
    path = make_run("r", status="running")
    assert read(path, "r").silent < 60
    for file in path.glob("*.*"):
        os.utime(file, (time.time() - 5000, time.time() - 5000))
    assert read(path, "r").silent == pytest.approx(5000, abs=60)


def test_what_was_asked_differently(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("0", optimizer__lr=0.1, json=True, model__vocab_size=9, tokenizer="another")
    make_run("1", optimizer__lr=0.2, seed=2, logger={"every_n_steps": 3})
    (tmp_path / "runs/2").mkdir()
    (tmp_path / "runs/2/config.yaml").write_text("model: {n_layer: 2, n_head: 2, n_embd: 16, block_size: 32}")
    found = differences(find_runs(["runs"]))
    assert found == {"optimizer.lr": [0.1, 0.2, None], "seed": [1, 2, None]}


def test_a_class_stands_for_its_fields_and_a_name_for_the_model(make_run: MakeRun) -> None:
    sgd = ["/schema/SGD@optimizer"]
    make_run("0", name="micro", model={**MODEL, "n_layer": 4, "n_embd": 32})
    make_run("1", defaults=sgd, optimizer={"lr": 0.1, "momentum": 0.9})
    make_run("2", defaults=sgd, optimizer={"lr": 0.2, "momentum": 0.9})
    found = differences(find_runs(["runs"]))
    assert found == {
        "optimizer": ["adamw", "sgd", "sgd"],
        "optimizer.lr": [0.001, 0.1, 0.2],  # says more than the class
        "name": ["micro", "nano", "nano"],
    }


def test_groups_differ_in_the_seed_alone(make_run: MakeRun) -> None:
    make_run("0")
    make_run("1", seed=2, name="other", logger={"csv": True}, sample_prompts=[])
    make_run("2", optimizer__lr=0.5)
    make_run("3", summary={"data_hash": "another text"})
    make_run("4", model__vocab_size=320)
    runs = find_runs(["runs"])
    assert [[run.name for run in group] for group in same_but_seed(runs)] == [["0", "1"], ["2"], ["3"], ["4"]]
    assert differences([runs[0], runs[4]]) == {"model.vocab_size": [257, 320]}  # padded
