"""Give the items of the bundled tasks: those of `train` to learn from, and those of `test` to be judged on."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.data.bundled_tasks import agreement, cloze, code, copying, qa, sentiment, tldr
from gptlab.data.bundled_tasks.material import Material, Record, material
from gptlab.data.text import bundled
from gptlab.errors import require
from gptlab.files import cache_dir, write_atomically
from gptlab.randomness import seed_sequence

OF_TEXT = {"cloze": cloze.records, "qa": qa.records, "tldr": tldr.records, "code": code.records}
GENERATED = {
    "sentiment": sentiment.records,
    "copying": copying.copied,
    "induction": copying.induced,
    "agreement": agreement.records,
}
TASKS = (*OF_TEXT, *GENERATED)
SEED = 1337  # of all random choices: the items are the same for everybody with the same Python
MOST = {"train": 4000, "test": 500}  # items of a task
VERSION = 3  # of the files in the cache


def items(task: str, side: str) -> list[Record]:
    """Return the items of a task for one side, `train` or `test`; made in seconds, and cached.

    An item is `{"context", "choices", "answer"}`, or `{"prompt", "reference"}`.
    """
    if not _cached(task, side).exists():
        for name, sides in _made(material()).items():
            for of, records in sides.items():
                write_atomically(_cached(name, of), json.dumps(records).encode())
    found: list[Record] = json.loads(_cached(task, side).read_bytes())
    return found


def lessons(task: str) -> list[dict[str, str]]:
    """Return the items of `train` as prompts with the right completion."""
    return [_lesson(item) for item in items(task, "train")]


def require_task(key: str, name: Any) -> None:
    """Refuse a name that is none of a bundled task."""
    require(name in TASKS, key, name, "no such task", f"choose one of {', '.join(TASKS)}")


def _cached(task: str, side: str) -> Path:
    return cache_dir() / "bundled" / f"{bundled.version()}-{task}-{side}-{VERSION}.json"


def _lesson(item: Record) -> dict[str, str]:
    if "choices" in item:
        prompt = item["context"].rstrip()  # a space before the answer is part of it: there tokens begin with one
        return {"prompt": prompt, "completion": item["context"][len(prompt) :] + item["choices"][item["answer"]]}
    return {"prompt": item["prompt"], "completion": f" {item['reference']}"}


def _made(sides: dict[str, Material]) -> dict[str, dict[str, list[Record]]]:
    found = {}
    for number, (task, generate) in enumerate(GENERATED.items()):
        every = generate(sum(MOST.values()), _generator(0, number) if number else _generator(0))
        found[task] = {"test": every[: MOST["test"]], "train": every[MOST["test"] :]}
    for number, (task, make) in enumerate(OF_TEXT.items(), 1):
        made = {side: make(sides[side], _generator(number, place)) for place, side in enumerate(MOST)}
        found[task] = {side: records[: MOST[side]] for side, records in made.items()}
    return found


def _generator(*position: int) -> np.random.Generator:
    return np.random.default_rng(seed_sequence(SEED, "tasks", *position, 1))
