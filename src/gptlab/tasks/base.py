"""Define the interface between a model and the task that it is trained and judged on.

Training, evaluation, checkpoints, sweeps, reports and comparison ask the task and know no other. Causal language
modelling is one task; a task of another package registers itself by `@gptlab.option("task", NAME)`. A task is a `Task`
and besides, by the kinds of data that it learns from, a `TextTask` or an `ExampleTask` (gptlab.tasks.inputs).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

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


class Task(Protocol):
    """A task: it says what a model learns, and how well it does.

    Configs of tasks are dataclasses with these methods. A batch is a NamedTuple of tensors, whose first dimension is
    the examples, and of two numbers that the data module knows when it makes the batch of a step over all ranks:
    `step_targets`, which its loss is divided by, and `step_tokens`, the ids that are read, without padding, which speed
    and budget count. It is `gptlab.data.batches.batch.Batch`, or one of the task's own with other tensors (labels of
    examples, pairs of texts, outputs of a reference model).
    """

    @property
    def learns_from(self) -> tuple[str, ...]:
        """Name what data options may give it: TEXT, ROWS or EXAMPLES of gptlab.data.config."""

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

    def head(self, gpt: Any) -> nn.Module:
        """Return the model with the head that this task trains; the same model where it needs no other.

        What it returns has the model's `config`, and the model among its modules. A head that stands in place of the
        model's own takes that away (`gpt.lm_head = nn.Identity()`): several devices wait for gradients of all weights.
        A checkpoint holds all parameters, also those that are not trained, such as a reference model's: a run goes on,
        and is evaluated, with what is in the checkpoint. A run that begins with the weights of another (`init_from`)
        calls it with a model that has them; the weights of the head itself then begin as it makes them, unless that run
        has the same task.
        """

    @property
    def losses(self) -> Callable[..., Figures]:
        """Return the figures of one batch, of which `loss` is minimised, in nats: losses(gpt, *tensors, reading).

        `tensors` are those of the batch in their order. The sum of `loss` over the batch is divided by the number of
        targets of the step, so it must be zero where there is no target. Other figures are for `measure`, such as
        whether each example is right; a model in training (`gpt.training`) is not asked for them. The first dimension
        of all figures is the examples.
        """

    def measure(self, figures: Figures, batch: Any) -> Sums:
        """Return sums over one held-out batch, which are then summed over all batches and ranks.

        It is also asked about single examples of a batch, so that runs can be compared example by example.
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


@runtime_checkable
class Detailed(Protocol):
    """A task that also says what its held-out scores are made of, as values and as pictures."""

    def details(self, sums: Sums) -> dict[str, Any]:
        """Return what `evaluate` says besides the scores, as plain values that JSON can hold."""

    def pictures(self, sums: Sums) -> dict[str, bytes]:
        """Return PNG images to show at a validation, by name; none where what draws them is not installed."""


@runtime_checkable
class Predicting(Protocol):
    """A task whose model gives labels to texts."""

    def predict(self, gpt: nn.Module, tokenizer: Tokenizer, texts: Sequence[str]) -> list[dict[str, float]]:
        """Return the probability of each label for each text, by the labels' names; raises UserError."""


def target_of(tasks: Sequence[Task]) -> str:
    """Return the word for one target of these tasks, over which their loss is a mean; where they differ, target.

    It is a token, or an example where a task predicts no tokens; a task may say another, such as `target = "pair"`.
    """
    kinds = {getattr(task, "target", "token" if task.predicts_tokens else "example") for task in tasks}
    return str(kinds.pop()) if len(kinds) == 1 else "target"


def needs_reference(task: Any) -> bool:
    """Tell whether a task compares the model with the one that a run begins with; then its examples are `Pairs`."""
    return bool(getattr(task, "needs_reference", False))
