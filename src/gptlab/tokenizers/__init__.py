"""Turn text into token ids and back: one file for each kind of tokenizer, with its config dataclass and its class."""

from gptlab.tokenizers.base import EOT, Declared, Ids, Tokenizer, TokenizerConfig, fingerprint, load_tokenizer

__all__ = ["EOT", "Declared", "Ids", "Tokenizer", "TokenizerConfig", "fingerprint", "load_tokenizer"]
