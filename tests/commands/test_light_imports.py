"""What torchmetrics would import is left out of commands, and is there for everybody else."""

import importlib
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from gptlab.commands import main as commands
from gptlab.commands.light_imports import LEFT_OUT, hidden

IMPORTS = f"""
import sys
from gptlab.commands.light_imports import import_lightly
import_lightly(), import_lightly()
import lightning, torchmetrics
from importlib import import_module
from importlib.metadata import version
print([name for name in {LEFT_OUT} if name in sys.modules])
print(type(sys.meta_path[0]).__name__, type(torchmetrics.__loader__).__name__, type(torchmetrics.__spec__.loader).__name__)
print(all(import_module(name) and version(name) for name in {LEFT_OUT}))
import_lightly()
print(type(sys.meta_path[0]).__name__)
"""


@pytest.mark.slow
def test_lightning_is_imported_without_what_only_torchmetrics_needs() -> None:
    pytest.importorskip("transformers")
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    left_out, finders, there, after = done.stdout.splitlines()
    assert left_out == "[]" and there == "True"
    assert "_Finder" not in finders + after and finders.split()[1:] == ["SourceFileLoader", "SourceFileLoader"]


def test_what_is_hidden_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hidden_here.py").write_text("VALUE = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    with hidden(("hidden_here", "pytest")):
        with pytest.raises(ModuleNotFoundError, match="No module named 'hidden_here'"):
            importlib.import_module("hidden_here")
        with pytest.raises(PackageNotFoundError):
            version("pytest")
        assert version("torch") and importlib.import_module("pytest") is pytest
    assert importlib.import_module("hidden_here").VALUE == 3 and version("pytest")


@pytest.mark.parametrize("plugin", [False, True])
def test_a_plugin_may_use_all_of_torchmetrics(plugin: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(commands, "any_enabled", lambda: plugin)
    monkeypatch.setattr(commands, "import_lightly", lambda: asked.append("lightly"))
    monkeypatch.setattr("gptlab.commands.command.run_command", lambda *_: 0)
    assert commands.run("train", [], []) == 0
    assert asked == ([] if plugin else ["lightly"])
