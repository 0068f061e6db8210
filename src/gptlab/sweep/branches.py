"""Let the jobs of a sweep that differ in their budget alone share the steps that are the same in all of them.

The one with the largest budget is the trunk: it keeps a checkpoint where each of the others parts from it, and they
begin there when it has ended.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from gptlab.runs.config_file import fixed_budget, record
from gptlab.sweep.job import Job


def share_trunks(jobs: Sequence[tuple[Job, Any]]) -> None:
    """Give each job with `branch=true` its trunk, and let the trunks' configs, which are not begun, name the others.

    `jobs` have their typed configs.
    """
    groups: dict[str, list[tuple[Job, Any, float]]] = {}
    for job, config in jobs:
        if config.branch:
            values = record(config)
            ((unit, amount),) = fixed_budget(values.pop("budget")).items()
            groups.setdefault(json.dumps([unit, values], sort_keys=True), []).append((job, config, amount))
    for group in groups.values():
        trunk, config, most = max(group, key=lambda each: each[2])
        others = [(job, amount) for job, _, amount in group if amount < most]
        for job, _ in others:
            job.trunk = trunk
        if others:
            horizons = sorted({float(amount) for _, amount in others})
            checkpoint = dataclasses.replace(config.checkpoint, horizons=horizons)
            trunk.prepare(dataclasses.replace(config, checkpoint=checkpoint))
