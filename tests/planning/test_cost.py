"""The published record of training runs, by 6 operations for each parameter and token."""

from typing import NamedTuple

import pytest
import torch

from gptlab.config import compose
from gptlab.planning.cost import Hardware, cost_of, hours, mfu_of
from gptlab.training.peak_flops import peak_flops
from gptlab.training.random_step import model_without_memory


class Published(NamedTuple):
    model: str | float  # a preset, or parameters
    tokens: float
    hardware: str
    gpu_hours: float
    mfu: float


RECORD = {
    "Llama 2 7B": Published("llama2_7b", 2e12, "a100", 184_320, 0.391),
    "Llama 2 13B": Published("llama2_13b", 2e12, "a100", 368_640, 0.377),
    "Llama 2 70B": Published("llama2_70b", 2e12, "a100", 1_720_320, 0.428),
    "llm.c, GPT-2 124M": Published("small", 10e9, "a100", 12.6, 0.53),
    "llm.c, GPT-2 1558M": Published("xl", 33.6e9, "h100", 192, 0.46),
    "TinyLlama": Published(1.1e9, 300e9, "a100", 3_456, 0.51),
}


def hardware(name: str) -> Hardware:
    found = compose("plan", [f"hardware={name}"]).hardware
    assert isinstance(found, Hardware)
    return found


def parameters(preset: str) -> int:
    vocabulary = 32000 if preset.startswith("llama") else 50257
    model = model_without_memory(compose("plan", [f"model={preset}", f"model.vocab_size={vocabulary}"]))
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", RECORD)
def test_the_published_record(name: str) -> None:
    told = RECORD[name]
    n = parameters(told.model) if isinstance(told.model, str) else told.model
    flops, peak = 6 * n * told.tokens, hardware(told.hardware).peak("bf16-mixed")
    assert mfu_of(flops, told.gpu_hours, peak) == pytest.approx(told.mfu, rel=0.01)
    assert hours(flops, peak, mfu_of(flops, told.gpu_hours, peak)) == pytest.approx(told.gpu_hours)


def test_llama_2_has_6_738_billion_parameters_and_costs_691_200_dollars() -> None:
    """At 30 dollars an hour for eight A100s."""
    assert parameters("llama2_7b") == pytest.approx(6.738e9, rel=1e-4)
    cost = cost_of(184_320, hardware("a100"))
    assert cost.price == pytest.approx(691_200)
    assert cost.kwh == pytest.approx(184_320 * 0.4)
    assert cost_of(192, hardware("h100")).price == pytest.approx(672)


def test_the_precision_chooses_the_peak() -> None:
    each = Hardware(bf16=3.0, fp16=2.0, fp32=1.0)
    assert [each.peak(p) for p in ("bf16-mixed", "bf16-true", "16-mixed", "32-true")] == [3.0, 3.0, 2.0, 1.0]


def test_peaks_are_those_that_training_counts_by(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a100", "b200", "h100", "h200", "l4", "rtx4090"):
        device = hardware(name)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, device=device: device.name)
        assert peak_flops(torch.device("cuda"), bf16=True).flops == device.bf16, name


def test_a_price_that_is_not_known_is_none() -> None:
    assert cost_of(10, hardware("l4")).price is None
