"""Score the model of a run on tasks of word prediction, and keep the figures of each item with the run."""

from collections.abc import Sequence
from typing import Any

import torch

from gptlab.evaluation.chat import template_of
from gptlab.evaluation.choices import METRICS, score_choices
from gptlab.evaluation.eval_task import ChoiceItem, EvalTask
from gptlab.evaluation.held_out import require_context
from gptlab.evaluation.kept_scores import keep, of_checkpoint
from gptlab.evaluation.model import load_language_model
from gptlab.evaluation.summaries import ROUGE, score_summaries
from gptlab.evaluation.task_scores import Asking, ItemScores
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers import Tokenizer, fingerprint
from gptlab.tokenizers.chat_templates import ChatTemplate


def metrics_of(task: EvalTask) -> Sequence[str]:
    """Return the metrics of a task; a tokenizer that does not spell all answers leaves out their bits per byte."""
    return METRICS if isinstance(task.items[0], ChoiceItem) else ROUGE


def score_tasks(
    run: RunDir,
    tasks: Sequence[EvalTask],
    block_size: int | None = None,
    batch_size: int = 16,
    max_new_tokens: int = 64,
    chat: bool = False,
    key: str = "run",
) -> list[tuple[ItemScores, dict[str, Any]]]:
    """Return the figures of each task's items under the model of a run, and how they were asked.

    `block_size` is the context, None the model's own; with `chat` the items are what a user says in the run's chat
    template. Raises UserError, which names `key`, where the run's task does not predict tokens.
    """
    gpt, tokenizer, template, size = asked_model(run, block_size, chat, key)
    found = []
    for task in tasks:
        asking = Asking(task.name, run.checkpoint, size, batch_size, max_new_tokens, template)
        by_choices = isinstance(task.items[0], ChoiceItem)
        score: Any = score_choices if by_choices else score_summaries
        protocol = {"block_size": size, "chat": chat, **({} if by_choices else {"max_new_tokens": max_new_tokens})}
        found.append((score(gpt, tokenizer, task.items, asking), protocol))
    return found


def asked_model(
    run: RunDir, block_size: int | None, chat: bool, key: str = "run"
) -> tuple[Any, Tokenizer, ChatTemplate | None, int]:
    """Return the model of a run, its tokenizer, its chat template, with `chat`, and the context that it reads.

    Raises UserError, which names `key`, where the run's task does not predict tokens.
    """
    gpt, tokenizer = load_language_model(run, key)
    size = block_size or gpt.config.block_size
    require_context(gpt.config, size)
    template = template_of(run, tokenizer, key) if chat else None
    return gpt.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, template, size


def evaluate_tasks(
    run: RunDir, tasks: Sequence[EvalTask], block_size: int | None, batch_size: int, max_new_tokens: int, chat: bool
) -> dict[str, Any]:
    """Return the scores of a run on each task by its name, and write them with those of each item into the run."""
    results, scored = {}, score_tasks(run, tasks, block_size, batch_size, max_new_tokens, chat)
    for task, (found, protocol) in zip(tasks, scored, strict=True):
        result = {
            **found.scores(),
            **found.notes,
            "items": len(task.items),
            "protocol": protocol,
            "items_sha256": task.sha256,
            "tokenizer_hash": fingerprint(run.path / "tokenizer"),
            **of_checkpoint(run),
        }
        results[task.name] = {**result, "file": keep(run, task.name, {**result, "per_item": found.record()})}
    return results
