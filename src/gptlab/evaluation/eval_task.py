"""Define the tasks that a model is judged on as word prediction: items with choices, or prompts with a reference.

They are bundled, or a user's own: JSON lines with `context` (or `prompt`), `choices` and `answer`, the number of the
right choice from 0; or with `prompt` and `reference`.
"""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.data.bundled_tasks.bundled_task import TASKS, items
from gptlab.data.text.conversations import Mistake, whole_text
from gptlab.data.text.readers import read_records
from gptlab.errors import UserError, require

FORMS = "context, choices and answer, or prompt and reference"


@dataclass(frozen=True)
class ChoiceItem:
    """A context, the texts that may follow it, joined to it as they are, and the number of the right one."""

    context: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class SummaryItem:
    """A prompt, and a text to which what the model writes is compared."""

    prompt: str
    reference: str


@dataclass(frozen=True)
class EvalTask:
    """A named list of items of one kind, with the hash of all of them."""

    name: str
    items: Sequence[ChoiceItem] | Sequence[SummaryItem]
    sha256: str


def read_tasks(names: Sequence[str]) -> list[EvalTask]:
    """Return tasks by the names of bundled ones, or by files; raises UserError, as `tasks=...`, for what is none."""
    found = [_read(name) for name in names]
    titles = [task.name for task in found]
    twice = next((title for title in titles if titles.count(title) > 1), None)
    require(twice is None, "tasks", twice, "is named twice", "name each once; files need different names")
    return found


def _read(name: str) -> EvalTask:
    path = Path(name).expanduser()
    if name in TASKS:
        return _task(name, [(f"item {n}", each) for n, each in enumerate(items(name, "test"), 1)], name)
    close = difflib.get_close_matches(name, TASKS, n=1)
    why = "no such task or file" + (f" (did you mean {close[0]}?)" if close else "")
    require(path.is_file(), "tasks", name, why, f"choose one of {', '.join(TASKS)}, or give a file of JSON lines")
    return _task(path.name.partition(".")[0], list(read_records(path, "tasks")), path)


def _task(title: str, records: Sequence[tuple[str, Any]], given: Any) -> EvalTask:
    require(bool(records), "tasks", given, "has no item", f"give {FORMS} in each line")
    first = records[0][1]
    read = _summary if isinstance(first, Mapping) and "reference" in first else _choice
    every = [read(record, _mistakes(given, where)) for where, record in records]
    content = json.dumps([vars(each) for each in every]).encode()
    return EvalTask(title, every, hashlib.sha256(content).hexdigest())  # type: ignore[arg-type]


def _mistakes(given: Any, where: str) -> Mistake:
    return lambda why, todo: UserError("tasks", given, f"{where} {why}", todo)


def _choice(record: Any, mistake: Mistake) -> ChoiceItem:
    """Return an item with choices; raises what `mistake` returns where the record is none."""
    key = "context" if isinstance(record, Mapping) and "context" in record else "prompt"
    context = _text(record, key, mistake, "context")
    found = record.get("choices")
    if not isinstance(found, list):
        raise mistake("has no list of choices", f"give {FORMS}")
    if len(found) < 2:
        raise mistake(f"has {len(found)} choices", "give two or more")
    choices = tuple(_text({f"choice {n}": each}, f"choice {n}", mistake) for n, each in enumerate(found))
    if len(set(choices)) < len(choices):
        raise mistake("has equal choices", "make them different")
    answer = record.get("answer")
    if type(answer) is not int or not 0 <= answer < len(choices):
        given = "no answer" if answer is None else f"the answer {answer!r}"
        raise mistake(f"has {given}", f"give the number of the right choice, 0 to {len(choices) - 1}")
    return ChoiceItem(context, choices, answer)


def _summary(record: Any, mistake: Mistake) -> SummaryItem:
    """Return an item with a reference; raises what `mistake` returns where the record is none."""
    return SummaryItem(_text(record, "prompt", mistake), _text(record, "reference", mistake))


def _text(record: Any, key: str, mistake: Mistake, called: str = "") -> str:
    """Return a text of a record that is not empty."""
    if not isinstance(record, Mapping):
        raise mistake("is no object", f"give {FORMS}")
    if key not in record:
        raise mistake(f"has no {called or key}", f"give {FORMS}")
    value = whole_text(record[key], key, mistake)
    if not value.strip():
        raise mistake(f"has an empty {key}", "give some text")
    return value
