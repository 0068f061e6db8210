"""The verb `compare`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Column, Table

from gptlab.data.text.sources import DataConfig
from gptlab.errors import UserError, require
from gptlab.files import write_atomically
from gptlab.registry import command

if TYPE_CHECKING:
    from gptlab.evaluation.documents import Costs, Units
    from gptlab.metrics import Score
    from gptlab.runs.run_dir import RunDir
    from gptlab.tokenizers import Ids

BITS = 1 / math.log(2)  # in a nat
SIDES = ("a", "b")


@dataclass
class CompareConfig:
    """Two runs, or the seeds of two configs, on the same held-out documents."""

    a: str | list[str] | None = None  # a run, or several seeds of one config: [RUN,RUN], or with *
    b: str | list[str] | None = None
    data: DataConfig | None = None  # null: the documents that all of them hold out
    metric: str = "bits_per_byte"  # bits_per_byte | perplexity, which needs one tokenizer and one protocol
    batch_size: int = 16
    block_size: int | None = None  # tokens per window; null: the context each model was trained with
    resamples: int = 10_000  # of the bootstrap
    seed: int = 1337  # of the bootstrap
    out: str | None = None  # a JSON file; null: A/compare/B.json
    json: bool = False

    def __post_init__(self) -> None:
        for side in SIDES:
            given = getattr(self, side)
            require(given is not None, side, "null", "is needed", f"give {side}=RUN")
            require(bool(self.runs(side)) and all(self.runs(side)), side, given, "is empty", "give a run, or [RUN,RUN]")
        why, todo = "no such option", "choose one of bits_per_byte, perplexity"
        require(self.metric in ("bits_per_byte", "perplexity"), "metric", self.metric, why, todo)
        require(self.resamples >= 100, "resamples", self.resamples, "is too few", "10000 is usual")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "must be at least 1", "try 16")
        size = self.block_size
        require(size is None or size >= 1, "block_size", size, "must be at least 1", "leave it out")

    def runs(self, side: str) -> list[str]:
        """The runs of side `a` or `b`."""
        given = getattr(self, side)
        return given if isinstance(given, list) else [given]


@dataclass(frozen=True)
class Scored:
    """A run and what the documents cost it."""

    side: str
    run: RunDir
    tokenizer: str  # a hash
    costs: Costs
    score: Score

    def value(self, metric: str) -> float:
        return self.score.bits_per_byte if metric == "bits_per_byte" else self.score.loss


@command
def compare(config: CompareConfig) -> dict[str, Any]:
    """Compare two runs on the same documents: the difference and its interval.

    Prints and stores the difference b - a; returns what is stored, without the single documents.
    """
    import numpy as np

    from gptlab.evaluation.documents import Units, common_documents
    from gptlab.evaluation.statistics import LEVEL, noise_floor, paired_bootstrap, seed_test, seeds_needed
    from gptlab.runs.reader import expand

    _require_scipy()
    runs = [(side, _find(side, name)) for side in SIDES for name in expand(config.runs(side))]
    texts, ids, left_out = common_documents([run for _, run in runs], config.data)
    units = Units.of([len(text) for text in texts])
    size = sum(map(len, texts))
    why, todo = f"its {size} bytes are too few to tell how sure a difference is", "give more text: data=text ..."
    require(len(units.sizes) > 1, "data", "held-out", why, todo)
    every = [_scored(side, run, own, units, config) for (side, run), own in zip(runs, ids, strict=True)]
    refusal = _refusal(every)
    if config.metric == "perplexity" and refusal:
        todo = "compare bits per byte instead: metric=bits_per_byte"
        raise UserError("metric", "perplexity", f"perplexities do not compare: {refusal}", todo)

    per_byte = config.metric == "bits_per_byte"
    nats = {side: np.mean([each.costs.nats for each in every if each.side == side], axis=0) for side in SIDES}
    over = units.sizes if per_byte else every[0].costs.tokens
    difference = paired_bootstrap(nats["a"], nats["b"], over, config.resamples, config.seed)
    values = {side: [each.value(config.metric) for each in every if each.side == side] for side in SIDES}
    tested = seed_test(values["a"], values["b"])
    seeds, whose = _seeds(every, values, config.metric)
    floor = noise_floor(seeds)
    scaled = difference.scaled(BITS if per_byte else 1.0)
    result: dict[str, Any] = {
        "metric": config.metric,
        "unit": "bits per byte" if per_byte else "nats per token",
        "difference": asdict(scaled),
        "nats_per_byte": asdict(difference) if per_byte else None,
        "perplexity_ratio": None if per_byte else {k: math.exp(v) for k, v in asdict(difference).items()},
        "level": LEVEL,
        "units": {"what": str(units), "number": len(units.sizes)},
        "documents": len(texts),
        "documents_left_out": left_out,
        "bytes": size,
        "text_sha256": hashlib.sha256(b"\0".join(texts)).hexdigest(),
        "seed_test": None if tested is None else asdict(tested),
        "noise_floor": None if floor is None else {"deviation": floor[0], "single_runs": floor[1], "seeds": whose},
        "seeds_needed": None if floor is None else seeds_needed(scaled.value, floor[0]),
        "perplexity_refused": refusal,
        "not_only_seeds": {side: _unequal([each.run for each in every if each.side == side]) for side in SIDES},
        "runs": [_record(each) for each in every],
        "bootstrap": {"resamples": config.resamples, "seed": config.seed},
    }
    per_unit = {"bytes": units.sizes.astype(int).tolist(), **{f"nats_{side}": nats[side].tolist() for side in SIDES}}
    path = Path(config.out).expanduser() if config.out else _place(every)
    write_atomically(path, (json.dumps({**result, "per_unit": per_unit}, indent=2) + "\n").encode())
    console = Console()
    console.print(_table(every, refusal is None, console.width))
    for line in [*sentences(result), f"all of it is in {path}"]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return {**result, "out": str(path)}


def sentences(result: dict[str, Any]) -> list[str]:
    """The difference in words: how large, how sure, and what it takes to be surer."""
    from gptlab.evaluation.statistics import LEVEL

    unit = result["unit"]
    size = f"{result['units']['what']} ({result['bytes']:,} bytes)"
    lines = [f"b - a: {_interval(result['difference'], unit)} over {size}"]
    if "stretches" in size:
        lines.append(f"There are few documents ({result['documents']}), so stretches of them are drawn again.")
    if result["documents_left_out"]:
        lines.append(f"{result['documents_left_out']} documents are left out: not all runs hold out or spell them.")
    if tested := result["seed_test"]:
        welch = f"Welch's t-test, {tested['degrees_of_freedom']:.1f} degrees of freedom, p = {tested['p']:.2g}"
        lines.append(f"over seeds: {_interval(tested['difference'], unit)} ({welch})")
    else:
        lines.append("The interval is about these runs, not about their configs: that takes seeds, a=[RUN,RUN].")
    if floor := result["noise_floor"]:
        needed = result["seeds_needed"] or "over 10,000"
        by_chance = f"two single runs differ by up to {floor['single_runs']:.4f} by chance ({LEVEL:.0%})"
        if not tested:
            more = abs(result["difference"]["value"]) > floor["single_runs"]
            by_chance += f", these by {'more' if more else 'less'}"
        lines += [
            f"noise floor: seeds of one config deviate by {floor['deviation']:.4f} ({floor['seeds']}); {by_chance}",
            f"seeds needed to see this difference with 80% power: {needed} on each side",
        ]
    else:
        lines.append("noise floor: unknown; no two runs given or beside them differ in the seed alone")
    if result["perplexity_refused"]:
        lines.append(f"Perplexities do not compare: {result['perplexity_refused']}; bits per byte do.")
    for side, keys in result["not_only_seeds"].items():
        lines += [f"The runs of {side} differ in more than the seed: {', '.join(keys)}."] if keys else []
    return lines


def _interval(difference: dict[str, float], unit: str) -> str:
    from gptlab.evaluation.statistics import LEVEL

    value, low, high = difference["value"], difference["low"], difference["high"]
    better = "too close to call" if low <= 0 <= high else f"{'b' if value < 0 else 'a'} is better"
    return f"{value:+.4f} {unit}, {LEVEL:.0%} interval {low:+.4f} to {high:+.4f}: {better}"


def _table(every: Sequence[Scored], perplexities: bool, width: int) -> Table:
    """The scores; the runs' names get what room is left."""
    more = ["nats/token", "perplexity"] if perplexities else []
    names = ["", "run", "nats/byte", "bits/byte", *more, "context"]
    room = width - sum(len(name) + 2 for name in names if name != "run") - 4
    columns = [Column(name, justify="left" if i < 2 else "right", no_wrap=True) for i, name in enumerate(names)]
    columns[1].overflow = "ellipsis"
    columns[1].width = max(10, min(room, max(len(_name(each.run)) for each in every)))
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for each in every:
        score = each.score
        figures = [f"{score.bits_per_byte / BITS:.4f}", f"{score.bits_per_byte:.4f}"]
        figures += [f"{score.loss:.4f}", f"{score.perplexity:,.2f}"] if perplexities else []
        table.add_row(each.side, _name(each.run), *figures, f"{each.costs.protocol['block_size']:,}")
    return table


