"""Define learning from preferences: which of two answers is the better one, against the model that a run begins with.

DPO: Rafailov et al. 2023, eq. 7. IPO: Azar et al. 2023, eq. 17, with log-probabilities that are means over tokens, as
trl has them: their sums would ask for a gap of 1 / (2 beta) from answers of any length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gptlab.data.config import Record
from gptlab.errors import require
from gptlab.registry import option
from gptlab.tasks.base import Figures, Reading, Sums
from gptlab.tasks.chats import Chats, require_fields

if TYPE_CHECKING:
    from torch import Tensor

    from gptlab.data.batches.pairs import Pairs
    from gptlab.tokenizers import Tokenizer

MEANS = {"accuracy": "right", "reward_margin": "margin", "chosen_reward": "chosen", "rejected_reward": "rejected"}
# metrics, and the figures whose means over the pairs they are


@option("task", "preference")
@dataclass
class Preference(Chats):
    """Preference tuning: of two answers to a prompt the chosen one is made likelier than the rejected one.

    Both are measured against the reference, which is the model that the run begins with (`init_from`).
    """

    choices: ClassVar[dict[str, tuple[str, ...]]] = {**Chats.choices, "loss": ("dpo", "ipo")}
    needs_reference: ClassVar[bool] = True
    target: ClassVar[str] = "pair"

    loss: str = "dpo"  # dpo: logistic | ipo: squared, towards a margin of 1 / (2 beta) a token
    beta: float = 0.1  # how closely the model stays with the reference; lower: it moves further away

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta > 0, "beta", self.beta, "is not above 0", "0.1 is usual")

    @property
    def better(self) -> str:
        """The share of pairs that are told right: unlike the loss, it compares whatever loss and beta are."""
        return "val/accuracy"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The loss in training, and on held-out pairs also what becomes of their answers."""
        return ("train/loss", "val/loss", *(f"val/{name}" for name in MEANS))

    def examples(self, records: Sequence[Record], tokenizer: Tokenizer, block_size: int, training: bool) -> Pairs:
        """Return pairs, `{"prompt", "chosen", "rejected"}` with messages each, which the reference has yet to read."""
        from gptlab.data.batches.pairs import pairs

        require_fields(records, ["prompt", "chosen", "rejected"], "task=preference learns from pairs: data=preferences")
        template = self.chat_template(tokenizer)
        answers = [
            template.answer(record["prompt"], record[side]) for record in records for side in ("chosen", "rejected")
        ]
        return pairs(answers, block_size, self.too_long, keep_all=not training)

    def losses(self, gpt: Any, x: Tensor, y: Tensor, reference: Tensor, *, reading: Reading) -> Figures:  # type: ignore[override]
        """Compute the loss of each pair, (B,), of ids x and targets y, (B, 2, T), the chosen answer first.

        `reference` (B, 2) are the answers' log-probabilities under the reference. A pair without targets costs nothing.
        """
        import torch
        import torch.nn.functional as F

        from gptlab.data.batches.batch import IGNORE
        from gptlab.tasks.cross_entropy import target_losses

        nats = target_losses(gpt, x.flatten(0, 1), y.flatten(0, 1), reading.chunked)
        log_probs = -nats.sum(1).view_as(reference)
        gained = log_probs - reference  # by each answer, (B, 2)
        lengths = (y != IGNORE).sum(-1)
        rewards = self.beta * (gained / lengths.clamp(min=1) if self.loss == "ipo" else gained)
        margin = rewards[:, 0] - rewards[:, 1]
        loss = (margin / self.beta - 1 / (2 * self.beta)) ** 2 if self.loss == "ipo" else -F.logsigmoid(margin)
        loss = torch.where(lengths.all(1), loss, 0.0)
        return {"loss": loss, "log_probs": log_probs, "rewards": rewards}

    def measure(self, figures: Figures, batch: Any) -> Sums:
        """Sum over the pairs: their losses, how many are told right, and rewards; a margin of zero is not right."""
        from gptlab.data.batches.batch import IGNORE

        chosen, rejected = figures["rewards"].unbind(1)
        return {
            "nats": figures["loss"].sum(),
            "targets": (batch.y != IGNORE).any(-1).all(-1).sum(),
            "right": (chosen > rejected).sum(),
            "margin": (chosen - rejected).sum(),
            "chosen": chosen.sum(),
            "rejected": rejected.sum(),
        }

    def scores(self, sums: Mapping[str, Any], n_bytes: float | None) -> dict[str, float]:
        """Return the means over the pairs."""
        n = float(sums["targets"])
        known = {"loss": "nats", **MEANS} if "right" in sums else {"loss": "nats"}
        return {name: float(sums[figure]) / n if n else math.nan for name, figure in known.items()}
