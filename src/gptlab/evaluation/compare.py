"""The verb `compare`: two runs, or the seeds of two configs, on the same documents, and how sure the difference is."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Column, Table

from gptlab.atomic import write_atomically
from gptlab.config import CompareConfig
from gptlab.errors import UserError
from gptlab.evaluation.documents import Array, Costs, Units, common_documents, cost
from gptlab.evaluation.statistics import (
    LEVEL,
    Difference,
    SeedTest,
    noise_floor,
    paired_bootstrap,
    seed_test,
    seeds_needed,
)
from gptlab.reporting.gather import differences, expand, find_runs, read, same_but_seed
from gptlab.rundir import RunDir
from gptlab.tokenizers import fingerprint

BITS = 1 / math.log(2)  # in a nat
SIDES = ("a", "b")


@dataclass(frozen=True)
class Scored:
    """A run and what the documents cost it."""

    side: str
    run: RunDir
    costs: Costs
    bytes: float

    @property
    def nats_per_byte(self) -> float:
        return float(self.costs.nats.sum() / self.bytes)

    @property
    def loss(self) -> float:
        """Nats per token."""
        return float(self.costs.nats.sum() / self.costs.tokens.sum())


def compare(config: CompareConfig) -> dict[str, Any]:
    """Print and store the difference b - a with its interval; returns what is stored, without the single documents."""
    _require_scipy()
    runs = [(side, _find(side, name)) for side in SIDES for name in expand(getattr(config, side))]
    tokenizers = [fingerprint(run.path / "tokenizer") for _, run in runs]
    texts, ids, left_out = common_documents([run for _, run in runs], config.data)
    units = Units.of([len(text) for text in texts])
    size = float(units.sizes.sum())
    if len(units.sizes) < 2:
        todo = "hold out more, or give more text: data=text data.files=[...]"
        raise UserError("data", "held-out", f"its {size:.0f} bytes are too few to tell how sure a difference is", todo)
    every = [
        Scored(side, run, cost(run, own, units, config.block_size, config.batch_size), size)
        for (side, run), own in zip(runs, ids, strict=True)
    ]
    refusal = _refusal(every, tokenizers)
    if config.metric == "perplexity" and refusal:
        todo = "compare bits per byte instead: metric=bits_per_byte"
        raise UserError("metric", "perplexity", f"perplexities do not compare: {refusal}", todo)

    nats = {side: _mean([each.costs.nats for each in every if each.side == side]) for side in SIDES}
    over = units.sizes if config.metric == "bits_per_byte" else every[0].costs.tokens
    difference = paired_bootstrap(nats["a"], nats["b"], over, config.resamples, config.seed)
    scores = {side: [_score(each, config.metric) for each in every if each.side == side] for side in SIDES}
    tested = seed_test(scores["a"], scores["b"])
    seeds, source = _seeds(every, scores, config.metric)
    floor = noise_floor(seeds)
    scale = BITS if config.metric == "bits_per_byte" else 1.0  # the bootstrap's are nats
    shown = difference.scaled(scale)
    result = {
        "metric": config.metric,
        "unit": "bits per byte" if config.metric == "bits_per_byte" else "nats per token",
        "difference": asdict(shown),
        "nats_per_byte": asdict(difference) if config.metric == "bits_per_byte" else None,
        "perplexity_ratio": {k: math.exp(v) for k, v in asdict(difference).items()} if not _per_byte(config) else None,
        "level": LEVEL,
        "units": {"kind": "stretches" if units.stretch else "documents", "number": len(units.sizes)},
        "documents": len(texts),
        "documents_left_out": left_out,
        "bytes": int(size),
        "text_sha256": hashlib.sha256(b"\0".join(texts)).hexdigest(),
        "seed_test": None if tested is None else asdict(tested),
        "noise_floor": None if floor is None else {"deviation": floor[0], "single_runs": floor[1], "seeds": source},
        "seeds_needed": None if floor is None else seeds_needed(shown.value, floor[0]),
        "perplexity_refused": refusal,
        "runs": [_record(each, tokenizer) for each, tokenizer in zip(every, tokenizers, strict=True)],
        "bootstrap": {"resamples": config.resamples, "seed": config.seed},
    }
    per_unit = {"bytes": units.sizes.astype(int).tolist(), **{f"nats_{side}": nats[side].tolist() for side in SIDES}}
    path = Path(config.out).expanduser() if config.out else _place(every)
    write_atomically(path, (json.dumps({**result, "per_unit": per_unit}, indent=2, default=str) + "\n").encode())
    _show(Console(), every, units, shown, tested, floor, result, path)
    return {**result, "out": str(path)}


def _show(
    console: Console,
    every: Sequence[Scored],
    units: Units,
    difference: Difference,
    tested: SeedTest | None,
    floor: tuple[float, float] | None,
    result: dict[str, Any],
    path: Path,
) -> None:
    """The scores, and the difference in sentences."""
    names = ("", "run", "nats/byte", "bits/byte", *(() if result["perplexity_refused"] else ("perplexity",)), "context")
    columns = [Column(name, justify="left" if i < 2 else "right", no_wrap=i != 1) for i, name in enumerate(names)]
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for each in every:
        figures = [f"{each.nats_per_byte:.4f}", f"{each.nats_per_byte * BITS:.4f}"]
        figures += [] if result["perplexity_refused"] else [f"{math.exp(each.loss):,.2f}"]
        table.add_row(each.side, _name(each.run), *figures, f"{each.costs.protocol['block_size']:,}")
    console.print(table)
    unit, d = result["unit"], difference
    interval = f"{LEVEL:.0%} interval {d.low:+.4f} to {d.high:+.4f} over {units} ({result['bytes']:,} bytes)"
    better = "b" if d.value < 0 else "a"
    verdict = "too close to call" if d.low <= 0 <= d.high else f"{better} predicts this kind of text better"
    lines = [f"b - a: {d.value:+.4f} {unit}, {interval}: {verdict}"]
    if units.stretch:
        lines.append(f"There are few documents ({result['documents']}), so stretches of them are drawn again.")
    if result["documents_left_out"]:
        lines.append(f"{result['documents_left_out']} documents are left out: not all runs hold out or spell them.")
    if tested is not None:
        t = tested.difference
        lines.append(
            f"seeds: {t.value:+.4f} {unit}, {LEVEL:.0%} interval {t.low:+.4f} to {t.high:+.4f}, p = {tested.p:.2g} "
            f"(Welch, {tested.degrees_of_freedom:.1f} degrees of freedom)"
        )
    else:
        lines.append("The interval is about these runs, not about their configs: that takes seeds, a=[RUN,RUN].")
    if floor is not None:
        noise = f"noise floor: seeds of one config deviate by {floor[0]:.4f} ({result['noise_floor']['seeds']})"
        lines.append(f"{noise}; two single runs differ by up to {floor[1]:.4f} by chance ({LEVEL:.0%})")
        needed = result["seeds_needed"]
        lines.append(f"seeds needed for this difference (80% power): {needed or 'more than 10,000'} on each side")
    else:
        lines.append("noise floor: unknown; no two runs given or beside them differ in the seed alone")
    if result["perplexity_refused"]:
        lines.append(f"Perplexities do not compare: {result['perplexity_refused']}; bits per byte do.")
    lines += [note for side in SIDES if (note := _unequal([e.run for e in every if e.side == side], side))]
    lines.append(f"all of it is in {path}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _require_scipy() -> None:
    try:
        import scipy  # noqa: F401
    except ImportError as error:
        raise UserError("compare", "statistics", f"needs {error.name}", "pip install 'gptlab[report]'") from error


def _find(side: str, name: str) -> RunDir:
    try:
        return RunDir.find(name)
    except UserError as error:
        raise UserError(side, error.value, error.why, error.todo) from error


def _refusal(every: Sequence[Scored], tokenizers: Sequence[str]) -> str | None:
    """Why perplexities do not compare."""
    if len(set(tokenizers)) > 1:
        return f"there are {len(set(tokenizers))} tokenizers"
    first = every[0].costs.protocol
    for each in every:
        for key, value in each.costs.protocol.items():
            if value != first[key]:
                return f"the protocols differ ({key} {first[key]} and {value})"
    return None


def _per_byte(config: CompareConfig) -> bool:
    return config.metric == "bits_per_byte"


def _score(each: Scored, metric: str) -> float:
    return each.nats_per_byte * BITS if metric == "bits_per_byte" else each.loss


def _mean(costs: Sequence[Array]) -> Array:
    """Over seeds, (U,)."""
    return np.mean(costs, axis=0)


def _seeds(
    every: Sequence[Scored], scores: dict[str, list[float]], metric: str
) -> tuple[list[list[float]], str | None]:
    """Scores of runs that differ in the seed alone, and whose they are: of those given, or of what stands beside."""
    if any(len(values) > 1 for values in scores.values()):
        return list(scores.values()), "the runs given"
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


def _unequal(runs: Sequence[RunDir], side: str) -> str | None:
    """A word if seeds are no seeds of one config."""
    found = [key for key in differences([read(run.path, run.path.name) for run in runs]) if key != "seed"]
    return f"The runs of {side} differ in more than the seed: {', '.join(found)}." if found else None


def _record(each: Scored, tokenizer: str) -> dict[str, Any]:
    manifest = each.run.path / "held_out/manifest.json"
    return {
        "side": each.side,
        "run": str(each.run.path),
        "checkpoint": each.run.checkpoint.name,
        "seed": each.run.config().get("seed"),
        "nats": float(each.costs.nats.sum()),
        "tokens": int(each.costs.tokens.sum()),
        "nats_per_byte": each.nats_per_byte,
        "bits_per_byte": each.nats_per_byte * BITS,
        "loss": each.loss,
        "protocol": each.costs.protocol,
        "tokenizer_sha256": tokenizer,
        "data_sha256": json.loads(manifest.read_text())["sha256"] if manifest.exists() else None,
    }


def _name(run: RunDir) -> str:
    name = run.path.resolve().name
    return name if run.checkpoint.name == "last.ckpt" else f"{name}-{run.checkpoint.stem}"


def _place(every: Sequence[Scored]) -> Path:
    """A/compare/B.json"""
    others = [_name(each.run) for each in every if each.side == "b"]
    more = f"-and-{len(others) - 1}-more" if len(others) > 1 else ""
    return every[0].run.path / "compare" / f"{others[0][:200]}{more}.json"
