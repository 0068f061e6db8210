"""The autoregressive loop: predict, draw, append (Jurafsky & Martin sec. 10.2)."""

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from gptlab.decoding.decoders import Decoder
from gptlab.errors import require


@torch.no_grad()
def generate(
    gpt: nn.Module,
    prompt: Sequence[int],
    decoder: Decoder,
    max_new_tokens: int,
    block_size: int,
    seed: tuple[int, ...] = (0,),
    stop: int | None = None,
    n_vocab: int | None = None,
) -> Iterator[int]:
    """New ids one by one, until `stop` (not handed out) or `max_new_tokens`.

    The model sees the last `block_size` ids. `gpt` keeps its mode: call `gpt.eval()` first. The draws depend on
    `n_vocab` is how many ids the tokenizer has, where the model's vocabulary is padded beyond. The draws depend on
    `seed` alone, e.g. (seed, prompt number, sample number), so that other samples do not change this one.
    """
    device = next(gpt.parameters()).device
    digest = hashlib.sha256(repr(seed).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    ids = list(prompt)
    for _ in range(max_new_tokens):
        idx = torch.tensor([ids[-block_size:]], device=device)  # (1, T)
        logits = gpt(idx)[:, -1, :n_vocab]  # (1, V)
        finite = bool(logits.isfinite().all())
        require(finite, "run", "its model", "has diverged: its logits are not finite", "take an earlier checkpoint")
        probs = decoder(logits)
        token = int(torch.multinomial(probs.cpu(), 1, generator=generator))
        if token == stop:
            return
        ids.append(token)
        yield token
