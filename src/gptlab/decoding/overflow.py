"""Name what may become of a text that outgrows the context; importable without torch."""

from dataclasses import dataclass

from gptlab.errors import require

OVERFLOWS = ("crop", "ring", "refuse")


@dataclass(frozen=True)
class Ring:
    """The part of a text past the context that stays: its first `sinks` tokens, and its last ones."""

    size: int  # tokens in all
    sinks: int = 0

    def __post_init__(self) -> None:
        why = f"leaves no place for other tokens in block_size={self.size}"
        require(self.sinks < self.size, "sinks", self.sinks, why, "4 is usual")

    @property
    def options(self) -> dict[str, int]:
        """The options of a model's caches that keep this; a model without sinks is not asked for them."""
        return {"ring": self.size, **({"sinks": self.sinks} if self.sinks else {})}


def require_sinks(sinks: int, overflow: str) -> None:
    """Refuse a number of attention sinks that has no meaning."""
    require(sinks >= 0, "sinks", sinks, "is negative", "0 turns them off, 4 is usual")
    why = f"have no effect with overflow={overflow}"
    require(sinks == 0 or overflow == "ring", "sinks", sinks, why, "add overflow=ring, or leave them out")
