"""gptlab: pretrain, sample and judge GPT-style language models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gptlab.model.gpt import GPT
    from gptlab.tokenizers import Tokenizer

__version__ = "0.1.0"


def load(run: str | Path = "latest") -> tuple[GPT, Tokenizer]:
    """The model of a run (a directory, a checkpoint in it, or `latest`) in eval mode, and its tokenizer."""
    from gptlab.runs.run_dir import RunDir

    return RunDir.find(str(run)).load()
