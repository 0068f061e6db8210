"""The verb `compare`: two runs, or the seeds of two configs, on the same documents, and how sure the difference is."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from gptlab.commands.configs import CompareConfig
from gptlab.errors import UserError
from gptlab.evaluation.comparison import SIDES, Comparison, compare_runs
from gptlab.evaluation.statistics import require_scipy
from gptlab.files import write_atomically
from gptlab.reporting.comparison import comparison_table, sentences
from gptlab.runs.reader import expand
from gptlab.runs.run_dir import RunDir


def compare(config: CompareConfig) -> dict[str, Any]:
    """Print and store the difference b - a with its interval; returns what is stored, without the single documents."""
    require_scipy()
    sides = {side: [_find(side, name) for name in expand(getattr(config, side))] for side in SIDES}
    found = compare_runs(
        sides, config.data, config.metric, config.block_size, config.batch_size, config.resamples, config.seed
    )
    path = Path(config.out).expanduser() if config.out else _place(found)
    write_atomically(path, (json.dumps({**found.result, "per_unit": found.per_unit}, indent=2) + "\n").encode())
    console = Console()
    console.print(comparison_table(found.every, found.result["perplexity_refused"] is None, console.width))
    for line in [*sentences(found.result), f"all of it is in {path}"]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return {**found.result, "out": str(path)}


def _find(side: str, name: str) -> RunDir:
    try:
        return RunDir.find(name)
    except UserError as error:
        raise UserError(side, error.value, error.why, error.todo) from error


def _place(found: Comparison) -> Path:
    """Return A/compare/B.json."""
    others = [each.name for each in found.every if each.side == "b"]
    more = f"-and-{len(others) - 1}-more" if len(others) > 1 else ""
    return found.every[0].run.path / "compare" / f"{others[0][:200]}{more}.json"
