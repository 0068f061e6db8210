import json
from pathlib import Path
from typing import Any

import pytest

from gptlab.commands import plan_memory
from gptlab.commands.plan import PlanConfig, plan
from gptlab.commands.plan_tables import duration, size
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.model.adapters import LoRA
from gptlab.planning.memory import StepMemory
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from tests.conftest import tiny_overrides, write_texts
from tests.forked import gptlab
from tests.written_runs import MakeRun

SMALL = ["model.n_embd=64", "model.n_layer=2", "model.block_size=32", "model.vocab_size=256", "data.batch_size=16"]


def planned(*overrides: str) -> dict[str, Any]:
    return plan(compose("plan", [*SMALL, *overrides]))


def test_the_sums_of_a_plan() -> None:
    found = planned("budget.steps=100", "mfu=0.25", "hardware.fp32=1e12", "hardware.price=2", "hardware.watts=500")
    parts = found["parameters_by_part"]
    assert sum(parts.values()) == found["parameters"] == found["trained"]
    assert parts["embeddings"] == (256 + 32) * 64
    assert sum(found["flops_by_part"].values()) == found["flops_per_token"]
    assert found["tokens"] == 100 * 16 * 32
    assert found["flops"] == found["tokens"] * found["flops_per_token"]
    assert found["gpu_hours"] == pytest.approx(found["flops"] / 0.25e12 / 3600)
    assert found["price"] == pytest.approx(2 * found["gpu_hours"])
    assert found["kwh"] == pytest.approx(found["gpu_hours"] / 2)
    assert found["inference"]["cache_bytes"] == 2 * 2 * 64 * 32 * 4
    head = 2 * 256 * 64  # of the last position alone
    assert found["inference"]["prefill_flops"] == 32 * found["flops_per_token"] // 3 - 31 * head
    assert found["chinchilla_tokens"] == 20 * found["parameters"]
    assert found["fits"] and found["change"] is None


@pytest.mark.slow
def test_devices_share_the_time_and_not_the_weights() -> None:
    one, two = planned("budget.steps=100"), planned("budget.steps=100", "trainer.devices=2")
    assert two["hours"] == pytest.approx(one["hours"] / 2) and two["gpu_hours"] == pytest.approx(one["gpu_hours"])
    assert two["memory"]["buckets"] == two["memory"]["gradients"] == one["memory"]["gradients"]
    sharded = planned("trainer=fsdp", "trainer.devices=2")["memory"]
    assert sharded["optimizer"] == pytest.approx(one["memory"]["optimizer"] / 2, rel=0.01)
    for average in ("ema=0.9", "tail_average=0.2"):
        assert planned(average)["memory_bytes"] == one["memory_bytes"] + one["memory"]["weights"]


def test_a_budget_in_minutes_is_so_long() -> None:
    assert planned("budget.minutes=5", "mfu=0.3")["hours"] == pytest.approx(5 / 60, rel=1e-4)


@pytest.mark.slow
def test_a_batch_that_grows_takes_fewer_steps_and_no_more_memory() -> None:
    """Ten steps of 16 sequences, then of 32, in micro-batches of 16 and in the time of as many tokens."""
    budget = ["budget.steps=null", f"budget.tokens={(160 + 64) * 32}"]
    found, plain = planned("schedule.batch=[[160,32]]", *budget), planned(*budget)
    assert (found["steps"], plain["steps"]) == (12, 14)
    assert found["tokens"] == plain["tokens"] == (160 + 64) * 32 and found["hours"] == plain["hours"]
    assert found["micro_batch_size"] == plain["micro_batch_size"] == 16
    assert found["memory"]["activations"] == plain["memory"]["activations"]


@pytest.mark.slow
def test_auto_is_the_precision_of_the_hardware() -> None:
    auto = ["budget.steps=100", "trainer.precision=auto"]
    assert planned(*auto) == planned("budget.steps=100", "trainer.precision=bf16-mixed")
    slow = "hardware.bf16=1e12"  # below that of fp32
    assert planned(*auto, slow) == planned("budget.steps=100", slow)


def test_an_adapter_needs_no_run_to_be_planned() -> None:
    found, every = planned("adapter=lora", "adapter.rank=2"), planned()
    assert found["trained"] < found["parameters"] / 10 and found["parameters"] == every["parameters"]
    frozen = found["parameters_by_part"]
    matrices = 2 * 12 * 64 * 64 + 256 * 64  # of the blocks, and the head
    assert every["flops_per_token"] - found["flops_per_token"] == 2 * matrices
    assert frozen["adapter"] == found["trained"]


def simple_memory(config: TrainConfig, micro_batch: int, several: bool) -> StepMemory:
    """Return 1,000 weights in fp32 with Adam, of which LoRA trains 10, and activations of 40 kB, or 4 kB recomputed."""
    weights, trained = (2_000, 10) if isinstance(config.adapter, LoRA) else (4_000, 1_000)
    kept = micro_batch * (4_000 if config.trainer.activation_checkpointing else 40_000)
    both = kept + 4 * trained
    return StepMemory(weights, 4 * trained, 8 * trained, 0, kept, 0, both if several else kept, both)


