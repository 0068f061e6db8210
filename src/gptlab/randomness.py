"""Derive every random number from one function of (seed, purpose, position).

Nothing that ran before, no number of devices and no interruption changes a random number: the order of the data depends
on (epoch, source), the noise of dropout on (step, micro-batch, rank), a draw of a sample on (prompt, sample, token).
Two purposes never share a stream.
"""

import hashlib
from typing import Any, cast

import numpy as np

Words = np.ndarray[Any, np.dtype[np.uint64]]

# the order of the data is older than purposes: it adds no number, so that all versions give one order
PURPOSES = {"order": (), "dropout": (1,), "draw": (2,), "repack": (3,), "tasks": (4,), "search": (5,)}


def seed_sequence(seed: int, purpose: str, *position: int) -> np.random.SeedSequence:
    """Return NumPy's SeedSequence (O'Neill 2015) of a seed, a purpose of PURPOSES, and non-negative integers."""
    return np.random.SeedSequence((seed, *position), spawn_key=PURPOSES[purpose])


def random_seed(seed: int, purpose: str, *position: int) -> int:
    """Return 63 random bits to seed a generator of torch with."""
    return int(round_keys(seed, purpose, *position, rounds=1)[0] >> np.uint64(1))


def uniform(seed: int, purpose: str, *position: int) -> float:
    """Return a number in [0, 1), a multiple of 2^-53."""
    return int(round_keys(seed, purpose, *position, rounds=1)[0] >> np.uint64(11)) / 2**53


def text_position(text: str) -> int:
    """Return a text as a position: 64 bits of its SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def round_keys(seed: int, purpose: str, *position: int, rounds: int) -> Words:
    """Return `rounds` independent 64-bit numbers, (rounds,)."""
    return cast(Words, seed_sequence(seed, purpose, *position).generate_state(rounds, np.uint64))
