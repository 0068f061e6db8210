"""Define the sources of text: each option is a dataclass that yields documents, in chunks."""

import dataclasses
import glob
import itertools
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from gptlab.data.config import TEXT, BatchConfig, require_split
from gptlab.data.text import bundled, download, hub, stories
from gptlab.data.text.readers import FORMATS, Chunk, Reading, read
from gptlab.data.text.saved_datasets import is_saved, saved_files
from gptlab.data.text.spans import Span, spans
from gptlab.errors import require, require_choice
from gptlab.registry import option

MOST_STORIES = 10**8  # 52 GB
PACKINGS = ("stream", "documents")
DTYPES = ("uint8", "uint16", "uint32", "uint64", "int16", "int32", "int64")


@dataclass
class DataConfig(BatchConfig):
    """The settings by which tokens become batches, common to all options that give text or tokens."""

    gives: ClassVar[str] = TEXT

    val_fraction: float = 0.1  # share of the text that is held out: documents, or an end where they are too few
    packing: str = "stream"  # windows cut a stream of all documents | documents: they begin where documents begin
    stride: int | None = None  # tokens from one window of the stream to the next; null: block_size, so none overlap
    repack: bool = False  # windows are cut from the documents in a new order each epoch
    mask_documents: bool = False  # no position attends to another document of its window
    replay: float = 0.0  # share of the text of the run that init_from names, which is mixed in
    repeat_steps: int | None = None  # repeat the batches of this many first steps: can the model overfit them?
    num_workers: int = 0  # processes that prepare batches; 0: the training process itself

    def __post_init__(self) -> None:
        super().__post_init__()
        require_split(self.val_fraction, self.repeat_steps, self.num_workers)
        require_choice("packing", self.packing, PACKINGS)
        require(self.stride is None or self.stride >= 1, "stride", self.stride, "must be at least 1", "leave it out")
        require(0 <= self.replay < 1, "replay", self.replay, "is not in [0, 1)", "0.1 is usual")
        packed = self.stride is not None and self.packing != "stream"
        require(not packed, "stride", self.stride, "documents are packed without overlap", "leave it out")


@dataclass
class TextData(DataConfig, ABC):
    """A source of text of one kind, as documents."""

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """Yield the training documents, or all documents if none are held out separately; in a fixed order."""

    def held_out(self) -> Iterator[Chunk] | None:
        """Return the documents of a separate held-out part; None if it is taken from `chunks`."""
        return None

    @abstractmethod
    def version(self) -> Any:
        """Return a value, cheap to compute, that changes whenever the text may have changed."""

    def file_bytes(self, held_out: bool = False) -> int | None:
        """Return the bytes of the files that are read, where that is known before; those of the held-out part."""
        return None

    def spans(self, held_out: bool = False) -> Iterator[Span] | None:
        """Return the same documents, or the held-out part, in spans that can be read independently; None: in none."""
        return None

    def notes(self) -> list[str]:
        """Return what should be said of the text before it is used, in sentences."""
        return []


@dataclass
class Readable(TextData):
    """Text in files: plain, JSON, CSV, TSV, Parquet, Arrow, also `.gz` or `.zst`; a document a file or record."""

    column: str = "text"  # the field of a record that holds its text
    separator: str | None = None  # text between the documents of one plain file, e.g. <|endoftext|>
    errors: str = "strict"  # strict | replace: bytes that are not UTF-8 become U+FFFD
    format: str = "auto"  # auto (by a file's name) | text | json | csv | tsv | parquet | arrow

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("errors", self.errors, ("strict", "replace"))
        require(self.separator != "", "separator", "", "is empty", "leave it out")
        require_choice("format", self.format, ("auto", "text", *FORMATS))

    @property
    def reading(self) -> Reading:
        return Reading(self.column, self.separator, self.errors, self.format)


@option("data", "bundled")
@dataclass
class Bundled(TextData):
    """The English that every Python includes: its language reference and its library's docstrings, about 2 MB.

    It differs between Python versions, so runs record its hash. Reading it takes seconds and is cached.
    """

    def chunks(self) -> Iterator[Chunk]:
        return (Chunk(document, begins=True) for document in bundled.english())

    def version(self) -> Any:
        return bundled.version()


@option("data", "stories")
@dataclass
class Stories(TextData):
    """Short stories in simple words, told here by a grammar: text like TinyStories, about 500 bytes each."""

    stories: int = 5000  # how many are told, 2.6 MB
    story_seed: int = 0  # of the stories: another one tells others

    def __post_init__(self) -> None:
        super().__post_init__()
        known = 2 <= self.stories <= MOST_STORIES
        require(known, "stories", self.stories, f"is not in 2 to {MOST_STORIES}", "5000 are 2.6 MB")

    def chunks(self) -> Iterator[Chunk]:
        return (Chunk(story, begins=True) for story in stories.told(self.stories, self.story_seed))

    def version(self) -> Any:
        return [stories.VERSION, self.stories, self.story_seed]


