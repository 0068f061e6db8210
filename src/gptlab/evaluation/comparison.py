"""Compare two runs, or the seeds of two configs, on the same documents, with an interval of the difference."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gptlab.errors import UserError, require, require_choice
from gptlab.evaluation.compared import SIDES, Asked, Compared, Comparison, Sides, result_of, runs_of
from gptlab.evaluation.documents import Costs, Units, common_documents, cost
from gptlab.evaluation.model import require_next_tokens
from gptlab.evaluation.statistics import paired_bootstrap
from gptlab.metrics import Metric, Score, metric, shown_in
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers import Ids, fingerprint

BITS = 1 / math.log(2)  # in a nat
LOSS = metric("val/loss")  # what is compared where a score is per token


def compared() -> list[Metric]:
    """Return the metrics by which runs are compared on documents: nats per byte, or per token."""
    return sorted((each for each in shown_in("compare") if each.per), key=lambda each: each.per)


@dataclass(frozen=True)
class Scored(Compared):
    """A run of one side, and the cost of the documents under it."""

    tokenizer: str  # a hash
    costs: Costs
    score: Score

    def value(self, which: Metric) -> float:
        """Return one of the scores by which runs are compared."""
        return float(getattr(self.score, which.quantity))


def compare_runs(sides: Sides, asked: Asked) -> Comparison:
    """Compare side b with side a, each a run or several seeds of one config, on the documents that all hold out.

    `asked.by` is the quantity of one of `compared()`, bits per byte where it is None. Where it is per token, the
    difference is in nats per token. Raises UserError where the runs have too little text in common, or their
    perplexities do not compare.
    """
    known = {each.quantity: each for each in compared()}
    by = asked.by or next(iter(known))
    require_choice("metric", by, known)
    per_byte = known[by].per == "byte"
    which = known[by] if per_byte else LOSS
    runs = runs_of(sides)
    for side, run in runs:
        require_next_tokens(run, side)
    texts, ids, left_out = common_documents([run for _, run in runs], asked.data)
    units = Units.of([len(text) for text in texts])
    size = sum(map(len, texts))
    why, todo = f"its {size} bytes are too few to tell how sure a difference is", "give more text: data=text ..."
    require(len(units.sizes) > 1, "data", "held-out", why, todo)
    every = [_scored(side, run, own, units, asked) for (side, run), own in zip(runs, ids, strict=True)]
    refusal = _refusal(every)
    if not per_byte and refusal:
        other = compared()[0]
        todo = f"compare {other.unit} instead: metric={other.quantity}"
        raise UserError("metric", by, f"{known[by].head} does not compare: {refusal}", todo)

    nats = {side: np.mean([each.costs.nats for each in every if each.side == side], axis=0) for side in SIDES}
    over = units.sizes if per_byte else every[0].costs.tokens
    difference = paired_bootstrap(nats["a"], nats["b"], over, asked.resamples, asked.seed)
    what = {
        "nats_per_byte": asdict(difference) if per_byte else None,
        "perplexity_ratio": None if per_byte else {k: math.exp(v) for k, v in asdict(difference).items()},
        "units": {"what": str(units), "number": len(units.sizes)},
        "documents": len(texts),
        "documents_left_out": left_out,
        "bytes": size,
        "text_sha256": hashlib.sha256(b"\0".join(texts)).hexdigest(),
        "perplexity_refused": refusal,
    }
    scaled, scores = difference.scaled(BITS if per_byte else 1.0), [each.value(which) for each in every]
    result = {**result_of(which, scaled, what, every, scores, [_stored(each) for each in every], asked), "metric": by}
    per_unit = {"bytes": units.sizes.astype(int).tolist(), **{f"nats_{side}": nats[side].tolist() for side in SIDES}}
    return Comparison(every, result, per_unit)


def _scored(side: str, run: RunDir, ids: Sequence[Ids], units: Units, asked: Asked) -> Scored:
    costs = cost(run, ids, units, asked.block_size, asked.batch_size)
    total = float(costs.nats.sum())
    Compared(side, run).require_finite(math.isfinite(total))
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


def _stored(each: Scored) -> dict[str, Any]:
    known = (each.run.path / "held_out/manifest.json").exists()
    scores = {
        **asdict(each.score),
        "nats_per_byte": each.score.nats / each.score.bytes,
        **{row.quantity: each.value(row) for row in compared()},
    }
    return each.stored(scores, each.costs.protocol, each.run.held_out_manifest()["sha256"] if known else None)
