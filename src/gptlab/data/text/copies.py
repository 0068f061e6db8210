"""Find training documents that are held out somewhere else, so that held-out text is never trained on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.data.text.splits import DOCUMENT, Survey

WHOLE = np.iinfo(np.int64).max  # characters of a document of which all is trained on
BLOCK = 1 << 20  # documents looked at at once

Numbers = np.ndarray[Any, np.dtype[np.int64]]
Blocks = Iterator[tuple[Numbers, Numbers]]  # digests, and how many of each document's characters are trained on


@dataclass(frozen=True)
class Listed:
    """Hold the list of documents that a survey wrote (`DOCUMENT`), and what the survey found."""

    path: Path
    found: Survey
    all_held_out: bool = False  # a held-out part that comes apart

    def blocks(self) -> Blocks:
        """Yield documents in their order, some at a time."""
        size = self.path.stat().st_size // DOCUMENT.itemsize
        records = np.memmap(self.path, DOCUMENT, "r") if size else np.empty(0, DOCUMENT)
        for start in range(0, size, BLOCK):
            block = records[start : start + BLOCK]
            if self.all_held_out:
                trained = np.zeros(len(block), np.int64)
            elif self.found.cuts:
                trained = np.array(self.found.cuts[start : start + BLOCK], np.int64)
            else:
                trained = np.where(np.isin(block["bucket"], self.found.held_out), 0, WHOLE)
            yield np.asarray(block["digest"]), trained


def left_out(texts: Sequence[Listed], apart: Sequence[Listed]) -> list[list[int]]:
    """Return for each text the numbers of its documents that are not to be trained on.

    They are equal to a document of any text, or of one that is held out apart, of which more is held out. Takes 16
    bytes of memory per held-out document, and a number for each that is left out.
    """
    held = [block for listed in (*texts, *apart) for block in map(_held_out, listed.blocks())]
    digests = np.concatenate([np.empty(0, np.uint64), *(digest for digest, _ in held)])
    trained = np.concatenate([np.empty(0, np.int64), *(length for _, length in held)])
    order = np.lexsort((trained, digests))
    digests, first = np.unique(digests[order], return_index=True)
    least = trained[order][first]
    return [_copies(listed, digests, least) for listed in texts]


def _held_out(block: tuple[Numbers, Numbers]) -> tuple[Numbers, Numbers]:
    digests, trained = block
    return digests[trained < WHOLE], trained[trained < WHOLE]


def _copies(listed: Listed, digests: Any, least: Numbers) -> list[int]:
    found, start = [], 0
    for here, trained in listed.blocks():
        if len(digests):
            at = np.minimum(np.searchsorted(digests, here), len(digests) - 1)
            found += (np.flatnonzero((digests[at] == here) & (trained > least[at])) + start).tolist()
        start += len(here)
    return found
