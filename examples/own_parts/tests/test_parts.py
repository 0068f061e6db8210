"""Tests of all parts of this project at work, by the commands of the README."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from own_parts.decoder import Sharper
from own_parts.model import GRUConfig

PROJECT = Path(__file__).resolve().parents[1]


def gptlab(*arguments: str) -> dict:
    """Return the output of a command, started in the folder of the project."""
    command = [sys.executable, "-m", "gptlab", *arguments, "json=true"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_decoder_squares_and_renormalizes() -> None:
    probs = Sharper(power=2.0)(torch.tensor([[0.5, 0.3, 0.2]]).log())
    assert torch.allclose(probs, torch.tensor([[0.25, 0.09, 0.04]]) / 0.38)


def test_the_model_looks_back_only() -> None:
    gru, x = GRUConfig(vocab_size=10).build().eval(), torch.randint(10, (2, 8))
    changed = x.clone()
    changed[:, 4:] = (x[:, 4:] + 1) % 10
    before, after = gru(x), gru(changed)
    assert before.shape == (2, 8, 10)
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.equal(before[:, 4], after[:, 4])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the model, the task, the optimizer and the callback of this project."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    summary = gptlab("train", "experiment=tiny", f"run_dir={folder}", "trainer=cpu")
    assert summary["status"] == "finished" and summary["steps"] == 20
    assert summary["parameters"] == 257 * 32 + 6 * 32 * 32 + 6 * 32 + 257 * 32 + 257  # of the model, with bytes
    return folder


def test_the_callback_logs(run: Path) -> None:
    with (run / "metrics.csv").open() as file:
        logged = [row["weights/rms"] for row in csv.DictReader(file) if row.get("weights/rms")]
    assert len(logged) == 2 and all(0 < float(value) < 1 for value in logged)


def test_it_goes_on_and_is_sampled_and_scored(run: Path) -> None:
    assert gptlab("train", f"resume={run}", "budget.steps=25")["steps"] == 25
    sampled = gptlab("sample", f"run={run}", "prompt=The", "decoder=sharper", "decoder.power=3", "max_new_tokens=5")
    assert sampled["decoder"].startswith("Sharper(")
    assert gptlab("evaluate", f"run={run}")["loss"] > 0


def test_the_verb() -> None:
    assert gptlab("longest_word", "text=a little longer") == {"word": "little", "length": 6}
