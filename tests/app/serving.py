"""A small model that is served in a thread, for tests."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import uvicorn
from torch import Tensor, nn

from gptlab.app.api.asked import Served
from gptlab.app.api.errors import refused
from gptlab.app.api.routes import OPEN, api
from gptlab.app.server import Guard, address, listening
from gptlab.decoding.continuous import ContinuousBatch
from gptlab.decoding.engine import Engine
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.char import CharTokenizer
from gptlab.tokenizers.chat_templates import ChatTemplate

LETTERS = "abcdefghijklmnopqrstuvwxyz .,"
T = 64


def letters() -> CharTokenizer:
    return CharTokenizer(LETTERS)


def gpt(tokenizer: Tokenizer, end: float = -30.0, **options: Any) -> GPT:
    """A model of random weights; `end` is the bias of the token that ends a text: it is never drawn."""
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": T, "vocab_size": tokenizer.n_vocab, **options}
    model = GPT(GPTConfig(**sizes, head_bias=True)).eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    with torch.no_grad():
        model.lm_head.bias[tokenizer.eot] = end
    return model


class Repeating(nn.Module):
    """Whatever came before, the byte behind the last one in `text` comes next; all bytes of the text differ."""

    def __init__(self, text: str) -> None:
        super().__init__()
        table, said = torch.full((257, 257), -9.0), text.encode()
        assert len({*said}) == len(said)
        for a, b in zip(said, said[1:] + said[:1], strict=True):
            table[a, b] = 9.0
        self.table = nn.Embedding.from_pretrained(table, freeze=False)

    def forward(self, idx: Tensor) -> Tensor:
        found: Tensor = self.table(idx)
        return found


@contextmanager
def served(
    model: Any, tokenizer: Tokenizer, template: ChatTemplate | None = None, token: str | None = None, max_batch: int = 8
) -> Iterator[str]:
    """Serve a model as `tiny`; yields the address."""
    engine = Engine(ContinuousBatch(model, T, max_batch, tokenizer.n_vocab))
    app = api(Served("tiny", tokenizer, template, T, engine))
    with listening("127.0.0.1", 0) as sock:
        config = uvicorn.Config(Guard(app, token, refused, OPEN), log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            yield address(sock)
        finally:
            engine.close()
            server.should_exit = True
            thread.join(30)
