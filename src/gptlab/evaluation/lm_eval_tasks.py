"""Find tasks of lm-eval by their names, score the model of a run on them, and keep the results with the run."""

import difflib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gptlab.data.bundled_tasks.bundled_task import TASKS
from gptlab.errors import UserError, reason, require
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers import fingerprint

INSTALL = "pip install 'gptlab[eval]'"


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
    manager = _manager(theirs, folder) if installed else None
    known = manager.all_tasks if manager else []
    unknown = next((name for name in theirs if name not in known), None)
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
        if own is not None and not set(names) <= set(found.all_tasks):
            found = TaskManager(include_path=own)  # thousands of files are read
    return found


def evaluate_with_lm_eval(
    run: RunDir, tasks: LmEvalTasks, block_size: int | None, batch_size: int, max_new_tokens: int, chat: bool
) -> dict[str, Any]:
    """Return lm-eval's results of each task and group by its name, and write them with the figures of each item.

    Metrics have lm-eval's names, such as `acc,none`. Raises UserError where a task fails, or its data cannot be had.
    """
    from lm_eval import simple_evaluate

    from gptlab.evaluation.lm_eval import LanguageModel
    from gptlab.evaluation.task_evaluation import asked_model, keep
    from gptlab.evaluation.task_scores import Asking

    gpt, tokenizer, template, size = asked_model(run, block_size, chat)
    results: dict[str, Any] = {}
    for name in tasks.names:
        lm = LanguageModel(gpt, tokenizer, Asking(name, run.checkpoint, size, batch_size, max_new_tokens, template))
        with _refusing("tasks", name, "mend the task"):
            found = simple_evaluate(lm, tasks=[name], task_manager=tasks.manager, apply_chat_template=chat)
        for title, scores in found["results"].items():
            result = {
                **scores,
                "protocol": {"block_size": size, "chat": chat, "max_new_tokens": max_new_tokens},
                "lm_eval": version("lm_eval"),
                "tokenizer_hash": fingerprint(run.path / "tokenizer"),
                "checkpoint": run.checkpoint.name,
            }
            more = {"config": found["configs"].get(title), "per_item": _per_item(found["samples"].get(title, []))}
            results[title] = {**result, "file": keep(run, title.replace("/", "_"), _plain({**result, **more}))}
    return results


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
        raise UserError(key, value, why, "where they come from a network, download them first") from error
    except Exception as error:
        raise UserError(key, value, f"fails ({type(error).__name__}: {reason(error)})", todo) from error
