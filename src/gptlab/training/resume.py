"""Find the run to resume and its checkpoint, and refuse changes of what must stay the same."""

from pathlib import Path
from typing import Any

from gptlab.batch_sizes import BatchSizes, orderly
from gptlab.errors import UserError, require
from gptlab.runs.checkpoint_file import not_whole, read_checkpoint, verify
from gptlab.runs.config_file import with_defaults
from gptlab.runs.differences import WITHOUT_EFFECT
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.saved import USUAL
from gptlab.training.callbacks.checkpointing import by_step

# fields that a continuation must not change; of `data` all but how batches are computed, of the optimizer,
# whose state is kept, all but its rate
FIXED = ("task", "model", "adapter", "tokenizer", "data", "optimizer", "seed")
FREE = {"optimizer.lr", "adapter.lr_ratio", "data.micro_batch_size", "data.num_workers", "data.other_data_ok"}
FREE |= {"task.teacher"}  # its place: what it holds is compared by task.sha256
UNSAID = ("gptlab", "parts", "resume", "run_dir", "json")  # of what a continuation changes
STATE: dict[str, type] = {  # of a checkpoint that a run goes on from
    **{"state_dict": dict, "optimizer_states": list, "lr_schedulers": list, "loops": dict, "callbacks": dict},
    **{"global_step": int, "epoch": int},
}


def checkpoint_of(run: RunDir) -> tuple[Path, int, list[str]]:
    """Return the checkpoint that a run goes on from, the one asked for or else the newest that is whole; its step; and
    lines to be shown: which newer ones are damaged, and what cannot be told. Raises UserError where there is none."""
    folder, damaged = run.checkpoints, list[UserError]()
    newest = [folder / "last.ckpt", *by_step(folder), folder / "best.ckpt"]
    for path in newest if run.checkpoint == newest[0] else [run.checkpoint]:
        if not path.exists():
            continue
        try:
            note = verify(path)
            step = _step_of(path)
        except UserError as error:
            damaged.append(error)
            continue
        taken = [f"{_names(damaged)}: damaged; {path.name} is taken instead"] if damaged else []
        return path, step, [*taken, *([note] if note else [])]
    if len(damaged) == 1:
        raise UserError("resume", damaged[0].value, damaged[0].why, damaged[0].todo)
    why = f"{_names(damaged)} damaged" if damaged else "it has no checkpoint yet"
    raise UserError("resume", run.path, why, "name another checkpoint of the run, or start a new one")


def _names(damaged: list[UserError]) -> str:
    return ", ".join(Path(error.value).name for error in damaged)


def _step_of(path: Path) -> int:
    """Return the step of a checkpoint; raises UserError unless it has all that Lightning goes on from."""
    saved = read_checkpoint(path, "meta")
    missing = [key for key, kind in STATE.items() if not isinstance(saved.get(key), kind)]
    if missing:
        raise not_whole(path, ValueError(f"it has no {missing[0]}"))
    if saved["global_step"] < 0:
        raise not_whole(path, ValueError(f"its global_step is {saved['global_step']}"))
    return int(saved["global_step"])


def unfinished(values: dict[str, Any], run_dir: Path) -> RunDir | None:
    """Return the newest run of this config (`record`, as YAML has it) that can be resumed; None if there is none.

    It is the one in `run_dir`, with or without a checkpoint, or one of outputs/ that has a checkpoint.
    """
    own = (run_dir / "config.yaml").exists()
    below = "/".join("*" for _ in Path(str(values["name"])).parts)  # a name may contain slashes
    found = [run_dir] if own else [path.parent for path in Path("outputs").glob(f"*/{below}/config.yaml")]
    for path in sorted(found, key=lambda path: (path / "config.yaml").stat().st_mtime, reverse=True):
        run = RunDir(path.resolve())
        try:
            same = run.status() != "finished" and _asked(with_defaults(run.config())) == _asked(values)
        except UserError:  # it is damaged
            if own:
                raise
            continue
        if same and run.is_begun() and (own or run.has_checkpoint()):
            return run
    return None