@option("data", "text")
@dataclass
class Files(Readable):
    """Your own text, by paths and globs from the current folder: data.files=[book.txt,more/*.txt]."""

    files: list[str] = field(default_factory=list)  # paths and globs, e.g. [book.txt] or [texts/*.txt]
    val_files: list[str] = field(default_factory=list)  # held-out files; none: a part of `files`

    def __post_init__(self) -> None:
        super().__post_init__()
        self.files, self.val_files = listed(self.files), listed(self.val_files)

    def chunks(self) -> Iterator[Chunk]:
        paths, _ = self._training_files()
        require(bool(paths), "data.files", self.files, "all of them are in data.val_files too", "name others")
        for path in paths:
            yield from read(path, self.reading, "data.files")

    def file_bytes(self, held_out: bool = False) -> int | None:
        """Return the sizes of the files on disk, compressed or not."""
        return sum(path.stat().st_size for path in self._files(held_out))

    def spans(self, held_out: bool = False) -> Iterator[Span] | None:
        """Return the lines of JSON, where all files have such."""
        return spans(self._files(held_out), self.reading, "data.val_files" if held_out else "data.files")

    def _files(self, held_out: bool) -> list[Path]:
        return matching(self.val_files, "data.val_files") if held_out else self._training_files()[0]

    def notes(self) -> list[str]:
        """Return which files are not trained on although they are named."""
        both = [str(path) for path in self._training_files()[1]]
        named = ", ".join(both[:5]) + (", ..." if len(both) > 5 else "")
        return [f"{len(both):,} of data.files are in data.val_files too and not trained on: {named}"] if both else []

    def _training_files(self) -> tuple[list[Path], list[Path]]:
        """Return the files that are trained on, and those that are held out as well, by whatever name."""
        held = {_same(path) for path in matching(self.val_files, "data.val_files")} if self.val_files else set()
        paths = matching(self.files, "data.files")
        return [p for p in paths if _same(p) not in held], [p for p in paths if _same(p) in held]

    def held_out(self) -> Iterator[Chunk] | None:
        paths = matching(self.val_files, "data.val_files") if self.val_files else []
        return (chunk for path in paths for chunk in read(path, self.reading, "data.val_files")) if paths else None

    def version(self) -> Any:
        """Return names, sizes and times of change, like `make`."""
        paths = matching(self.files, "data.files")
        paths += matching(self.val_files, "data.val_files") if self.val_files else []
        return [(str(path.absolute()), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in paths]


@option("data", "download")
@dataclass
class Download(Readable):
    """One file from a URL, downloaded once and accepted only if its SHA-256 is the given one."""

    url: str = ""  # the address of the file
    sha256: str = ""  # of the file, as sha256sum prints it

    def chunks(self) -> Iterator[Chunk]:
        require(bool(self.url), "data.url", "", "is empty", "give the text's address")
        known = re.fullmatch(r"[0-9a-f]{64}", self.sha256) is not None  # it names a file of the cache
        require(
            known,
            "data.sha256",
            self.sha256,
            "is not a SHA-256",
            "give the 64 digits, in lower case, that sha256sum prints",
        )
        name = self.url.partition("?")[0].rpartition("/")[2]
        return read(download.fetch(self.url, self.sha256), self.reading, "data.url", name)

    def version(self) -> Any:
        return self.sha256


@option("data", "hub")
@dataclass
class Hub(TextData):
    """A data set of the Hugging Face hub: data.path=OWNER/NAME data.split=train data.column=text.

    It is streamed once into the cache; `path` may be a local folder of files.
    """

    path: str = ""  # OWNER/NAME
    name: str | None = None  # the configuration, if there are several
    split: str = "train"  # the split to train on
    val_split: str | None = None  # the held-out split; null: a part of `split`
    revision: str | None = None  # a commit, so that the text never changes
    max_documents: int | None = None  # only the first documents of `split`
    joined: bool = False  # the records are lines of one text
    column: str = "text"  # the field of a record that holds its text

    def __post_init__(self) -> None:
        super().__post_init__()
        most = self.max_documents
        require(most is None or most >= 1, "max_documents", most, "must be at least 1", "leave it out")

    def chunks(self) -> Iterator[Chunk]:
        return self._split(self.split, self.max_documents)

    def held_out(self) -> Iterator[Chunk] | None:
        return self._split(self.val_split, None) if self.val_split else None

    def _split(self, split: str, most: int | None) -> Iterator[Chunk]:
        if self.path and is_saved(Path(self.path)):  # nothing to stream: its rows are read where they lie
            files = saved_files(Path(self.path), "data.path", split)
        else:
            files = hub.fetch(self.path, self.name, split, self.revision, self.column, most)
        reading = Reading(self.column, None, "replace")
        records = (chunk for file in files for chunk in read(file, reading, "data.path"))
        for number, chunk in enumerate(itertools.islice(records, most)):
            yield Chunk(chunk.text, begins=number == 0 or not self.joined)

    def version(self) -> Any:
        return hub.version(self.path)


@option("data", "mixture")
@dataclass
class Mixture(DataConfig):
    """A weighted mixture of sources: +data@data.parts.a=verdict +data@data.parts.b=text +data.weights.b=3.

    Each source goes through its own epochs. Of a part, only the fields that choose its text, and its val_fraction, have
    an effect.
    """

    parts: dict[str, Any] = field(default_factory=dict)  # +data@data.parts.NAME=OPTION
    weights: dict[str, float] = field(default_factory=dict)  # +data.weights.NAME=2; a part that is not named weighs 1
    by_part: bool = False  # validations also score what each part holds out: val/NAME/loss

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.parts), "parts", "{}", "is empty", "add some, e.g. +data@data.parts.a=verdict")
        for name, weight in self.weights.items():
            todo = f"choose of {', '.join(self.parts)}"
            require(name in self.parts, f"weights.{name}", weight, "no such part", todo)
            proper = 0 < weight < float("inf")
            require(proper, f"weights.{name}", weight, "is not a number above 0", "leave the part out instead")

    def weight(self, name: str) -> float:
        return self.weights.get(name, 1.0)


