"""Define the data option of preferences: a user's own pairs of answers, or right and wrong ones about Python."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gptlab.data.config import ExampleData, Record
from gptlab.data.text import questions
from gptlab.data.text.instructions import read_as
from gptlab.data.text.pairs import pair
from gptlab.data.text.sources import listed
from gptlab.errors import UserError
from gptlab.registry import option


@option("data", "preferences")
@dataclass
class Preferences(ExampleData):
    """Pairs of answers to learn from which is better: JSON lines with prompt, chosen and rejected.

    Without files they are questions about the standard library: the answer of its docstring against that to another.
    """

    files: list[str] = field(default_factory=list)  # paths and globs; none: questions about Python's library
    val_files: list[str] = field(default_factory=list)  # held-out files; none: a part of `files`
    old_loss: bool = True  # validations also score what the run of init_from holds out: val/old/loss

    def __post_init__(self) -> None:
        super().__post_init__()
        self.files, self.val_files = listed(self.files), listed(self.val_files)

    def examples(self) -> Iterator[Record]:
        """Return the pairs of `files`, in their order."""
        return read_as(pair, self.files, "data.files") if self.files else _about_python()

    def held_out(self) -> Iterator[Record] | None:
        """Return the pairs of `val_files`, if there are some."""
        return read_as(pair, self.val_files, "data.val_files") if self.val_files else None


def _about_python() -> Iterator[Record]:
    """Yield each question with its own answer, and with that to the next one as the rejected one."""
    every = questions.about_python()
    for own, other in zip(every, every[1:] + every[:1], strict=True):
        if own["completion"] != other["completion"]:
            record = {"prompt": own["prompt"], "chosen": own["completion"], "rejected": other["completion"]}
            yield pair(record, _unexpected)


def _unexpected(why: str, todo: str) -> Any:
    return UserError("data", "preferences", f"a bundled question {why}", todo)