def _scored(side: str, run: RunDir, ids: Sequence[Ids], units: Units, config: CompareConfig) -> Scored:
    from gptlab.evaluation.documents import cost
    from gptlab.metrics import Score
    from gptlab.tokenizers import fingerprint

    costs = cost(run, ids, units, config.block_size, config.batch_size)
    total = float(costs.nats.sum())
    why, todo = "its model gives no finite scores", "take another checkpoint, from before it diverged"
    require(math.isfinite(total), side, run.checkpoint, why, todo)
    score = Score(total, int(costs.tokens.sum()), int(units.sizes.sum()))
    return Scored(side, run, fingerprint(run.path / "tokenizer"), costs, score)


def _require_scipy() -> None:
    try:
        import scipy  # noqa: F401
    except ImportError as error:
        raise UserError("compare", "statistics", f"needs {error.name}", "pip install 'gptlab[report]'") from error


def _find(side: str, name: str) -> RunDir:
    from gptlab.runs.run_dir import RunDir

    try:
        return RunDir.find(name)
    except UserError as error:
        raise UserError(side, error.value, error.why, error.todo) from error


def _refusal(every: Sequence[Scored]) -> str | None:
    """Why perplexities do not compare."""
    tokenizers = {each.tokenizer for each in every}
    if len(tokenizers) > 1:
        return f"there are {len(tokenizers)} tokenizers"
    first = every[0].costs.protocol
    for each in every:
        for key, value in each.costs.protocol.items():
            if value != first[key]:
                return f"the protocols differ ({key} {first[key]} and {value})"
    return None


