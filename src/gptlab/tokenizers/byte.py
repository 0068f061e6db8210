"""Define the tokenizer with one token for each byte of UTF-8."""

from collections.abc import Iterable
from dataclasses import dataclass

from gptlab.registry import option
from gptlab.tokenizers.base import Tokenizer
from gptlab.tokenizers.bpe import BytePairTokenizer


@option("tokenizer", "byte")
@dataclass
class Byte:
    """One token for each byte of UTF-8."""

    def build(self, texts: Iterable[str], size: int = 0) -> Tokenizer:
        """Return the tokenizer, which needs no text."""
        return BytePairTokenizer({bytes([b]): b for b in range(256)}, split=r"[\s\S]")
