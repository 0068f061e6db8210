"""Find the settings in which runs differ, and the groups of runs that differ in the seed alone."""

from collections.abc import Iterable, Sequence
from typing import Any

from gptlab.runs.reader import RunRecord

# settings that change no number of a run
WITHOUT_EFFECT = {
    *("json", "name", "resume", "run_dir", "sample_prompts", "data.num_workers"),
    *("data.micro_batch_size", "data.other_data_ok", "budget.seconds_per_step", "trainer.enable_progress_bar"),
}
GROUPS_WITHOUT_EFFECT = ("checkpoint.", "logger.", "decoder.")


def differences(runs: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Return the settings that differ: dotted key -> the value of each run, None for a run without it.

    The fields of a part are left out where its option says as much (`optimizer` for `optimizer.momentum`), those of the
    model also where the run's `name` does, the size of its vocabulary where the tokenizer does. Runs of which a whole
    part is not known differ in nothing of it.
    """
    settings = [run.settings for run in runs]
    keys = dict.fromkeys(key for each in settings for key in each)
    ignored = (WITHOUT_EFFECT - {"name"}) | {key for key in keys if key.startswith(("logger.", "checkpoint."))}
    columns = {key: [each.get(key) for each in settings] for key in keys if key not in ignored}
    if "model.vocab_size" in columns and _follows(columns["model.vocab_size"], [run.tokenizer for run in runs]):
        del columns["model.vocab_size"]  # none is padded
    known = {key: [key.partition(".")[0] in run.config for run in runs] for key in columns}
    differing = {
        key: values
        for key, values in columns.items()
        if len({repr(value) for value, there in zip(values, known[key], strict=True) if there}) > 1
    }
    return {
        key: values
        for key, values in differing.items()
        if not any(above in differing and _follows(values, differing[above]) for above in _above(key))
    }


def same_but_seed(runs: Iterable[RunRecord]) -> list[list[RunRecord]]:
    """Return the runs in groups that differ only in the seed and in settings that change no number of a run."""
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        asked = {
            key: value
            for key, value in run.settings.items()
            if key != "seed" and key not in WITHOUT_EFFECT and not key.startswith(GROUPS_WITHOUT_EFFECT)
        }
        alone = str(run.path) if not asked else ""  # nothing is known of it
        key = repr((sorted(asked.items(), key=lambda item: item[0]), run.data_hash, alone))
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _above(key: str) -> list[str]:
    """Return the keys that may say all of it."""
    if "." not in key:
        return ["name"] if key == "model" else []
    return ["name", "model"] if key.startswith("model.") else [key.partition(".")[0]]


def _follows(values: list[Any], above: list[Any]) -> bool:
    """Return whether each value of `above` goes with one value of `values`."""
    pairs = set(zip(map(repr, above), map(repr, values), strict=True))
    return len(pairs) == len(set(map(repr, above)))
