import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gptlab.commands.usage import options
from gptlab.config import compose
from gptlab.files import conf_dir
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.planning.flops import flops_by_part, flops_per_token


def test_gpt2_small_by_hand() -> None:
    """85M weights in the blocks, 38.6M in the head; 12 x 12 layers x 768 x 1,024 for attention."""
    assert flops_per_token(GPTConfig()) == 6 * (12 * 12 * 768**2 + 50257 * 768) + 12 * 12 * 768 * 1024


@pytest.mark.parametrize(
    "options",
    [{}, {"n_kv_head": 1, "feed_forward": "swiglu", "n_inner": 48, "tied": False}, {"feed_forward": "relu2"}],
)
def test_against_what_pytorch_counts(options: dict[str, object]) -> None:
    T, config = 16, GPTConfig(n_layer=3, n_head=4, n_embd=32, block_size=16, vocab_size=50, **options)  # type: ignore[arg-type]
    gpt = GPT(config)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused kernels are not counted
        gpt(torch.randint(50, (2, T))).sum().backward()
    assert counter.get_total_flops() / (2 * T) == pytest.approx(flops_per_token(config), rel=1e-9)


PRESETS = sorted(set(options("model")) - {"gpt"})


@pytest.mark.parametrize("preset", [name for name in PRESETS if (conf_dir() / f"model/{name}.yaml").is_file()])
def test_every_preset_within_2_percent_of_what_pytorch_counts(preset: str) -> None:
    """Two layers of each on PyTorch's meta device, which computes nothing and has no fused attention."""
    config = dataclasses.replace(
        compose("train", [f"model={preset}", "model.vocab_size=1000"]).model, n_layer=2, window_layers=None
    )
    T = min(128, config.block_size)
    with torch.device("meta"):
        gpt = GPT(config)
        with FlopCounterMode(display=False) as counter:
            gpt(torch.zeros((1, T), dtype=torch.long)).sum().backward()
    assert counter.get_total_flops() / T == pytest.approx(flops_per_token(config, T), rel=0.02)


def test_the_parts_are_attention_head_and_blocks() -> None:
    parts = flops_by_part(GPTConfig())
    assert parts == {"blocks": 6 * 144 * 768**2, "attention": 144 * 768 * 1024, "head": 6 * 50257 * 768}
