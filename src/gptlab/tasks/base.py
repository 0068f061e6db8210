"""Define the interface between a model and the task that it is trained and judged on.

Training, evaluation, checkpoints, sweeps, reports and comparison ask the task and know no other. Causal language
modelling is one task; a task of another package registers itself by `@gptlab.option("task", NAME)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gptlab.decoding.decoders import Decoder
    from gptlab.tokenizers import Tokenizer

Figures = Mapping[str, "Tensor"]  # by name, of each target, example or pair of one batch; `loss` is among them
Sums = dict[str, "Tensor"]  # float64 figures of some batches that add up over batches and ranks


@dataclass(frozen=True)
class Reading:
    """A way to read windows: `separator` keeps documents apart, `chunked` saves the memory of the logits."""

    separator: int | None = None  # the id before each document; no position attends beyond the last one. None: it may
    chunked: bool = False


class HeldOut(Protocol):
    """Held-out examples, indexed by number; one past the end is an example without targets."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> Any: ...


class Task(Protocol):
    """A task: it says what a model learns, and how well it does.

    Configs of tasks are dataclasses with these methods. A batch is a NamedTuple of tensors and of `step_targets`, the
    number of targets of its whole optimizer step over all ranks, which the data module knows when it makes the batch:
    `gptlab.data.batches.batch.Batch`, or one of the task's own with other tensors (labels of examples, pairs of texts,
    outputs of a reference model).
    """

    @property
    def better(self) -> str:
        """The metric of gptlab.metrics by which checkpoints, runs and searches are ranked, such as val/loss."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics of gptlab.metrics that a run of this task ends with."""

    @property
    def predicts_tokens(self) -> bool:
        """True if the model, with this task's head, gives logits of the next token, (B, T, V).

        Then it continues prompts, and each token of a text has a cost: sample, compare, replay and surprise need this.
        """

    def data_module(self, corpus: Any, data: Any, block_size: int, seed: int) -> Any:
        """Return the data module whose batches this task learns from: it defines what a batch is."""

    def held_out(self, tokens: Any, block_size: int, eot: int, by_documents: bool) -> HeldOut:
        """Return the held-out examples of a stream of tokens, as evaluation and the data module's validation have them.

        `eot` is the id before each document; examples begin where documents do if `by_documents`.
        """

    def head(self, gpt: Any) -> nn.Module:
        """Return the model with the head that this task trains; the same model where it needs no other.

        What it returns has the model's `config`. A checkpoint holds all of its parameters, also those that are not
        trained, such as a reference model's: a run goes on, and is evaluated, with what is in the checkpoint.
        """

    @property
    def losses(self) -> Callable[..., Figures]:
        """Return the figures of one batch, of which `loss` is minimised, in nats: losses(gpt, *tensors, reading).

        `tensors` are those of the batch in their order. The sum of `loss` over the batch is divided by the number of
        targets of the step, so it must be zero where there is no target. Other figures are for `measure`, such as
        whether each example is right; a model in training (`gpt.training`) is not asked for them.
        """

    def measure(self, figures: Figures, batch: Any) -> Sums:
        """Return sums over one held-out batch, which are then summed over all batches and ranks.

        `targets`, the number of targets, and `nats`, their summed loss, are among them.
        """

    def scores(self, sums: Mapping[str, Any], n_bytes: float | None) -> dict[str, float]:
        """Turn sums into this task's metrics, by the last part of their names: loss, perplexity ...

        `n_bytes` is the length of the text that the targets spell, or None if it is unknown. In training only `nats`
        and `targets` are summed.
        """

    def curves(self, sums: Sums) -> dict[str, Tensor]:
        """Return the curves to show at a validation, such as the loss at each position of the window, (T,)."""

    def samples(
        self, gpt: nn.Module, tokenizer: Tokenizer, prompts: Sequence[str], decoder: Decoder, seed: int
    ) -> list[str]:
        """Return one text for each prompt, without the prompt itself, to show what the model has learned."""