@option("data", "tokens")
@dataclass
class TokenFiles(DataConfig):
    """Existing tokens: a folder of `gptlab tokenize`, or files that others wrote.

    data.folder=DIR, or data.train=[train.bin] data.val=[val.bin]: nanoGPT's and llm.c's .bin, .npy, Megatron's .bin
    with its .idx, and Arrow, Parquet or a folder of `save_to_disk` with a column of ids.
    """

    folder: str | None = None  # written by `gptlab tokenize`, with its tokenizer
    train: list[str] = field(default_factory=list)  # paths and globs, in their order
    val: list[str] = field(default_factory=list)  # none: the end of `train` is held out
    dtype: str | None = None  # of files that are nothing but ids; null: uint16, or uint32 for more than 65,536 tokens
    column: str = "input_ids"  # of a table
    joined: bool | None = None  # the rows of a table are pieces of one stream (true), or documents (false)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.train, self.val = listed(self.train), listed(self.val)
        if self.dtype is not None:
            require_choice("dtype", self.dtype, DTYPES)
        own = self.folder is not None and self.dtype is not None
        require(not own, "dtype", self.dtype, "a folder's manifest says it", "leave it out")
        both = self.folder is not None and bool(self.train or self.val)
        require(not both, "folder", self.folder, "and train or val are given", "give one of them")
        require(bool(self.folder or self.train), "train", "[]", "names no file", "give e.g. data.train=[train.bin]")


def _same(path: Path) -> tuple[int, int]:
    """Return what is equal for all names of one file."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def listed(names: list[str] | str) -> list[str]:
    """Return paths as a list, also where there is one that stands for itself."""
    return [names] if isinstance(names, str) else names


def matching(patterns: list[str], key: str) -> list[Path]:
    """Return the files that paths and globs name, each once, in the order of the patterns.

    A folder that `save_to_disk` wrote stands for its Arrow files. Raises UserError.
    """
    paths: dict[str, Path] = {}
    for pattern in patterns:
        name = os.path.expanduser(pattern)
        if os.path.isdir(name):
            why, todo = "is a folder", f"give its files, e.g. {os.path.join(pattern, '*.txt')}"
            require(is_saved(Path(name)), key, pattern, why, todo)
            matches = saved_files(Path(name), key)
        else:
            names = [name] if os.path.isfile(name) else sorted(glob.glob(name, recursive=True))
            matches = [Path(name) for name in names if os.path.isfile(name)]
        require(bool(matches), key, pattern, "no such file", "give paths or globs of files")
        for path in matches:
            paths.setdefault(os.path.abspath(path), path)
    require(bool(paths), key, patterns, "names no file", f"give e.g. {key}=[book.txt]")
    return list(paths.values())


def identity(data: TextData) -> dict[str, Any]:
    """Return the fields of an option that decide its text: all except how it becomes batches."""
    batching = {f.name for f in dataclasses.fields(DataConfig)} - {"val_fraction"}
    values = {f.name: getattr(data, f.name) for f in dataclasses.fields(data) if f.name not in batching}
    return {"kind": type(data).__name__, **values}
