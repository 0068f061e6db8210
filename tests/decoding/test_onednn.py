import copy

import pytest
import torch

from gptlab.decoding.context import Limits
from gptlab.decoding.decoders import Greedy
from gptlab.decoding.generate import continue_ids
from gptlab.decoding.onednn import OneDNNLinear, pack
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("options", [{}, {"tied": False, "bias": False, "feed_forward": "swiglu", "positions": "rope"}])
@torch.no_grad()
def test_packed_weights_give_the_same_logits(dtype: torch.dtype, atol: float, options: dict[str, object]) -> None:
    gpt = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=64, block_size=32, vocab_size=99, **options))  # type: ignore[arg-type]
    gpt = gpt.to(dtype).eval()
    packed, idx = copy.deepcopy(gpt), torch.randint(99, (3, 20))
    if not pack(packed):
        pytest.skip("no oneDNN here")
    assert sum(isinstance(module, OneDNNLinear) for module in packed.modules()) == (9 if not options else 11)
    assert torch.allclose(packed(idx), gpt(idx), atol=atol)
    if dtype == torch.float32:
        texts = [continue_ids(model, [1, 2], Greedy(), Limits(20, 32), (0,)) for model in (gpt, packed)]
        assert texts[0] == texts[1]


def test_what_cannot_be_packed_is_left_alone() -> None:
    gpt = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=8, vocab_size=9)).double()
    assert not pack(gpt) and type(gpt.lm_head) is torch.nn.Linear
