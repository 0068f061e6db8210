"""Tasks over the checkpoints of runs: each score is that of the checkpoint, and signal and noise are as defined."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptlab.commands.evaluate import evaluate
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.evaluation.task_curves import signal_to_noise
from gptlab.training.run import train
from tests.conftest import WORDS, tiny_overrides, working_in, write_texts


def test_between_models() -> None:
    """The relative dispersion of the models, and the mean of their relative deviations."""
    curves = {"a": {1: 0.1, 2: 0.5, 3: 0.7}, "b": {3: 0.4, 1: 0.9, 2: 0.2}, "c": {1: 0.3, 2: 0.3, 3: 0.3}}
    found = signal_to_noise(curves, 2)
    means = np.array([0.6, 0.3, 0.3])
    deviations = np.array([np.std([0.5, 0.7], ddof=1), np.std([0.2, 0.4], ddof=1), 0])
    assert found["signal"] == pytest.approx((means.max() - means.min()) / means.mean())
    assert found["noise"] == pytest.approx((deviations / means).mean())
    assert found["ratio"] == pytest.approx(0.75 / (deviations / means).mean())


def test_of_one_run() -> None:
    found = signal_to_noise({"a": {100: 2.0, 20: 3.0, 30: 2.5, 9: 4.0}}, 2)
    assert found["signal"] == pytest.approx((4.0 - 2.25) / 2.25)
    assert found["noise"] == pytest.approx(np.std([2.5, 2.0], ddof=1) / 2.25)


@pytest.mark.parametrize("scores", [[0.5, 0.5, 0.5], [0.0, 0.0, 0.0]])
def test_where_nothing_varies(scores: list[float]) -> None:
    assert signal_to_noise({"a": dict(enumerate(scores))}, 2)["ratio"] is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that keep three checkpoints."""
    folder = tmp_path_factory.mktemp("curves")
    kept = [
        "checkpoint.every_n_steps=2",
        "trainer.val_every_n_steps=2",
        "checkpoint.keep_last=3",
        "optimizer.lr=0.02",
        "logger=csv",
    ]
    with working_in(folder):
        texts = write_texts(folder / "texts")
        for seed in (1, 2):
            train(compose("train", [*tiny_overrides(texts), *kept, f"seed={seed}", f"run_dir=run-{seed}"]))
    items = [
        {"context": " ".join(WORDS[i : i + 3]), "choices": [f" {WORDS[i + 3]}", " zebra zoo"], "answer": 0}
        for i in range(12)
    ]
    (folder / "own.jsonl").write_text("".join(json.dumps(each) + "\n" for each in items))
    return folder


@pytest.fixture(autouse=True)
def _there(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "folder" in request.fixturenames:
        monkeypatch.chdir(request.getfixturevalue("folder"))


def ask(*overrides: str) -> dict[str, Any]:
    return evaluate(compose("evaluate", ["tasks=[own.jsonl]", *overrides]))


@pytest.mark.slow
def test_each_score_is_that_of_its_checkpoint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask("run=run-1", "checkpoints=2")
    said = capsys.readouterr().out
    assert "signal/noise" in said and "bits_per_byte" in said and "acc_bytes" not in said
    assert json.loads(Path("run-1/task_curves.json").read_text()) == {k: v for k, v in found.items() if k != "file"}
    page = Path("run-1/task_curves.html").read_text()
    assert page.count("<img") == 3 and "own bits_per_byte" in page and "default-src 'none'" in page
    (curve,) = found["tasks"]["own"]["bits_per_byte"]["curves"].values()
    assert curve["steps"] == [2, 4, 6]
    for step, score in zip(curve["steps"], curve["scores"], strict=True):
        alone = ask(f"run=run-1/checkpoints/step-{step}.ckpt")["tasks"]["own"]
        assert alone["bits_per_byte"] == pytest.approx(score, abs=1e-12)
        assert Path(alone["file"]).name == f"own-step-{step}.json"
    both = ask("run=[run-1,run-2]", "checkpoints=2")["tasks"]["own"]["bits_per_byte"]
    assert [Path(run).name for run in both["curves"]] == ["run-1", "run-2"]
    ends = [np.mean(each["scores"][-2:]) for each in both["curves"].values()]
    assert both["signal"] == pytest.approx(abs(ends[0] - ends[1]) / np.mean(ends))


def test_too_few_checkpoints(folder: Path) -> None:
    with pytest.raises(UserError, match="checkpoints=3: takes 4 checkpoints, and run-1 keeps 3; give fewer, or train"):
        ask("run=run-1", "checkpoints=3")
    ask("run=[run-1,run-2]", "checkpoints=3")
    with pytest.raises(UserError, match="is named twice"):
        ask("run=[run-1,run-1]", "checkpoints=2")