@pytest.mark.parametrize(
    ("memory", "overrides", "change"),
    [
        (400_000, [], "data.micro_batch_size=8"),
        (100_000, [], "data.micro_batch_size=2"),
        (100_000, ["data.micro_batch_size=16"], "data.micro_batch_size=2"),
        (30_000, [], "data.micro_batch_size=2 trainer.activation_checkpointing=true"),
        (30_000, ["data.batch_size=2"], "trainer.activation_checkpointing=true"),
        (22_000, ["data.batch_size=2"], "data.micro_batch_size=1 trainer.activation_checkpointing=true"),
        (16_000, [], "trainer=fsdp trainer.devices=2 trainer.activation_checkpointing=true data.micro_batch_size=1"),
        (16_000, ["optimizer.hyperball=true"], "adapter=lora trainer.precision=bf16-true "),  # which cannot be sharded
        (16_000, ["data.batch_size=1"], "adapter=lora trainer.precision=bf16-true "),  # nor a single sequence
        (4_000, [], None),
    ],
)
def test_the_nearest_change_that_fits(
    memory: int, overrides: list[str], change: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_memory, "memory_of", simple_memory)
    monkeypatch.setattr(plan_memory, "whole_for_a_time", lambda model: 0)
    found = planned(f"hardware.memory={memory}", *overrides)
    assert not found["fits"]
    if change is None:
        assert found["change"] is None
        return
    assert found["change"].startswith(change)
    again = planned(f"hardware.memory={memory}", *overrides, *found["change"].split())
    assert again["fits"] and again["memory_bytes"] <= memory


@pytest.mark.slow
def test_a_smaller_micro_batch_is_counted_again() -> None:
    """Without stand-ins: the change that is named does fit."""
    limit = 0.8 * planned()["memory_bytes"]
    found = planned(f"hardware.memory={limit}")
    assert found["change"] == "data.micro_batch_size=8"
    assert planned(f"hardware.memory={limit}", found["change"])["memory_bytes"] <= limit


def test_a_measured_share_is_one() -> None:
    found = planned("measure=true", "trainer.accelerator=cpu")
    assert 0 < found["mfu"] < 1.5 and found["mfu_measured"] and found["mfu"] != PlanConfig().mfu


@pytest.mark.slow
def test_the_command_prints_tables_or_one_object() -> None:
    told = gptlab("plan", *SMALL).stdout
    assert "GPU-hours" in told and "fits into 80 GB" in told
    assert "fits with: " in gptlab("plan", *SMALL, "hardware.memory=3e6").stdout
    found = json.loads(gptlab("plan", *SMALL, "json=true").stdout)
    assert {"parameters", "flops", "mfu", "gpu_hours", "price", "memory_bytes"} <= set(found)
    assert not list(Path().glob("outputs*"))


@pytest.mark.slow
def test_the_model_that_a_run_begins_with(tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts")
    train(compose("train", [*tiny_overrides(texts), "run_dir=run"]))
    found = plan(compose("plan", ["init_from=run", "adapter=lora"]))
    again = plan(compose("plan", [*tiny_overrides(texts), "model.vocab_size=0"]))
    assert found["parameters"] > found["trained"] > 0
    assert found["flops_by_part"]["blocks"] == again["flops_by_part"]["blocks"]


@pytest.mark.slow
def test_what_a_run_took_stands_beside_its_plan(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = planned()["parameters"]
    took = {"parameters": parameters, "mfu": 0.125, "energy_kwh": 0.5, "tokens": 7200, "tokens_per_second": 2.0}
    run = make_run("took", summary=took)
    found = planned(f"beside={run}", "budget.steps=100", "trainer.devices=2")
    measured = found["measured"]
    assert (measured["mfu"], measured["kwh"], measured["hours"], measured["gpu_hours"]) == (0.125, 0.5, 1.0, 2.0)
    assert measured["memory_bytes"] is None
    shown = capsys.readouterr().out
    assert "12.5%" in shown and "not measured" in shown
    assert "measured" not in planned()
    with pytest.raises(UserError, match=r"has 1 parameters, and the plan is of [\d,]+; plan it: config="):
        planned(f"beside={make_run('other', summary={'parameters': 1})}")
    with pytest.raises(UserError, match="is failed"):
        planned(f"beside={make_run('failed', status='failed')}")


def test_no_length_and_no_size_has_an_exponent() -> None:
    assert [duration(hours) for hours in (24e3, 99.94 * 24, 2.0, 1 / 3600)] == [
        "1,000 days",
        "99.9 days",
        "2 hours",
        "1 seconds",
    ]
    assert [size(count) for count in (12.3456e12, 80e9, 1.5e6, 999.96e3)] == ["12,346 GB", "80 GB", "1.5 MB", "1000 kB"]
