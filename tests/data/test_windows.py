import numpy as np
import pytest
import torch

from gptlab.data.windows import EvalBatches, Order, TrainBatches, WholeWindows, Windows
from gptlab.metrics import IGNORE

T = 8


def test_targets_are_the_inputs_one_later() -> None:
    x, y = Windows(np.arange(100, dtype=np.uint16), T).__getitems__([3, 0])
    assert x.dtype == torch.int64 and x.shape == y.shape == (2, T)
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert x[0].tolist() == list(range(24, 32)) and y[0, -1] == 32


@pytest.mark.parametrize(("n", "windows"), [(0, 0), (8, 0), (9, 1), (16, 1), (17, 2), (100, 12)])
def test_full_windows_only(n: int, windows: int) -> None:
    dataset = Windows(np.arange(n, dtype=np.uint16), T)
    assert len(dataset) == windows
    if windows:
        assert dataset[windows - 1][1][-1] == windows * T


@pytest.mark.parametrize("n", [2, 8, 9, 10, 17, 100])
def test_whole_windows_predict_every_token_once(n: int) -> None:
    dataset = WholeWindows(np.arange(n, dtype=np.uint16), T)
    x, y = dataset.__getitems__(list(range(len(dataset) + 3)))  # past the end too
    assert y[y != IGNORE].tolist() == list(range(1, n))
    assert (x[y != IGNORE] + 1 == y[y != IGNORE]).all()


def test_an_epoch_is_a_permutation_and_epochs_differ() -> None:
    order = Order(50, seed=1)
    first, second = [order[p] for p in range(50)], [order[p] for p in range(50, 100)]
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second != list(range(50))
    assert [Order(50, seed=2)[p] for p in range(50)] != first
    assert [order[p] for p in reversed(range(50))] == first[::-1]  # any position, at any time


@pytest.mark.parametrize(("world_size", "micro"), [(1, 8), (1, 2), (2, 4), (2, 1), (4, 2), (8, 1)])
def test_any_number_of_devices_gives_the_same_steps(world_size: int, micro: int) -> None:
    steps, B = 7, 8  # 56 positions: through several epochs of 20 windows
    expected = [sorted(Order(20, 5)[p] for p in range(s * B, s * B + B)) for s in range(steps)]
    ranks = [list(TrainBatches(Order(20, 5), steps, B, micro, rank, world_size)) for rank in range(world_size)]
    passes = B // (micro * world_size)
    for step in range(steps):
        seen = [i for rank in ranks for batch in rank[step * passes : (step + 1) * passes] for i in batch]
        assert sorted(seen) == expected[step]
    assert all(len(TrainBatches(Order(20, 5), steps, B, micro, 0, world_size)) == len(rank) for rank in ranks)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_each_window_on_one_rank_in_equally_many_batches(world_size: int) -> None:
    ranks = [list(EvalBatches(10, 4, rank, world_size)) for rank in range(world_size)]
    seen = [i for rank in ranks for batch in rank for i in batch if i < 10]
    assert sorted(seen) == list(range(10))
    assert len({len(rank) for rank in ranks}) == 1
