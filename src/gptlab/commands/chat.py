"""The verb `chat`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gptlab.decoding.decoders import Decoder, TopP
from gptlab.errors import require
from gptlab.registry import command

FORGET = "/forget"  # begins a new conversation


@dataclass
class ChatConfig:
    """Talk with the model of a run in the terminal; each line of standard input is a message."""

    decoder: Decoder = field(default_factory=TopP)  # how the next token is chosen
    run: str = "latest"  # a run directory, one of its checkpoints, or latest
    system: str | None = None  # what the system says first
    max_new_tokens: int = 256  # of an answer
    seed: int = 1337  # of the draws
    json: bool = False  # print one JSON object, the conversation, and nothing else

    def __post_init__(self) -> None:
        require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "must be at least 1", "try 256")
        require(self.seed >= 0, "seed", self.seed, "is negative", "try 1337")


@command
def chat(config: ChatConfig) -> dict[str, Any]:
    """Talk with the model of a run in the terminal.

    Answers are printed as they are written. Returns {"run", "messages"}: the last conversation. The oldest turns are
    forgotten where the conversation outgrows the context.
    """
    from gptlab.runs.run_dir import RunDir

    run = RunDir.find(config.run)
    import torch
    from rich.console import Console
    from rich.text import Text

    from gptlab.decoding.context import Limits
    from gptlab.decoding.generate import draw_key
    from gptlab.decoding.texts import continue_prompts
    from gptlab.evaluation.chat import first_messages, fitting, template_of
    from gptlab.evaluation.model import load_language_model
    from gptlab.runs.samples import visible
    from gptlab.tokenizers.chat_templates import ChatCodec

    console = Console()
    gpt, tokenizer = load_language_model(run)
    gpt = gpt.to("cuda" if torch.cuda.is_available() else "cpu")
    template, context = template_of(run, tokenizer), gpt.config.block_size
    limits = Limits(config.max_new_tokens, context, template.ends, tokenizer.n_vocab)
    first = list(first_messages(config.system))
    said: list[dict[str, str]] = []
    console.print(Text(f"{FORGET} begins a new conversation, Ctrl-D ends", style="dim"))
    for number, line in enumerate(_lines(console)):
        if line == FORGET:
            said = []
            continue
        said, forgotten = fitting(template, first, said, line, context - config.max_new_tokens)
        if forgotten:
            print(f"the context of {context} tokens is full: {forgotten} older messages are forgotten", file=sys.stderr)
        (answer,) = continue_prompts(
            gpt,
            ChatCodec(template, [*first, *said]),
            [line],
            [draw_key(config.seed, line, number)],
            config.decoder,
            limits,
            said=lambda row, text: console.print(Text(visible(text)), end="", soft_wrap=True),
        )
        console.print()
        said = [*said, {"role": "user", "content": line}, {"role": "assistant", "content": answer.text}]
    return {"run": str(run.path), "messages": [*first, *said]}


def _lines(console: Any) -> Iterator[str]:
    """Yield the lines that are typed, or of a file; empty ones are passed over."""
    while True:
        if sys.stdin.isatty():
            console.print("[bold]> [/]", end="")
        line = sys.stdin.readline()
        if not line:
            console.print()
            return
        if line.strip():
            yield line.rstrip("\r\n")
