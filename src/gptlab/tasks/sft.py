"""Define supervised fine-tuning: predict what the assistant says in conversations (Ouyang et al. 2022, sec. 3.5)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from gptlab.data.config import Record
from gptlab.errors import require
from gptlab.registry import name_of, option
from gptlab.tasks.base import Figures, Reading, Sums
from gptlab.tasks.chats import Chats, require_fields

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gptlab.data.batches.chat import Rows
    from gptlab.tokenizers import Tokenizer


@option("task", "sft")
@dataclass
class SFT(Chats):
    """Supervised fine-tuning: what the assistant says in conversations is predicted, with the end of each turn."""

    choices: ClassVar[dict[str, tuple[str, ...]]] = {**Chats.choices, "targets": ("completions", "all")}

    targets: str = "completions"  # completions | all: also what the user says, and the template
    # several conversations in a row, which do not see each other; false: one a row
    packing: bool = field(default=True, compare=False)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The loss in training and on held-out conversations, and its exponential."""
        return ("train/loss", "val/loss", "val/perplexity")

    def examples(self, records: Sequence[Record], tokenizer: Tokenizer, block_size: int, training: bool) -> Rows:
        """Return conversations, `{"messages": [{"role", "content"}, ...]}` each, as rows, packed in training."""
        from gptlab.data.batches.chat import conversations, one_a_row, packed

        require_fields(records, ["messages"], "task=sft learns from conversations: data=instructions")
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
        from gptlab.tasks.cross_entropy import target_losses

        apart = {} if documents is None else {"documents": documents}
        return {"loss": target_losses(gpt, x, y, reading.chunked, **apart)}

    def measure(self, figures: Figures, batch: Any) -> Sums:
        """Sum nats and targets."""
        from gptlab.data.batches.batch import IGNORE

        return {"nats": figures["loss"].sum(), "targets": (batch.y != IGNORE).sum()}

    def scores(self, sums: Mapping[str, Any], n_bytes: float | None) -> dict[str, float]:
        """Return the mean loss over the targets, and the perplexity."""
        return super().scores(sums, None)
