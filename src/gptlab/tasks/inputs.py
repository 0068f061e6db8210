"""Say how a task turns the data that it learns from into examples and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from gptlab.tasks.base import Reading, Task

if TYPE_CHECKING:
    from gptlab.data.batches.examples import Examples
    from gptlab.data.config import Record
    from gptlab.tokenizers import Tokenizer


class HeldOut(Protocol):
    """Held-out examples, which are asked for by their numbers; one past the end is an example without targets."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> Any: ...


class TextTask(Task, Protocol):
    """A task that learns from a stream of tokens (TEXT).

    It may have a method `fitted_to(corpus, block_size)` besides, which returns the task with what it takes from the
    text, or from other runs, before anything is built; that is what the run's config.yaml holds.
    """

    def data_module(self, corpus: Any, data: Any, block_size: int, seed: int) -> Any:
        """Make the data module whose batches this task learns from: it says what a batch is.

        It is a `TextDataModule`, whose method `examples` makes batches of the task's own of windows.
        """

    def held_out(self, tokens: Any, block_size: int, eot: int, by_documents: bool) -> HeldOut:
        """Return the held-out examples of a stream of tokens, as evaluation and the data module's validation have them.

        `eot` is the id before each document; examples begin where documents do if `by_documents`.
        """


@dataclass(frozen=True)
class Part:
    """Held-out data that another task scores by themselves, and the length of the text that their targets spell."""

    examples: HeldOut
    task: Task
    reading: Reading
    bytes: int | None  # None where that is not known


class ExampleTask(Task, Protocol):
    """A task that learns from records (EXAMPLES), such as texts with their labels, or chats."""

    def fitted(self, records: Sequence[Record]) -> Self:
        """Return this task with what it takes from the records of training and was not given, such as the labels.

        What it returns is what the run's config.yaml holds. Raises UserError where the records do not fit the task.
        """

    def examples(self, records: Sequence[Record], tokenizer: Tokenizer, block_size: int, training: bool) -> Examples:
        """Turn records into examples of at most block_size ids.

        In training an example may hold several records, packed; held out, each record is one. Raises UserError where a
        record does not fit the task.
        """
