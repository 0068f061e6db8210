"""Compare two runs, or the seeds of two configs, on the same documents, with an interval of the difference."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gptlab.data.config import BatchConfig
from gptlab.errors import UserError, require
from gptlab.evaluation.documents import Costs, Units, common_documents, cost
from gptlab.evaluation.model import require_next_tokens
from gptlab.evaluation.statistics import LEVEL, noise_floor, paired_bootstrap, seed_test, seeds_needed
from gptlab.metrics import Metric, Score, metric, shown_in
from gptlab.runs.differences import differences, same_but_seed
from gptlab.runs.reader import find_runs, read_run
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers import Ids, fingerprint

BITS = 1 / math.log(2)  # in a nat
SIDES = ("a", "b")
LOSS = metric("val/loss")  # what is compared where a score is per token


def compared() -> list[Metric]:
    """Return the metrics by which runs are compared on documents: nats per byte, or per token."""
    return sorted((each for each in shown_in("compare") if each.per), key=lambda each: each.per)


def run_name(run: RunDir) -> str:
    """Return the name of a run's directory, with the checkpoint where it is not the last."""
    name = run.path.resolve().name
    return name if run.checkpoint.name == "last.ckpt" else f"{name}-{run.checkpoint.stem}"


@dataclass(frozen=True)
class Scored:
    """A run of one side, and the cost of the documents under it."""

    side: str
    run: RunDir
    tokenizer: str  # a hash
    costs: Costs
    score: Score

    @property
    def name(self) -> str:
        """The name of the run's directory, with the checkpoint where it is not the last."""
        return run_name(self.run)

    def value(self, which: Metric) -> float:
        """Return one of the scores by which runs are compared."""
        return float(getattr(self.score, which.quantity))


@dataclass(frozen=True)
class Comparison:
    """The difference b - a with its interval as plain values, the runs behind it, and each unit's size and costs."""

    every: list[Scored]
    result: dict[str, Any]
    per_unit: dict[str, Any]


def compare_runs(
    sides: Mapping[str, Sequence[RunDir]],
    data: BatchConfig | None = None,
    by: str | None = None,
    block_size: int | None = None,
    batch_size: int = 16,
    resamples: int = 10_000,
    seed: int = 1337,
) -> Comparison:
    """Compare side b with side a, each a run or several seeds of one config, on the documents that all hold out.

    `by` is the quantity of one of `compared()`, bits per byte where it is None. Where it is per token, the difference
    is in nats per token. Raises UserError where the runs have too little text in common, or their perplexities do not
    compare.
    """
    known = {each.quantity: each for each in compared()}
    by = by or next(iter(known))
    require(by in known, "metric", by, "no such option", f"choose one of {', '.join(known)}")
    asked = known[by]
    per_byte = asked.per == "byte"
    which = asked if per_byte else LOSS
    runs = [(side, run) for side in SIDES for run in sides[side]]
    for side, run in runs:
        require_next_tokens(run, side)
    texts, ids, left_out = common_documents([run for _, run in runs], data)
    units = Units.of([len(text) for text in texts])
    size = sum(map(len, texts))
    why, todo = f"its {size} bytes are too few to tell how sure a difference is", "give more text: data=text ..."
    require(len(units.sizes) > 1, "data", "held-out", why, todo)
    every = [_scored(side, run, own, units, block_size, batch_size) for (side, run), own in zip(runs, ids, strict=True)]
    refusal = _refusal(every)
    if not per_byte and refusal:
        other = compared()[0]
        todo = f"compare {other.unit} instead: metric={other.quantity}"
        raise UserError("metric", by, f"{asked.head} does not compare: {refusal}", todo)

    nats = {side: np.mean([each.costs.nats for each in every if each.side == side], axis=0) for side in SIDES}
    over = units.sizes if per_byte else every[0].costs.tokens
    difference = paired_bootstrap(nats["a"], nats["b"], over, resamples, seed)
    values = {side: [each.value(which) for each in every if each.side == side] for side in SIDES}
    scaled = difference.scaled(BITS if per_byte else 1.0)
    result: dict[str, Any] = {
        "metric": by,
        "unit": which.unit,
        "better": which.better,
        "difference": asdict(scaled),
        "nats_per_byte": asdict(difference) if per_byte else None,
        "perplexity_ratio": None if per_byte else {k: math.exp(v) for k, v in asdict(difference).items()},
        "level": LEVEL,
        "units": {"what": str(units), "number": len(units.sizes)},
        "documents": len(texts),
        "documents_left_out": left_out,
        "bytes": size,
        "text_sha256": hashlib.sha256(b"\0".join(texts)).hexdigest(),
        **over_seeds([(each.side, each.run) for each in every], values, which.key, scaled.value),
        "perplexity_refused": refusal,
        "runs": [_record(each) for each in every],
        "bootstrap": {"resamples": resamples, "seed": seed},
    }
    per_unit = {"bytes": units.sizes.astype(int).tolist(), **{f"nats_{side}": nats[side].tolist() for side in SIDES}}
    return Comparison(every, result, per_unit)


def _scored(
    side: str, run: RunDir, ids: Sequence[Ids], units: Units, block_size: int | None, batch_size: int
) -> Scored:
    costs = cost(run, ids, units, block_size, batch_size)
    total = float(costs.nats.sum())
    why, todo = "its model gives no finite scores", "take another checkpoint, from before it diverged"
    require(math.isfinite(total), side, run.checkpoint, why, todo)
    score = Score(total, int(costs.tokens.sum()), int(units.sizes.sum()))
    return Scored(side, run, fingerprint(run.path / "tokenizer"), costs, score)


def _refusal(every: Sequence[Scored]) -> str | None:
    """Return the reason why perplexities do not compare; None if they do."""
    tokenizers = {each.tokenizer for each in every}
    if len(tokenizers) > 1:
        return f"there are {len(tokenizers)} tokenizers"
    first = every[0].costs.protocol
    for each in every:
        for key, value in each.costs.protocol.items():
            if value != first.get(key, value):
                return f"the protocols differ ({key} {first[key]} and {value})"
    return None


def over_seeds(
    runs: Sequence[tuple[str, RunDir]], values: dict[str, list[float]], key: str, difference: float
) -> dict[str, Any]:
    """Return what is known of the seeds of both sides: a test, the noise floor, and how many it takes to be sure.

    `values` are the scores of each side's runs, `key` that of the score in summary.json.
    """
    tested = seed_test(values["a"], values["b"])
    seeds, whose = _seeds([run for _, run in runs], values, key)
    floor = noise_floor(seeds)
    return {
        "seed_test": None if tested is None else asdict(tested),
        "noise_floor": None if floor is None else {"deviation": floor[0], "single_runs": floor[1], "seeds": whose},
        "seeds_needed": None if floor is None else seeds_needed(difference, floor[0]),
        "not_only_seeds": {side: _unequal([run for of, run in runs if of == side]) for side in SIDES},
    }


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


def _record(each: Scored) -> dict[str, Any]:
    known = (each.run.path / "held_out/manifest.json").exists()
    return {
        "side": each.side,
        "run": str(each.run.path),
        "checkpoint": each.run.checkpoint.name,
        "seed": each.run.config().get("seed"),
        **asdict(each.score),
        "nats_per_byte": each.score.nats / each.score.bytes,
        **{row.quantity: each.value(row) for row in compared()},
        "protocol": each.costs.protocol,
        "tokenizer_hash": each.tokenizer,
        "data_hash": each.run.held_out_manifest()["sha256"] if known else None,
    }
