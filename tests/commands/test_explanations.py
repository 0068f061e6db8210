"""What a field means is read from the comments beside it, without running or importing anything more."""

import contextlib
import dataclasses
import sys
import textwrap
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from gptlab import registry
from gptlab.commands.explanations import explanation, summary
from gptlab.commands.usage import COLUMN

SOURCE = '''
from __future__ import annotations
import dataclasses
from dataclasses import dataclass, field

@dataclass
class Plain:
    """Plain settings (Doe et al. 2016). More is said here."""

    Größe: int = 1; other: int = 2  # the size, in m²
    label: str = "# no comment"
    named: list[str] = field(  # not this
        default_factory=list,
    )  # several   names
    # what stands above,
    # on two lines
    above: float = 1.0

    below: int = 3
    """What stands
    below."""
    last: bool = False  # ends # the class

    def __post_init__(self) -> None:
        self.unseen: int = 3  # no field

@dataclass
class Child(Plain):
    label: str = "x"  # its own
    last: bool = True

def made():
    @dataclass
    class Plain:
        label: int = 1  # of the inner class
    return Plain

Silent = dataclasses.make_dataclass("Silent", [("label", int)])
'''
EXPECTED = {
    "Größe": "",
    "other": "the size, in m²",
    "label": "",
    "named": "several names",
    "above": "what stands above, on two lines",
    "below": "What stands below.",
    "last": "ends # the class",
}


@pytest.fixture(params=["file", "wheel"])
def module(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The source as a module of a plugin, from a folder, or from within a zip file."""
    name = f"lab_{request.param}"
    if request.param == "file":
        (tmp_path / f"{name}.py").write_text(SOURCE, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
    else:
        with zipfile.ZipFile(tmp_path / "lab.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", SOURCE)
        monkeypatch.syspath_prepend(tmp_path / "lab.whl")
    module = __import__(name)
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def test_comments_are_explanations(module: ModuleType) -> None:
    assert {name: explanation(module.Plain, name) for name in EXPECTED} == EXPECTED
    assert explanation(module.Child, "label") == "its own"
    assert explanation(module.Child, "last") == explanation(module.Plain, "last")
    assert explanation(module.made(), "label") == "of the inner class"
    assert explanation(module.Silent, "label") == ""
    assert summary(module.Plain) == "Plain settings (Doe et al. 2016)"
    assert summary(module.Child) == summary(module.Silent) == ""


def test_without_source_nothing_is_said(tmp_path: Path) -> None:
    module = ModuleType("nowhere")
    sys.modules["nowhere"] = module
    try:
        exec(SOURCE, vars(module))
        assert explanation(module.Plain, "other") == ""
        assert summary(module.Plain) == "Plain settings (Doe et al. 2016)"
    finally:
        del sys.modules["nowhere"]


def config_types() -> set[type]:
    """Return every registered dataclass of gptlab, every verb's config, and the dataclasses within them."""
    found = {part for group in registry.groups() for part in registry.options(group).values()}
    found |= {registry.find_command(verb).config_type for verb in registry.verbs()}
    found = {each for each in found if each.__module__.startswith("gptlab.")}
    waiting = list(found)
    while waiting:
        with contextlib.suppress(ValueError):  # such as a mixture of nothing
            for value in vars(waiting.pop()()).values():
                if dataclasses.is_dataclass(value) and type(value) not in found:
                    found.add(type(value))
                    waiting.append(type(value))
    return found


def test_every_field_is_explained_and_its_explanation_fits() -> None:
    fields = [(each, f.name) for each in config_types() for f in dataclasses.fields(each)]
    assert len(fields) > 250
    silent = [f"{each.__name__}.{name}" for each, name in fields if not explanation(each, name)]
    assert silent == []
    long = [
        f"{each.__name__}.{name}"
        for each, name in fields
        if len(textwrap.wrap(explanation(each, name), 80 - COLUMN)) > 2
    ]
    assert long == []


def test_every_part_is_described() -> None:
    parts = [part for group in registry.groups() for part in registry.options(group).values()]
    assert [part.__name__ for part in parts if part.__module__.startswith("gptlab.") and not summary(part)] == []
