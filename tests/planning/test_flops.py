import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.planning.flops import flops_per_token


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
