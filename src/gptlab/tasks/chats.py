"""Define what tasks that learn from conversations have in common: a chat template, and answers as samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

from gptlab.data.config import EXAMPLES, Record
from gptlab.errors import require, require_choice
from gptlab.tasks.causal_lm import CausalLM, continuation

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gptlab.decoding.decoders import Decoder
    from gptlab.tasks.base import Sums
    from gptlab.tokenizers import Tokenizer
    from gptlab.tokenizers.chat_templates import ChatTemplate


@dataclass
class Chats(CausalLM):
    """A task whose model answers in a chat template."""

    choices: ClassVar[dict[str, tuple[str, ...]]] = {"too_long": ("cut", "skip", "refuse")}

    template: str = "auto"  # auto: the tokenizer's own, else chatml | plain | alpaca | llama3 | a name
    # a conversation longer than the context: cut | skip (not if held out) | refuse
    too_long: str = field(default="cut", compare=False)

    def __post_init__(self) -> None:
        for key, choices in self.choices.items():
            require_choice(key, getattr(self, key), choices)

    @property
    def learns_from(self) -> tuple[str, ...]:
        """Conversations, which are examples."""
        return (EXAMPLES,)

    def fitted(self, records: Sequence[Record]) -> Self:
        """Return the task itself, which takes nothing from the records."""
        return self

    def chat_template(self, tokenizer: Tokenizer) -> ChatTemplate:
        """Return the template by which conversations are read and prompts are answered."""
        from gptlab.tokenizers.chat_templates import chat_template

        return chat_template(self.template, tokenizer)

    def curves(self, sums: Sums) -> dict[str, Tensor]:
        """Return no curves: positions mean nothing where prompts have any length."""
        return {}

    def samples(
        self, gpt: nn.Module, tokenizer: Tokenizer, prompts: Sequence[str], decoder: Decoder, seed: int
    ) -> list[str]:
        """Draw the answer to each prompt, which is what the user says."""
        template = self.chat_template(tokenizer)
        asked = [template.prompt([{"role": "user", "content": prompt}]) for prompt in prompts]
        return [
            "\n" + continuation(gpt, tokenizer, prompt, decoder, seed, ids=ids, ends=template.ends)
            for prompt, ids in zip(prompts, asked, strict=True)
        ]


def require_fields(records: Sequence[Record], names: Sequence[str], todo: str) -> None:
    """Refuse records that lack what a task learns from: they are of a data option for another one."""
    for number, record in enumerate(records, 1):
        missing = [name for name in names if name not in record]
        require(not missing, "data", f"example {number}", f"has no {', '.join(missing)}", todo)
