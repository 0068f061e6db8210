"""Tell what to change first, by what was measured: each line has the figure that it comes from."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WAITING, OPTIMIZING, AROUND, LOGGING = 0.05, 0.2, 0.1, 0.03  # shares of a step from which they stand out
BETTER = 1.05  # times the tokens a second from which a change that was tried is worth it
SEVERAL = 2.0  # times the tokens a second from which it is worth decoding several texts at once
BOUND = 0.5  # share of a limit from which it is what a step waits for


@dataclass(frozen=True)
class Advice:
    """A change, the reason for it, and how many times as many tokens a second it gives."""

    change: str
    why: str
    gain: float
    measured: bool  # whether it was tried; else the gain is what would follow from the shares


@dataclass(frozen=True)
class Trial:
    """A change that was tried, and how many times as many tokens a second it gave.

    It gave None where it failed, by an `error`, or where there was no time for it. It is clear if half of the steps
    with it were faster than nine tenths of those without.
    """

    change: str
    gain: float | None
    clear: bool = False
    note: str = "tried here"
    error: str | None = None

    @classmethod
    def of(cls, change: str, before: Sequence[float], after: Sequence[float], note: str = "tried here") -> "Trial":
        """Return the trial of which these are the seconds of steps without the change and with it; none if no time."""
        if not (before and after):
            return cls(change, None)
        middle = statistics.median(after)
        slower = sum(seconds > middle for seconds in before)
        return cls(change, statistics.median(before) / middle, slower >= 0.9 * len(before), note)


@dataclass(frozen=True)
class Findings:
    """The figures of training or inference, the changes that were tried, and what follows from them."""

    figures: dict[str, Any]
    tried: list[Trial]
    advice: list[Advice]


@dataclass(frozen=True)
class Stepping:
    """The parts of a training step, and the settings that they depend on."""

    parts: Mapping[str, float]  # the mean seconds of each part, which add up to the step
    log: float  # those of the rest that the log takes
    log_every: int
    batch_size: int
    micro_batches: int
    micro_batch_size: int
    workers: int | None  # processes that make batches; None where that cannot be chosen


@dataclass(frozen=True)
class Decoding:
    """The speed of one batch of texts, and its shares of what the device can do, where these are known."""

    batch: int
    tokens_per_second: float
    of_bandwidth: float | None
    of_peak: float | None


def training_advice(step: Stepping, trials: Sequence[Trial]) -> list[Advice]:
    """Return what to change in training, the largest gain first; what is expected of a change that was tried is not."""
    total = sum(step.parts.values())
    share = {part: seconds / total for part, seconds in step.parts.items()}
    log, found = step.log / total, list[Advice]()
    if share["data"] > WAITING:
        change = "make the data faster" if step.workers is None else f"data.num_workers={max(2, 2 * step.workers)}"
        found.append(_expected(change, f"{share['data']:.0%} of a step waits for data", share["data"]))
    if log > LOGGING:
        why = f"the log takes {log:.0%} of a step, on average over {step.log_every}"
        found.append(_expected(f"logger.every_n_steps={10 * step.log_every}", why, 0.9 * log))
    update, rest = share["optimizer"] + share["weight_average"], share["rest"] - log
    if update > OPTIMIZING:
        why = f"the optimizer takes {update:.0%} of a step, however many tokens it has (see gptlab batch)"
        found.append(_expected(f"data.batch_size={2 * step.batch_size}", why, update / 2))
    if rest > AROUND and step.micro_batches > 1:
        why = f"what goes on around each micro-batch takes {rest:.0%} of a step, however large it is"
        found.append(_expected(f"data.micro_batch_size={2 * step.micro_batch_size}", why, rest / 2))
    elif rest > AROUND:
        why = f"what Lightning does around a step takes {rest:.0%} of it, however many tokens it has (see gptlab batch)"
        found.append(_expected(f"data.batch_size={2 * step.batch_size}", why, rest / 2))
    tried = {trial.change for trial in trials if trial.gain is not None or trial.error}
    found = [*_worth_it(trials), *(each for each in _together(found) if each.change not in tried)]
    return sorted(found, key=lambda each: -each.gain)


def _together(expected: Sequence[Advice]) -> list[Advice]:
    """Return each expected change once, with all of its reasons: what they save adds up."""
    found = list[Advice]()
    for change in dict.fromkeys(each.change for each in expected):
        same = [each for each in expected if each.change == change]
        saves = sum(1 - 1 / each.gain for each in same)
        found.append(_expected(change, "; ".join(each.why for each in same), saves))
    return found


def _expected(change: str, why: str, saves: float) -> Advice:
    """Return a change that was not tried, and would save a share of each step at the most."""
    return Advice(change, why, 1 / (1 - saves), False)


def decoding_advice(rows: Sequence[Decoding], trials: Sequence[Trial]) -> list[Advice]:
    """Return what to change in decoding, the largest gain first; `rows` are of one model, the least batch first."""
    found = _worth_it(trials)
    if len(rows) > 1:
        one, best = rows[0], max(rows, key=lambda row: row.tokens_per_second)
        gain = best.tokens_per_second / one.tokens_per_second
        if gain >= SEVERAL:
            found.append(Advice(f"{best.batch} texts at once", _why_several(one), gain, True))
    return sorted(found, key=lambda each: -each.gain)


def _worth_it(trials: Sequence[Trial]) -> list[Advice]:
    """Return the changes that were clearly better."""
    return [
        Advice(trial.change, trial.note, trial.gain, True)
        for trial in trials
        if trial.gain is not None and trial.gain >= BETTER and trial.clear
    ]


def _why_several(one: Decoding) -> str:
    texts = "one text" if one.batch == 1 else f"{one.batch} texts"
    if one.of_bandwidth is None or one.of_peak is None:
        return f"measured here, beside {texts}"
    if one.of_bandwidth >= BOUND:
        return f"with {texts} reading the weights takes {one.of_bandwidth:.0%} of the bandwidth; all texts share it"
    most = max(one.of_bandwidth, one.of_peak)
    return f"with {texts} a step is at {100 * most:.2g}% of the nearer limit: the rest is a cost that all texts share"
