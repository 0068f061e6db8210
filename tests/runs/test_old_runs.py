"""Runs that gptlab 0.1 wrote, before the layout of a run directory changed, do all that they did then.

tests/data/old_run is such a run of six steps, old_run_dropout another with dropout and other parts, old_run_texts what
they learned from, and old_run_resumed the weights that gptlab 0.1 had after going on with the first one to step 12.
All numbers here were recorded with gptlab 0.1.
"""

import csv
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gptlab.commands.main import main
from gptlab.runs.config_file import read_config
from gptlab.runs.run_dir import RunDir

DATA = Path(__file__).resolve().parents[1] / "data"
OLD_RUNS = ("old_run", "old_run_dropout")
LOSS = {"old_run": 5.171570600423598, "old_run_dropout": 3.409622957831935}
GREEDY = {"old_run": 119, "old_run_dropout": 1}  # both say one id again and again
FIGURES = (("val_loss", 4.990105152130127), ("val_perplexity", 146.95184326171875), ("val_bits_per_byte", 7.21955538))
NOISE = "was made by an older gptlab; the noise of dropout goes on as this version draws it, not as the run's own did"
EXPORTED = (
    "2ec19459706d2afa335de85324c874a5ddc2ad1f92b950c2d74ab905b7570760"  # of the lines "SHA-256 of a tensor, its name"
)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Copies of both runs and of their texts in the working directory: commands change a run."""
    for name in (*OLD_RUNS, "old_run_texts"):
        shutil.copytree(DATA / name, tmp_path / name.replace("old_run_texts", "texts"))
    return tmp_path


def answer(capfd: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    """Return what a command says with json=true."""
    capfd.readouterr()
    code = main([*argv, "json=true"])
    out, err = capfd.readouterr()
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return found


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of two sets of weights; a tied head may be named in one only."""
    assert {*a} ^ {*b} <= {"gpt.lm_head.weight"}
    return max((a[name] - b[name]).abs().max().item() for name in {*a} & {*b})


def logged(run: Path, metric: str) -> dict[int, float]:
    """Return the values of a metric in metrics.csv by step."""
    with (run / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): float(row[metric]) for row in csv.DictReader(file) if row[metric]}


