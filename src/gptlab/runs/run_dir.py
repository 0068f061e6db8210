"""Define a run directory: its paths, the files that a run writes, and the model that it holds."""

import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from gptlab.checksums import SUMS, list_files, require_listed, visible_files, warn_unless_listed
from gptlab.errors import UserError, reason, require
from gptlab.files import followed, read_object, require_writable, sync_files, write_atomically
from gptlab.runs.config_file import LAYOUT, read_config, write_config
from gptlab.tokenizers import Tokenizer, load_tokenizer

LATEST = Path("outputs/latest")
CHOSEN = "GPTLAB_RUN_DIR"  # in the environment of the other processes of a run
PASSING = "GPTLAB_PASSING_RUN"  # in the environment of runs that are removed at once, and are nobody's latest
PICTURES = "pictures"  # the folder of what a task draws of its last validation
FOLDERS = ("checkpoints", "tokenizer", "held_out", "profile", PICTURES)
WRITTEN = ("config.yaml", "summary.json", "metrics.csv", "samples.jsonl", "samples.md")
MOST_BYTES = 1 << 30  # of any of them
AGAIN = "take it from another copy of the run"
HELD_OUT = {"text": "val.bin", "examples": "examples.jsonl"}  # the file of each kind of held-out data
LARGEST = {"summary.json": 1 << 20, "held_out/manifest.json": 1 << 26}  # bytes that are read


