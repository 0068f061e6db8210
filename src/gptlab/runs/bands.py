"""Read replication bands: what a recipe reaches over seeds, and whether another run of it lies inside.

A band is a JSON file beside the recipe, `conf/experiment/NAME.band.json`, which `gptlab band` makes.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptlab.files import read_json
from gptlab.metrics import metric
from gptlab.runs.config_file import with_defaults
from gptlab.runs.differences import settings_with_effect
from gptlab.runs.reader import RunRecord, finite

METRIC = "val/bits_per_byte"
NAMES = "*.band.json"
LEVEL = 0.95  # of the interval for one new run
MOST_BYTES = 1 << 20
# what the hash of the data does not tell: how they become batches; all else says where they come from
OF_BATCHES = {
    *("batch_size", "val_fraction", "packing", "stride", "repack", "mask_documents", "replay", "repeat_steps"),
    *("by_length", "old_loss"),
}
# settings that change a run's numbers by rounding alone, much less than a seed does
ROUNDING = {
    *("compile", "loss", "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy"),
    *("trainer.activation_checkpointing", "trainer.deterministic", "trainer.detect_anomaly"),
}
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Validation:
    """The metric at one validation over the seeds of a band, with the interval of one new run."""

    step: int
    values: list[float]  # one for each seed
    mean: float
    deviation: float  # of single runs, with n - 1
    low: float
    high: float

    def interval(self) -> dict[str, float]:
        """Return the ends of the interval by name."""
        return {"low": self.low, "high": self.high}

    def holds(self, value: float) -> bool:
        """Tell whether a run's value lies inside; one that is not finite does not."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Band:
    """The bits per byte that a recipe reaches over seeds at each validation; the fields are those of the file."""

    recipe: str  # what is typed after `gptlab train`; "" for the default run
    text: str  # what the data are called
    data_sha256: str
    tokenizer_sha256: str
    parameters: int
    level: float
    seeds: list[int]
    validations: list[Validation]
    made: dict[str, str]  # date, versions, processor
    config: dict[str, Any]  # of the runs, as in config.yaml, without the seed

    @classmethod
    def read(cls, path: Path) -> "Band | None":
        """Return the band in a file; None where it is none."""
        try:
            found = read_json(path, MOST_BYTES)
            validations = [Validation(**each) for each in found.pop("validations")]
            band = cls(**found, validations=validations)
            whole = band._is_whole() and bool(band.settings())
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        return band if whole else None

    def _is_whole(self) -> bool:
        """Tell whether all that is printed of the band is what it should be."""
        texts = all(isinstance(text, str) and text.isprintable() for text in (self.recipe, self.text))
        steps = [at.step for at in self.validations]
        ordered = bool(steps) and all(type(step) is int for step in steps) and steps == sorted(set(steps))
        ends = all(finite(end) is not None for at in self.validations for end in (at.low, at.high))
        level = type(self.level) is float and 0 < self.level < 1
        return texts and ordered and ends and level and isinstance(self.seeds, list) and len(self.seeds) > 1

    def as_json(self) -> str:
        """Return the band as JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def settings(self) -> dict[str, Any]:
        """Return the settings that decide the runs' numbers, but for the seed."""
        config = with_defaults(self.config)
        return deciding(RunRecord(Path(), "", config, {"data_hash": self.data_sha256}))

    def is_of(self, run: RunRecord) -> bool:
        """Tell whether a run differs from those of the band in nothing but the seed."""
        own = (run.summary.get(key) for key in ("data_hash", "tokenizer_hash", "parameters"))
        theirs = (self.data_sha256, self.tokenizer_sha256, self.parameters)
        return tuple(own) == theirs and deciding(run) == self.settings()

    def judge(self, values: dict[int, float]) -> dict[str, Any] | None:
        """Return what summary.json says of a run that has reached these values, by step; the last validation decides.

        Returns None where the run has no value at the last validation of the band.
        """
        last, key = self.validations[-1], metric(METRIC).key
        if last.step not in values:
            return None
        each = [
            {"step": at.step, key: finite(values[at.step]), **at.interval(), "inside": at.holds(values[at.step])}
            for at in self.validations
            if at.step in values
        ]
        said = {"recipe": self.recipe, "text": self.text, "seeds": len(self.seeds), "level": self.level}
        return {**said, **each[-1], "validations": each}


def bands_in(folders: Iterable[Path]) -> Iterator[Band]:
    """Yield the bands beside the recipes of some config trees; files that are none are passed over."""
    for folder in folders:
        for path in sorted((folder / "experiment").glob(NAMES)):
            if band := Band.read(path):
                yield band


def deciding(run: RunRecord) -> dict[str, Any]:
    """Return the settings that decide a run's numbers by more than rounding, but for the seed and places."""
    return {key: value for key, value in settings_with_effect(run).items() if not _told_otherwise(key)}


def _told_otherwise(key: str) -> bool:
    """Tell whether a setting is the seed, changes only rounding, or is known from the hash of data or tokenizer."""
    group, _, field = key.partition(".")
    if group == "data":
        return field not in OF_BATCHES
    return key == "seed" or key in ROUNDING or group == "tokenizer" or key == "model.vocab_size"


def reached(points: Iterable[tuple[int, float]], summary: dict[str, Any]) -> dict[int, float]:
    """Return the metric of a run by step: its curve, where it has one, and at the end what its summary says."""
    found, last = dict(points), summary.get(metric(METRIC).key)
    return found if last is None else found | {int(summary["steps"]): float(last)}


def sentence(judged: dict[str, Any]) -> str:
    """Return in one line whether a run lies inside a band; `judged` is what `Band.judge` has returned."""
    row, seeds = metric(METRIC), judged["seeds"]
    value, low, high = (row.text(judged[key]) for key in (row.key, "low", "high"))
    where = "inside" if judged["inside"] else "outside"
    many = NUMBERS[seeds - 2] if seeds - 2 < len(NUMBERS) else f"{seeds:,}"
    band = f"{judged['recipe'] or 'the default run'} on {judged['text']} ({low} to {high}, {many} seeds)"
    line = f"replication: val {value} {row.head} lies {where} the {judged['level']:.0%} band of {band}"
    before = judged["validations"][:-1]
    inside = sum(each["inside"] for each in before)
    return f"{line}; of {len(before)} validations before, {inside} do" if before else line
