"""Compute quality and diversity of sampled texts for each decoder of a sweep."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptlab.data.tokens.shards import TokenStream, own_shards
from gptlab.evaluation.diversity import distinct, longest_copy, repetition, self_bleu
from gptlab.files import read_json
from gptlab.runs.run_dir import LARGEST, RunDir

MOST = 50_000_000  # training tokens that are searched for copies
MANIFEST = "held_out/manifest.json"


def frontier_rows(run: RunDir, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the figures of each result of `sample`, all of one run, with the overrides that distinguish it."""
    training = training_tokens(run, MOST)
    common = set.intersection(*(set(result["overrides"]) for result in results))
    return [
        {
            "decoder": " ".join(o.removeprefix("decoder=") for o in result["overrides"] if o not in common) or "all",
            **figures(result["samples"], training),
        }
        for result in results
    ]


def figures(samples: Sequence[dict[str, Any]], training: bytes | None) -> dict[str, float | None]:
    """Return the scores of a set of samples; None for a score that is not defined."""
    texts = [sample["ids"] for sample in samples if sample["ids"]]
    tokens = sum(map(len, texts))
    nats = -sum(sample["logprob"] for sample in samples)
    found: dict[str, float] = {
        "perplexity": math.exp(nats / tokens) if tokens else math.nan,
        **{f"distinct_{n}": distinct(texts, n) for n in (1, 2, 3)},
        "self_bleu": self_bleu(texts),
        "repetition": repetition(texts),
        "longest_copy": math.nan if training is None else max((longest_copy(t, training) for t in texts), default=0),
    }
    return {key: None if math.isnan(value) else value for key, value in found.items()}


def training_tokens(run: RunDir, most: int) -> bytes | None:
    """Return the first `most` ids of a run's training text as uint32; None if its shards are gone."""
    try:
        folders = [Path(folder) for folder in read_json(run.path / MANIFEST, LARGEST[MANIFEST])["folders"]]
        own = [(folder, read_json(folder / "manifest.json", LARGEST[MANIFEST])) for folder in folders]
        shards = [shard for folder, manifest in own for shard in own_shards(folder, manifest, "train")]
    except (OSError, LookupError, TypeError, ValueError):  # moved, removed, or an imported run
        return None
    return TokenStream(shards)[0:most].astype("<u4").tobytes() if shards else None
