"""Find the task of a run by its config.yaml."""

from collections.abc import Mapping
from typing import Any

from gptlab.plugins import recorded_part
from gptlab.tasks.base import Task

USUAL = "causal_lm"  # runs of layout 1 and imported models name no task


def task_of(config: Mapping[str, Any]) -> Task:
    """Return the task that a run's config (`read_config`) names, with its settings.

    Raises UserError if it is not an option here, or does not take the settings.
    """
    parts, values = config.get("parts"), config.get("task")
    name = parts.get("task", USUAL) if isinstance(parts, Mapping) else USUAL
    task: Task = recorded_part("task", name, values if isinstance(values, Mapping) else {}, config)
    return task
