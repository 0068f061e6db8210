"""Find the settings in which runs differ, and the groups of runs that differ in the seed alone."""

from collections.abc import Iterable, Sequence
from typing import Any

from gptlab.runs.reader import RunRecord

# settings that change no number of a run
WITHOUT_EFFECT = {
    *("json", "name", "preset", "resume", "resume_sweep", "confirm", "run_dir", "sample_prompts", "search_metric"),
    *("branch", "spike_sigmas", "decoder", "logger", "callbacks", "callbacks.norms", "callbacks.histograms"),
    *("data.num_workers", "data.micro_batch_size", "data.other_data_ok", "budget.seconds_per_step"),
    *("trainer.enable_progress_bar", "trainer.val_every_n_steps", "trainer.profile", "trainer.max_minutes"),
}
GROUPS_WITHOUT_EFFECT = ("checkpoint.", "logger.", "decoder.")
# callbacks of Lightning that watch a run and change nothing of it; others may end it, or change its weights
WATCHING = {
    *("DeviceStatsMonitor", "LearningRateMonitor", "ModelSummary", "RichModelSummary", "RichProgressBar"),
    *("ThroughputMonitor", "TQDMProgressBar"),
}
# where a part is read from: without effect where it is known what was read
PLACES_OF_TEXT = {"data.files", "data.folder"}
PLACES_OF_TOKENIZER = {"tokenizer.file", "tokenizer.folder"}


Read = tuple[str | None, ...]  # the text, the tokenizer and the size of the vocabulary, as far as they are known


def settings_with_effect(run: RunRecord) -> dict[str, Any]:
    """Return the settings of a run that can change its numbers, by dotted keys."""
    settings = run.settings
    ignored = set(WITHOUT_EFFECT)
    if run.data_hash:
        ignored |= PLACES_OF_TEXT
    if run.tokenizer:
        ignored |= PLACES_OF_TOKENIZER
    for key, value in settings.items():
        if key.startswith("callbacks.others.") and key.endswith(".class") and str(value).split(".")[-1] in WATCHING:
            part = key.removesuffix("class")
            ignored |= {each for each in settings if each.startswith(part)}
    return {
        key: value
        for key, value in settings.items()
        if key not in ignored and not key.startswith(GROUPS_WITHOUT_EFFECT)
    }


def model_name(run: RunRecord) -> str | None:
    """Return what a run's model is called: its preset, or the option of a model of another package; None if unknown.

    Runs of a gptlab that did not note the preset are called by their name, which is the preset's unless it was given.
    """
    parts = run.config.get("parts")
    option = str(parts.get("model", "gpt")) if isinstance(parts, dict) else "gpt"
    known = run.config.get("preset") or (None if "preset" in run.config else run.config.get("name"))
    known = known or run.config.get("model_type")  # of an imported one
    return option if option != "gpt" else None if known is None else str(known)


def differences(runs: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Return the settings that differ: dotted key -> the value of each run, None for a run without it.

    Settings that change no number of a run are left out. The fields of a part are left out where its option says as
    much (`optimizer` for `optimizer.momentum`), those of the model where its preset does, the size of its vocabulary
    where the tokenizer does. Runs of which a whole part is not known differ in nothing of it.
    """
    settings = [settings_with_effect(run) | {"model": model_name(run)} for run in runs]
    keys = dict.fromkeys(key for each in settings for key in each)
    columns = {key: [each.get(key) for each in settings] for key in keys}
    if "model.vocab_size" in columns and _follows(columns["model.vocab_size"], [run.tokenizer for run in runs]):
        del columns["model.vocab_size"]  # none is padded
    known = {key: [key.partition(".")[0] in run.config for run in runs] for key in columns}
    known["model"] = [name is not None for name in columns["model"]]
    differing = {
        key: values
        for key, values in columns.items()
        if len({repr(value) for value, there in zip(values, known[key], strict=True) if there}) > 1
    }
    return {
        key: values
        for key, values in differing.items()
        if "." not in key or (above := key.partition(".")[0]) not in differing or not _follows(values, differing[above])
    }


def same_but_seed(runs: Iterable[RunRecord]) -> list[list[RunRecord]]:
    """Return the runs in groups that differ only in the seed and in settings that change no number of a run.

    A run of which the text, the tokenizer or the size of the vocabulary is not known yet belongs to those with its
    other settings, if these all have the same.
    """
    groups: dict[str, dict[Read, list[RunRecord]]] = {}
    order: dict[int, int] = {}
    for run in runs:
        order[id(run)] = len(order)
        asked = {key: value for key, value in settings_with_effect(run).items() if key != "seed"}
        alone = "" if asked else str(run.path)  # nothing is known of it
        read = (run.data_hash, run.tokenizer, asked.pop("model.vocab_size", None) or None)
        key = repr((sorted(asked.items(), key=lambda item: item[0]), alone))
        groups.setdefault(key, {}).setdefault(tuple(map(_text, read)), []).append(run)
    found = [group for same in groups.values() for group in _joined(same)]
    return sorted(found, key=lambda group: order[id(group[0])])


def _text(value: Any) -> str | None:
    return None if value is None else repr(value)


def _joined(same: dict[Read, list[RunRecord]]) -> list[list[RunRecord]]:
    """Return groups of runs by what they have read; those that do not know all of it join the others, if one group."""
    whole = [read for read in same if None not in read]
    if len(whole) != 1:
        return list(same.values())
    fitting = [read for read in same if all(own in (None, other) for own, other in zip(read, whole[0], strict=True))]
    joined = [run for read in fitting for run in same[read]]
    return [joined, *(group for read, group in same.items() if read not in fitting)]


def _follows(values: list[Any], above: list[Any]) -> bool:
    """Return whether each value of `above` goes with one value of `values`."""
    pairs = set(zip(map(repr, above), map(repr, values), strict=True))
    return len(pairs) == len(set(map(repr, above)))
