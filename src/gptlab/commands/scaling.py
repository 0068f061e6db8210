"""The verb `scaling`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.errors import UserError, require, require_choice
from gptlab.files import require_new, require_writable, strict_json, write_atomically
from gptlab.registry import command

if TYPE_CHECKING:
    from gptlab.commands.scaling_points import Found
    from gptlab.planning.scaling import Law, Point
    from gptlab.runs.reader import RunRecord

SIZES = ("all", "blocks")


@dataclass
class ScalingConfig:
    """Fit how the loss falls with parameters and tokens, and say what a larger run will reach."""

    runs: str | list[str] = "outputs"  # folders of the runs to fit, also with *
    points: str | None = None  # instead of runs: a file, a list of {"parameters", "tokens", "loss"}
    size: str = "all"  # what counts as parameters: all | blocks (weights of the matrices in the blocks)
    flops: list[float] = field(default_factory=list)  # budgets to tell the best size for; none: multiples of the runs'
    predict: str | None = None  # a new file: register the loss of a run with `parameters` and `tokens`
    parameters: float | None = None  # of the run that is predicted
    tokens: float | None = None  # of the run that is predicted
    score: str | None = None  # a file that predict= has written: put the loss of `run` beside it
    run: str | None = None  # the run that was predicted
    rank: str | None = None  # a setting: how often the order of its values at a smaller size is that at the largest
    level: float = 0.8  # of intervals
    resamples: int = 200  # of the bootstrap
    seed: int = 1337  # of the bootstrap
    out: str | None = None  # a folder for scaling.png (needs gptlab[report]); null: no picture
    json: bool = False  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        require(bool(self.folders) and all(self.folders), "runs", self.runs, "is empty", "give a folder, or [DIR,DIR]")
        require_choice("size", self.size, SIZES)
        require(0 < self.level < 1, "level", self.level, "is not in (0, 1)", "0.8 is usual")
        require(self.resamples >= 20, "resamples", self.resamples, "is less than 20", "try 200")
        require(self.seed >= 0, "seed", self.seed, "is negative", "try 1337")
        require(all(each > 0 for each in self.flops), "flops", self.flops, "are not all above 0", "give e.g. [1e18]")
        both = self.predict and self.score
        require(not both, "score", self.score, "and predict are given", "predict before the run, score after it")
        self._require_pair("predict", "parameters")
        self._require_pair("predict", "tokens")
        self._require_pair("score", "run")
        alone = not self.rank or not (self.points or self.predict or self.score)
        require(alone, "rank", self.rank, "goes with runs alone", "leave points, predict and score out")

    def _require_pair(self, key: str, needed: str) -> None:
        """Refuse one of two keys without the other."""
        value = getattr(self, needed)
        require(value is not None or not getattr(self, key), needed, "null", f"is needed by {key}=", f"give {needed}=")
        require(value is None or bool(getattr(self, key)), needed, value, f"goes with {key}=FILE", "leave it out")
        require(not isinstance(value, float) or value > 0, needed, value, "is not above 0", "give e.g. 1e9")

    @property
    def folders(self) -> list[str]:
        return self.runs if isinstance(self.runs, list) else [self.runs]


@command
def scaling(config: ScalingConfig) -> dict[str, Any]:
    """Fit L(N, D) = E + A / N^a + B / D^b to runs, or to points that others have published.

    Prints and returns the coefficients with their intervals, and the best size for some budgets. It also registers the
    prediction of a run, scores one, or tells how well a small size ranks what a large one would.
    """
    from gptlab.evaluation.statistics import require_scipy

    if config.score:
        return _score(config, config.score)
    if config.predict:
        require_new(Path(config.predict).expanduser(), "predict", "file")
    if config.out:
        from gptlab.reporting.pictures import require_matplotlib

        require_matplotlib("out", config.out, ", or leave it out")
        require_writable("out", config.out, Path(config.out).expanduser())
    require_scipy("scaling", "fit")
    found = _points(config)
    if config.rank:
        return _rank(config.rank, found)
    return _fit(config, found)


def _points(config: ScalingConfig) -> Found:
    from gptlab.commands.scaling_points import Found, points_in, points_of

    return Found(points_in(config.points), [], []) if config.points else points_of(config.folders, config.size)


def _fit(config: ScalingConfig, found: Found) -> dict[str, Any]:
    """Fit, show and predict."""
    from gptlab.commands.scaling_tables import show_fit, show_prediction
    from gptlab.planning.prediction import predict, register
    from gptlab.planning.scaling import bootstrap, fit, intervals, missing, profile

    points = found.points
    if lacking := missing(points):
        key, value = ("points", config.points) if config.points else ("runs", ", ".join(config.folders))
        why = f"{len(points)} points are too few for five coefficients"
        raise UserError(key, value, why, f"it takes {lacking}")
    law = fit(points)
    laws = bootstrap(points, law, config.resamples, config.seed)
    answer: dict[str, Any] = {
        **law._asdict(),
        "intervals": {name: list(ends) for name, ends in intervals(laws, config.level).items()},
        "profile": {name: list(ends) for name, ends in profile(points, law, config.level).items()},
        "level": config.level,
        "points": len(points),
        "typical_error": _typical_error(points, law),
        "left_out": [{"run": name, "why": why} for name, why in found.left_out],
        "best": [_best(points, law, flops) for flops in config.flops or _budgets(points)],
    }
    show_fit(answer)
    if config.predict:
        assert config.parameters and config.tokens
        at = config.parameters, config.tokens
        loss, low, high = predict(points, law, laws, at, config.level, config.seed)
        asked = {"parameters": at[0], "tokens": at[1], "size": config.size}
        told = {**asked, "loss": loss, "low": low, "high": high, "level": config.level}
        content = register(Path(config.predict).expanduser(), points, law, told)
        answer["prediction"] = {key: content[key] for key in (*told, "made", "sha256")}
        show_prediction(answer["prediction"], config.predict)
    if config.out:
        from gptlab.reporting.scaling import picture

        write_atomically(Path(config.out).expanduser() / "scaling.png", picture(points, law))
        print(f"the picture is {Path(config.out) / 'scaling.png'}")
    return answer


def _typical_error(points: Sequence[Point], law: Law) -> float:
    """Return the root of the mean square of the residuals of log L, corrected for the five coefficients."""
    from gptlab.planning.scaling import residuals

    return float((residuals(points, law) ** 2).sum() / (len(points) - len(law))) ** 0.5


def _budgets(points: Sequence[Point]) -> list[float]:
    """Return the FLOPs of the largest run, and ten and a hundred times as many."""
    most = max(6 * each.parameters * each.tokens for each in points)
    return [most, 10 * most, 100 * most]


def _best(points: Sequence[Point], law: Law, flops: float) -> dict[str, Any]:
    """Return the size and tokens of the least loss for a budget; None where the law has no such optimum.

    `beyond` tells whether no model is as small, or as large.
    """
    none = {"flops": flops, "parameters": None, "tokens": None, "loss": None, "beyond": False}
    if not (law.A > 0 and law.B > 0):
        return none
    try:
        parameters, tokens = law.best_size(flops)
    except OverflowError:
        return none
    sizes, loss = [each.parameters for each in points], float(law.loss(parameters, tokens))
    beyond = not min(sizes) <= parameters <= max(sizes)
    return {"flops": flops, "parameters": parameters, "tokens": tokens, "loss": loss, "beyond": beyond}


def _score(config: ScalingConfig, name: str) -> dict[str, Any]:
    """Put the outcome of a run beside its prediction, and keep both in a new file beside the first."""
    from gptlab.commands.scaling_tables import show_outcome
    from gptlab.planning.prediction import registered

    path = Path(name).expanduser()
    told = registered(path)
    beside = path.with_name(f"{path.name.removesuffix('.json')}.outcome.json")
    require_new(beside, "score", "file: this prediction has been scored")
    found = _one(config, str(told.get("size", "all")))
    (point,), (run,) = found.points, found.runs
    _require_later(config, run, told["made"])
    for key in ("parameters", "tokens"):
        own, said = getattr(point, key), told[key]
        why = f"has {own:,.0f} {key}, and the prediction is of {said:,.0f}"
        require(abs(own / said - 1) < 0.01, "run", config.run, why, "score the run that was predicted")
    answer = {
        "predicted": told["loss"],
        "low": told["low"],
        "high": told["high"],
        "level": told["level"],
        "loss": point.loss,
        "error": point.loss - told["loss"],
        "inside": told["low"] <= point.loss <= told["high"],
        "made": told["made"],
        "sha256": told["sha256"],
        "run": str(run.path),
    }
    write_atomically(beside, (strict_json(answer, indent=2) + "\n").encode())
    show_outcome(answer, beside)
    return answer


def _one(config: ScalingConfig, size: str) -> Found:
    """Return the point of the run that is scored."""
    from gptlab.commands.scaling_points import points_of
    from gptlab.runs.run_dir import RunDir

    run = RunDir.find_as("run", str(config.run), without_checkpoint=True)
    try:
        return points_of([str(run.path)], size)
    except UserError as error:
        raise UserError("run", config.run, error.why, error.todo) from error


def _require_later(config: ScalingConfig, run: RunRecord, made: Any) -> None:
    """Refuse a run that was begun before its prediction."""
    from datetime import datetime

    from gptlab.runs.origin import started

    try:
        at = datetime.fromisoformat(str(made)).timestamp()
    except (ValueError, OverflowError) as error:
        raise UserError("score", config.score, "does not say when it was made", "give a file of predict=") from error
    why = f"was started before the prediction, which is of {made}"
    require(started(run) >= at, "run", config.run, why, "only what is predicted before the run counts")


def _rank(key: str, found: Found) -> dict[str, Any]:
    """Tell how often the order of a setting's values at each smaller size is that at the largest."""
    from gptlab.commands.scaling_tables import show_ranks
    from gptlab.planning.ranking import decision_accuracies

    values = [run.settings.get(key) for run in found.runs]
    known = any(key in run.settings for run in found.runs)
    require(known, "rank", key, "no such setting in these runs", "give e.g. rank=optimizer.lr")
    accuracies = decision_accuracies(found.points, [repr(value) for value in values])
    why = "it takes two values or more, at two sizes or more, with the same tokens"
    require(bool(accuracies), "rank", key, why, "train them, or name other runs")
    answer = {"rank": key, "sizes": [each._asdict() for each in accuracies]}
    show_ranks(answer)
    return answer
