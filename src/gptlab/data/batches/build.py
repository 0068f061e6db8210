"""Turn a data option of any kind into the data module that training takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.data.batches.datamodule import DataModule
from gptlab.data.batches.examples import ExampleDataModule, ExampleSet, read_examples
from gptlab.data.batches.foreign import ForeignDataModule
from gptlab.data.config import BatchConfig, ExampleData, ForeignData
from gptlab.data.text.sources import DataConfig
from gptlab.data.tokens.prepare import Corpus, prepare
from gptlab.data.tokens.surveys import Watch
from gptlab.errors import require
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.base import TokenizerConfig


@dataclass(frozen=True)
class Data:
    """Hold what a run is trained on, and the task as it is with these data."""

    module: DataModule
    tokenizer: Tokenizer
    task: Any  # a gptlab.tasks.base.Task
    source: Corpus | ExampleSet | None  # None where a user's own data module gives batches

    @property
    def corpus(self) -> Corpus | None:
        """The text, where it is text that is learned from."""
        return self.source if isinstance(self.source, Corpus) else None

    def save_held_out(self, folder: Path) -> None:
        """Write what is held out into a folder, if it is known."""
        if self.source is not None:
            self.source.save_held_out(folder)


def build_data(
    config: BatchConfig, tokenizer: TokenizerConfig, block_size: int, seed: int, task: Any, watch: Watch | None = None
) -> Data:
    """Return the data module of a run, with the tokenizer whose ids it gives, and the task with what it takes of them.

    Text is prepared first, or found in the cache, and the task makes its batches, as it does those of examples; a
    user's own data module is built by its config. Raises UserError where the data are not what they should be.
    """
    if isinstance(config, ForeignData):
        built = tokenizer.build(config.texts())
        theirs = config.build(built, block_size, seed)
        return Data(ForeignDataModule(theirs, config, block_size, seed, built.n_vocab), built, task, None)
    if isinstance(config, ExampleData):
        found = read_examples(config, tokenizer)
        task = task.fitted(found.train)
        train, val = (
            task.examples(records, found.tokenizer, block_size, training)
            for records, training in ((found.train, True), (found.val, False))
        )
        module = ExampleDataModule(train, val, config, block_size, seed, found.manifest["sha256"])
        return Data(module, found.tokenizer, task, found)
    why, todo = "is neither text, nor a data module, nor examples", "subclass TextData, ForeignData or ExampleData"
    require(isinstance(config, DataConfig), "data", type(config).__name__, why, todo)
    corpus = prepare(config, tokenizer, watch)
    if hasattr(task, "fitted_to"):
        task = task.fitted_to(corpus, block_size)
    return Data(task.data_module(corpus, config, block_size, seed), corpus.tokenizer, task, corpus)
