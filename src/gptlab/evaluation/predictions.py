"""Give texts labels with the model of a run whose task predicts them."""

from collections.abc import Sequence
from typing import Any

from gptlab.evaluation.model import load_with_task
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.base import Predicting
from gptlab.tasks.saved import task_of


def gives_labels(run: RunDir) -> bool:
    """Tell whether the task of a run gives labels to texts."""
    return isinstance(task_of(run.config()), Predicting)


def predictions(run: RunDir, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Return {"prompt", "label", "probabilities"} of each text: the likeliest label, and all, the likeliest first."""
    task, gpt, tokenizer = load_with_task(run)
    assert isinstance(task, Predicting)
    found = []
    for text, shares in zip(texts, task.predict(gpt, tokenizer, texts), strict=True):
        ranked = dict(sorted(shares.items(), key=lambda item: -item[1]))
        found.append({"prompt": text, "label": next(iter(ranked)), "probabilities": ranked})
    return found
