"""Name runs by their experiment or sweep, and by what differs within it."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptlab.errors import printable
from gptlab.runs.differences import WITHOUT_EFFECT
from gptlab.runs.origin import sweep_of, swept
from gptlab.runs.reader import RunRecord

MOST_TOLD = 4  # settings in the name of a run that is no job of a sweep


@dataclass
class Name:
    """The family of a run, its experiment or sweep, and the settings that tell it from the rest of the family."""

    family: str
    told: dict[str, str] = field(default_factory=dict)  # by dotted keys
    alone: bool = False  # whether it is the only family, and need not be said

    def text(self, short: Mapping[str, str], seed: bool) -> str:
        """Return the name, with the seed or without; empty if there is nothing to say."""
        told = ", ".join(f"{short.get(k, k)}={value}" for k, value in self.told.items() if seed or k != "seed")
        return told if self.alone else f"{self.family}: {told}" if told else self.family


def names_of(runs: Sequence[RunRecord], differing: Mapping[str, Sequence[Any]]) -> list[Name]:
    """Return the name of each run; those of a sweep tell what was swept, others what differs within their family."""
    families = _families(runs)
    names = [Name(family, alone=len(set(families)) == 1) for family in families]
    chosen = swept(runs)
    for family in dict.fromkeys(families):
        members = [i for i, each in enumerate(families) if each == family]
        varied = [key for key, values in differing.items() if len({repr(values[i]) for i in members}) > 1]
        told = [key for key in varied if key != "seed"][:MOST_TOLD] + [key for key in varied if key == "seed"]
        for i in members:
            own = _chosen(chosen[i], differing)
            names[i].told = own or {key: shown(differing[key][i]) for key in told if differing[key][i] is not None}
    return names


def tell_apart(groups: Sequence[Sequence[tuple[Name, RunRecord]]]) -> None:
    """Add the name of its directory to each run that would be called as one of another group, or another of its own."""
    called: dict[str, set[int]] = {}
    for number, group in enumerate(groups):
        for name, _ in group:
            called.setdefault(name.text({}, seed=False), set()).add(number)
    for group in groups:
        rows = [name.text({}, seed=True) for name, _ in group]
        for (name, run), row in zip(group, rows, strict=True):
            if rows.count(row) > 1 or len(called[name.text({}, seed=False)]) > 1:
                name.told["run"] = run.name.rpartition("/")[2]


def varied_keys(names: Sequence[Name], differing: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the settings that vary within a family: those of sweeps come first."""
    told = dict.fromkeys(key for name in names for key in name.told if key in differing)
    found: dict[str, None] = {}
    for key, values in itertools.chain(((key, differing[key]) for key in told), differing.items()):
        by_family: dict[str, set[str]] = {}
        for name, value in zip(names, values, strict=True):
            by_family.setdefault(name.family, set()).add(repr(value))
        if any(len(each) > 1 for each in by_family.values()):
            found[key] = None
    return list(found)


def shown(value: Any) -> str:
    """Return a setting in few characters."""
    if value is None:
        return "-"
    text = printable(f"{value:.4g}" if isinstance(value, float) else str(value))
    return text if len(text) <= 40 else text[:18] + " ... " + text[-18:]


def short(keys: Sequence[str]) -> dict[str, str]:
    """Return each key by its last word, unless another ends in it; a budget's is the head of a figure, too."""
    last = [printable(key.rpartition(".")[2]) for key in keys]
    alone = [last.count(word) == 1 and not key.startswith("budget.") for key, word in zip(keys, last, strict=True)]
    return {key: word if clear else printable(key) for key, word, clear in zip(keys, last, alone, strict=True)}


def _families(runs: Sequence[RunRecord]) -> list[str]:
    """Return the name of each run's family: `name` of its config, with the sweep's directory where others share it."""
    called = [_called(run) for run in runs]
    sweeps = [sweep_of(run) for run in runs]
    pairs = list(zip(called, sweeps, strict=True))
    homes = {base: {sweep for other, sweep in pairs if other == base} for base in called}
    times = [sweep.name for sweep in dict.fromkeys(sweeps) if sweep]

    def family(base: str, sweep: Path | None) -> str:
        if sweep is None or len(homes[base]) == 1:
            return base
        day = f"{sweep.parent.name} " if times.count(sweep.name) > 1 else ""
        return f"{base} {printable(day + sweep.name)}"

    return [family(base, sweep) for base, sweep in pairs]


def _called(run: RunRecord) -> str:
    imported = str(run.config.get("imported_from") or "").rstrip("/").rpartition("/")[2]
    return printable(str(run.config.get("name") or imported))[-40:] or run.name


def _chosen(own: Mapping[str, str], differing: Mapping[str, Any]) -> dict[str, str]:
    """Return what a sweep has chosen for a run, without what changes no number of it."""
    found: dict[str, str] = {}
    for key, value in own.items():
        group, dot, _ = key.partition(".")
        known = key if key in differing else group if dot and group == "budget" and group in differing else None
        if known or (not dot and key not in WITHOUT_EFFECT):
            found[known or key] = shown(_number(value))
    return found


def _number(text: str) -> Any:
    """Return a text as a number, if it is one with a fraction or an exponent."""
    try:
        return text if text.lstrip("+-").isdecimal() else float(text)
    except ValueError:
        return text
