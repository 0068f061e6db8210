"""Define how items of a task are scored: how a run is asked, and what is found of each item."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gptlab.errors import UserError, require
from gptlab.metrics import Metric, metric
from gptlab.tokenizers.chat_templates import ChatTemplate

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Asking:
    """The settings by which a run is asked, and the names of both in what is refused."""

    task: str
    run: Any
    block_size: int
    batch_size: int
    max_new_tokens: int
    template: ChatTemplate | None = None  # the items are what a user says in it

    def require_fits(self, lengths: Sequence[int], what: str, room: int) -> None:
        """Refuse a text that is longer than what the model reads at once."""
        longest = max(lengths)
        why = f"a {what} has {longest:,} tokens, more than the context of {room:,}"
        require(longest <= room, "tasks", self.task, why, "shorten it, or take a model of a longer context")

    def require_finite(self, scores: Sequence[float]) -> None:
        """Refuse a model that has diverged."""
        if not all(map(math.isfinite, scores)):
            todo = "take another checkpoint, from before it diverged"
            raise UserError("run", self.run, "its model gives no finite scores", todo)


@dataclass(frozen=True)
class ItemScores:
    """The figures of each item, (N,) for each metric, and what they are divided by, which is 1 if it is not said.

    A metric of a task is the sum of its figures over the sum of these weights.
    """

    main: str  # the metric by which runs are compared
    values: dict[str, Array]
    weights: Mapping[str, Array]
    notes: dict[str, Any]
    texts: list[str] = field(default_factory=list)  # that the model has written
    better: Mapping[str, str] = field(default_factory=dict)  # of metrics that gptlab.metrics does not know

    def sizes(self, name: str) -> Array:
        """Return the weights of a metric, (N,)."""
        return self.weights.get(name, np.ones(len(self.values[name])))

    def metric(self, name: str) -> Metric:
        """Return the row of one of the metrics, which says what is better."""
        known = metric(f"tasks/{name}")
        return replace(known, head=name, unit=name, better=self.better[name]) if name in self.better else known

    def scores(self) -> dict[str, float]:
        """Return each metric, and the standard error of those that are means over items, as lm-eval names them."""
        found: dict[str, float] = {}
        for name, values in self.values.items():
            found[name] = float(values.sum() / self.sizes(name).sum())
            if name not in self.weights and len(values) > 1:
                found[f"{name}_stderr"] = float(values.std(ddof=1) / math.sqrt(len(values)))
        return found

    def record(self) -> dict[str, Any]:
        """Return the figures of all items as plain values."""
        texts = {"texts": self.texts} if self.texts else {}
        return {**{name: values.tolist() for name, values in self.values.items()}, **texts}
