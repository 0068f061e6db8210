"""Turn a data option of any kind into the data module that training takes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gptlab.data.batches.datamodule import DataModule
from gptlab.data.batches.foreign import ForeignDataModule
from gptlab.data.config import BatchConfig, ForeignData
from gptlab.data.text.sources import DataConfig
from gptlab.data.tokens.prepare import Corpus, prepare
from gptlab.data.tokens.surveys import Watch
from gptlab.errors import require
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.base import TokenizerConfig


@dataclass(frozen=True)
class Data:
    """The data of a run: a data module, its tokenizer, and what is known of the text."""

    module: DataModule
    tokenizer: Tokenizer
    corpus: Corpus | None  # None where a user's own data module gives batches: there is no text to count bytes of

    def save_held_out(self, folder: Path) -> None:
        """Write the held-out text into a folder, if it is known."""
        if self.corpus is not None:
            self.corpus.save_held_out(folder)


def build_data(
    config: BatchConfig,
    tokenizer: TokenizerConfig,
    block_size: int,
    seed: int,
    text_module: Callable[[Corpus, DataConfig, int, int], DataModule],
    watch: Watch | None = None,
) -> Data:
    """Return the data module of a run, with the tokenizer of its ids.

    Text is prepared first, or found in the cache, and the task's `text_module` makes its batches; a user's own data
    module is built by its config. Raises UserError if the data are unusable.
    """
    if isinstance(config, ForeignData):
        built = tokenizer.build(config.texts())
        theirs = config.build(built, block_size, seed)
        return Data(ForeignDataModule(theirs, config, block_size, seed, built.n_vocab), built, None)
    why, todo = "is neither text nor a data module", "subclass gptlab.data.config.ForeignData"
    require(isinstance(config, DataConfig), "data", type(config).__name__, why, todo)
    assert isinstance(config, DataConfig)
    corpus = prepare(config, tokenizer, watch)
    return Data(text_module(corpus, config, block_size, seed), corpus.tokenizer, corpus)
