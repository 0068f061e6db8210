"""Define distillation: learn what other models predict, besides the text itself (Hinton, Vinyals & Dean 2015)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from gptlab.data.config import TEXT
from gptlab.errors import require
from gptlab.registry import option
from gptlab.tasks.base import Figures, Reading, Sums
from gptlab.tasks.causal_lm import CausalLM

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gptlab.data.batches.batch import Batch

LOSS = "distillation_loss"


@option("task", "distill")
@dataclass
class Distill(CausalLM):
    """Distillation: each token is predicted as other runs predict it, their probabilities averaged.

    The loss is alpha T^2 KL(teachers || student), both at temperature T, + (1 - alpha) times the cross-entropy of
    the text. Held-out text is scored as by causal_lm, and a run is used without its teachers.
    """

    teacher: str | list[str] = field(default_factory=list, compare=False)  # a run, or several: [RUN,RUN], or with *
    # the weight of what the teachers say; that of the text itself is 1 - alpha
    alpha: float = field(default=0.9, compare=False)
    # what logits are divided by before teachers and student are compared
    temperature: float = field(default=2.0, compare=False)
    sha256: list[str] = field(default_factory=list, compare=False)  # of the teachers' weights; noted by the run

    def __post_init__(self) -> None:
        self.teacher = [self.teacher] if isinstance(self.teacher, str) else self.teacher
        self.teachers: tuple[Any, ...] = ()  # their models, in a run that they teach
        require(bool(self.teacher), "teacher", "[]", "is needed", "give task.teacher=RUN, or task.teacher=[RUN,RUN]")
        require("" not in self.teacher, "teacher", self.teacher, "has an empty one", "drop it")
        require(0 <= self.alpha <= 1, "alpha", self.alpha, "is not in [0, 1]", "try 0.9")
        require(self.temperature > 0, "temperature", self.temperature, "is not above 0", "try 2")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of causal_lm, and the loss that is minimised, on held-out text."""
        return (*super().metrics, f"val/{LOSS}")

    @property
    def learns_from(self) -> tuple[str, ...]:
        """Text in windows."""
        return (TEXT,)

    def fitted_to(self, corpus: Any, block_size: int) -> Self:
        """Return this task with its teachers, found and read.

        Raises UserError where one is missing, is not what it was, or does not read the text as this run does.
        """
        from gptlab.tasks.teachers import find_teachers

        found = find_teachers(self.teacher, self.sha256, corpus.tokenizer, block_size)
        places, hashes = [each.place for each in found], [each.sha256 for each in found]
        task = dataclasses.replace(self, teacher=places, sha256=hashes)
        task.teachers = tuple(each.gpt for each in found)
        return task

    def head(self, gpt: Any) -> nn.Module:
        """Return the model itself; raises UserError where its teachers have another vocabulary."""
        for place, teacher in zip(self.teacher, self.teachers, strict=False):  # a finished run has none
            own, theirs = gpt.config.vocab_size, teacher.config.vocab_size
            why = f"but the teacher {place} has {theirs}"
            require(own == theirs, "model.vocab_size", own, why, f"give model.vocab_size={theirs}")
        return super().head(gpt)

    def losses(self, gpt: Any, x: Tensor, y: Tensor, reading: Reading) -> Figures:
        """Compute the loss at each target, (B, T), in nats; out of training, the cross-entropy, and this beside it."""
        from gptlab.tasks.teachers import taught

        if not self.teachers:
            why = "are not there: they teach in a run that gptlab train has begun"
            require(not gpt.training, "task.teacher", self.teacher, why, "take gptlab train, or task=causal_lm")
            return super().losses(gpt, x, y, reading)
        both = taught(gpt, self.teachers, x, y, reading, self.temperature)
        loss = self.alpha * self.temperature**2 * both.divergence + (1 - self.alpha) * both.cross_entropy
        return {"loss": loss} if gpt.training else {"loss": both.cross_entropy, LOSS: loss}

    def measure(self, figures: Figures, batch: Batch) -> Sums:
        """Sum nats and targets at each position of the window, (T,), and what teachers make of the loss."""
        taught = {LOSS: figures[LOSS].sum()} if LOSS in figures else {}
        return {**super().measure(figures, batch), **taught}

    def scores(self, sums: Mapping[str, Any], n_bytes: float | None) -> dict[str, float]:
        """Return the scores of causal_lm, and the distillation loss, which is all that is known in training."""
        found = super().scores(sums, n_bytes)
        if LOSS in sums:
            return {**found, LOSS: float(sums[LOSS] / sums["targets"].sum())}
        return {"loss": found["loss"]} if self.teachers else found
