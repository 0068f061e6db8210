"""Where documents come from: each option of the config group `data` is a dataclass with `documents()`."""

import ast
import glob
import hashlib
import json
import os
import platform
import sysconfig
import urllib.error
import urllib.request
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from gptlab.atomic import write_atomically
from gptlab.errors import UserError, require


@dataclass
class TextData(ABC):
    """What every source shares: how its text is split and batched."""

    batch_size: int = 8  # sequences per optimizer step, over all devices
    micro_batch_size: int | None = None  # sequences per forward pass of one device; null: all of its share
    val_fraction: float = 0.1  # of the text, held out by documents (by position where documents are too few)
    num_workers: int = 0

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", self.batch_size, "must be at least 1", "try 8")
        micro = self.micro_batch_size
        require(micro is None or micro >= 1, "micro_batch_size", micro, "must be at least 1", "leave it out")
        require(0 < self.val_fraction <= 1, "val_fraction", self.val_fraction, "is not in (0, 1]", "0.1 is usual")
        require(self.num_workers >= 0, "num_workers", self.num_workers, "is negative", "0 loads in the main process")

    @abstractmethod
    def documents(self) -> list[str]:
        """The documents, in an order that only depends on the source."""


@dataclass
class Bundled(TextData):
    """English that every Python carries: its language reference and its standard library's docstrings, about 2 MB.

    It differs between Python versions, so runs record its hash. Reading it takes seconds and is cached.
    """

    def documents(self) -> list[str]:
        stdlib = Path(sysconfig.get_path("stdlib"))
        name = hashlib.sha256(f"{platform.python_version()} {stdlib} 1".encode()).hexdigest()[:16]
        cached = cache_dir() / "bundled" / f"{name}.json"
        if not cached.exists():
            write_atomically(cached, json.dumps([*_language_reference(), *_docstrings(stdlib)]).encode())
        documents: list[str] = json.loads(cached.read_bytes())
        return documents


@dataclass
class Files(TextData):
    """Your own UTF-8 text: paths and globs, from the current folder; one document a file."""

    files: list[str] = field(default_factory=list)

    def documents(self) -> list[str]:
        found: list[str] = []
        for pattern in self.files:
            matches = [p for p in sorted(glob.glob(os.path.expanduser(pattern), recursive=True)) if os.path.isfile(p)]
            require(bool(matches), "data.files", pattern, "no such file", "give paths or globs of text files")
            found += [match for match in matches if match not in found]
        require(bool(found), "data.files", self.files, "names no file", "give e.g. data.files=[book.txt]")
        return [decode_utf8(Path(path).read_bytes(), "data.files", path) for path in found]


@dataclass
class Download(TextData):
    """One text from a URL, fetched once and believed only if its SHA-256 is the one given."""

    url: str = ""
    sha256: str = ""

    def documents(self) -> list[str]:
        require(bool(self.url), "data.url", "", "is empty", "give the text's address")
        cached = cache_dir() / "downloads" / self.sha256
        cached.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{cached}.lock"):
            if not cached.exists():
                write_atomically(cached, self._fetch())
        return [decode_utf8(cached.read_bytes(), "data.url", self.url)]

    def _fetch(self) -> bytes:
        try:
            with urllib.request.urlopen(self.url, timeout=30) as response:
                content: bytes = response.read()
        except (OSError, ValueError) as error:
            raise UserError(
                "data.url",
                self.url,
                f"cannot be fetched ({error})",
                "connect once, or give data.url=file:///PATH of a copy",
            ) from error
        found = hashlib.sha256(content).hexdigest()
        require(
            found == self.sha256,
            "data.sha256",
            self.sha256,
            f"but {self.url} has {found}",
            "mend the address, or the hash if you trust this text",
        )
        return content


def cache_dir() -> Path:
    """Where text and tokens are kept between runs: $GPTLAB_CACHE, else the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GPTLAB_CACHE") or Path(home) / "gptlab")


def decode_utf8(content: bytes, key: str, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            key, name, f"is not UTF-8 (byte {error.start})", "convert it, e.g. with iconv -t UTF-8"
        ) from error


def _language_reference() -> list[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UserError(
            "data", "bundled", "this Python carries no pydoc_data", "use data=text data.files=[...]"
        ) from error
    return [text for _, text in sorted(topics.items())]


def _docstrings(stdlib: Path) -> Iterator[str]:
    """One document a module: all its docstrings, in the order of the source."""
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
    for path in sorted(stdlib.rglob("*.py")):
        if left_out.intersection(path.relative_to(stdlib).parts):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in somebody else's strings
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):
                continue  # lib2to3 keeps files of other Pythons
        if text := "\n\n".join(_docstrings_of(tree)):
            yield text


def _docstrings_of(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from filter(None, [ast.get_docstring(node)])
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):  # definitions stand among statements, never inside expressions
            yield from _docstrings_of(child)
