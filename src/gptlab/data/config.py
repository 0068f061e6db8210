"""Define how data of any kind becomes batches, and the config of a user's own data module."""

import dataclasses
import hashlib
import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gptlab.batch_sizes import MOST
from gptlab.errors import require

if TYPE_CHECKING:
    import lightning as L

    from gptlab.tokenizers import Tokenizer

Record = Mapping[str, Any]  # of an example: what JSON can hold

TEXT, ROWS, EXAMPLES = "text", "rows", "examples"  # what a data option can give


@dataclass
class BatchConfig:
    """The settings by which sequences become the batches of a step, common to all options of the group `data`."""

    gives: ClassVar[str] = ""  # TEXT, ROWS or EXAMPLES: a task says which of them it learns from
    batch_size: int = 8  # sequences per optimizer step, over all devices
    micro_batch_size: Any = None  # sequences per forward pass of one device; null: all of its share; auto: what fits
    other_data_ok: bool = False  # continue a run although the data are not those it began with

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", self.batch_size, "must be at least 1", "try 8")
        require(self.batch_size <= MOST, "batch_size", self.batch_size, f"is more than {MOST:,}", "try 8")
        micro = self.micro_batch_size
        known = micro in (None, "auto") or (type(micro) is int and micro >= 1)
        require(known, "micro_batch_size", micro, "is no number from 1 up", "leave it out, or try auto")


@dataclass
class ForeignData(BatchConfig, ABC):
    """Data from a user's own LightningDataModule.

    A subclass is a dataclass, registered as an option of the config group `data`, with a `build`:

        @option("data", "mine")
        @dataclass
        class Mine(ForeignData):
            folder: str = "."

            def build(self, tokenizer, block_size, seed):
                return MyDataModule(self.folder, block_size)

    `ForeignDataModule` says which batches are understood, and how it makes the batches of a run of them.
    """

    gives: ClassVar[str] = ROWS

    @abstractmethod
    def build(self, tokenizer: "Tokenizer", block_size: int, seed: int) -> "L.LightningDataModule":
        """Return the data module, whose ids are the tokenizer's and whose rows have at most block_size of them.

        Its `prepare_data` and `setup("fit")` are called before there is a trainer, and `prepare_data` by each process,
        one after another.
        """

    def texts(self) -> Iterable[str]:
        """Return the text on which the tokenizer is trained, if it is one that is trained."""
        return ()

    def version(self) -> Any:
        """Return something that changes whenever the data may have changed; by default the package's version."""
        try:
            return importlib.metadata.version(type(self).__module__.partition(".")[0])
        except importlib.metadata.PackageNotFoundError:
            return None

    def sha256(self) -> str:
        """Return a hash of the class, its version, and the fields that do not say how rows become batches."""
        batching = {f.name for f in dataclasses.fields(BatchConfig)}
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in batching}
        key = repr((type(self).__module__, type(self).__qualname__, self.version(), values))
        return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass
class ExampleData(BatchConfig, ABC):
    """Give examples for a task that learns from them, such as texts with their labels, or chats.

    A subclass is a dataclass, registered as an option of the config group `data`:

        @option("data", "reviews")
        @dataclass
        class Reviews(ExampleData):
            file: str = "reviews.jsonl"

            def examples(self):
                with open(self.file) as lines:
                    yield from map(json.loads, lines)

    The task says what is in a record, and what becomes of it.
    """

    gives: ClassVar[str] = EXAMPLES

    val_fraction: float = 0.1  # of the examples, held out by their content
    by_length: bool = False  # the examples of a batch have similar lengths: less padding
    repeat_steps: int | None = None  # repeat the batches of the first steps, this many: can it overfit them?
    num_workers: int = 0  # processes that prepare batches; 0: the training process itself
    old_loss: bool = False  # validations also score what the run of init_from holds out: val/old/loss

    def __post_init__(self) -> None:
        super().__post_init__()
        require_split(self.val_fraction, self.repeat_steps, self.num_workers)
        both = self.by_length and self.repeat_steps is not None
        require(not both, "by_length", True, "and repeat_steps are given", "give one of them")

    @abstractmethod
    def examples(self) -> Iterable[Record]:
        """Return the examples that are trained on, or all of them where none are held out apart; in a fixed order."""

    def held_out(self) -> Iterable[Record] | None:
        """Return held-out examples that come apart; None: they are taken from `examples`."""
        return None


def require_split(val_fraction: float, repeat_steps: int | None, num_workers: int) -> None:
    """Refuse settings of held-out parts and loaders that make no sense."""
    require(
        repeat_steps is None or repeat_steps >= 1, "repeat_steps", repeat_steps, "must be at least 1", "leave it out"
    )
    require(0 < val_fraction <= 1, "val_fraction", val_fraction, "is not in (0, 1]", "0.1 is usual")
    require(num_workers >= 0, "num_workers", num_workers, "is negative", "0 loads in the main process")
