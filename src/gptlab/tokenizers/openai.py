"""Load the encodings that OpenAI has published."""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass

from tiktoken_ext import openai_public

from gptlab.errors import UserError, require
from gptlab.registry import option
from gptlab.tokenizers.base import EOT, Tokenizer
from gptlab.tokenizers.bpe import BytePairTokenizer

ENCODINGS = {"gpt2": "r50k_base", "cl100k": "cl100k_base", "o200k": "o200k_base"}


@option("tokenizer", "openai")
@dataclass
class OpenAI:
    """One of OpenAI's published encodings, as `tiktoken` downloads, checks and caches them: GPT-2's and later ones."""

    name: str = "gpt2"  # gpt2 | cl100k | o200k

    def __post_init__(self) -> None:
        require(self.name in ENCODINGS, "name", self.name, "no such encoding", f"choose one of {', '.join(ENCODINGS)}")

    def build(self, texts: Iterable[str], size: int = 0) -> Tokenizer:
        """Return the published encoding; raises UserError if it is not on this machine and cannot be downloaded."""
        try:
            published = getattr(openai_public, ENCODINGS[self.name])()
        except (OSError, ValueError) as error:
            raise UserError(
                "tokenizer",
                self.name,
                f"its vocabulary cannot be fetched ({type(error).__name__})",
                "connect once, or set TIKTOKEN_CACHE_DIR to a folder that has it, or use tokenizer=bpe",
            ) from error
        special = published["special_tokens"]
        return BytePairTokenizer(
            published["mergeable_ranks"], published["pat_str"], special[EOT], max(special.values()) + 1
        )


def gpt2_is_here() -> bool:
    """Return whether GPT-2's vocabulary is in tiktoken's cache, so that nothing needs to be downloaded."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    folder = folder or os.path.join(tempfile.gettempdir(), "data-gym-cache")
    url = "https://openaipublic.blob.core.windows.net/encodings/r50k_base.tiktoken"
    return os.path.exists(os.path.join(folder, hashlib.sha1(url.encode()).hexdigest()))
