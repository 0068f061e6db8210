"""Tell whether several runs can be taken together."""

from collections.abc import Sequence

from gptlab.checksums import digest, visible_files
from gptlab.errors import require
from gptlab.runs.run_dir import RunDir, located
from gptlab.tokenizers import fingerprint


def require_distinct(key: str, runs: Sequence[RunDir]) -> None:
    """Refuse a run, or a checkpoint of one, that is named twice."""
    places = [located(run) for run in runs]
    for place in places:
        require(places.count(place) == 1, key, place, "is named twice", "name each once")


def require_one_tokenizer(key: str, runs: Sequence[RunDir]) -> None:
    """Refuse runs with different tokenizers."""
    first = fingerprint(runs[0].path / "tokenizer")
    for run in runs:
        same = fingerprint(run.path / "tokenizer") == first
        require(same, key, run.path, f"has another tokenizer than {runs[0].path}", "name runs with one tokenizer")


def holds_out_the_same(run: RunDir, other: RunDir) -> bool:
    """Return whether two runs keep the same held-out text or examples, whatever their manifests say besides."""
    kept = [
        {path.name: digest(path) for path in visible_files(each.path / "held_out") if path.suffix != ".json"}
        for each in (run, other)
    ]
    return bool(kept[0]) and kept[0] == kept[1]


def require_checkpoints(runs: Sequence[RunDir], last: int) -> None:
    """Refuse runs that keep too few checkpoints for the noise over the `last`, and, of a single run, for the signal."""
    fewest = last if len(runs) > 1 else last + 1
    for run in runs:
        kept = len(run.by_step())
        todo = f"give fewer, or train with checkpoint.keep_last={4 * fewest} and a smaller checkpoint.every_n_steps"
        why = f"takes {fewest} checkpoints, and {run.path} keeps {kept}"
        require(kept >= fewest, "checkpoints", last, why, todo)
