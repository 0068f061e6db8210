"""Records as the examples that a task learns from: read, divided, kept in a run directory, and dealt out as batches."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset

from gptlab.checksums import warn_unless_listed
from gptlab.data.batches.datamodule import KnownData, WatchedLoader, loader_of
from gptlab.data.batches.order import Ints, Order, OrderByLength
from gptlab.data.batches.pairs import reference_state, take_reference
from gptlab.data.batches.sampler import EvalBatches, MicroBatch, TrainBatches
from gptlab.data.config import ExampleData, Record
from gptlab.errors import UserError, reason, require
from gptlab.files import read_bounded, read_object, write_atomically
from gptlab.registry import name_of
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.base import TokenizerConfig

RECORDS, MANIFEST = "examples.jsonl", "manifest.json"  # in held_out/ of a run
MOST_BYTES, MOST_MANIFEST = 1 << 30, 1 << 20  # that are read of them


class Examples(Protocol):
    """Examples of a task, which are asked for by their numbers; one past the end is an example without targets."""

    lengths: Ints  # the number of ids that are read of each, without padding, (N,)
    targets: Ints  # the number of targets of each, (N,)
    # perhaps longest_row: the number of ids of the longest row, where an example has several rows

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Return a batch of the task, padded as it needs it, for training or held out."""

    def describe(self) -> str:
        """Say what became of the records that is worth knowing, such as how many were cut; empty where nothing is."""


