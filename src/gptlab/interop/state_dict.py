"""Read checkpoints that are one file of torch.save, whichever program has written them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.errors import UserError, reason, require
from gptlab.interop.weight_files import StateDict
from gptlab.model.config import GPTConfig
from gptlab.runs.checkpoint_file import read_plain, require_stored
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.openai import OpenAI

GPT2_SIZES = (50257, 50304)  # GPT-2's ids, and with those that fill them up to a multiple of 64
INSIDE = ("model", "model_state_dict")  # where a state dict is, if there is more beside it


@dataclass(frozen=True)
class Saved:
    """The content of a file: a state dict, or a dict with one inside."""

    path: Path
    content: dict[Any, Any]

    @property
    def state(self) -> Any:
        """The state dict."""
        inside = (self.content[key] for key in INSIDE if isinstance(self.content.get(key), dict))
        return next(inside, self.content)

    def names(self, *parts: str) -> bool:
        """Tell whether the name of any tensor has one of some parts."""
        return any(part in f".{name}" for name in self.state for part in parts)


@dataclass(frozen=True)
class Checkpoint:
    """A model of another program, as it is here: its weights are not read yet."""

    config: GPTConfig
    weights: StateDict
    tokenizer: Tokenizer
    said: list[str]  # lines that are to be said of it


def read_saved(path: Path) -> Saved:
    """Return what torch.save has written into a file; raises UserError where it is not data alone: no code is run."""
    try:
        saved = Saved(path, read_plain(path))
        require_stored({str(name): each for name, each in saved.state.items() if hasattr(each, "untyped_storage")})
    except Exception as error:  # whatever a damaged file makes of torch.load
        why = f"is damaged, or holds more than tensors and plain values ({type(error).__name__}: {reason(error)})"
        todo = "no code of a pickle is run; give a file that torch.save has written of a state dict"
        raise UserError("checkpoint", path, why, todo) from error
    return saved


def whole(value: Any, key: str) -> int:
    """Return a whole number; raises UserError for anything else."""
    require(type(value) is int, key, value, "is not a whole number", "take a whole checkpoint")
    return int(value)


def flag(value: Any, key: str) -> bool:
    """Return a truth value; raises UserError for anything else."""
    require(type(value) is bool, key, value, "is neither true nor false", "take a whole checkpoint")
    return bool(value)


def gpt2_tokenizer(path: Path, vocab_size: int, todo: str) -> Tokenizer:
    """Return GPT-2's tokenizer; raises UserError where the size of the vocabulary is not GPT-2's."""
    sizes = " or ".join(map(str, GPT2_SIZES))
    require(vocab_size in GPT2_SIZES, "checkpoint", path, f"has {vocab_size} ids, and not GPT-2's {sizes}", todo)
    return OpenAI("gpt2").build([])
