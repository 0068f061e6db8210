"""Find out what a change is that `gate` tries, and refuse one that changes nothing, or what both sides share."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.config.tree import compose
from gptlab.data.config import TEXT
from gptlab.errors import UserError, require
from gptlab.plugins import source_hash
from gptlab.runs.config_file import flat, given_budget, record
from gptlab.runs.differences import GROUPS_WITHOUT_EFFECT, WITHOUT_EFFECT
from gptlab.runs.run_dir import RunDir
from gptlab.sweep.paired import Side
from gptlab.sweep.revision import Revision, require_other
from gptlab.training.budget import Budget
from gptlab.training.preflight import require_possible
from gptlab.version import VERSION

SHARED = {"seed", "run_dir", "resume", "trainer.max_minutes"}
# how a text becomes batches; all else of `data` would change which text is read, and which is held out
OF_BATCHES = {"batch_size", "micro_batch_size", "packing", "stride", "repack", "mask_documents", "num_workers"}


@dataclass(frozen=True)
class Change:
    """A change of a run's config, or of the code that trains it, with what both sides of its trial have in common."""

    base: RunDir
    overrides: list[str]
    common: list[str]  # overrides of both sides
    revision: Revision | None
    differs: dict[str, list[Any]]  # setting -> its values in the base and in the change
    plugins: dict[str, Any]  # of the change, with the hashes of their sources
    base_sha256: str

    @classmethod
    def of(cls, base_name: str, overrides: list[str], revision_name: str | None, budget: Budget) -> Change:
        """Return the change that is asked for; raises UserError where it cannot be tried. Nothing is written."""
        base = RunDir.find_as("base", base_name)
        why = "keeps no held-out text, by which a change is judged"
        require(base.holds_out(TEXT), "base", base_name, why, "give a run that was trained on text")
        common, given = _budget(budget), f"[{','.join(overrides)}]"
        source = base.path / "config.yaml"
        old, new = compose("train", common, source), compose("train", [*common, *overrides], source)
        for side in (old, new):
            require_possible(side)
            alike = side.task.predicts_tokens
            require(alike, "try", given, "has a task that predicts no next tokens", "compare such runs by hand")
        revision = Revision.find(revision_name) if revision_name else None
        before, after = _settings(old), _settings(new)
        differs = {
            key: [before.get(key), after.get(key)] for key in {**before, **after} if before.get(key) != after.get(key)
        }
        _require_own(differs)
        if revision is not None:
            require_other(revision, str(revision_name))
        with_effect = [key for key in differs if not _ignored(key)]
        why, todo = "changes nothing in the config of the base", "give another value, or another setting"
        require(bool(with_effect or revision), "try", given, why, todo)
        plugins = record(new)["gptlab"]["plugins"]
        data = base.held_out_manifest()["sha256"]
        own = {key: value for key, value in before.items() if not _ignored(key) and key not in SHARED}
        return cls(base, overrides, common, revision, differs, plugins, _hash({"config": own, "data": data}))

    @property
    def sha256(self) -> str:
        """The hash by which the change is known again: settings, revision, and the source of plugins."""
        revision = self.revision and self.revision.sha
        return _hash({"differs": self.differs, "revision": revision, "plugins": self.plugins})

    def told(self) -> str:
        """Return the change in words."""
        return " ".join(self._told())

    def _told(self) -> list[str]:
        return [*self.overrides, *([f"revision={self.revision.sha[:12]}"] if self.revision else [])]

    def described(self) -> dict[str, Any]:
        """Return what the ledger keeps of the change, with the code by which it was tried."""
        code = {"version": VERSION, "sha256": source_hash("gptlab"), "plugins": self.plugins}
        revision = self.revision and self.revision.sha
        told = {"told": self._told(), "differs": self.differs, "revision": revision}
        return {**told, "code": code, "sha256": self.sha256}

    def own_seeds(self) -> list[int]:
        """Return the seed of the base: the change may have been thought of because of its luck."""
        seed = self.base.config().get("seed")
        return [seed] if isinstance(seed, int) else []

    def sides(self, folder: Path) -> dict[str, Side]:
        """Return both sides of the trial; the files of a revision are written into `folder`."""
        source = self.base.path / "config.yaml"
        environment = {}
        if self.revision:
            environment = self.revision.environment(self.revision.write(folder / "code").absolute())
        changed = Side(source, [*self.common, *self.overrides], environment)
        return {"base": Side(source, self.common), "changed": changed}


def _budget(budget: Budget) -> list[str]:
    """Return the overrides that give both sides the budget that is asked for, in the place of the base's."""
    units = dataclasses.asdict(budget)
    if not given_budget(units):
        return []
    return [f"budget.{key}={'null' if value is None else value}" for key, value in units.items()]


def _settings(config: Any) -> dict[str, Any]:
    """Return the settings of a training config by their full keys, and the options of its parts."""
    return {key: value for key, value in flat(record(config)).items() if not key.startswith("gptlab.")}


def _ignored(key: str) -> bool:
    """Tell whether a setting changes no number of a run."""
    return key in WITHOUT_EFFECT or key.startswith(GROUPS_WITHOUT_EFFECT)


def _require_own(differs: dict[str, list[Any]]) -> None:
    """Refuse a change of what both sides have to share."""
    for key, (_, value) in differs.items():
        if key in SHARED or key.startswith("budget."):
            why, todo = f"{key} is the same on both sides", "leave it out, or give gate itself a budget"
            raise UserError("try", f"[{key}={value}]", why, todo)
        of_text = key == "parts.data" or (key.startswith("data.") and key.partition(".")[2] not in OF_BATCHES)
        why = f"{key.removeprefix('parts.')} changes the text by which both sides are judged"
        require(not of_text, "try", f"[{key.removeprefix('parts.')}={value}]", why, "leave it out, or use compare")


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
