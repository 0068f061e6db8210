"""Define the data option of texts with labels: a user's own records or tables, or generated messages."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptlab.data.config import ExampleData, Record
from gptlab.data.text import messages
from gptlab.data.text.conversations import Mistake, whole_text
from gptlab.data.text.opened import opened, whole_file
from gptlab.data.text.readers import format_of, read_records
from gptlab.data.text.sources import listed, matching
from gptlab.data.text.tables import HEAD, delimited_records
from gptlab.errors import UserError, require
from gptlab.registry import option


@option("data", "labelled")
@dataclass
class Labelled(ExampleData):
    """Texts with labels, for task=classification: JSON lines, CSV, TSV or Parquet.

    Without files they are generated short messages, half of them spam.
    """

    files: list[str] = field(default_factory=list)  # paths and globs; none: generated messages, ham and spam
    val_files: list[str] = field(default_factory=list)  # held-out files; none: a part of `files`
    text: str = "text"  # the field or column that holds the text
    label: str = "label"  # the field or column that holds the label: a text, a whole number, or true and false
    columns: list[str] = field(default_factory=list)  # of tables without a row of names; none: the first row has them
    quoted: bool = True  # fields of tables may be in double quotes; false: quotes are text

    def __post_init__(self) -> None:
        super().__post_init__()
        self.files, self.val_files = listed(self.files), listed(self.val_files)
        for key, name in {"text": self.text, "label": self.label}.items():
            known = not self.columns or self.columns.count(name) == 1
            require(known, key, name, f"is not one of columns={self.columns}", "name it there, once")
        require(self.text != self.label, "label", self.label, "is the text, too", "name another field")

    def examples(self) -> Iterator[Record]:
        """Return the texts of `files` with their labels, in their order."""
        return self._read(self.files, "data.files") if self.files else iter(messages.about_anything())

    def held_out(self) -> Iterator[Record] | None:
        """Return those of `val_files`, if there are some."""
        return self._read(self.val_files, "data.val_files") if self.val_files else None

    def _read(self, patterns: list[str], key: str) -> Iterator[Record]:
        for path in matching(patterns, key):
            kind, packing = format_of(path.name)
            tables = {"csv": ",", "tsv": "\t"}
            rows = self._table(path, packing, tables[kind], key) if kind in tables else read_records(path, key)
            for where, record in rows:
                yield self._example(record, lambda why, todo: UserError(key, path, f"{where} {why}", todo))  # noqa: B023

    def _table(self, path: Path, packing: str, delimiter: str, key: str) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield each row of a table by the names of its columns, with where it stands."""

        def mistake(why: str, todo: str) -> UserError:
            return UserError(key, path, why, todo)

        names: list[str] = []
        with whole_file(key, path), opened(path, packing) as file:
            for where, row in delimited_records(file, delimiter, "strict", mistake, self.columns, self.quoted):
                if where == HEAD:
                    names = row
                    twice = next((name for name in (self.text, self.label) if names.count(name) > 1), None)
                    require(twice is None, key, path, f"has more than one column {twice!r}", "rename one")
                else:
                    yield where, dict(zip(names, row, strict=True))

    def _example(self, record: Any, mistake: Mistake) -> Record:
        """Return a record as `{"text", "label"}`; raises what `mistake` returns where it lacks one of them."""
        if not isinstance(record, Mapping):
            raise mistake("is no object", 'give {"text": "...", "label": "..."}')
        for key, name in {"text": self.text, "label": self.label}.items():
            if record.get(name) is None:
                has = f"it has {', '.join(map(str, record)) or 'none'}"
                raise mistake(f"has no field {name!r}; {has}", f"give it, or choose one with data.{key}=NAME")
        text = whole_text(record[self.text], self.text, mistake)
        if not text.strip():
            raise mistake(f"has an empty {self.text}", "drop it")
        return {"text": text, "label": _label(record[self.label], self.label, mistake)}


def _label(value: Any, name: str, mistake: Mistake) -> str:
    """Return a label as a text."""
    if isinstance(value, bool | int):
        return str(value).lower()
    label = whole_text(value, name, mistake)
    if not label.strip():
        raise mistake(f"has an empty {name}", "give one, or drop it")
    return label
