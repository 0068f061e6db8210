import itertools
import subprocess
import sys

import numpy as np
import pytest

from gptlab.randomness import PURPOSES, random_seed, round_keys, text_position, uniform

POSITIONS = [position for n in range(1, 4) for position in itertools.product(range(4), repeat=n) if position[-1]]


def test_no_purpose_seed_or_position_shares_a_stream_with_another() -> None:
    """Positions that differ by zeros at their end are one position: a purpose always gives as many numbers."""
    asked = list(itertools.product((0, 1, 1337), PURPOSES, POSITIONS))
    first = [tuple(round_keys(seed, purpose, *position, rounds=2)) for seed, purpose, position in asked]
    assert len(set(first)) == len(asked)
    assert len({random_seed(seed, purpose, *position) for seed, purpose, position in asked}) == len(asked)


def test_the_order_s_keys_are_numpy_s_of_seed_and_position() -> None:
    """The first use had no purpose: NumPy's plain SeedSequence."""
    expected = np.random.SeedSequence((1337, 5, 2)).generate_state(8, np.uint64)
    assert round_keys(1337, "order", 5, 2, rounds=8).tolist() == expected.tolist()
    assert expected.tolist()[0] != round_keys(1337, "dropout", 5, 2, rounds=8).tolist()[0]


def test_another_process_derives_the_same_numbers() -> None:
    """Neither Python's salted hash nor what ran before matters."""
    code = (
        "from gptlab.randomness import *; seed_sequence(0, 'draw', 1);"
        "print([random_seed(7, p, 3, text_position('x y')) for p in PURPOSES])"
    )
    here = [random_seed(7, purpose, 3, text_position("x y")) for purpose in PURPOSES]
    for salt in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": salt, "PYTHONPATH": ":".join(sys.path)},
        )
        assert done.stdout.strip() == str(here)


def test_numbers_of_today_are_those_of_tomorrow() -> None:
    assert random_seed(1337, "dropout", 1, 0, 0) == 2744044728829621674
    assert uniform(1337, "draw", text_position("the cat"), 0, 0) == 0.6737741732512343


def test_uniform_numbers_are_spread_evenly() -> None:
    numbers = np.array([uniform(0, "draw", i) for i in range(4000)])
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = np.histogram(numbers, 10, (0, 1))[0]
    assert ((counts - 400) ** 2 / 400).sum() < 30  # chi-square with 9 degrees of freedom


@pytest.mark.parametrize("position", [(-1,), (1.5,)])
def test_a_position_is_a_natural_number(position: tuple[int, ...]) -> None:
    with pytest.raises((ValueError, TypeError)):
        random_seed(1, "order", *position)
