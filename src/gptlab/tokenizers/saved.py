"""Load the tokenizer of an existing run."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gptlab.errors import require
from gptlab.registry import option
from gptlab.tokenizers.base import Tokenizer, fingerprint, load_tokenizer


@option("tokenizer", "saved")
@dataclass
class Saved:
    """The tokenizer of an existing run; `sha256` is of its files."""

    folder: str = ""  # RUN/tokenizer, or another folder of one
    sha256: str = ""  # of its files; filled in

    def __post_init__(self) -> None:
        if self.folder:
            self.sha256 = fingerprint(Path(self.folder))

    def build(self, texts: Iterable[str], size: int = 0) -> Tokenizer:
        """Return the tokenizer of the folder."""
        require(bool(self.folder), "tokenizer.folder", "''", "no folder is given", "give the `tokenizer` of a run")
        return load_tokenizer(Path(self.folder))