class RunDir:
    """The paths and files of one run; `checkpoint` is the one that other commands read."""

    def __init__(self, path: Path, checkpoint: Path | None = None) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.checkpoint = checkpoint or self.checkpoints / "last.ckpt"

    def create(
        self,
        config: dict[str, Any],
        save_tokenizer: Callable[[Path], None],
        save_held_out: Callable[[Path], None],
        take_over: Callable[[Path], None] = lambda run_dir: None,
        planned_steps: int | None = None,
        branch_of: Path | None = None,
    ) -> None:
        """Write a new run's directory: config, tokenizer and held-out text with their checksums, status `running`.

        `save_tokenizer` and `save_held_out` write into the folder that they are given; `take_over` copies into the
        run's folder the files that it takes from another run, `branch_of`, whose first steps it shares. The status
        comes last: a directory that a kill left without it is written again.
        """
        self.require_new()
        self.write_config(config)
        for name, save in {"tokenizer": save_tokenizer, "held_out": save_held_out}.items():
            (self.path / name).mkdir(exist_ok=True)
            save(self.path / name)
            list_files(self.path / name)
            sync_files(self.path / name)
        take_over(self.path)
        self.begin(planned_steps, branch_of)
        _point_latest_to(self.path)

    @property
    def layout(self) -> int:
        """The number of the layout that the run was written in."""
        return int(self.summary().get("layout", 0))

    def has_checkpoint(self) -> bool:
        """Return whether the run has written its checkpoint yet."""
        return any(self.checkpoints.glob("*.ckpt"))

    def is_begun(self) -> bool:
        """Return whether all files that a run begins with are written."""
        return (self.path / "summary.json").exists() or self.has_checkpoint()

    def require_new(self) -> None:
        """Refuse a directory with a run in it, and one that cannot be made."""
        require_writable("run_dir", self.path, self.path)
        there = (self.path / "summary.json").exists()
        require(not there, "run_dir", self.path, "holds a run already", "give a new directory")

    def begin(self, planned_steps: int | None, branch_of: Path | None = None) -> None:
        """Set the status to `running`, and say how many steps there will be, where that is known."""
        planned = {"planned_steps": planned_steps} if planned_steps else {}
        self.write_summary({"status": "running", **planned, **({"branch_of": str(branch_of)} if branch_of else {})})

    def go_on(self, config: dict[str, Any], planned_steps: int | None = None) -> None:
        """Resume a run: its status becomes `running` again, and its config the given one."""
        self.write_config(config)
        self.begin(planned_steps)
        _point_latest_to(self.path)

    @classmethod
    def find(cls, name: str, without_checkpoint: bool = False) -> "RunDir":
        """Return the run for `latest`, a run directory, or a checkpoint in one."""
        given = followed(LATEST if name == "latest" else Path(name).expanduser())
        checkpoint = given if given.suffix == ".ckpt" else None
        path = given.parent.parent if checkpoint else given
        if name == "latest":
            require(path.exists(), "run", name, "there is no run yet", "train one first: gptlab train")
        require(path.is_dir(), "run", name, "no such directory", "give a run directory, such as run=latest")
        require((path / "config.yaml").is_file(), "run", name, "is not a run directory", "try run=latest")
        run = cls(path, checkpoint)
        layout = run.summary().get("layout", 0)
        why = f"was made by a newer gptlab (its layout is {layout}, this one knows {LAYOUT})"
        known = isinstance(layout, int) and layout <= LAYOUT
        require(known, "run", name, why, "pip install --upgrade gptlab")
        if not run.checkpoint.is_file() and not (without_checkpoint and checkpoint is None):
            others = ", ".join(sorted(p.name for p in run.checkpoints.glob("*.ckpt")))
            todo = f"it has {others}" if others else "let the training reach one"
            raise UserError("run", name, f"has no checkpoint {run.checkpoint.name}", todo)
        return run

    @classmethod
    def find_as(cls, key: str, name: str, without_checkpoint: bool = False) -> "RunDir":
        """Return the run that the value of a key names, as `find` does; its mistakes name that key."""
        try:
            return cls.find(name, without_checkpoint)
        except UserError as error:
            raise UserError(key, error.value, error.why, error.todo) from error

    def load(self, head: Callable[[Any], Any] = lambda gpt: gpt) -> tuple[Any, Tokenizer]:
        """Load the model in eval mode, and its tokenizer; raises UserError where they are damaged.

        `head` gives the model the head of the run's task (`Task.head`).
        """
        from gptlab.runs.stored_model import load_model

        model = load_model(self.checkpoint, head, self.config, RunDir.find)
        tokenizer = load_tokenizer(self.path / "tokenizer")
        warn_unless_listed("run", *visible_files(self.path / "tokenizer"))
        return model, tokenizer

    def holds_out(self, kind: str) -> bool:
        """Return whether the run keeps held-out data of a kind, `text` or `examples`."""
        return os.path.lexists(self.path / "held_out" / HELD_OUT[kind])

    def has_held_out(self) -> bool:
        """Return whether the run keeps held-out data of any kind."""
        return any(map(self.holds_out, HELD_OUT))

    def held_out_manifest(self) -> dict[str, Any]:
        """Return the manifest of the run's text, with its SHA-256; raises UserError if that is damaged."""
        manifest = self._read("held_out/manifest.json")
        require_listed("run", AGAIN, self.path / "held_out/manifest.json")
        require("sha256" in manifest, "run", self.path, "its held_out/manifest.json has no sha256", "take another copy")
        return manifest

    def config(self) -> dict[str, Any]:
        """Return the content of config.yaml, in the present layout."""
        return read_config(self.path / "config.yaml")

    def write_config(self, values: dict[str, Any]) -> None:
        """Write a config that `gptlab.runs.config_file.record` returned."""
        write_config(self.path / "config.yaml", values)

    def title(self) -> str:
        """Return what the run is called: its name, or what it was imported from, without a path."""
        config = self.config()
        named = config.get("name") or config.get("imported_from")
        return Path(str(named)).name if named else self.path.name

    def sample_prompts(self) -> Iterable[str]:
        """Return the prompts that the run continued while it was trained."""
        prompts = self.config().get("sample_prompts")
        return [str(prompt) for prompt in prompts] if isinstance(prompts, list) else []

    def windows(self) -> tuple[bool, bool]:
        """Return two facts of the training windows: they begin where documents do, and documents are read alone."""
        data = self.config().get("data")
        data = data if isinstance(data, dict) else {}
        return data.get("packing") == "documents", bool(data.get("mask_documents"))

    def summary(self) -> dict[str, Any]:
        """Return the content of summary.json, {} if there is none; raises UserError if it cannot be read."""
        return self._read("summary.json") if os.path.lexists(self.path / "summary.json") else {}

    def status(self) -> str:
        """Return `running`, `finished`, `stopped` or `failed`."""
        return str(self.summary().get("status"))

    def write_summary(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Write summary.json and return its content: the summary, what the run keeps all along, and its layout."""
        summary = {**summary, **self._kept(), "layout": LAYOUT}
        write_atomically(self.path / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
        return summary

    def hold(self, key: str = "resume") -> BaseFileLock:
        """Keep others from this run until this process ends; raises UserError, for `key`, where another holds it."""
        lock = FileLock(self.checkpoints / ".lock", timeout=0)
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise UserError(key, self.path, "is still running", "stop it first, or wait for its end") from error
        except OSError as error:
            why = f"cannot be locked ({error.strerror or reason(error)}: {error.filename or lock.lock_file})"
            raise UserError(
                key, self.path, why, "see that it can be written, and that nothing is in the way"
            ) from error
        return lock

    def require_own_files(self, key: str = "resume") -> None:
        """Refuse a run whose folders are links, through which files elsewhere would be written or removed, or in which
        something else stands where a file of a run belongs."""
        for path in (self.path / name for name in FOLDERS):
            linked = path.is_symlink()
            require(not linked, key, path, "is a link out of the run", "put the folder itself in its place")
            folder = path.is_dir() or not path.exists()
            require(folder, key, path, "is not a folder", AGAIN)
        for path in (*self.checkpoints.glob("*.ckpt"), self.checkpoints / SUMS):
            folder = path.is_dir() and not path.is_symlink()  # all else is replaced
            require(not folder, key, path, "is a folder", f"{AGAIN}, or remove it")
        for path in (self.path / name for name in WRITTEN):
            todo = f"{AGAIN}, or remove it"
            regular = path.is_file() or not os.path.lexists(path)
            require(regular, key, path, "is not a regular file", todo)
            small = not regular or not path.exists() or path.stat().st_size <= MOST_BYTES
            require(small, key, path, f"is larger than {MOST_BYTES:,} bytes", todo)

    def _kept(self) -> dict[str, Any]:
        """Return what stays in a summary: when the run was first started, in seconds since 1970, and `branch_of`."""
        before = dict[str, Any]()
        with contextlib.suppress(UserError):  # a damaged summary is written again
            before = self.summary()
        known, origin = before.get("started"), before.get("branch_of")
        usable = isinstance(known, int | float) and not isinstance(known, bool)
        started = float(known) if known is not None and usable else round(time.time(), 3)
        return {"started": started, **({"branch_of": origin} if isinstance(origin, str) else {})}

    def _read(self, name: str) -> dict[str, Any]:
        """Return the object in one of the run's JSON files."""
        return read_object("run", self.path / name, LARGEST[name], AGAIN)


def located(run: RunDir) -> str:
    """Return where a run is found from any folder, or the checkpoint of it that was named."""
    named = run.checkpoint.name != "last.ckpt"
    return str((run.checkpoint if named else run.path).resolve())


def unused(path: Path) -> Path:
    """Return the path, or, where it exists already, the first of PATH-2, PATH-3 ... that does not."""
    others = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain([path], others) if not each.exists())


def default_run_dir(name: str) -> Path:
    """Return a new directory for a run that was not given one: outputs/DATE/TIME-NAME.

    The processes that Lightning starts for the other devices get the directory that the first one has chosen.
    """
    chosen = os.environ.get(CHOSEN)
    if chosen is None or os.environ.get("LOCAL_RANK", "0") == "0":
        now = datetime.now()
        chosen = str(unused(Path("outputs", f"{now:%Y-%m-%d}", f"{now:%H-%M-%S}-{name}").absolute()))
        os.environ[CHOSEN] = chosen
    return Path(chosen)


def _point_latest_to(path: Path) -> None:
    """Let `outputs/latest` name the run, replaced in one step; where that cannot be, say so."""
    if PASSING in os.environ:
        return
    beside = os.path.relpath(path, LATEST.parent)
    named = str(path.absolute()) if beside.startswith("..") else beside
    try:
        write_atomically(LATEST, os.fsencode(named + "\n"))
    except OSError as error:  # a run elsewhere does not need this folder
        print(f"{LATEST} cannot point to this run ({reason(error)}): name it as run={path}", file=sys.stderr)