@pytest.mark.parametrize("name", OLD_RUNS)
def test_it_is_evaluated_and_sampled_as_before(name: str, old: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scored = answer(capfd, "evaluate", f"run={name}")
    assert scored["loss"] == pytest.approx(LOSS[name], abs=1e-6)
    assert (scored["tokens"], scored["bytes"]) == (1064, 1061)
    (sample,) = answer(capfd, "sample", f"run={name}", "decoder=greedy", "prompt=the cat", "max_new_tokens=20")[
        "samples"
    ]
    assert sample["ids"] == [GREEDY[name]] * 20
    # random draws are other ones, since all randomness comes from one function; but a seed still gives the same text
    asked = ["sample", f"run={name}", "decoder=top_k", "prompt=the cat", "max_new_tokens=20", "seed=7"]
    first, again = answer(capfd, *asked), answer(capfd, *asked)
    assert first["samples"] == again["samples"] and len(first["samples"][0]["ids"]) > 1


def test_its_batches_are_known(old: Path, capfd: pytest.CaptureFixture[str]) -> None:
    windows = answer(capfd, "replay", "run=old_run", "step=4")["windows"]
    assert [window["window"] for window in windows] == [100, 180, 208, 66]
    losses = [5.206341743469238, 5.1606855392456055, 5.1606855392456055, 5.221608638763428]
    assert [window["loss"] for window in windows] == pytest.approx(losses, abs=1e-6)


def test_it_is_exported_as_before(old: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert answer(capfd, "export", "run=old_run", "out=out")["architecture"] == "GPT2LMHeadModel"
    digests = {name: tensor.numpy().tobytes() for name, tensor in load_file("out/model.safetensors").items()}
    lines = [f"{hashlib.sha256(digests[name]).hexdigest()}  {name}\n" for name in sorted(digests)]
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == EXPORTED
    assert main(["export", "run=old_run_dropout", "out=other"]) == 0  # its biases are zero in a GPT-2
    biases = {name: each for name, each in load_file("other/model.safetensors").items() if name.endswith(".bias")}
    assert biases and not any(each.any() for each in biases.values())


@pytest.mark.slow
def test_it_is_reported_and_compared_as_before(old: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = answer(capfd, "report", "runs=[old_run,old_run_dropout]", "out=page")["runs"]
    assert {row["run"]: row["val_loss"] for row in rows} == pytest.approx(LOSS, abs=1e-6)  # the best first
    assert [(row["status"], row["steps"], row["tokens"]) for row in rows] == [
        ("finished", 6, 384),
        ("finished", 6, 768),
    ]
    asked = ["a=old_run", "b=old_run/checkpoints/step-3.ckpt", "resamples=1000", "out=compared.json"]
    difference = answer(capfd, "compare", *asked)["difference"]
    recorded = {"value": 0.1300070375112318, "low": 0.12939277495191237, "high": 0.13031926723704318}
    assert difference == pytest.approx(recorded, abs=1e-6)


def test_it_goes_on_in_place_as_before(old: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = logged(old / "old_run", "train/loss")
    summary = answer(capfd, "train", "resume=old_run", "budget.steps=12")
    assert {key: summary[key] for key, _ in FIGURES} == pytest.approx(dict(FIGURES), abs=1e-5)
    assert (summary["steps"], summary["tokens"]) == (12, 1536)
    last = old / "old_run/checkpoints/last.ckpt"
    assert largest_difference(weights(last), load_file(DATA / "old_run_resumed/to_step_12.safetensors")) < 1e-5
    train, val = logged(old / "old_run", "train/loss"), logged(old / "old_run", "val/loss")
    assert [*train] == [2, 4, 6, 8, 10, 12] and [*val] == [3, 6, 9, 12]
    assert {step: train[step] for step in before} == before
    assert val == pytest.approx({3: 5.261430530, 6: 5.171570604, 9: 5.036189075, 12: 4.990105152}, abs=1e-5)
    samples = (old / "old_run/samples.md").read_text()
    assert [line for line in samples.splitlines() if line.startswith("## ")] == [f"## step {n}" for n in (3, 6, 9, 12)]
    before_it = (DATA / "old_run/samples.md").read_text().rstrip("\n")
    escaped = re.sub(r"[\x00-\x09\x0b-\x1f\x7f]", lambda control: f"\\x{ord(control[0]):02x}", before_it)
    assert samples.startswith(escaped) and escaped != before_it
    assert RunDir.find("old_run").layout == 2 and "search_metric" in (old / "old_run/config.yaml").read_text()
    assert largest_difference(weights(old / "old_run/checkpoints/best.ckpt"), weights(last)) == 0


@pytest.mark.slow
def test_it_goes_on_as_a_new_run_and_from_an_earlier_step(old: Path, capfd: pytest.CaptureFixture[str]) -> None:
    answer(capfd, "train", "resume=old_run", "budget.steps=12", "run_dir=new")
    new = weights(old / "new/checkpoints/last.ckpt")
    assert largest_difference(new, load_file(DATA / "old_run_resumed/to_step_12.safetensors")) < 1e-5
    end = weights(old / "old_run/checkpoints/last.ckpt")  # of the run that the new one came from: as it was
    assert largest_difference(end, weights(DATA / "old_run/checkpoints/last.ckpt")) == 0
    answer(capfd, "train", "resume=old_run/checkpoints/step-3.ckpt")
    assert largest_difference(end, weights(old / "old_run/checkpoints/last.ckpt")) < 1e-5


def test_one_with_dropout_goes_on_and_says_that_its_noise_is_another(
    old: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "resume=old_run_dropout", "budget.steps=12"]) == 0
    out, err = capfd.readouterr()
    assert NOISE in out and err == ""
    val = logged(old / "old_run_dropout", "val/loss")
    assert [val[3], val[6]] == pytest.approx([3.443374479, 3.409622962], abs=1e-6)
    assert [val[9], val[12]] == pytest.approx([3.357459330, 3.341948271], abs=0.01)  # the noise differs, no more


def test_a_key_that_was_renamed_keeps_its_value(old: Path) -> None:
    path = old / "old_run/config.yaml"
    text = path.read_text()
    assert "objective: val/loss" in text
    path.write_text(text.replace("objective: val/loss", "objective: val/perplexity"))
    config = read_config(path)
    assert config["search_metric"] == "val/perplexity" and "objective" not in config
