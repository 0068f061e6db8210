"""A verb of the command line: its config beside its function."""

from dataclasses import dataclass
from typing import Any

import gptlab
from gptlab.errors import require


@dataclass
class LongestWordConfig:
    """Find the longest word of a text."""

    text: str = ""
    json: bool = False

    def __post_init__(self) -> None:
        require(bool(self.text.split()), "text", self.text, "has no word", 'give some, e.g. text="a few words"')


@gptlab.command
def longest_word(config: LongestWordConfig) -> dict[str, Any]:
    """Find the longest word of a text."""
    word = max(config.text.split(), key=len)
    print(word)
    return {"word": word, "length": len(word)}