def _asked(values: dict[str, Any]) -> dict[str, Any]:
    asked = {key: value for key, value in values.items() if key not in ("resume", "json", "gptlab")}
    return {**asked, "budget": {**asked.get("budget", {}), "seconds_per_step": None}}  # that run has timed it


def require_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse a continuation with another task, model, tokenizer, data, optimizer or seed, by name.

    `before` is the run's config `with_defaults`.
    """
    parts = {key: name for key, name in before.get("parts", {}).items() if key.partition(".")[0] in FIXED}
    parts = {"task": parts.pop("task", USUAL), **parts}  # the task first; gptlab 0.1 named none
    for key, old in parts.items():
        new = now["parts"].get(key)
        require(new == old, key, new, f"but the run that is resumed has {old}", "leave it out, or start a new run")
    if "task" not in before:  # the run was made by gptlab 0.1
        now = {**now, "task": None}
    for key, old, new in _differences({k: before.get(k) for k in FIXED}, {k: now.get(k) for k in FIXED}, ""):
        why, todo = f"but the run that is resumed has {old}", "leave it out, or start a new run"
        require(key in FREE, key, new, why, todo)


def require_same_place(before: dict[str, Any], sizes: BatchSizes, step: int) -> None:
    """Refuse batch sizes by which the checkpoint's step would not end where it did in the order of the data.

    `before` is the run's config `with_defaults`.
    """
    changes = before["schedule"].get("batch", []) if isinstance(before.get("schedule"), dict) else []
    why = "its config does not say what it has read: schedule.batch is no list of changes"
    require(orderly(changes), "resume", "config.yaml", why, "begin with its weights alone: init_from=RUN")
    read, now = BatchSizes(sizes.first, changes).start(step), sizes.start(step)
    why = f"step {step:,} would end with sequence {now:,} of the data, and the run has read {read:,} by then"
    shown = [list(change) for change in sizes.changes]
    require(read == now, "schedule.batch", shown, why, f"change the size from sequence {read:,} on")


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return each setting of the resumed run that a continuation changes, as `key: old -> new`.

    A preset sets all of its part: `trainer=fsdp` also ends the run's own `trainer.val_every_n_steps`.
    """
    common = [key for key in before if key in now and key not in UNSAID]
    found = _differences({key: before[key] for key in common}, {key: now[key] for key in common}, "")
    return [f"{key}: {_shown(old)} -> {_shown(new)}" for key, old, new in found if key not in WITHOUT_EFFECT]


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def _differences(before: Any, now: Any, key: str) -> list[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        names = [*now, *(name for name in before if name not in now)]
        found = [_differences(before.get(n), now.get(n), f"{key}.{n}".lstrip(".")) for n in names]
        return [difference for each in found for difference in each]
    return [] if before == now else [(key, before, now)]


def read_older_checkpoint(checkpoint: dict[str, Any], tokens_per_step: float) -> None:
    """Rename the state of callbacks in a checkpoint of gptlab 0.1 to today's names."""
    states = checkpoint.get("callbacks", {})
    if "EndOfStep" in states or not states:
        return
    if speed := states.pop("Speed", None):
        seconds = speed["seconds"]
        tokens = round(speed["steps"] * tokens_per_step)
        states["ThroughputMonitor"] = {"tokens": tokens, "all_seconds": speed.get("all_seconds", seconds)} | {
            "seconds": seconds
        }
    if trouble := states.pop("Trouble", None):
        states["StabilityMonitor"] = {"last": trouble["last"], "skipped": trouble["left_out"]}
    best = [states.pop(name) for name in list(states) if name.startswith("ModelCheckpoint")]
    score = best[0].get("best_model_score") if best else None
    states["EndOfStep"] = {"best": None if score is None else (float(score), None), "metrics": {}}
