"""Operations and bytes of inference, counted by hand for a model of two layers."""

from dataclasses import replace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.planning.inference import cached_numbers, decode_bytes, decode_flops, prefill_flops, weights_read

CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=32, vocab_size=50, bias=False)
MATRICES = 2 * 12 * 16 * 16 + 50 * 16  # q, k, v, out: 4 n^2 a layer; the feed-forward layer: 8 n^2; the head


def test_the_bytes_of_a_token() -> None:
    assert weights_read(CONFIG) == MATRICES == weights_read(replace(CONFIG, tied=False))
    assert cached_numbers(CONFIG, 10) == 2 * 2 * 16 * 10  # keys and values of two layers
    assert cached_numbers(replace(CONFIG, n_kv_head=1), 10) == 2 * 2 * 8 * 10
    assert decode_bytes(CONFIG, 1, 10, 4) == 4 * (MATRICES + 640)
    assert decode_bytes(CONFIG, 8, 10, 2) == 2 * (MATRICES / 8 + 640)  # the weights are shared, the caches are not


def test_the_operations_are_those_that_torch_counts() -> None:
    gpt = GPT(CONFIG).eval()
    cache = gpt.new_cache(1, 11)
    counts = []
    for length in (10, 1):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            gpt(torch.zeros(1, length, dtype=torch.long), cache=cache, last=True)
        counts.append(counter.get_total_flops())
    head, blocks = 2 * 50 * 16, 2 * (MATRICES - 50 * 16)
    assert prefill_flops(CONFIG, 10) == 10 * blocks + 10 * 4 * 2 * 16 * 10 + head == counts[0]
    assert decode_flops(CONFIG, 11) == blocks + 4 * 2 * 16 * 11 + head == counts[1]
