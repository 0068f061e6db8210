"""Models to play with, which nobody trained."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gptlab.app.served import Served
from gptlab.model.config import GPTConfig, build_model
from gptlab.tokenizers.byte import Byte
from gptlab.tokenizers.chat_templates import chat_template

TOKENIZER = Byte().build([])
NASTY = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def random_gpt(seed: int, **more: Any) -> Any:
    """Return a tiny GPT whose predictions are far from even."""
    torch.manual_seed(seed)
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 64, "vocab_size": TOKENIZER.n_vocab}
    gpt = build_model(GPTConfig(**shape | more)).eval()
    for p in gpt.parameters():
        nn.init.normal_(p, std=0.4)
    return gpt


def served(name: str, seed: int, chat: bool = False, **more: Any) -> Served:
    template = chat_template("plain", TOKENIZER) if chat else None
    return Served(name, random_gpt(seed, **more), TOKENIZER, template, ["the cat"])


class Says(nn.Module):
    """Say a text, whatever stands before: token t of a text is followed by token t + 1 of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.config = GPTConfig(block_size=256)
        self.ids = nn.Parameter(torch.tensor([*TOKENIZER.encode(text), TOKENIZER.eot]).float())

    def forward(self, idx: Tensor) -> Tensor:
        at = torch.arange(1, idx.shape[1] + 1).clamp(max=len(self.ids) - 1)
        return 20 * nn.functional.one_hot(self.ids.long()[at], TOKENIZER.n_vocab).float()[None].expand(len(idx), -1, -1)


def saying(text: str) -> Served:
    return Served("says", Says(text), TOKENIZER, None, [])


def softmax(logits: Sequence[float]) -> Any:
    """Return probabilities in float64, by NumPy."""
    shares = np.exp(np.array(logits, np.float64) - max(logits))
    return shares / shares.sum()
