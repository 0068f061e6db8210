"""Find tasks of lm-eval by their names, score the model of a run on them, and keep the results with the run."""

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.data.bundled_tasks.bundled_task import TASKS
from gptlab.errors import UserError, reason, require
from gptlab.evaluation import core
from gptlab.evaluation.kept_scores import keep, of_checkpoint
from gptlab.evaluation.task_scores import Asking, ItemScores
from gptlab.metrics import HIGHER, LOWER
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers import fingerprint

INSTALL = "pip install 'gptlab[eval]'"
COST = "answer_bits_per_byte,none"  # ours: lm-eval has bits per byte of whole texts only


@dataclass(frozen=True)
class LmEvalTasks:
    """Names of lm-eval's tasks, groups or tags, and the manager that knows them."""

    names: list[str]
    manager: Any


def find_tasks(names: Sequence[str], folder: str | None) -> LmEvalTasks:
    """Return those names that are neither bundled tasks nor files: lm-eval's own, or of task files in a folder.

    Raises UserError for a name that is not known, and for a folder where lm-eval is not installed.
    """
    theirs = [name for name in names if name not in TASKS and not Path(name).expanduser().is_file()]
    installed = find_spec("lm_eval") is not None
    if folder is not None:
        require(installed, "tasks_dir", folder, "needs lm-eval, which is not installed", INSTALL)
        require(Path(folder).expanduser().is_dir(), "tasks_dir", folder, "no such folder", "give one with task files")
    if not theirs:
        return LmEvalTasks([], None)
    twice = next((name for name in theirs if theirs.count(name) > 1), None)
    require(twice is None, "tasks", twice, "is named twice", "name each once")
    given = installed or core.NAME not in theirs
    require(given, "tasks", core.NAME, "needs lm-eval, which is not installed", INSTALL)
    manager = _manager(theirs, folder) if installed else None
    known = manager.all_tasks if manager else []
    unknown = next((name for name in theirs if name not in known and name != core.NAME), None)
    close = difflib.get_close_matches(str(unknown), [*TASKS, *known], n=1)
    why = "no such task or file" + (f" (did you mean {close[0]}?)" if close else "")
    more = "" if installed else f" ({INSTALL})"
    todo = f"choose one of {', '.join(TASKS)}, a file of JSON lines, or a task of lm-eval{more}"
    require(unknown is None, "tasks", unknown, why, todo)
    return LmEvalTasks(theirs, manager)


def _manager(names: Sequence[str], folder: str | None) -> Any:
    """Return a manager of the tasks in a folder, or, where these are not all, also of lm-eval's own."""
    from lm_eval.tasks import TaskManager

    own = None if folder is None else str(Path(folder).expanduser())
    with _refusing("tasks_dir", folder, "mend its files"):
        found = TaskManager(include_path=own, include_defaults=own is None)
        asked = {each for name in names for each in ([t.task for t in core.TASKS] if name == core.NAME else [name])}
        if own is not None and not asked <= set(found.all_tasks):
            found = TaskManager(include_path=own)  # thousands of files are read
    return found


def evaluate_with_lm_eval(
    run: RunDir, tasks: LmEvalTasks, block_size: int | None, batch_size: int, max_new_tokens: int, chat: bool
) -> dict[str, Any]:
    """Return lm-eval's results of each task and group by its name, and write them with the figures of each item.

    Metrics have lm-eval's names, such as `acc,none`; where there are choices, COST is the cost of the right ones, which
    tells small models apart. Raises UserError where a task fails, or its data cannot be had.
    """
    results: dict[str, Any] = {}
    for title, scores, found in _found(run, tasks, block_size, batch_size, max_new_tokens, chat, "run"):
        bits, sizes = found.answers or ([], [])
        result = {
            **scores,
            **({COST: sum(bits) / sum(sizes)} if bits else {}),
            "protocol": found.protocol,
            "lm_eval": version("lm_eval"),
            "tokenizer_hash": fingerprint(run.path / "tokenizer"),
            **of_checkpoint(run),
        }
        per_item = _per_item(found.samples) | (
            {COST: [a / b for a, b in zip(bits, sizes, strict=True)]} if bits else {}
        )
        more = {"config": found.config, "per_item": per_item}
        results[title] = {**result, "file": keep(run, title.replace("/", "_"), _plain({**result, **more}))}
    return results


def score_with_lm_eval(
    run: RunDir,
    tasks: LmEvalTasks,
    block_size: int | None,
    batch_size: int,
    max_new_tokens: int,
    chat: bool,
    key: str = "run",
) -> dict[str, tuple[ItemScores, dict[str, Any], str]]:
    """Return the figures of the items of each task by its name, how they were asked, and the hash of the items.

    A group is returned as its tasks. Raises UserError as `evaluate_with_lm_eval`, and for a task with no figures of
    single items.
    """
    scored = {}
    for title, _, found in _found(run, tasks, block_size, batch_size, max_new_tokens, chat, key):
        if not found.samples:
            continue  # a group, whose tasks are here too
        values = {name: np.array(each, np.float64) for name, each in _per_item(found.samples).items() if _numbers(each)}
        why = "has no figures of single items that could be compared"
        require(bool(values), "tasks", title, why, "evaluate the runs one by one")
        main = next((name for name in values if name.startswith("acc,")), next(iter(values)))
        better = {name: HIGHER if found.higher.get(name.partition(",")[0], True) else LOWER for name in values}
        weights = {}
        if found.answers is not None:
            bits, sizes = (np.array(each, np.float64) for each in found.answers)
            values[COST], weights[COST], better[COST] = bits, sizes, LOWER
        items = hashlib.sha256(json.dumps([each.get("doc_hash") for each in found.samples]).encode()).hexdigest()
        scored[title] = ItemScores(main, values, weights, {}, better=better), found.protocol, items
    return scored


