"""Runs that train an adapter: what their checkpoints hold, their base, and that they go on as if never stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gptlab
from gptlab.commands.evaluate import evaluate
from gptlab.commands.main import main
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.runs.run_dir import RunDir
from gptlab.training.config import TrainConfig
from gptlab.training.module import GPTModule
from gptlab.training.run import train
from tests.conftest import save_by_hand
from tests.forked import gptlab as in_child
from tests.tasks.test_examples import LEARN, records, write
from tests.training.test_devices import command, compare, losses
from tests.training.test_resume import kill_at, resumed, rows

Tiny = Callable[..., TrainConfig]


@pytest.fixture
def lora(tiny: Tiny, tmp_path: Path) -> Tiny:
    """Return the config of a run that trains LoRA on one of two steps, base."""
    train(tiny("budget.steps=2", f"run_dir={tmp_path}/base"))
    return lambda *more: tiny("init_from=base", "adapter=lora", "logger=csv", *more)


def saved(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    return found


@pytest.mark.slow
def test_a_checkpoint_holds_what_was_trained(lora: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = train(lora("adapter.rank=2", "optimizer.lr=1e-3"))
    assert summary is not None
    inner = 2 * 2 * ((16 + 48) + (16 + 16) + (16 + 64) + (64 + 16))  # layers, rank, widths
    assert summary["trained_parameters"] == inner < summary["parameters"]
    said = " ".join(capsys.readouterr().out.split())
    assert f"lora trains {inner:,}, at a rate of up to 0.01, on /" in said
    rates = [float(row["optim/lr"]) for row in rows(tmp_path / "run") if "optim/lr" in row]
    assert 0.005 < rates[0] <= 0.01
    found, base = saved(tmp_path / "run"), saved(tmp_path / "base")
    assert sum(w.numel() for w in found["state_dict"].values()) == inner
    state = found["optimizer_states"][0]["state"]
    assert sum(each["exp_avg"].numel() for each in state.values()) == inner
    assert found["adapter"]["base"]["path"] == str(tmp_path / "base")
    # the rest of the model is the base's, to the bit; with the products it is what was validated
    gpt, _ = gptlab.load("run")
    whole, scale = base["state_dict"], 16 / 2
    for name, w in gpt.state_dict().items():
        layer = f"gpt.{name.removesuffix('.weight')}"
        expected = whole[f"gpt.{name}"].double()
        if f"{layer}.lora_a" in found["state_dict"]:
            a, b = (found["state_dict"][f"{layer}.lora_{key}"].double() for key in "ab")
            expected = expected + scale * b @ a
            assert (w.double() - expected).abs().max() < 1e-6 < b.abs().max()
        else:
            assert torch.equal(w, whole[f"gpt.{name}"])
    assert evaluate(compose("evaluate", ["run=run"]))["loss"] == pytest.approx(summary["val_loss"], abs=1e-5)
    with pytest.raises(UserError, match=r"^checkpoint=\S+: holds what an adapter has trained"):
        GPTModule.load_from_checkpoint(tmp_path / "run/checkpoints/last.ckpt")
    # training all of a model may begin with it, and so may not another adapter
    summary = train(
        compose("train", ["adapter=null", "init_from=run", "budget.steps=1", "run_dir=more"], run=Path("run"))
    )
    assert summary is not None and "trained_parameters" not in summary
    with pytest.raises(
        UserError, match=r"^init_from=\S*run: is an adapter of another model; merge it first: gptlab export"
    ):
        train(lora("init_from=run", f"run_dir={tmp_path}/again"))
    assert not (tmp_path / "again").exists()


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["dora", "last_n", pytest.param("head", marks=pytest.mark.slow)])
def test_it_goes_on_as_if_never_stopped(
    adapter: str, lora: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["data.micro_batch_size=2", "model.dropout=0.1", "checkpoint.every_n_steps=2", f"adapter={adapter}"]
    more += [] if adapter == "dora" else ["ema=0.9"]
    train(lora(*more, f"run_dir={tmp_path}/whole"))
    kill_at(7, lora(*more))
    monkeypatch.chdir(tmp_path.parent)  # the base is found from any folder
    resumed(tmp_path / "run")
    first, second = saved(tmp_path / "run"), saved(tmp_path / "whole")
    assert set(first["state_dict"]) == set(second["state_dict"])
    assert all(torch.equal(w, second["state_dict"][name]) for name, w in first["state_dict"].items())
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["dora", "last_n"])
def test_sharded_on_two_processes(adapter: str, texts: str, lora: Tiny, tmp_path: Path) -> None:
    """The losses of one process, a checkpoint of what was trained alone, and from the middle of it the same run on."""
    steady = ["schedule=constant", "optimizer.lr=0.01", "logger.every_n_steps=1", "trainer.gradient_clip_val=0.1"]
    steady += [f"adapter={adapter}", "checkpoint.every_n_steps=3"]
    train(lora(*steady, f"run_dir={tmp_path}/one"))
    two = ["init_from=base", "trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", "run_dir=two"]
    command(texts, *steady, *two)
    compare(tmp_path / "one", tmp_path / "two", 2e-5)
    one, two_ = saved(tmp_path / "one"), saved(tmp_path / "two")
    assert set(two_["state_dict"]) == set(one["state_dict"]) and two_["adapter"] == one["adapter"]
    sizes = [sum(w["exp_avg"].numel() for w in each["optimizer_states"][0]["state"].values()) for each in (one, two_)]
    assert sizes[0] == sizes[1] == sum(w.numel() for w in one["state_dict"].values())
    result = evaluate(compose("evaluate", ["run=two"]))
    assert result["loss"] == pytest.approx(losses(tmp_path / "two", "val/loss")[-1], abs=1e-5)
    # on from step 3, once as it was and once on one device
    for name, more in {"again": [], "alone": ["trainer.strategy=auto", "trainer.devices=1"]}.items():
        in_child("train", "resume=two/checkpoints/step-3.ckpt", f"run_dir={name}", *more)
    again, alone = saved(tmp_path / "again")["state_dict"], saved(tmp_path / "alone")["state_dict"]
    assert all(torch.equal(w, two_["state_dict"][name]) for name, w in again.items())
    assert all((w - two_["state_dict"][name]).abs().max() < 1e-5 for name, w in alone.items())


@pytest.mark.slow
def test_another_base_is_refused(lora: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(lora("budget.steps=4", "checkpoint.every_n_steps=2"))
    path = tmp_path / "base/checkpoints/last.ckpt"
    whole = saved(tmp_path / "base")
    changed = {**whole, "state_dict": {**whole["state_dict"]}}
    changed["state_dict"]["gpt.blocks.0.mlp.fc.bias"] = changed["state_dict"]["gpt.blocks.0.mlp.fc.bias"] + 1e-7
    save_by_hand(changed, path)
    why = r"its adapter was trained on weights with SHA-256 \w{12}, and \S+base has \w{12}; put back the model"
    with pytest.raises(UserError, match=f"^run=run: {why}"):
        gptlab.load("run")
    RunDir(tmp_path / "run").write_summary({"status": "running"})
    with pytest.raises(UserError, match=rf"^init_from=\S+base: {why}"):
        resumed(tmp_path / "run", "budget.steps=6")
    capsys.readouterr()
    path.unlink()
    (tmp_path / "base/checkpoints/step-2.ckpt").unlink(missing_ok=True)
    assert main(["sample", "run=run", "prompt=a"]) == 2
    err = capsys.readouterr().err
    assert (
        err.startswith("error: run=run: the model that its adapter was trained on is not whole (")
        and err.count("\n") == 1
    )


@pytest.mark.slow
def test_mistakes(tiny: Tiny, lora: Tiny, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^adapter=lora: trains a part of a model that there is already; give init_from"
    ):
        tiny("adapter=lora")
    with pytest.raises(UserError, match=r"^adapter.layers=q_proj: fits no linear layer; there are attn.qkv"):
        train(lora("adapter.layers=[q_proj]"))
    assert not (tmp_path / "run").exists()
    train(lora("budget.steps=1"))
    with pytest.raises(UserError, match=r"^adapter.rank=4: but the run that is resumed has 8"):
        resumed(tmp_path / "run", "adapter.rank=4", "budget.steps=2")


@pytest.mark.slow
def test_in_bf16_the_frozen_weights_have_no_precise_copy(
    lora: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    types: dict[str, torch.dtype] = {}
    whole = GPTModule.on_train_start

    def on_train_start(self: GPTModule) -> None:
        types.update({name: p.dtype for name, p in self.gpt.named_parameters()})
        whole(self)

    monkeypatch.setattr(GPTModule, "on_train_start", on_train_start)
    summary = train(lora("trainer.precision=bf16-true"))
    assert {dtype for name, dtype in types.items() if "lora" in name} == {torch.float32}
    assert {dtype for name, dtype in types.items() if "lora" not in name} == {torch.bfloat16}
    assert summary is not None
    assert evaluate(compose("evaluate", ["run=run"]))["loss"] == pytest.approx(summary["val_loss"], abs=0.02)


@pytest.mark.slow
def test_the_head_of_a_task_is_trained_besides(lora: Tiny, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", records())
    ask = [*LEARN, "init_from=base", "adapter=lora", f"run_dir={tmp_path}/run", "budget.steps=20"]
    summary = train(compose("train", ask))
    assert summary is not None
    names = set(saved(tmp_path / "run")["state_dict"])
    assert {"gpt.score.weight", "gpt.score.bias"} < names
    assert {name.rpartition(".")[2] for name in names} == {"weight", "bias", "lora_a", "lora_b"}
    result = evaluate(compose("evaluate", ["run=run"]))
    assert result["loss"] == pytest.approx(summary["val_loss"], abs=1e-5)
