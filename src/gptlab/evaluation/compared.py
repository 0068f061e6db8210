"""Define what comparisons of runs have in common, whether by documents or by examples: how, of what, and over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gptlab.data.config import BatchConfig
from gptlab.errors import require
from gptlab.evaluation.sequential import over_seeds
from gptlab.evaluation.statistics import LEVEL, Difference, noise_floor, seed_test, seeds_needed
from gptlab.metrics import Metric
from gptlab.runs.differences import differences, same_but_seed
from gptlab.runs.reader import find_runs, read_run
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers import fingerprint

SIDES = ("a", "b")
Sides = Mapping[str, Sequence[RunDir]]  # each a run, or several seeds of one config


@dataclass(frozen=True)
class Asked:
    """The settings of a comparison, besides its runs."""

    data: BatchConfig | None = None  # None: what the runs hold out
    by: str | None = None  # the quantity of a metric; None: the usual one
    block_size: int | None = None  # None: the model's
    batch_size: int = 16
    resamples: int = 10_000
    seed: int = 1337
    max_new_tokens: int = 64  # of what is written for a task
    chat: bool = False  # tasks are asked in the chat template of each run
    margin: float | None = None  # differences of at most this are none in practice
    paired: bool = False  # seeds that both sides have are compared with each other


@dataclass(frozen=True)
class Compared:
    """A run of one side."""

    side: str
    run: RunDir

    @property
    def name(self) -> str:
        """The name of the run's directory, with the checkpoint where it is not the last."""
        name = self.run.path.resolve().name
        return name if self.run.checkpoint.name == "last.ckpt" else f"{name}-{self.run.checkpoint.stem}"

    def require_finite(self, finite: bool) -> None:
        """Refuse a run whose scores are none."""
        why, todo = "its model gives no finite scores", "take another checkpoint, from before it diverged"
        require(finite, self.side, self.run.checkpoint, why, todo)

    def stored(self, scores: Mapping[str, Any], protocol: dict[str, Any], data_hash: str | None) -> dict[str, Any]:
        """Return what is stored of the run."""
        return {
            "side": self.side,
            "run": str(self.run.path),
            "checkpoint": self.run.checkpoint.name,
            "seed": self.run.config().get("seed"),
            **scores,
            "protocol": protocol,
            "tokenizer_hash": fingerprint(self.run.path / "tokenizer"),
            "data_hash": data_hash,
        }


@dataclass(frozen=True)
class Comparison:
    """The difference b - a with its interval as plain values, the runs behind it, and figures of each unit."""

    every: Sequence[Compared]
    result: dict[str, Any]
    per_unit: dict[str, Any]


def runs_of(sides: Sides) -> list[tuple[str, RunDir]]:
    """Return all runs with the names of their sides."""
    return [(side, run) for side in SIDES for run in sides[side]]


def result_of(
    which: Metric,
    difference: Difference,
    units: Mapping[str, Any],
    every: Sequence[Compared],
    scores: Sequence[float],
    stored: Sequence[dict[str, Any]],
    asked: Asked,
) -> dict[str, Any]:
    """Return a comparison as plain values: the difference, what it is over, what is known of seeds, and the runs.

    `units` says over what, `scores` are those of `every` run by the metric, and `stored` is what is kept of them.
    """
    values = {side: [s for each, s in zip(every, scores, strict=True) if each.side == side] for side in SIDES}
    return {
        "metric": which.quantity,
        "unit": which.unit,
        "better": which.better,
        "difference": asdict(difference),
        "level": LEVEL,
        **units,
        **_over_seeds(every, values, which, difference.value, asked),
        "runs": list(stored),
        "bootstrap": {"resamples": asked.resamples, "seed": asked.seed},
    }


def _over_seeds(
    every: Sequence[Compared], values: dict[str, list[float]], which: Metric, difference: float, asked: Asked
) -> dict[str, Any]:
    """Return what is known of the seeds of both sides: a test, a verdict for whenever one stops, the noise floor.

    `values` are the scores of each side's runs.
    """
    by_seed = {side: _by_seed([each.run for each in every if each.side == side], values[side]) for side in SIDES}
    if asked.paired:
        same = set(by_seed["a"]) == set(by_seed["b"]) and None not in by_seed["a"]
        given = [", ".join(map(str, by_seed[side])) for side in SIDES]
        why = f"needs the same seeds on both sides, and a has {given[0]}, b {given[1]}"
        require(same, "paired", "true", why, "leave it out, or give runs of the same seeds")
    tested = seed_test(values["a"], values["b"])
    seeds, whose = _seeds([each.run for each in every], values, which.key)
    floor = noise_floor(seeds)
    return {
        "seed_test": None if tested is None else asdict(tested),
        "over_seeds": over_seeds(by_seed, which.sign, asked.margin, asked.paired),
        "noise_floor": None if floor is None else {"deviation": floor[0], "single_runs": floor[1], "seeds": whose},
        "seeds_needed": None if floor is None else seeds_needed(difference, floor[0]),
        "not_only_seeds": {side: _unequal([each.run for each in every if each.side == side]) for side in SIDES},
    }


def _by_seed(runs: Sequence[RunDir], scores: Sequence[float]) -> dict[Any, float]:
    """Return the scores of one side by their seeds, or by numbers where a seed is there twice."""
    seeds = [run.config().get("seed") for run in runs]
    alone = len(set(map(str, seeds))) == len(seeds)
    return {seed if alone else (number,): score for number, (seed, score) in enumerate(zip(seeds, scores, strict=True))}


def _seeds(runs: Sequence[RunDir], given: dict[str, list[float]], key: str) -> tuple[list[list[float]], str | None]:
    """Return the scores of runs that differ in the seed alone, and whose they are: those given, or what is beside.

    `key` is that of the score in summary.json.
    """
    if any(len(values) > 1 for values in given.values()):
        return list(given.values()), "the runs given"
    found: dict[str, list[float]] = {}  # by the group's first run: both sides may be of one group
    for each in runs:
        path = each.path.resolve()
        groups = same_but_seed(run for run in find_runs([str(path.parent)]) if run.status == "finished")
        own = next((group for group in groups if any(run.path == path for run in group)), [])
        if own:
            found[str(own[0].path)] = [score for run in own if (score := run.figure(key)) is not None]
    several = [values for values in found.values() if len(values) > 1]
    return several, f"{sum(map(len, several))} runs beside them" if several else None


def _unequal(runs: Sequence[RunDir]) -> list[str]:
    """Return the settings other than the seed in which seeds of one config differ."""
    return [key for key in differences([read_run(run.path, run.path.name) for run in runs]) if key != "seed"]
