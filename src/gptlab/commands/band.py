"""The verb `band`."""

from __future__ import annotations

import math
import platform
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.errors import UserError, reason, require
from gptlab.registry import command

if TYPE_CHECKING:
    from gptlab.runs.bands import Band, Validation
    from gptlab.runs.reader import RunRecord

NEEDED = {"seed", "steps", "parameters", "data_hash", "tokenizer_hash"}  # of a run's summary


@dataclass
class BandConfig:
    """Make the replication band of a recipe: what its runs over several seeds reach at each validation."""

    runs: list[str] = field(default_factory=list)  # finished runs that differ in the seed alone, [RUN,RUN], or with *
    recipe: str = ""  # what is typed after `gptlab train`, such as experiment=modern_char; empty: the default run
    text: str | None = None  # what the data are called in words, such as tiny Shakespeare
    out: str | None = None  # a new file NAME.band.json, in the folder experiment of your conf
    json: bool = False  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        require(bool(self.text), "text", self.text or "null", "is needed", "give text='tiny Shakespeare', say")
        named = bool(self.out) and str(self.out).endswith(".band.json")
        require(named, "out", self.out or "null", "is no NAME.band.json", "give out=conf/experiment/NAME.band.json")


@command
def band(config: BandConfig) -> dict[str, Any]:
    """Make the replication band of a recipe from its runs over several seeds.

    Prints the mean, the deviation and the interval of one new run at each validation; writes the band, and returns it.
    """
    from gptlab.evaluation.statistics import require_scipy
    from gptlab.files import require_new, require_writable, write_atomically
    from gptlab.metrics import metric
    from gptlab.runs.bands import METRIC
    from gptlab.runs.reader import expand, read_run

    require_scipy("band", "statistics")
    out = Path(str(config.out)).expanduser()
    require_new(out, kind="file")
    require_writable("out", out, out.parent)
    names = expand(config.runs)
    require(len(names) > 1, "runs", config.runs, "is less than two", "give runs=[RUN,RUN], or with *; five are usual")
    for name in names:
        require(Path(name).expanduser().is_dir(), "runs", name, "no such directory", "give run directories")
    runs = [read_run(Path(name).expanduser(), name) for name in names]
    _require_seeds(runs)
    _require_recipe(config.recipe, runs[0])
    found = _band(config, runs)
    why, todo = "have no validation in common at which all are finite", "name runs that validate at the same steps"
    require(bool(found.validations), "runs", config.runs, why, todo)
    write_atomically(out, found.as_json().encode())
    row = metric(METRIC)
    for at in found.validations:
        low, high = row.text(at.low, precise=True), row.text(at.high, precise=True)
        spread = f"mean {row.text(at.mean, precise=True)}, deviation {row.text(at.deviation, precise=True)}"
        print(f"step {at.step:,}: {row.head} {spread}; a new run lies between {low} and {high} ({found.level:.0%})")
    print(f"the band of {len(runs)} seeds is {out}")
    return {"recipe": found.recipe, "seeds": found.seeds, "validations": [vars(at) for at in found.validations]} | {
        "out": str(out)
    }


def _require_seeds(runs: Sequence[RunRecord]) -> None:
    """Refuse runs that have not finished, have a seed in common, or differ in more than the seed."""
    from gptlab.runs.bands import deciding

    seeds = [run.summary.get("seed") for run in runs]
    for run in runs:
        told = run.summary.keys() >= NEEDED and run.figure("val_bits_per_byte") is not None
        finished = run.status == "finished" and told
        why, todo = f"is no finished run with bits per byte ({run.status})", "name finished runs of a text"
        require(finished, "runs", run.path, why, todo)
        own = run.config.get("init_from") is None
        require(own, "runs", run.path, "begins with another run", "name runs that begin with new weights")
        why = f"has the seed {run.summary.get('seed')} of another one"
        require(seeds.count(run.summary.get("seed")) == 1, "runs", run.path, why, "name a run of each seed")
        for key in ("data_hash", "tokenizer_hash"):
            same = run.summary.get(key) == runs[0].summary.get(key)
            require(same, "runs", run.path, f"has another {key} than {runs[0].path}", "name runs of one text")
        differing = _differing(deciding(run), deciding(runs[0]))
        why = f"differs from {runs[0].path} in {differing}"
        require(differing is None, "runs", run.path, why, "name runs that differ in the seed alone")


def _require_recipe(recipe: str, run: RunRecord) -> None:
    """Refuse a recipe that is not that of the run."""
    from hydra.errors import HydraException

    from gptlab.config.tree import compose
    from gptlab.runs.bands import deciding
    from gptlab.runs.config_file import record, with_defaults
    from gptlab.runs.reader import RunRecord

    try:
        composed = RunRecord(run.path, "", record(compose("train", shlex.split(recipe))), run.summary)
    except (UserError, HydraException, ValueError) as error:
        raise UserError("recipe", recipe, reason(error), "give what is typed after gptlab train") from error
    written = replace(run, config=with_defaults(run.config))  # perhaps by a version with fewer settings
    own, asked = deciding(written), deciding(composed)
    key = _differing(own, asked)
    why = f"has {key}={asked.get(str(key))}, and {run.path} has {own.get(str(key))}"
    require(key is None, "recipe", recipe or "''", why, "give what the runs were trained by")


def _differing(settings: dict[str, Any], others: dict[str, Any]) -> str | None:
    """Return the first key in which settings differ; None if there is none."""
    return next((key for key in sorted({*settings, *others}) if settings.get(key) != others.get(key)), None)


def _band(config: BandConfig, runs: Sequence[RunRecord]) -> Band:
    """Return the band of runs."""
    import torch

    from gptlab.distributed.devices import processor
    from gptlab.runs.bands import LEVEL, Band, deciding

    first = runs[0]
    return Band(
        recipe=config.recipe,
        text=str(config.text),
        data_sha256=first.summary["data_hash"],
        tokenizer_sha256=first.summary["tokenizer_hash"],
        parameters=first.summary["parameters"],
        level=LEVEL,
        seeds=[run.summary["seed"] for run in runs],
        validations=_validations(runs, LEVEL),
        made={
            "date": datetime.now(UTC).date().isoformat(),
            "gptlab": str(first.config.get("gptlab", {}).get("version")),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "processor": processor(),
        },
        config={"parts": first.config["parts"], **_nested(deciding(first), first.config)},
    )


def _nested(settings: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a config that are among some settings, which have dotted keys."""
    found = dict[str, Any]()
    for key, value in config.items():
        inner = {name.removeprefix(f"{key}."): each for name, each in settings.items() if name.startswith(f"{key}.")}
        if isinstance(value, dict) and inner:
            found[key] = _nested(inner, value)
        elif key in settings and not isinstance(value, dict):
            found[key] = value
    return found


def _validations(runs: Sequence[RunRecord], level: float) -> list[Validation]:
    """Return the metric over the runs at each validation that all of them had, and at which all of them are finite."""
    from gptlab.evaluation.statistics import prediction_interval
    from gptlab.reporting.curves import read_curves
    from gptlab.runs.bands import METRIC, Validation, reached

    curves = [reached(read_curves(run).metrics.get(METRIC, []), run.summary) for run in runs]
    found = []
    for step in sorted(set.intersection(*map(set, curves))):
        values = [curve[step] for curve in curves]
        if not all(map(math.isfinite, values)):
            continue
        low, high = prediction_interval(values, level)
        found.append(Validation(step, values, statistics.fmean(values), statistics.stdev(values), low, high))
    return found
