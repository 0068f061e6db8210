"""Say how much of a text is not spelled by its ids: characters that a vocabulary lacks or a normalizer changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gptlab.metrics import counted


@dataclass(frozen=True)
class Unspelled:
    """The characters of a text that its ids do not spell, and all of them; false where there are none.

    `characters` is None for data prepared by an earlier version, which counted the former only.
    """

    count: int
    characters: int | None

    def __bool__(self) -> bool:
        return self.count > 0

    def __add__(self, other: Unspelled) -> Unspelled:
        known = self.characters is not None and other.characters is not None
        both = (self.characters or 0) + (other.characters or 0)
        return Unspelled(self.count + other.count, both if known else None)

    def __str__(self) -> str:
        return counted(self.count, self.characters, "characters")

    def record(self) -> dict[str, Any]:
        """Return the figures as JSON output has them; the fraction is None where it is not known."""
        fraction = self.count / self.characters if self.characters else None
        return {"unspelled": self.count, "characters": self.characters, "unspelled_fraction": fraction}
