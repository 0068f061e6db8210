"""Write the help of a verb: its groups with their options, and its keys with the values that run and what they mean.

Everything is read from the dataclasses, their source and conf/, composed as a run would be, without torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import keyword
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from gptlab import plugins, registry
from gptlab.commands.explanations import explanation, summary
from gptlab.commands.flags import by_config, flags_first, resumed, split_flags
from gptlab.config.schema import part_fields
from gptlab.config.tree import RECORDED, compose_unchecked, takes_run_configs
from gptlab.errors import UserError
from gptlab.files import conf_dir

ASKS = ("-h", "--help")
COLUMN = 34  # at which explanations begin
WIDEST = 110  # lines that are longer are hard to read
RECIPES = {"experiment": "a whole recipe: settings of all groups", "debug": "a short run to look for a fault"}
KEY, VALUE, HEAD = "cyan", "green", "bold"  # styles


def usage(verb: str, argv: list[str], width: int = 80) -> Text:
    """Return the help that a command line asks for: of the verb, or of the groups and keys that follow --help.

    The values are those of the command line's overrides, and `--help optimizer=muon` chooses as it asks. Raises
    UserError for what it does not know, or what composing raises.
    """
    help_at = min(argv.index(flag) for flag in ASKS if flag in argv)
    before, asked = argv[:help_at], [arg for arg in argv[help_at + 1 :] if not arg.startswith("-")]
    page = _Page(verb, flags_first([*before, *(arg for arg in asked if "=" in arg)]), min(width, WIDEST))
    if not asked:
        page.whole()
    for topic in asked:
        page.topic(topic.partition("=")[0].lstrip("+~").partition("@")[0])
    return Text("\n").join(page.lines)


class _Page:
    """The lines of a help, over one composed config."""

    def __init__(self, verb: str, argv: list[str], width: int) -> None:
        self.verb, self.width = verb, width
        self.config_type = registry.find_command(verb).config_type
        if takes_run_configs(verb):
            argv = flags_first(resumed(by_config(argv)))
        flags, overrides = split_flags(argv)
        folder = Path(flags["dir"]) if flags and "dir" in flags else None
        overrides = [arg for arg in overrides if not arg.startswith("-")]
        self.config, chosen = compose_unchecked(verb, overrides, folder, (flags or {}).get("name"))
        self.chosen = {group: None if name == RECORDED else name for group, name in chosen.items()}
        self.folders = [*([folder] if folder else []), conf_dir(), *plugins.conf_dirs()]
        self.groups = {name: explanation(self.config_type, name) for name in part_fields(self.config_type)}
        if takes_run_configs(verb):
            self.groups |= RECIPES
        self.lines: list[Text] = []

    def whole(self) -> None:
        """Write the help of the verb."""
        parts = part_fields(self.config_type)
        example = "GROUP=OPTION GROUP.KEY=VALUE KEY=VALUE ..." if parts else "KEY=VALUE ..."
        self._say(f"gptlab {self.verb} {example}", HEAD)
        self._say("")
        self._prose(str(self.config_type.__doc__))
        if self.groups:
            self._say("")
            self._say("groups, with the option that is chosen, what it is, and all options:", HEAD)
        for group, what in self.groups.items():
            self._row(Text(f"  {group}", KEY).append(f"={self._choice(group)}", VALUE), what, 24)
            self._wrapped(" ".join(options(group, self.folders)), 24)
        for name in parts:
            if dataclasses.is_dataclass(getattr(self.config, name)):
                self._say("")
                self._chosen(name)
        self._say("")
        self._say("keys of no group:", HEAD)
        for key, value, what in keys(self.config):
            if key.partition(".")[0] not in parts:
                self._key(key, value, what)
        self._say("")
        for line in self._hints():
            self._prose(line)

    def topic(self, name: str) -> None:
        """Write the help of a group, or of the keys that begin with a name."""
        found = [row for row in keys(self.config) if row[0] == name or row[0].startswith(f"{name}.")]
        if name not in self.groups and not found:
            known = [*self.groups, *(key for key, _, _ in keys(self.config))]
            known += [key.partition(".")[0] for key in known]
            close = difflib.get_close_matches(name, known, n=1)
            why = "no such group or key" + (f" (did you mean {close[0]}?)" if close else "")
            raise UserError("--help", name, why, f"gptlab {self.verb} --help lists all")
        if self.lines:
            self._say("")
        if name in self.groups:
            self._say(f"{name}: {self.groups[name]}", HEAD)
            self._say(f"choose by gptlab {self.verb} {name}=OPTION; the options are:")
            for option in options(name, self.folders):
                self._row(Text(f"  {option}", VALUE), self._described(name, option), 20)
            self._say("")
        if name in part_fields(self.config_type):
            if found:
                self._chosen(name, with_text=True)
            return
        for key, value, what in found:
            self._key(key, value, what)

    def _choice(self, group: str) -> str:
        if name := self.chosen.get(group):
            return name
        part = getattr(self.config, group, None)
        return registry.name_of(part) if dataclasses.is_dataclass(part) else "null"

    def _described(self, group: str, option: str) -> str:
        """Return the line that says what an option is: its docstring's first sentence, or a preset's first comment."""
        if (part := registry.options(group).get(option)) and (text := summary(part)):
            return text
        for folder in self.folders:
            path = folder / group / f"{option}.yaml"
            for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
                if line.startswith("#") and not line.startswith("# @"):
                    return line.lstrip("# ")
        return ""

    def _chosen(self, group: str, with_text: bool = False) -> None:
        """Write the keys of the part that a group has, below its option and what that is."""
        part, option = getattr(self.config, group), self._choice(group)
        what = self._described(group, option) or summary(type(part))
        self._prose(f"{group}={option}: {what}".removesuffix(": "), HEAD)
        if with_text and (more := str(type(part).__doc__).partition("\n\n")[2]) and summary(type(part)):
            self._prose(more)
        for key, value, what in keys(part, f"{group}."):
            self._key(key, value, what)

    def _hints(self) -> list[str]:
        verb, groups = self.verb, list(self.groups)
        hints = []
        if groups:
            deeper = f"{verb} {groups[0]}=OPTION --help" if len(groups) < 2 else f"{verb} --help {groups[0]}"
            hints.append(f"gptlab {deeper} goes deeper: every option, and the keys of the one that is chosen.")
        if takes_run_configs(verb):
            hints.append("config=RUN/config.yaml repeats a run, with what else is given.")
        return [*hints, "--cfg job shows the composed config; -m KEY=A,B sweeps; -sc install=bash completes keys."]

    def _key(self, key: str, value: Any, what: str) -> None:
        room = self.width - len(f"  {key} = ")
        self._row(Text(f"  {key}", KEY).append(" = ", "default").append(shortened(shown(value), room), VALUE), what)

    def _row(self, left: Text, what: str, column: int = COLUMN) -> None:
        """Write what explains `left` beside it, or below it where `left` is too long."""
        wrapped = textwrap.wrap(what, self.width - column)
        if len(left.plain) + 2 > column or not wrapped:
            self.lines.append(left)
        else:
            left.append(" " * (column - len(left.plain)) + wrapped.pop(0), "default")
            self.lines.append(left)
        self.lines += [Text(" " * column + line) for line in wrapped]

    def _wrapped(self, words: str, indent: int) -> None:
        for line in textwrap.wrap(words, self.width - indent, break_on_hyphens=False):
            self._say(" " * indent + line, VALUE)

    def _prose(self, text: str, style: str = "") -> None:
        """Write paragraphs; indented ones, such as examples, stay as they are."""
        for paragraph in inspect.cleandoc(text).split("\n\n"):
            lines = paragraph.splitlines() if paragraph.startswith("    ") else textwrap.wrap(paragraph, self.width)
            for line in lines:
                self._say(line, style)

    def _say(self, line: str, style: str = "") -> None:
        self.lines.append(Text(line, style))


def options(group: str, folders: Sequence[Path] | None = None) -> list[str]:
    """Return the options of a group: the registered ones and the presets of conf/, here and of plugins."""
    folders = [conf_dir(), *plugins.conf_dirs()] if folders is None else folders
    return sorted({*registry.options(group), *(p.stem for folder in folders for p in (folder / group).glob("*.yaml"))})


def keys(config: Any, within: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield the full key, the value and the explanation of every field of a config, at any depth."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from keys(value, f"{within}{field.name}.")
        else:
            name = field.name.removesuffix("_") if keyword.iskeyword(field.name[:-1]) else field.name
            yield f"{within}{name}", value, explanation(type(config), field.name)


def shown(value: Any) -> str:
    """Return a value as one would type it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(each)}" for key, each in value.items()) + "}"
    if isinstance(value, float) and len(repr(value)) > 8:
        return f"{value:.6g}"
    return str(value)


def shortened(text: str, most: int) -> str:
    """Return a text of at most so many characters, without the middle of a longer one."""
    half = max(1, (most - 3) // 2)
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"
