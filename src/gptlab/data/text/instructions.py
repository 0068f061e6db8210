"""Define the data option of instructions with answers: a user's own conversations, or questions about Python."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptlab.data.bundled_tasks.bundled_task import lessons, require_task
from gptlab.data.config import ExampleData, Record
from gptlab.data.text import questions
from gptlab.data.text.conversations import Mistake, conversation
from gptlab.data.text.readers import read_records
from gptlab.data.text.sources import listed, matching
from gptlab.errors import UserError, require
from gptlab.registry import option


@option("data", "instructions")
@dataclass
class Instructions(ExampleData):
    """Conversations to learn answers from: messages, ShareGPT's, prompt and completion, or Alpaca's fields.

    They are JSON lines, or rows of Parquet; without files, questions about the standard library, answered by its own
    docstrings.
    """

    files: list[str] = field(default_factory=list)  # paths and globs; none: questions about Python's library
    val_files: list[str] = field(default_factory=list)  # held-out files; none: a part of `files`
    # in place of files: the training items of a bundled task, such as cloze, qa or copying
    task: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.files, self.val_files = listed(self.files), listed(self.val_files)
        if self.task is not None:
            require_task("task", self.task)
            given = bool(self.files or self.val_files)
            require(not given, "task", self.task, "and files are given", "give one of them")

    def examples(self) -> Iterator[Record]:
        """Return the conversations of `files`, in their order."""
        if not self.files:
            found = questions.about_python() if self.task is None else lessons(self.task)
            return (conversation(each, _unexpected) for each in found)
        return read_as(conversation, self.files, "data.files")

    def held_out(self) -> Iterator[Record] | None:
        """Return the conversations of `val_files`, if there are some."""
        return read_as(conversation, self.val_files, "data.val_files") if self.val_files else None


def read_as(form: Callable[[Any, Mistake], Record], patterns: list[str], key: str) -> Iterator[Record]:
    """Yield the records of files in a form that a task learns from; raises UserError, which says where one has none."""
    for path in matching(patterns, key):
        for where, record in read_records(path, key):
            yield form(record, lambda why, todo: _mistake(key, path, where, why, todo))  # noqa: B023


def _mistake(key: str, path: Path, where: str, why: str, todo: str) -> UserError:
    return UserError(key, path, f"{where} {why}", todo)


def _unexpected(why: str, todo: str) -> Any:
    return UserError("data", "instructions", f"a bundled question {why}", todo)
