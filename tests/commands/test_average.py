"""Means of weights: exact, whole runs of their own, and refused where there is nothing to average."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gptlab
from gptlab.commands.average import average
from gptlab.commands.compare import compare
from gptlab.commands.evaluate import evaluate
from gptlab.commands.export import export
from gptlab.commands.flags import resumed
from gptlab.commands.report import report
from gptlab.commands.sample import sample
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.runs.config_file import read_config
from gptlab.training.config import TrainConfig
from gptlab.training.run import train

Tiny = Callable[..., TrainConfig]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return found


def asked(*more: str) -> dict[str, Any]:
    return average(compose("average", [*more]))


@pytest.mark.slow
def test_a_mean_is_a_run(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of checkpoints of one run, and of two runs by weights: exact to the last bit of fp32, and taken by every verb."""
    train(tiny("checkpoint.every_n_steps=2", "checkpoint.keep_last=3", "optimizer.lr=0.01"))
    train(tiny("seed=2", f"run_dir={tmp_path}/other"))
    folder = tmp_path / "run/checkpoints"
    names = ["step-3.ckpt", "step-4.ckpt", "last.ckpt"]
    capsys.readouterr()
    result = asked("runs=[run/checkpoints/step-3.ckpt,run/checkpoints/step-4.ckpt,run]", "out=mean")
    assert capsys.readouterr().out == f"averaged 3 models of {result['parameters']:,} parameters into mean\n"
    three = [weights(folder / name) for name in names]
    for name, value in weights(tmp_path / "mean/checkpoints/last.ckpt").items():
        exact = sum(each[name].double() for each in three) / 3
        assert (value.double() - exact).abs().max() <= torch.finfo(torch.float32).eps * exact.abs().max()
    gpt, _ = gptlab.load("mean")
    assert gpt.lm_head.weight is gpt.wte.weight
    size = [(tmp_path / each / "checkpoints/last.ckpt").stat().st_size for each in ("mean", "run")]
    assert size[0] < size[1] / 2  # no optimizer state, and what is tied is stored once
    places = [str(folder / name) for name in names[:2]] + [str(tmp_path / "run")]
    assert result["averaged_from"] == read_config(tmp_path / "mean/config.yaml")["averaged_from"] == places

    asked("runs=[run,other]", "weights=[3,1]", "out=both")
    one, two = weights(folder / "last.ckpt"), weights(tmp_path / "other/checkpoints/last.ckpt")
    for name, value in weights(tmp_path / "both/checkpoints/last.ckpt").items():
        torch.testing.assert_close(value, 0.75 * one[name] + 0.25 * two[name])
    config = read_config(tmp_path / "both/config.yaml")
    assert "seed" not in config and config["shares"] == [0.75, 0.25] and config["name"] == "both"

    scores = evaluate(compose("evaluate", ["run=mean"]))
    assert scores["tokens"] == evaluate(compose("evaluate", ["run=run"]))["tokens"]
    assert sample(compose("sample", ["run=both", "prompt=the cat", "max_new_tokens=3"]))["samples"]
    assert compare(compose("compare", ["a=run", "b=mean", "resamples=100"]))["difference"]
    export(compose("export", ["run=mean", "out=hf"]))
    assert (tmp_path / "hf/config.json").is_file()
    assert {each["run"] for each in report(compose("report", ["runs=[mean,both,run]"]))["runs"]} >= {"mean", "both"}
    summary = train(tiny("init_from=mean", "trainer.val_at_start=true", "budget.steps=1", f"run_dir={tmp_path}/next"))
    assert summary is not None
    with (tmp_path / "next/metrics.csv").open() as file:
        first = dict(zip(*(line.strip().split(",") for line in list(file)[:2]), strict=True))
    assert float(first["val/loss"]) == pytest.approx(scores["loss"], abs=1e-5)
    with pytest.raises(UserError, match="resume=mean: was averaged, and has weights alone; .* init_from=mean"):
        resumed(["resume=mean"])


@pytest.mark.slow
def test_an_adapter_is_averaged_with_its_model(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny("budget.steps=1", f"run_dir={tmp_path}/base"))
    for seed in (1, 2):
        more = ["init_from=base", "adapter=lora", "optimizer.lr=0.01", "budget.steps=2", f"seed={seed}"]
        train(tiny(*more, f"run_dir={tmp_path}/{seed}"))
    asked("runs=['1','2']", "out=mean")
    shutil.rmtree(tmp_path / "base")
    found, one = gptlab.load("mean")[0].state_dict(), weights(tmp_path / "1/checkpoints/last.ckpt")
    assert not [name for name in found if "lora" in name] and [name for name in one if "lora" in name]


def test_mistakes(tiny: Tiny, tmp_path: Path) -> None:
    for name, more in {"a": [], "deep": ["model.n_layer=1"]}.items():
        train(tiny("budget.steps=1", *more, f"run_dir={tmp_path}/{name}"))
    shutil.copytree("a", "task")
    for name, file in {"ids": "tokenizer/tokenizer.json", "less": "held_out/val.bin"}.items():
        path = shutil.copytree(tmp_path / "a", tmp_path / name) / file
        path.write_bytes(path.read_bytes()[:-2] + b"\n\n")
        (path.parent / "SHA256SUMS").unlink()
    text = (tmp_path / "task/config.yaml").read_text()
    (tmp_path / "task/config.yaml").write_text(text.replace("task: causal_lm", "task: sft").replace("task: {}\n", ""))
    for more, line in {
        "runs=[a,deep]": r"runs=deep: has model.n_layer=1, and a has 2; name runs of one model",
        "runs=[a,ids]": r"runs=ids: has another tokenizer than a; name runs with one tokenizer",
        "runs=[a,task]": r"runs=task: has task=sft, and a has causal_lm; name runs of one task",
    }.items():
        with pytest.raises(UserError, match=f"^{line}"):
            asked(more, "out=out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"^weights=\[1e\+308, 1e\+308\]: have no finite sum"):
        asked("runs=[a,less]", "weights=[1e308,1e308]", "out=out")
    shutil.copytree(tmp_path / "a", tmp_path / "diverged")
    saved = tmp_path / "diverged/checkpoints/last.ckpt"
    content = torch.load(saved, weights_only=True)
    name = next(name for name in content["state_dict"] if ".blocks.1." in name)
    content["state_dict"][name][3] = float("nan")
    torch.save(content, saved)
    (saved.parent / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match=rf"^runs=diverged: its {name[4:]} is not finite everywhere; take"):
        asked("runs=[a,diverged]", "out=out")
    assert not (tmp_path / "out").exists()
    found = asked("runs=[a,less]", "out=out")
    assert not (tmp_path / "out/held_out").exists() and json.dumps(found)
