"""Define supervised fine-tuning: predict what the assistant says in conversations (Ouyang et al. 2022, sec. 3.5)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from gptlab.data.config import EXAMPLES, Record
from gptlab.errors import require
from gptlab.registry import name_of, option
from gptlab.tasks.base import Figures, Reading, Sums
from gptlab.tasks.causal_lm import CausalLM, continuation

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gptlab.data.batches.chat import Rows
    from gptlab.decoding.decoders import Decoder
    from gptlab.tokenizers import Tokenizer
    from gptlab.tokenizers.chat_templates import ChatTemplate

CHOICES = {"targets": ("completions", "all"), "too_long": ("cut", "skip", "refuse")}


@option("task", "sft")
@dataclass
class SFT(CausalLM):
    """Supervised fine-tuning: what the assistant says in conversations is predicted, with the end of each turn."""

    template: str = "auto"  # auto: the tokenizer's own, else chatml | plain | alpaca | llama3 | a name
    targets: str = "completions"  # completions | all: also what the user says, and the template
    # several conversations in a row, which do not see each other; false: one a row
    packing: bool = field(default=True, compare=False)
    # a conversation longer than the context: cut | skip (not if held out) | refuse
    too_long: str = field(default="cut", compare=False)

    def __post_init__(self) -> None:
        for key, choices in CHOICES.items():
            value = getattr(self, key)
            require(value in choices, key, value, "no such option", f"choose one of {', '.join(choices)}")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The loss in training and on held-out conversations, and its exponential."""
        return ("train/loss", "val/loss", "val/perplexity")

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

    def examples(self, records: Sequence[Record], tokenizer: Tokenizer, block_size: int, training: bool) -> Rows:
        """Return conversations, `{"messages": [{"role", "content"}, ...]}` each, as rows, packed in training."""
        from gptlab.data.batches.chat import conversations, one_a_row, packed

        template = self.chat_template(tokenizer)
        encoded = [template.encode(record["messages"]) for record in records]
        if self.targets == "all":
            encoded = [each._replace(counts=[True] * len(each.ids)) for each in encoded]
        found = conversations(encoded, block_size, self.too_long, keep_all=not training)
        return packed(found, block_size) if self.packing and training else one_a_row(found, block_size)

    def head(self, gpt: Any) -> nn.Module:
        """Return the model itself; raises UserError for one that cannot keep packed conversations apart."""
        able = not self.packing or "documents" in inspect.signature(gpt.forward).parameters
        why = f"needs a model with forward(idx, documents), which model={name_of(gpt.config)} does not have"
        require(able, "task.packing", "true", why, "give task.packing=false")
        return super().head(gpt)

    def losses(  # type: ignore[override]
        self, gpt: Any, x: Tensor, y: Tensor, documents: Tensor | None = None, *, reading: Reading
    ) -> Figures:
        """Compute the cross-entropy at each target, (B, T), in nats; `documents` numbers conversations in a row."""
        from gptlab.tasks.cross_entropy import chunked_cross_entropy, cross_entropy

        apart = {} if documents is None else {"documents": documents}
        if reading.chunked:
            return {"loss": chunked_cross_entropy(gpt, gpt.hidden(x, **apart), y)}
        return {"loss": cross_entropy(gpt(x, **apart).float(), y, reduction="none").view_as(y)}

    def measure(self, figures: Figures, batch: Any) -> Sums:
        """Sum nats and targets."""
        from gptlab.data.batches.batch import IGNORE

        return {"nats": figures["loss"].sum(), "targets": (batch.y != IGNORE).sum()}

    def scores(self, sums: Mapping[str, Any], n_bytes: float | None) -> dict[str, float]:
        """Return the mean loss over the targets, and the perplexity."""
        return super().scores(sums, None)

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
