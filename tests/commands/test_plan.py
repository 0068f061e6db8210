import json
from pathlib import Path
from typing import Any

import pytest

from gptlab.commands.plan import PlanConfig, plan
from gptlab.config import compose
from gptlab.training.run import train
from tests.conftest import tiny_overrides, write_texts
from tests.forked import gptlab

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
    assert found["inference"]["prefill_flops"] == 32 * found["flops_per_token"] // 3
    assert found["chinchilla_tokens"] == 20 * found["parameters"]
    assert found["fits"] and found["change"] is None


def test_devices_share_the_time_and_not_the_weights() -> None:
    one, two = planned("budget.steps=100"), planned("budget.steps=100", "trainer.devices=2")
    assert two["hours"] == pytest.approx(one["hours"] / 2) and two["gpu_hours"] == pytest.approx(one["gpu_hours"])
    assert two["memory"]["buckets"] == two["memory"]["gradients"] == one["memory"]["gradients"]
    sharded = planned("trainer=fsdp", "trainer.devices=2")["memory"]
    assert sharded["optimizer"] == pytest.approx(one["memory"]["optimizer"] / 2, rel=0.01)
    assert planned("ema=0.9")["memory_bytes"] == one["memory_bytes"] + one["memory"]["weights"]


def test_a_budget_in_minutes_is_so_long() -> None:
    assert planned("budget.minutes=5", "mfu=0.3")["hours"] == pytest.approx(5 / 60, rel=1e-4)


def test_an_adapter_needs_no_run_to_be_planned() -> None:
    found, every = planned("adapter=lora", "adapter.rank=2"), planned()
    assert found["trained"] < found["parameters"] / 10 and found["parameters"] == every["parameters"]
    frozen = found["parameters_by_part"]
    matrices = 2 * 12 * 64 * 64 + 256 * 64  # of the blocks, and the head
    assert every["flops_per_token"] - found["flops_per_token"] == 2 * matrices
    assert frozen["adapter"] == found["trained"]


def changed(memory: float, *overrides: str) -> str | None:
    found = planned(f"hardware.memory={memory}", *overrides)
    assert not found["fits"]
    change: str | None = found["change"]
    return change


def test_the_nearest_change_that_fits_does_fit() -> None:
    as_asked = planned()["memory_bytes"]
    assert changed(1000, "data.batch_size=1") is None
    change = changed(0.8 * as_asked)
    assert change == "data.micro_batch_size=8"
    assert planned(f"hardware.memory={0.8 * as_asked}", *change.split())["fits"]
    one = ["data.micro_batch_size=1", "model.block_size=256"]
    limit = (
        planned(*one)["memory_bytes"] + planned(*one, "trainer.activation_checkpointing=true")["memory_bytes"]
    ) // 2
    change = changed(limit, *one)
    assert change == "trainer.activation_checkpointing=true"
    assert planned(*one, f"hardware.memory={limit}", change)["fits"]


def test_what_no_batch_makes_fit_is_sharded_or_adapted() -> None:
    wide = ["model.n_embd=128", "model.n_layer=8", "data.batch_size=8"]
    least = planned(*wide, "data.micro_batch_size=1", "trainer.activation_checkpointing=true")["memory_bytes"]
    limit = 0.6 * least
    change = changed(limit, *wide)
    assert change is not None and change.startswith("trainer=fsdp trainer.devices=")
    assert planned(*wide, f"hardware.memory={limit}", *change.split())["fits"]
    change = changed(limit, *wide, "optimizer=muon")  # which cannot be sharded
    assert change is not None and change.startswith("adapter=lora")
    assert planned(*wide, f"hardware.memory={limit}", *change.split())["fits"]


def test_a_measured_share_is_one() -> None:
    found = planned("measure=true", "trainer.accelerator=cpu")
    assert 0 < found["mfu"] < 1.5 and found["mfu_measured"] and found["mfu"] != PlanConfig().mfu


def test_the_command_prints_tables_or_one_object() -> None:
    told = gptlab("plan", *SMALL).stdout
    assert "GPU-hours" in told and "fits into 80 GB" in told
    assert "fits with: " in gptlab("plan", *SMALL, "hardware.memory=3e6").stdout
    found = json.loads(gptlab("plan", *SMALL, "json=true").stdout)
    assert {"parameters", "flops", "mfu", "gpu_hours", "price", "memory_bytes"} <= set(found)
    assert not list(Path().glob("outputs*"))


def test_the_model_that_a_run_begins_with(tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts")
    train(compose("train", [*tiny_overrides(texts), "run_dir=run"]))
    found = plan(compose("plan", ["init_from=run", "adapter=lora"]))
    again = plan(compose("plan", [*tiny_overrides(texts), "model.vocab_size=0"]))
    assert found["parameters"] > found["trained"] > 0
    assert found["flops_by_part"]["blocks"] == again["flops_by_part"]["blocks"]