@dataclass(frozen=True)
class ExampleSet:
    """Hold records for training and held-out ones, and the tokenizer that they are read with; say what went in."""

    tokenizer: Tokenizer
    manifest: dict[str, Any]
    train: list[Record]
    val: list[Record]

    def save_held_out(self, folder: Path) -> None:
        """Write the held-out records, one JSON object a line, and manifest.json (`held_out_records` reads them)."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / RECORDS, _lines(self.val))
        write_atomically(folder / MANIFEST, json.dumps(self.manifest, indent=2).encode())


def read_examples(config: ExampleData, tokenizer: TokenizerConfig) -> ExampleSet:
    """Return the records of a data option, divided, with the tokenizer, which is trained on those of training if it can
    be. Raises UserError where there are none, or one is no record."""
    apart = config.held_out()
    every = _checked(config.examples(), config)
    require(bool(every), "data", name_of(config), "has no example", "give some")
    train, val = (every, _checked(apart, config)) if apart is not None else divide(every, config.val_fraction)
    require(bool(val), "data.val_fraction", config.val_fraction, "holds out no example", "raise it, or give more")
    sides = {"train": train, "val": val}
    hashes = {side: hashlib.sha256(_lines(records)).hexdigest() for side, records in sides.items()}
    parts = {side: {"examples": len(records), "sha256": hashes[side]} for side, records in sides.items()}
    content = hashlib.sha256("\n".join(hashes.values()).encode()).hexdigest()
    manifest = {"sha256": content, "kind": type(config).__name__, **parts}
    return ExampleSet(tokenizer.build(text for each in train for text in _texts(each)), manifest, train, val)


def divide(records: Sequence[Record], val_fraction: float) -> tuple[list[Record], list[Record]]:
    """Return which records are trained on and which are held out: by the records alone, the same for every run.

    Those with the lowest hashes are held out, as many as fit into `val_fraction` and at least one; equal records are on
    the same side.
    """
    digests = [hashlib.sha256(_line(record)).digest() for record in records]
    room, held_out = round(val_fraction * len(records)), set[bytes]()
    for digest, count in sorted(Counter(digests).items()):
        if count <= room or not held_out:
            room -= count
            held_out.add(digest)
    sides = [digest in held_out for digest in digests]
    train = [record for record, held in zip(records, sides, strict=True) if not held]
    return train, [record for record, held in zip(records, sides, strict=True) if held]


def held_out_records(folder: Path) -> tuple[list[Record], dict[str, Any]]:
    """Return what `ExampleSet.save_held_out` wrote: the records and the manifest.

    Raises UserError where a file is missing, damaged or not what was written.
    """
    path, todo = folder / RECORDS, "take it from another copy of the run"
    manifest = read_object("data", folder / MANIFEST, MOST_MANIFEST, todo)
    warn_unless_listed("data", folder / MANIFEST)
    try:
        content, expected = read_bounded(path, MOST_BYTES), manifest["val"]["sha256"]
        records = [json.loads(line) for line in content.decode().splitlines()]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError("data", path, f"cannot be read ({reason(error)})", todo) from error
    whole = hashlib.sha256(content).hexdigest() == expected and all(isinstance(each, dict) for each in records)
    require(whole, "data", path, "is not what the run has written", todo)
    return records, manifest


def protocol(block_size: int) -> dict[str, Any]:
    """Return in words how held-out examples are read: scores compare only where it is the same."""
    return {"block_size": block_size, "stride": None, "windows": "one example a row", "documents_read_alone": True}


class ExampleDataModule(KnownData):
    """Give the batches of one run: `steps` optimizer steps, each of as many examples as `batch_sizes` has, and the
    held-out ones.

    The whole run is one pass of the training loader, through as many epochs as it takes. Set `steps` and
    `micro_batch_size` before asking for a loader.
    """

    def __init__(
        self, train: Examples, val: Examples, config: ExampleData, block_size: int, seed: int, data_hash: str
    ) -> None:
        super().__init__(data_hash, config)
        self.train, self.val, self.config, self.block_size = train, val, config, block_size
        self.steps, self.micro_batch_size = 0, 1
        self.separator: int | None = None
        self.loader: WatchedLoader | None = None
        self.val_parts: dict[str, Any] = {}  # of gptlab.tasks.inputs.Part: scored by themselves
        self.reference: str | None = None  # the SHA-256 of the weights that the examples' log-probabilities are of
        for name, examples in {"training": train, "held-out": val}.items():
            require(len(examples) > 0, "data", name_of(config), f"has no {name} example", "give more")
            longest, why = getattr(examples, "longest_row", examples.lengths.max()), "cut it, or raise model.block_size"
            fits = longest <= block_size
            require(fits, "model.block_size", block_size, f"a {name} example has {longest:,} ids", why)
            targets = int(examples.targets.sum())
            require(targets > 0, "data", name_of(config), f"no {name} example has a target", "give some that do")
        period = config.repeat_steps and config.repeat_steps * config.batch_size
        by_length = OrderByLength(train.lengths, config.batch_size, seed) if config.by_length else None
        self.order = by_length or Order([len(train)], [1.0], seed, period)

    @property
    def val_bytes(self) -> dict[str, int | None]:
        """The length of the text that the targets of each part spell."""
        return {name: part.bytes for name, part in self.val_parts.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the hash of the data, and what a reference model makes of them, for a checkpoint."""
        state: dict[str, Any] = super().state_dict()
        return state if self.reference is None else {**state, "reference": reference_state(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the reference of a checkpoint, which knows its own data alone. Raises UserError."""
        super().load_state_dict(state_dict)
        if "reference" in state_dict:
            same = state_dict["data_hash"] == self.data_hash
            why, todo = "the run's reference knows its own pairs alone", "begin a new run: init_from=RUN"
            require(same, "data.other_data_ok", "true", why, todo)
            take_reference(self, state_dict["reference"])

    @property
    def tokens_per_epoch(self) -> int:
        """The number of ids of all training examples, without padding."""
        return int(self.train.lengths.sum())

    @property
    def tokens_per_step(self) -> float:
        """The number of ids of `config.batch_size` examples, on average; an integer where it is one."""
        found = Fraction(self.tokens_per_epoch * self.config.batch_size, len(self.train))
        return int(found) if found.denominator == 1 else float(found)

    @property
    def seconds_waited(self) -> float:
        """The time that training has waited for batches so far."""
        return self.loader.waited if self.loader else 0.0

    def examples_of(self, step: int) -> list[int]:
        """Return the numbers of the examples of step 1, 2, ..., over all ranks."""
        places = range(self.batch_sizes.start(step - 1), self.batch_sizes.start(step))
        return [number for _, number in self.order.at(places)]

    def largest_batch(self, size: int) -> Any:
        """Return the longest examples as a batch."""
        longest = np.argsort(-self.train.lengths, kind="stable")[:size]
        return self.train.__getitems__(np.resize(longest, size).tolist())

    def describe(self) -> str:
        """Return how many examples an epoch has, and how long they are."""
        lengths, notes = self.train.lengths, [self.train.describe()]
        notes += [f"held out: {said}" for said in [self.val.describe()] if said]
        found = (
            f"{len(lengths):,} examples an epoch, of {lengths.mean():,.1f} tokens on average, at most {lengths.max():,}"
        )
        return "; ".join([found, *filter(None, notes)])

    def protocol(self) -> dict[str, Any]:
        """Return in words how the held-out examples are read."""
        return protocol(self.block_size)

    def train_dataloader(self) -> WatchedLoader:
        trainer: Any = self.trainer
        ranks = trainer.global_rank, trainer.world_size, trainer.global_step
        sizes = self.batch_sizes, self.micro_batch_size
        dealt = _Dealt(self.train)
        batches = TrainBatches(self.order, self.steps, *sizes, *ranks, counts=dealt)
        self.loader = loader_of(dealt, batches, self.config.num_workers, trainer)
        return self.loader

    def val_dataloader(self) -> Any:
        """Return the held-out batches; several loaders where other parts are scored by themselves, too."""
        loaders = [self._held_out(each) for each in (self.val, *(part.examples for part in self.val_parts.values()))]
        return loaders if len(loaders) > 1 else loaders[0]

    def _held_out(self, examples: Any) -> WatchedLoader:
        trainer: Any = self.trainer
        batches = self.batches_of(examples, trainer.global_rank, trainer.world_size)
        return loader_of(examples, batches, self.config.num_workers, trainer)

    def batches_of(self, examples: Any, rank: int, world_size: int) -> EvalBatches:
        """Return the numbers of examples in batches, each on one rank, equally many on every rank."""
        size = min(self.micro_batch_size, -(-len(examples) // world_size))
        return EvalBatches(len(examples), size, rank, world_size)


class _Dealt(Dataset[Any]):
    """Give examples by micro-batches, each with the size of its whole step; and count them for the sampler."""

    full_size = None

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __getitems__(self, micro_batch: MicroBatch) -> Any:
        batch = self.examples.__getitems__([number for _, number in micro_batch.windows])
        return batch._replace(step_targets=micro_batch.step_targets, step_tokens=micro_batch.step_tokens)

    def targets(self, source: Ints, window: Ints) -> Ints:
        return self.examples.targets[window]

    def lengths(self, source: Ints, window: Ints) -> Ints:
        return self.examples.lengths[window]


def _checked(records: Iterable[Any], config: ExampleData) -> list[Record]:
    """Return the records as a list; raises UserError where one cannot be kept in a run directory."""
    found: list[Record] = []
    for number, record in enumerate(records, 1):
        try:
            if not isinstance(record, dict) or json.loads(_line(record)) != record:
                raise ValueError("it is no object of JSON")
        except (TypeError, ValueError, RecursionError) as error:
            why = f"example {number} cannot be kept ({reason(error)})"
            todo = "give dicts of texts, numbers and lists"
            raise UserError("data", name_of(config), why, todo) from error
        found.append(record)
    return found


def _line(record: Record) -> bytes:
    return json.dumps(record, sort_keys=True, allow_nan=False).encode()


def _lines(records: Iterable[Record]) -> bytes:
    return b"".join(_line(record) + b"\n" for record in records)


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in a record, at any depth, but not the names of its fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
