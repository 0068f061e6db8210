"""The seam between a model and what it is trained and judged on.

Training, evaluation, checkpoints, sweeps, reports and comparison ask the task and know no other. Causal language
modelling is one task; a task of another package registers itself by `@gptlab.option("task", NAME)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gptlab.data.batches.batch import Batch
    from gptlab.decoding.decoders import Decoder
    from gptlab.tokenizers import Tokenizer

Sums = dict[str, "Tensor"]  # float64 figures of some batches that add up over batches and ranks


@dataclass(frozen=True)
class Reading:
    """How a model reads its windows: `separator` keeps documents apart, `chunked` saves the memory of the logits."""

    separator: int | None = None  # the id before each document; no position attends beyond the last one. None: it may
    chunked: bool = False


class Task(Protocol):
    """What a model learns, and how well it does. Configs of tasks are dataclasses with these methods."""

    @property
    def better(self) -> str:
        """Name the metric of gptlab.metrics by which checkpoints, runs and searches are ranked, such as val/loss."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Name the metrics of gptlab.metrics that a run of this task ends with."""

    def data_module(self, corpus: Any, data: Any, block_size: int, seed: int) -> Any:
        """Make the data module whose batches this task learns from: it says what a batch is."""

    def head(self, gpt: nn.Module) -> nn.Module:
        """Return the model with the head that this task trains; the same model where it needs no other."""

    def losses(self, gpt: Any, x: Tensor, y: Tensor, reading: Reading) -> Tensor:
        """Return the loss of every target in nats, zero where there is none: their sum is the loss of the batch."""

    def targets(self, batch: Batch) -> Tensor:
        """Count the targets of a batch: what its summed loss is divided by."""

    def measure(self, losses: Tensor, batch: Batch) -> Sums:
        """Return the figures of one held-out batch, which are then summed over all batches and ranks."""

    def scores(self, sums: Mapping[str, Any], n_bytes: float | None) -> dict[str, float]:
        """Turn summed figures into this task's metrics, by the last part of their names: loss, perplexity ...

        `n_bytes` is the length of the text that the targets spell; None where nobody knows it. In training only `nats`
        and `targets` are summed.
        """

    def curves(self, sums: Sums) -> dict[str, Tensor]:
        """Return what is worth a curve at a validation, such as the loss at each position of the window, (T,)."""

    def samples(
        self, gpt: nn.Module, tokenizer: Tokenizer, prompts: Sequence[str], decoder: Decoder, seed: int
    ) -> list[str]:
        """Show what the model has learned: one text for each prompt, without the prompt itself."""
