import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gptlab.data.batches.order import BLOCK, ROUNDS, Order
from gptlab.data.batches.order import permute as permute_by
from gptlab.errors import UserError
from gptlab.randomness import round_keys

LARGE = [4095, 4096, 4097, 10**6 + 3, 2**32, 2**40 + 1, 10**12]
WEIGHTS = st.lists(st.floats(0.01, 100), min_size=2, max_size=6)
FEW = settings(deadline=None, max_examples=50)


def permute(i: np.ndarray, n: int, key: tuple[int, ...]) -> np.ndarray:
    return permute_by(i, n, round_keys(key[0], "order", *key[1:], rounds=ROUNDS))


def test_the_order_is_that_of_all_versions() -> None:
    """Literal numbers of the first release: a run that is resumed goes on in its order."""
    windows = [41, 18, 37, 15, 27, 21, 47, 28, 45, 34]
    assert Order([50], [1.0], 1337).at(range(45, 55)) == [(0, window) for window in windows]
    mixed = [(0, 10), (0, 13), (0, 12), (0, 14), (2, 5), (0, 9), (0, 4), (2, 3), (0, 7), (0, 0)]
    assert Order([20, 9, 7], [3, 1, 1], 5).at(range(1020, 1030)) == mixed
    places = [22067470, 671855257, 73567428, 34825328, 416517485, 546989803, 843219676, 339027448]
    assert permute(np.arange(8), 10**9, (3, 1, 0)).tolist() == places


def surprise(counts: Counter[tuple[int, ...]], outcomes: int) -> float:
    """Chi-square against equal chances, in standard deviations of what it should be."""
    expected = counts.total() / outcomes
    missing = outcomes - len(counts)
    chi2 = sum((count - expected) ** 2 for count in counts.values()) / expected + missing * expected
    return (chi2 - (outcomes - 1)) / math.sqrt(2 * (outcomes - 1))


@pytest.mark.parametrize("n", range(1, 201))
def test_small_permutations(n: int) -> None:
    assert sorted(permute(np.arange(n), n, (n,)).tolist()) == list(range(n))


@pytest.mark.parametrize("n", LARGE)
def test_large_permutations(n: int) -> None:
    i = np.unique(np.random.default_rng(0).integers(0, n, 20_000))
    out = permute(i, n, (1, 2))
    assert out.min() >= 0 and out.max() < n
    assert len(np.unique(out)) == len(i)
    assert not np.array_equal(out, permute(i, n, (1, 3)))


@pytest.mark.parametrize(("n", "elements"), [(5, [0]), (5, [4]), (4, [0, 1]), (4, [0, 1, 2, 3]), (6, [2, 5])])
def test_every_arrangement_is_equally_likely(n: int, elements: list[int]) -> None:
    places = (tuple(permute(np.array(elements), n, (key,)).tolist()) for key in range(4000))
    assert surprise(Counter(places), math.perm(n, len(elements))) < 5


@pytest.mark.parametrize("n", [1000, 4096, 10**9])
def test_neighbours_go_anywhere(n: int) -> None:
    i = np.arange(1000)
    out = permute(i, n, (3,)) / n
    for lag in (1, 2, 32):
        assert abs(np.corrcoef(out[lag:], out[:-lag])[0, 1]) < 5 / math.sqrt(len(i))
    assert abs(np.corrcoef(i, out)[0, 1]) < 5 / math.sqrt(len(i))
    steps = np.histogram((out[1:] - out[:-1]) % 1, 10, (0, 1))[0]  # uniform on the circle
    assert surprise(Counter({(k,): int(count) for k, count in enumerate(steps)}), 10) < 5


def test_an_epoch_is_a_permutation_and_epochs_and_seeds_differ() -> None:
    order = Order([50], [1.0], seed=1)
    first, second = order.at(range(50)), order.at(range(50, 100))
    assert sorted(first) == sorted(second) == [(0, i) for i in range(50)]
    assert first != second != sorted(first)
    assert Order([50], [1.0], seed=2).at(range(50)) != first
    assert Order([50], [7.0], seed=1).at(range(100)) == first + second


@FEW
@given(st.lists(st.integers(40, 3000), min_size=1, max_size=4), st.integers(0, 5000), st.integers(1, 3000))
def test_any_position_at_any_time(lengths: list[int], start: int, n: int) -> None:
    order = Order(lengths, [1.0 + i for i in range(len(lengths))], seed=1)
    stretch = order.at(range(start, start + n))
    assert stretch == order.at(range(start + n))[start:]
    for p in {0, n // 2, n - 1}:
        assert order[start + p] == stretch[p]


@FEW
@given(WEIGHTS, st.integers(0, 100))
def test_every_block_has_the_shares_of_the_weights(weights: list[float], block: int) -> None:
    assume(min(weights) / sum(weights) * BLOCK >= 1)
    order = Order([10**6] * len(weights), weights, seed=3)
    counts = Counter(source for source, _ in order.at(range(block * BLOCK, (block + 1) * BLOCK)))
    for source, weight in enumerate(weights):
        assert abs(counts[source] - BLOCK * weight / sum(weights)) < 1


def test_shares_that_come_out_even_are_exact() -> None:
    counts = Counter(source for source, _ in Order([9, 9, 9], [1, 1, 2], 0).at(range(BLOCK)))
    assert counts == {0: 256, 1: 256, 2: 512}


def test_sources_are_mixed_within_a_block_and_anew_in_each() -> None:
    sources = [source for source, _ in Order([100, 100], [1, 1], 0).at(range(2 * BLOCK))]
    assert sources[:BLOCK] != sources[BLOCK:]
    runs = sum(a != b for a, b in itertools.pairwise(sources))
    assert abs(runs - BLOCK) < 5 * math.sqrt(BLOCK / 2)


@FEW
@given(st.lists(st.tuples(st.integers(40, 3000), st.floats(0.1, 9)), min_size=1, max_size=4), st.integers(0, 99))
def test_each_source_goes_through_epochs_of_its_own(sources: list[tuple[int, float]], seed: int) -> None:
    lengths = [n for n, _ in sources]
    places = Order(lengths, [weight for _, weight in sources], seed).at(range(4 * BLOCK))
    for source, n in enumerate(lengths):
        windows = [window for k, window in places if k == source]
        epochs = [windows[i : i + n] for i in range(0, len(windows), n)]
        for epoch in epochs:
            assert len(set(epoch)) == len(epoch)
            assert set(epoch) <= set(range(n))
        if len(epochs) > 2:
            assert epochs[0] != epochs[1]


def test_a_part_that_would_never_come_is_refused() -> None:
    with pytest.raises(UserError, match=r"^data\.weights=1\.0: is less than one window in 1024; "):
        Order([10, 10], [1, 5000], 0)
