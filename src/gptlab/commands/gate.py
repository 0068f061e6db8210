"""The verb `gate`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.errors import RunFailed, UserError, require
from gptlab.registry import command
from gptlab.training.budget import Budget

if TYPE_CHECKING:
    from gptlab.commands.gate_change import Change
    from gptlab.evaluation.gating import Decision, Rule
    from gptlab.sweep.ledger import Ledger, Trial
    from gptlab.sweep.paired import Side

EXIT_CODES = {"kept": 0, "rejected": 3, "undecided": 4}


@dataclass
class GateConfig:
    """Try a change of a run's config or code over fresh seeds, and keep it only where that is not luck.

    A ledger remembers every trial, so that a hundred ideas are tried as safely as one.
    """

    base: str | None = None  # a run: the change is made to its config
    try_: list[str] = field(default_factory=list)  # settings that are changed, such as [optimizer.lr=3e-3]
    # a git revision of the code here, whose gptlab and plugins run the change
    revision: str | None = None
    budget: Budget = field(default_factory=Budget)  # of each run; none given: that of the base
    ledger: str | None = None  # a folder for the ledger and its runs; null: outputs/gate/NAME of the base
    alpha: float = 0.05  # the expected share of false ones among all that the ledger keeps, at the most
    planned: int = 100  # trials among which alpha is shared evenly; more can follow
    effect: float = 2.0  # the least improvement worth finding, in standard deviations of single runs over seeds
    miss: float = 0.1  # the chance that such an improvement is rejected, at the most
    max_seeds: int = 20  # on each side, after which a trial is undecided
    seed: int | None = None  # the first of the trial's seeds; null: some that no trial has used
    keep_checkpoints: bool = False  # of runs that have been scored
    json: bool = False  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        require(self.base is not None, "base", "null", "is needed", "give base=RUN")
        changes = bool(self.try_ or self.revision)
        require(changes, "try", "[]", "names no change", "give e.g. 'try=[optimizer.lr=3e-3]', or revision=")
        for key, usual in {"alpha": 0.05, "miss": 0.1}.items():
            value = getattr(self, key)
            require(0 < value < 1, key, value, "is not in (0, 1)", f"{usual} is usual")
        require(self.planned >= 1, "planned", self.planned, "must be at least 1", "try 100")
        require(self.effect > 0, "effect", self.effect, "is not above 0", "2 is usual")
        require(self.max_seeds >= 2, "max_seeds", self.max_seeds, "must be at least 2", "try 20")
        require(self.seed is None or self.seed >= 0, "seed", self.seed, "is negative", "leave it out")


def exit_code(answer: dict[str, Any]) -> int:
    """Return the exit code of a verdict."""
    return EXIT_CODES[answer["verdict"]]


@command(exit_code=exit_code)
def gate(config: GateConfig) -> dict[str, Any]:
    """Try a change against a base, one pair of seeds after the other, until a sequential test keeps or rejects it.

    Prints and returns the verdict, `kept`, `rejected` or `undecided` (exit codes 0, 3, 4), with the runs so far. Killed
    at any instant, the same command goes on; asked again, it says what the ledger says.
    """
    from rich.console import Console

    from gptlab.commands.gate_change import Change
    from gptlab.evaluation.statistics import require_scipy
    from gptlab.sweep.ledger import Ledger

    require_scipy("gate", "statistics")
    change = Change.of(str(config.base), config.try_, config.revision, config.budget)
    folder = Path(config.ledger).expanduser() if config.ledger else Path("outputs/gate", change.base.path.name)
    ledger, console = Ledger(folder), Console()
    trial = _found(config, change, ledger)
    if trial is None or trial.verdict is None:
        with _held(folder):
            ledger = Ledger(folder)  # once more: another process may have written into it
            trial = _found(config, change, ledger) or _new_trial(config, change, ledger)
            limit = f"{1 / trial.level:,.0f}" if trial.level <= 0.01 else f"{1 / trial.level:.3g}"
            told = f"it is kept where the likelihood ratio reaches {limit}"
            _say(console, f"trial {trial.number}: {change.told()}; {told}")
            _try(config, change.sides(folder), ledger, trial, console)
    else:
        _say(console, f"trial {trial.number} was of this change already")
    answer = _answer(ledger, trial)
    _say(console, _sentence(answer))
    return answer


def _settings(config: GateConfig) -> dict[str, Any]:
    """Return what all trials of a ledger have in common, besides their base."""
    return {key: getattr(config, key) for key in ("alpha", "planned", "effect", "miss", "max_seeds")} | {
        "budget": asdict(config.budget)
    }


def _shown(setting: Any) -> Any:
    """Return a setting of a ledger as it is given; of a budget its units alone."""
    if not isinstance(setting, dict):
        return setting
    given = " ".join(f"budget.{key}={value}" for key, value in setting.items() if value is not None)
    return given or "that of the base"


def _found(config: GateConfig, change: Change, ledger: Ledger) -> Trial | None:
    """Return the trial of a change where there is one; raises UserError where this ledger cannot take it."""
    begun = ledger.begun
    if begun:
        for key, value in _settings(config).items():  # first: the budget is a part of what a base is known by
            was = begun["settings"].get(key)
            why = f"the ledger was begun with {_shown(was)}"
            require(was == value, key, _shown(value), why, "leave that, or give another ledger=")
        moved = begun["base"] != str(change.base.path.resolve())
        changed = "was begun with this base when it had another config or text"
        why, todo = f"is of another base, {begun['base']}" if moved else changed, "give another folder: ledger=DIR"
        require(begun["base_sha256"] == change.base_sha256, "ledger", ledger.path, why, todo)
    trial, other = ledger.of(change.sha256), ledger.open_trial
    if other is not None and other is not trial:
        why = f"trial {other.number}, {' '.join(other.change['told'])}, has no verdict yet"
        raise UserError("ledger", ledger.path, why, "none is dropped: give that one again first")
    if trial is None and config.seed is not None:
        used = sorted(ledger.used_seeds().intersection(_seeds(config, ledger, change)))
        why = f"seeds from {used[0]} to {used[-1]} were used already" if used else ""
        require(not used, "seed", config.seed, why, "leave it out")
    return trial


def _seeds(config: GateConfig, ledger: Ledger, change: Change) -> list[int]:
    """Return the seeds that a new trial may use."""
    first = config.seed
    if first is None:
        first = 1 + max([0, *ledger.used_seeds(), *change.own_seeds()])
    why = f"not all of the {config.max_seeds} seeds from it on are below 2^32"
    require(first + config.max_seeds <= 2**32, "seed", first, why, "give a smaller one: seed=1")
    return list(range(first, first + config.max_seeds))


def _held(folder: Path) -> Any:
    """Keep other processes from the ledger until this one ends."""
    from filelock import FileLock, Timeout

    from gptlab.files import require_writable

    require_writable("ledger", folder, folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise UserError("ledger", folder, "is used by another gate", "wait for its end") from error


def _begin(config: GateConfig, change: Change, ledger: Ledger) -> None:
    """Write the held-out text and the first line of a new ledger."""
    from gptlab.evaluation.halves import write_halves

    text = write_halves(change.base, "base", ledger.path.parent)
    ledger.add(
        "begun",
        base=str(change.base.path.resolve()),
        base_sha256=change.base_sha256,
        text_sha256=text,
        data_sha256=change.base.held_out_manifest()["sha256"],
        settings=_settings(config),
        **_now(),
    )


def _new_trial(config: GateConfig, change: Change, ledger: Ledger) -> Trial:
    """Write down a new trial, in a ledger that may be new as well."""
    from gptlab.evaluation.gating import level_of

    seeds = _seeds(config, ledger, change)
    if not ledger.begun:
        _begin(config, change, ledger)
    number = len(ledger.trials) + 1
    level = level_of(number, len(ledger.kept), config.alpha, config.planned)
    ledger.add("trial", trial=number, change=change.described(), level=level, seeds=seeds, **_now())
    return ledger.trials[-1]


def _try(config: GateConfig, sides: dict[str, Side], ledger: Ledger, trial: Trial, console: Any) -> None:
    """Run both sides by turns until there is a verdict, and write it down."""
    from gptlab.evaluation.gating import decide
    from gptlab.evaluation.halves import text_hash

    folder = ledger.path.parent
    same = text_hash(folder) == ledger.begun["text_sha256"]
    require(same, "ledger", folder, "its held-out text has changed", "take it from another copy, or give a new one")
    rule = _rule(config, trial)
    while True:
        decision = decide(trial.scores("base"), trial.scores("changed"), 1, rule)
        if decision.verdict is not None:
            ledger.add("verdict", trial=trial.number, **asdict(decision), **_now())
            return
        if len(trial.scores("base")) == len(trial.scores("changed")) > 0:
            _say(console, _line(trial, decision))
        order = [(seed, side) for i, seed in enumerate(trial.seeds) for side in sorted(sides, reverse=i % 2 == 1)]
        seed, side = next((seed, side) for seed, side in order if seed not in trial.done(side))
        ledger.add("run", **_ran(config, sides[side], ledger, trial, side, seed), **_now())


def _rule(config: GateConfig, trial: Trial) -> Rule:
    from gptlab.evaluation.gating import Rule

    return Rule(config.effect, trial.level, config.miss, len(trial.seeds))


def _ran(config: GateConfig, side: Side, ledger: Ledger, trial: Trial, name: str, seed: int) -> dict[str, Any]:
    """Train and score one run; return what the ledger says of it. A change that fails has no scores."""
    from gptlab.evaluation.halves import DECIDES, REPORTS
    from gptlab.sweep.paired import drop_checkpoints, scored, trained

    folder = ledger.path.parent
    run_dir = (folder / "runs" / f"{trial.number}-{name}-{seed}").absolute()
    summary = trained(side, run_dir, seed)
    finished = summary["status"] == "finished"
    if not finished and name == "base":
        raise RunFailed(f"the base fails with seed {seed}: {summary.get('error')} (see {run_dir}/job.log)")
    found = scored(side, run_dir, [folder / DECIDES, folder / REPORTS]) if finished else [None, None]
    scores = dict(zip((DECIDES, REPORTS), found, strict=True))
    if name == "base" and None in scores.values():
        raise RunFailed(f"the base diverges with seed {seed}: give a base that does not")
    if not config.keep_checkpoints:
        drop_checkpoints(run_dir)
    told = {} if finished else {"error": summary.get("error", summary["status"])}
    return {"trial": trial.number, "side": name, "seed": seed, **scores, "run": str(run_dir), **told}


def _now() -> dict[str, str]:
    from datetime import UTC, datetime

    return {"at": datetime.now(UTC).isoformat(timespec="seconds")}


def _answer(ledger: Ledger, trial: Trial) -> dict[str, Any]:
    """Return what the ledger says of a trial that has a verdict."""
    import statistics

    assert trial.verdict is not None
    pairs = trial.pairs()
    reports = {side: trial.scores(side, "reports") for side in ("base", "changed")}
    known = bool(pairs) and max(map(max, reports.values())) < float("inf")
    means = {side: statistics.fmean(values[: len(pairs)]) for side, values in reports.items()} if known else None
    diverged = (f"its score is not finite with seed {run['seed']}" for run in trial.runs if run["decides"] is None)
    failed = next((run["error"] for run in trial.runs if "error" in run), next(diverged, None))
    return {
        "verdict": trial.verdict["verdict"],
        "trial": trial.number,
        "change": trial.change["told"],
        "differs": trial.change["differs"],
        "level": trial.level,
        "ratio": trial.verdict["ratio"],
        "difference": trial.verdict["difference"],
        "interval": [trial.verdict["low"], trial.verdict["high"]],
        "unit": "bits/byte",
        "pairs": len(pairs),
        # on the part of the held-out text that has not decided
        "reports": means and {**means, "difference": means["changed"] - means["base"]},
        "sequence": [{key: run.get(key) for key in ("side", "seed", "decides", "reports")} for run in trial.runs],
        **({"error": failed} if failed else {}),
        "trials": len(ledger.trials),
        "kept": len(ledger.kept),
        "ledger": str(ledger.path),
    }


def _line(trial: Trial, decision: Decision) -> str:
    """Return how a trial stands in one line."""
    pairs = _pairs(len(trial.pairs()))
    if decision.ratio is None or decision.difference is None:
        return f"{pairs} of runs"
    return f"{pairs}: {decision.difference:+.4f} bits/byte, likelihood ratio {decision.ratio:.3g}"


def _pairs(number: int) -> str:
    return f"{number} pair{'' if number == 1 else 's'}"


def _sentence(answer: dict[str, Any]) -> str:
    """Return a verdict in one line."""
    said = f"{answer['verdict']} after {_pairs(answer['pairs'])}"
    if answer["difference"] is not None:
        said += f": {answer['difference']:+.4f} bits/byte"
        low, high = answer["interval"]
        said += f" ({low:+.4f} to {high:+.4f})" if low is not None else ""
    if answer["reports"]:
        said += f"; on the text that did not decide {answer['reports']['difference']:+.4f}"
    if "error" in answer:
        said += f"; the change fails: {answer['error']}"
    return f"{said}. {answer['kept']} of {answer['trials']} trials are kept in {answer['ledger']}"


def _say(console: Any, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
