"""Change the logits before decoding, depending on the text so far: one ordered chain of processors."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gptlab.errors import require

if TYPE_CHECKING:
    from torch import Tensor

STEPS = ("repetition", "presence", "frequency", "banned", "no_repeat_ngram")


@dataclass
class LogitsProcessors:
    """Penalties and bans; by default each does nothing."""

    order: list[str] = field(default_factory=lambda: list(STEPS))  # the order in which these are applied
    repetition: float = 1.0  # divides positive logits of tokens seen in prompt or text, multiplies negative ones
    presence: float = 0.0  # subtracted from the logit of each token of the text
    frequency: float = 0.0  # subtracted once for each time it occurs in the text
    banned: list[Any] = field(default_factory=list)  # tokens that are never drawn: ids, or texts of one token
    no_repeat_ngram: int = 0  # no n tokens in a row occur twice, in prompt and text; 0: off

    def __post_init__(self) -> None:
        complete = sorted(self.order) == sorted(STEPS)
        require(complete, "order", self.order, "is not all steps once", f"order {', '.join(STEPS)}")
        require(self.repetition > 0, "repetition", self.repetition, "is not above 0", "1 is off, 1.2 is usual")
        n = self.no_repeat_ngram
        require(n >= 0, "no_repeat_ngram", n, "is negative", "0 is off, 3 is usual")

    @property
    def active(self) -> list[str]:
        """Return the names of the processors that change something, in their order."""
        off = {"repetition": 1.0, "presence": 0.0, "frequency": 0.0, "banned": [], "no_repeat_ngram": 0}
        return [step for step in self.order if getattr(self, step) != off[step]]

    def __call__(self, logits: Tensor, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]) -> Tensor:
        """Return the logits (B, V) after the chain; row i follows prompts[i] and texts[i], generated so far."""
        if not self.active:
            return logits
        logits = logits.clone()
        for row, prompt, text in zip(logits, prompts, texts, strict=True):
            for step in self.active:
                getattr(self, f"_{step}")(row, list(prompt), list(text))
        return logits

    def _repetition(self, row: Tensor, prompt: list[int], text: list[int]) -> None:
        """Divide positive logits of seen tokens and multiply negative ones (Keskar et al. 2019, sec. 4.1)."""
        seen = _ids({*prompt, *text}, row)
        row[seen] = (row[seen] / self.repetition).where(row[seen] > 0, row[seen] * self.repetition)

    def _presence(self, row: Tensor, prompt: list[int], text: list[int]) -> None:
        row[_ids(set(text), row)] -= self.presence

    def _frequency(self, row: Tensor, prompt: list[int], text: list[int]) -> None:
        row -= self.frequency * _ids(text, row).bincount(minlength=len(row))

    def _banned(self, row: Tensor, prompt: list[int], text: list[int]) -> None:
        row[_ids(self.banned, row)] = -math.inf

    def _no_repeat_ngram(self, row: Tensor, prompt: list[int], text: list[int]) -> None:
        n, ids = self.no_repeat_ngram, prompt + text
        if len(ids) < n:
            return
        last = ids[len(ids) - n + 1 :]
        ends = [ids[i + n - 1] for i in range(len(ids) - n + 1) if ids[i : i + n - 1] == last]
        row[_ids(ends, row)] = -math.inf


def _ids(ids: Collection[int], row: Tensor) -> Tensor:
    """Return ids (N,) on the device of the row."""
    import torch  # not above: reading a config does not import it

    return torch.tensor(list(ids), dtype=torch.int64, device=row.device)
