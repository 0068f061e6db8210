"""Memory by part against counts by hand; benchmarks/plan_memory.py compares the peak with what a process takes."""

import dataclasses
import gc
from typing import Any

import pytest
import torch

from gptlab.config import compose
from gptlab.model.config import GPTConfig
from gptlab.planning.memory import StepMemory, step_memory, without_numbers
from gptlab.training import random_step
from gptlab.training.random_step import RandomStep, memory_of

B, T, C, V, LAYERS = 2, 16, 32, 64, 3
SMALL = [f"model.n_embd={C}", f"model.n_layer={LAYERS}", f"model.block_size={T}", f"model.vocab_size={V}"]
BLOCK = 12 * C * C + 13 * C  # GPT-2's: matrices, their biases, and two norms
N = (V + T) * C + LAYERS * BLOCK + 2 * C


def planned(*overrides: str, several: bool = False) -> StepMemory:
    return memory_of(compose("plan", [*SMALL, *overrides]), B, several)


@pytest.mark.slow
def test_weights_gradients_and_state_by_hand() -> None:
    found, steps = planned(), 4 * (4 + 12 * LAYERS)  # Adam counts the steps of each parameter
    assert (found.weights, found.gradients, found.optimizer) == (4 * N, 4 * N, 8 * N + steps)
    assert planned("optimizer=sgd").optimizer == 4 * N
    assert planned("optimizer=sgd", "optimizer.momentum=0").optimizer == 0
    adafactor = planned("optimizer=adafactor").optimizer
    assert 0 < adafactor < found.optimizer / 8
    muon = planned("optimizer=muon").optimizer
    assert 4 * N < muon < found.optimizer and found.optimizer - muon == pytest.approx(4 * 12 * C * C * LAYERS, rel=0.01)
    assert (
        planned("optimizer=muon", "optimizer.normuon=true").optimizer - muon == 4 * 9 * C * LAYERS
    )  # rows of matrices
    assert planned("optimizer.cautious_weight_decay=true").optimizer == found.optimizer


def test_logits_and_recomputation() -> None:
    """The logits, their softmax and its gradient; of a block that is computed again its input is kept."""
    found, again = planned(), planned("trainer.activation_checkpointing=true")
    assert found.logits == pytest.approx(3 * 4 * B * T * V, rel=0.01)
    assert found.activations - again.activations > 10 * 4 * B * T * C * LAYERS
    inputs = 4 * B * T * C * (LAYERS + 1)
    assert inputs <= again.activations <= inputs + 4 * B * T * C * 2
    assert planned("loss=chunked").logits <= found.logits


def test_rounded_weights_of_mixed_precision_are_counted_apart() -> None:
    mixed = planned("trainer.precision=bf16-mixed")
    matrices = LAYERS * (12 * C * C + 9 * C) + V * C  # what products read, with biases
    assert mixed.copies == pytest.approx(2 * matrices, rel=0.06)
    assert planned().copies == 0


def test_what_lora_leaves_out() -> None:
    found = planned("adapter=lora", "adapter.rank=2")
    trained = LAYERS * 2 * (C + 3 * C + C + C + C + 4 * C + 4 * C + C)
    assert found.gradients == 4 * trained and found.weights == 4 * (N + trained)
    half = planned("adapter=lora", "adapter.rank=2", "trainer.precision=bf16-true")
    assert half.weights == 2 * N + 4 * trained


def test_later_micro_batches_meet_the_gradients_of_the_first() -> None:
    one, several = planned(), planned(several=True)
    assert several.forward == pytest.approx(one.forward + one.gradients, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"window": 8, "window_layers": [0, 3, 9], "positions": "rope"}],
)
def test_a_deep_model_is_counted_at_two_depths(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"n_layer": 10, "n_head": 2, "n_embd": C, "block_size": T, "vocab_size": V}
    config = dataclasses.replace(compose("plan"), model=GPTConfig(**shape, **options))
    found = memory_of(config, B, False)
    monkeypatch.setattr(random_step, "DEPTH", 10)
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(memory_of(config, B, False)), rel=0.01)


def test_shards() -> None:
    found = StepMemory(80, 80, 160, 1, 20, 10, 0, 0)
    assert found.sharded(8, 5) == 320 // 8 + 5 + 31


def test_what_is_counted_is_what_autograd_keeps() -> None:
    """With numbers: the bytes that real tensors hold for the backward pass."""
    config = compose("plan", SMALL)
    step = RandomStep(config, B, torch.device("cpu"))
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = step.forward()
    weights = {p.untyped_storage().data_ptr() for p in step.model.parameters()}
    ids = {step.x.untyped_storage().data_ptr(), step.y.untyped_storage().data_ptr()}
    real = sum(size for at, size in kept.items() if at not in weights | ids)
    softmax = 4 * B * T * V
    found = planned()
    assert found.activations == pytest.approx(real - softmax, rel=0.1)
    del loss


def test_what_is_freed_is_not_counted() -> None:
    with without_numbers():
        weight = torch.nn.Linear(8, 8, bias=False)
        x = torch.zeros(1000, 8)

        def forward() -> torch.Tensor:
            for _ in range(50):
                x * 2
            gc.collect()
            return weight(x).sum()  # type: ignore[no-any-return]

        found = step_memory(weight, forward, lambda: torch.optim.SGD(weight.parameters()), 3)
    assert found.forward < 6 * 4 * 1000 * 8