def _seeds(every: Sequence[Scored], given: dict[str, list[float]], metric: str) -> tuple[list[list[float]], str | None]:
    """Scores of runs that differ in the seed alone, and whose they are: of those given, or of what stands beside."""
    from gptlab.runs.reader import find_runs, same_but_seed

    if any(len(values) > 1 for values in given.values()):
        return list(given.values()), "the runs given"
    key = "val_bits_per_byte" if metric == "bits_per_byte" else "val_loss"
    found: dict[str, list[float]] = {}  # by the group's first run: both sides may be of one group
    for each in every:
        path = each.run.path.resolve()
        groups = same_but_seed(run for run in find_runs([str(path.parent)]) if run.status == "finished")
        own = next((group for group in groups if any(run.path == path for run in group)), [])
        if own:
            found[str(own[0].path)] = [float(run.summary[key]) for run in own if run.summary.get(key) is not None]
    several = [values for values in found.values() if len(values) > 1]
    return several, f"{sum(map(len, several))} runs beside them" if several else None


def _unequal(runs: Sequence[RunDir]) -> list[str]:
    """What else than the seed is different between seeds of one config."""
    from gptlab.runs.reader import differences, read

    return [key for key in differences([read(run.path, run.path.name) for run in runs]) if key != "seed"]


def _record(each: Scored) -> dict[str, Any]:
    manifest = each.run.path / "held_out/manifest.json"
    return {
        "side": each.side,
        "run": str(each.run.path),
        "checkpoint": each.run.checkpoint.name,
        "seed": each.run.config().get("seed"),
        **asdict(each.score),
        "nats_per_byte": each.score.bits_per_byte / BITS,
        "bits_per_byte": each.score.bits_per_byte,
        "loss": each.score.loss,
        "protocol": each.costs.protocol,
        "tokenizer_hash": each.tokenizer,
        "data_hash": json.loads(manifest.read_text())["sha256"] if manifest.exists() else None,
    }


def _name(run: RunDir) -> str:
    name = run.path.resolve().name
    return name if run.checkpoint.name == "last.ckpt" else f"{name}-{run.checkpoint.stem}"


def _place(every: Sequence[Scored]) -> Path:
    """A/compare/B.json"""
    others = [_name(each.run) for each in every if each.side == "b"]
    more = f"-and-{len(others) - 1}-more" if len(others) > 1 else ""
    return every[0].run.path / "compare" / f"{others[0][:200]}{more}.json"
