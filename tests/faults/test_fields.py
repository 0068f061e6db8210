"""Every field of every part of a training: null, what is no finite number, and whole numbers beyond all sense.

The cases are made from the dataclasses: null is legal where the annotation has it, and then the run begins.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Union

import pytest

from gptlab import registry
from gptlab.config.schema import part_fields
from gptlab.errors import RunFailed
from gptlab.training.config import TrainConfig
from tests.faults.scratch import Scratch, asked, tiny

BEGINS = "the run begins"
NOT_FINITE = ("nan", "1e400")
TOO_LARGE = ("1000000000000000000000000000000", "-1000000000000000000000000000000")
# what an option needs besides its defaults
NEEDED = {
    ("model", "gpt"): ["model.vocab_size=0"],
    ("data", "mixture"): ["+data@data.parts.a=text", "+data.parts.a.files=[texts/*.txt]"],
    ("data", "tokens"): ["data.train=[tokens.bin]", "data.val=[held.bin]"],
    ("data", "labelled"): ["task=classification"],
    ("task", "classification"): ["data=labelled", "data.files=[]"],
    ("data", "instructions"): ["task=sft", "model.block_size=512", "data.files=[talk.jsonl]"],
    ("data", "preferences"): ["task=preference", "init_from=run", "model.block_size=512"],
    ("task", "distill"): ["task.teacher=run"],
    ("data", "text"): ["data.files=[texts/*.txt]"],
    ("data", "download"): ["data.url=file:///none", f"data.sha256={64 * '0'}"],
    ("data", "hub"): ["data.path=none"],
    ("tokenizer", "json"): ["tokenizer.file=exported/tokenizer.json"],
    ("tokenizer", "saved"): ["tokenizer.folder=run/tokenizer"],
}
FETCHES = {("data", "hub"), ("data", "download")}  # these do not begin: there is nothing at those places


class Field(NamedTuple):
    """A field of a config, by its full key."""

    key: str
    annotation: Any

    @property
    def kinds(self) -> set[Any]:
        """The types that its value may have."""
        union = typing.get_origin(self.annotation) in (Union, types.UnionType)
        return set(typing.get_args(self.annotation)) if union else {self.annotation}


def fields_of(config_type: type, within: str = "") -> Iterator[Field]:
    """Yield the fields of a config, and those of the dataclasses in it that no group chooses."""
    hints = typing.get_type_hints(config_type)
    parts = part_fields(config_type) if config_type is TrainConfig else {}
    for f in dataclasses.fields(config_type):
        if f.name in parts:
            continue
        if dataclasses.is_dataclass(hints[f.name]):
            yield from fields_of(hints[f.name], f"{within}{f.name}.")
        yield Field(f"{within}{f.name}", hints[f.name])


def declared_in(part: type, name: str) -> type:
    """Return the class of a part that declares a field."""
    return next(each for each in part.__mro__ if name in vars(each).get("__annotations__", {}))


def cases() -> dict[tuple[str, str], list[Field]]:
    """Return the fields of the training config itself, and of each option of its groups those that no other shares."""
    found = {("", ""): list(fields_of(TrainConfig))}
    seen: set[tuple[type, str]] = set()
    for group in part_fields(TrainConfig):
        for name, part in registry.options(group).items():
            if not part.__module__.startswith("gptlab.") or (group, name) == ("decoder", "beam"):  # which is no decoder
                continue
            fields = {field.key.removeprefix(f"{group}."): field for field in fields_of(part, f"{group}.")}
            declared = {key: (declared_in(part, key), key) for key in fields}
            new = [fields[key] for key, owner in declared.items() if owner not in seen]
            seen |= set(declared.values())
            if new:
                found[group, name] = new
    return found


def values_of(field: Field) -> Iterator[str]:
    yield "null"
    if float in field.kinds:
        yield from NOT_FINITE
    if int in field.kinds:
        yield from TOO_LARGE


@pytest.mark.slow
@pytest.mark.parametrize(("group", "name"), list(cases()), ids=lambda part: part or "-")
def test_every_field(
    group: str,
    name: str,
    scratch: Scratch,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    some: Callable[..., list[tuple[Field, str]]],
) -> None:
    """Each field gets null, and one of the two numbers of each kind; with --faults=200 both."""

    def begin(*_: object) -> None:
        raise RunFailed(BEGINS)

    monkeypatch.setattr("gptlab.training.run.open_run", begin)
    chosen = [f"{group}={name}", *NEEDED.get((group, name), [])] if group else []
    base = [arg for arg in tiny() if not group or group != "data" or not arg.startswith("data.files")]
    faults = []
    tries = [(field, value) for field in cases()[group, name] for value in values_of(field)]
    numbers = [each for each in tries if each[1] != "null"]
    for field, value in [*(each for each in tries if each[1] == "null"), *some(numbers, 2)]:
        given = f"{field.key}={value}"
        other = ["budget.steps=null"] if field.key.startswith("budget.") and field.key != "budget.steps" else []
        with scratch.entered():
            before = scratch.tree()
            answer = asked(["train", *base, *chosen, *other, given], capfd)
            unchanged = scratch.tree() == before
        legal = (type(None) in field.kinds or Any in field.kinds) if value == "null" else value in TOO_LARGE
        refused = answer.code == 2 and answer.err.count("\n") == 1 and answer.err.startswith("error: ")
        begins = answer.code == 1 and answer.err == f"error: {BEGINS}\n"
        named = field.key in answer.err or (group and f"{group}=" in answer.err)
        if not (answer.is_clean and unchanged and ((refused and named) or (legal and (begins or refused)))):
            faults.append((given, answer.code, answer.err[-300:], unchanged))
        must = value == "null" and type(None) in field.kinds and (group, name) not in FETCHES
        if must and not begins:
            faults.append((given, "is legal", answer.err[-300:]))
    assert not faults, "\n".join(map(str, faults))
