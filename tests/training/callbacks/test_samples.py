"""Samples are kept as they are, whatever prompts and models write."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptlab.runs.samples import Sample, read_samples
from gptlab.training.callbacks.samples import append, keep_until
from gptlab.training.config import TrainConfig
from gptlab.training.run import train

ODD = [
    "## step 7\n\n    other",
    "a\0b",
    "half \ud83d a pair",
    "x" * 100_000,
    "",
    "\r\n\x0b\x0c\u2028 lines \x85",
    "    ",
]


def test_texts_that_look_like_something_else(tmp_path: Path) -> None:
    """They are read back as they were, and what is kept of them is what was written at first."""
    early = [Sample(3, prompt, text) for prompt in ODD for text in ODD]
    append(tmp_path, early)
    before = [(tmp_path / name).read_bytes() for name in ("samples.jsonl", "samples.md")]
    append(tmp_path, [Sample(6, "## step 3", text) for text in ODD])
    assert len(read_samples(tmp_path)) == len(ODD) * (len(ODD) + 1)
    keep_until(tmp_path, tmp_path, 3)
    assert read_samples(tmp_path) == early
    assert [(tmp_path / name).read_bytes() for name in ("samples.jsonl", "samples.md")] == before


@pytest.mark.slow
def test_a_run_with_odd_prompts_goes_on(tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    """The samples of all its validations are those of a run that was not resumed."""
    prompts = [text for text in ODD if text]

    def asked(run: str, steps: int, **more: Any) -> TrainConfig:
        config = tiny("schedule=constant", f"budget.steps={steps}", f"run_dir={tmp_path}/{run}")
        return dataclasses.replace(config, sample_prompts=prompts, **more)

    train(asked("whole", 6))
    train(asked("run", 3))
    train(asked("run", 6, resume=str(tmp_path / "run")))
    for name in ("samples.jsonl", "samples.md"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [sample.prompt for sample in read_samples(tmp_path / "run")] == 2 * prompts


def test_only_one_heading_is_a_step(tmp_path: Path) -> None:
    append(tmp_path, [Sample(3, prompt, text) for prompt in ODD for text in ODD])
    lines = (tmp_path / "samples.md").read_text(encoding="utf-8").split("\n")
    assert [line for line in lines if line.startswith("#")] == ["## step 3"]


def test_half_a_line_comes_again(tmp_path: Path) -> None:
    """A kill while samples are written leaves a part of the last one; the step of it is drawn again."""
    append(tmp_path, [Sample(3, "a", "b")])
    before = [(tmp_path / name).read_bytes() for name in ("samples.jsonl", "samples.md")]
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write(json.dumps(Sample(6, "a", "c")._asdict())[:-3])
    with (tmp_path / "samples.md").open("a") as file:
        file.write("## step 6\n\n    a")
    keep_until(tmp_path, tmp_path, 3)
    assert [(tmp_path / name).read_bytes() for name in ("samples.jsonl", "samples.md")] == before


def test_a_kill_while_samples_are_put_back_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(tmp_path, [Sample(3, "a", "b"), Sample(6, "a", "c")])

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.replace", killed)
        keep_until(tmp_path, tmp_path, 6)
    assert [sample.step for sample in read_samples(tmp_path)] == [3, 6]