@dataclass(frozen=True)
class _Found:
    """Hold what lm-eval has found of a task or a group besides its scores."""

    protocol: dict[str, Any]
    config: Any
    samples: Sequence[dict[str, Any]]
    higher: dict[str, bool]  # whether higher values of a metric are better

    @property
    def answers(self) -> tuple[list[float], list[int]] | None:
        """Return the cost of the right choice of each item in bits, and its length in bytes.

        None where the items have no choices, or do not say which of them is right by its number.
        """
        if not self.by_choices or not self.samples:
            return None
        bits, sizes = [], []
        for sample in self.samples:
            right, asked = sample["target"], sample["arguments"]
            if type(right) is not int or not 0 <= right < len(asked):
                return None
            bits.append(-float(sample["filtered_resps"][right][0]) / math.log(2))
            sizes.append(len(asked[right][1].encode()))
        return bits, sizes

    @property
    def by_choices(self) -> bool:
        """True if the items have choices, whose log-likelihoods are compared."""
        return bool(self.config) and self.config.get("output_type") == "multiple_choice"

    @classmethod
    def of(cls, found: Any, title: str, protocol: dict[str, Any]) -> "_Found":
        """Return what belongs to one task or group of all that lm-eval returns."""
        config, higher = found["configs"].get(title), found["higher_is_better"].get(title, {})
        return cls(protocol, config, found["samples"].get(title, []), higher)


def _found(
    run: RunDir, tasks: LmEvalTasks, block_size: int | None, batch_size: int, max_new_tokens: int, chat: bool, key: str
) -> Iterator[tuple[str, dict[str, Any], _Found]]:
    """Yield each task and group with its scores, as lm-eval has them."""
    from lm_eval import simple_evaluate

    from gptlab.evaluation.lm_eval import LanguageModel
    from gptlab.evaluation.task_evaluation import asked_model

    gpt, tokenizer, template, size = asked_model(run, block_size, chat, key)
    protocol = {"block_size": size, "chat": chat, "max_new_tokens": max_new_tokens}
    for name in tasks.names:
        lm = LanguageModel(gpt, tokenizer, Asking(name, run.checkpoint, size, batch_size, max_new_tokens, template))

        def asked(task: str, shots: int | None, name: str = name, lm: Any = lm) -> Any:
            with _refusing("tasks", name, "mend the task"):
                more = {"task_manager": tasks.manager, "apply_chat_template": chat, "num_fewshot": shots}
                return simple_evaluate(lm, tasks=[task], **more)

        if name == core.NAME:
            yield from _core(asked, protocol)
            continue
        found = asked(name, None)
        for title, scores in found["results"].items():
            yield title, scores, _Found.of(found, title, protocol)


def _core(asked: Callable[[str, int], Any], protocol: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], _Found]]:
    """Yield each task of CORE with its scores, and then all of them together."""
    parts = {}
    for part in core.TASKS:
        found = asked(part.task, part.shots)
        own = _Found.of(found, part.task, {**protocol, "num_fewshot": part.shots})
        scores = found["results"][part.task]
        parts[part.name] = core.centred(scores, own.samples, own.by_choices)
        yield part.title, {**scores, **parts[part.name]}, own
    yield core.NAME, core.summary(parts), _Found(protocol, None, [], {})


def _numbers(values: Sequence[Any]) -> bool:
    """Tell whether a metric has a number for each item: it may have the parts of a score of all of them instead."""
    return all(isinstance(each, int | float) for each in values)


def _per_item(samples: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the figures of each item by the names of the metrics, as the scores have them, and what was answered."""
    found: dict[str, list[Any]] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            found.setdefault(f"{metric},{sample['filter']}", []).append(sample[metric])
        found.setdefault(f"answers,{sample['filter']}", []).append(sample["filtered_resps"])
    return found


def _plain(result: dict[str, Any]) -> Any:
    """Return a result as JSON has it; what JSON does not have, such as a function of a task, as its text."""
    return json.loads(json.dumps(result, default=str))


@contextmanager
def _refusing(key: str, value: Any, todo: str) -> Iterator[None]:
    """Raise UserError for whatever goes wrong within: tasks are the code and the data of others."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:  # of files, and of the network
        why = f"its data cannot be had ({type(error).__name__}: {reason(error)})"
        raise UserError(key, value, why, "go online once, if they come from the network: they are kept") from error
    except Exception as error:
        raise UserError(key, value, f"fails ({type(error).__name__}: {reason(error)})", todo) from error
