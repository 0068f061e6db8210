import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.batch_sizes import BatchSizes
from gptlab.data.batches import sampler
from gptlab.data.batches.batch import IGNORE, Batch
from gptlab.data.batches.order import Order
from gptlab.data.batches.sampler import EvalBatches, TrainBatches
from gptlab.data.batches.windows import TrainWindows, Windows, dense, packed, whole
from gptlab.data.tokens.shards import Shard, TokenStream

T = 8
EOT = 500
FEW = settings(deadline=None, max_examples=100)
SIZES = st.integers(1, 12)


def every(windows: Windows) -> Batch:
    """Return all windows, and some past the end, which count nothing."""
    n = len(windows)
    x, y, *_ = windows.__getitems__([*range(n), n, n + 7])
    assert x.dtype == torch.int64 and x.shape == y.shape == (n + 2, windows.block_size)
    assert (y[n:] == IGNORE).all()
    return Batch(x[:n], y[:n])


def test_targets_are_the_inputs_one_later() -> None:
    x, y, *_ = dense(np.arange(100, dtype=np.uint16), T).__getitems__([3, 0])
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert x[0].tolist() == list(range(24, 32)) and y[0, -1] == 32


@FEW
@given(n=st.integers(0, 100), size=SIZES)
def test_full_windows_and_what_they_drop_are_the_stream(n: int, size: int) -> None:
    windows = dense(np.arange(n, dtype=np.uint16), size)
    x, y, *_ = every(windows)
    predicted = y.flatten().tolist()
    assert len(windows) == max(0, n - 1) // size
    assert x.flatten().tolist() == list(range(len(predicted)))
    assert predicted + list(range(n - windows.dropped, n)) == list(range(1, n))
    assert windows.fill == (1.0 if len(windows) else 0.0)


@FEW
@given(n=st.integers(0, 100), size=SIZES, stride=st.integers(1, 15))
def test_windows_overlap_by_what_the_stride_leaves(n: int, size: int, stride: int) -> None:
    windows = dense(np.arange(n, dtype=np.uint16), size, stride)
    starts = [start for start in range(0, n, stride) if start + size < n]
    x, y, *_ = every(windows)
    assert x.tolist() == [list(range(start, start + size)) for start in starts]
    assert torch.equal(y, x + 1)
    if stride <= size:
        assert len(np.unique(y)) + windows.dropped == max(0, n - 1)


@FEW
@given(n=st.integers(0, 100), size=SIZES)
def test_whole_windows_predict_every_token_once(n: int, size: int) -> None:
    windows = whole(np.arange(n, dtype=np.uint16), size)
    x, y, *_ = every(windows)
    assert y[y != IGNORE].tolist() == list(range(1, n))
    assert (x[y != IGNORE] + 1 == y[y != IGNORE]).all()
    assert windows.dropped == 0
    assert windows.fill * y.numel() == pytest.approx(max(0, n - 1))


@st.composite
def documents(draw: st.DrawFn) -> TokenStream:
    """Documents behind separators, of ids that say where they stand; the first one may have lost its separator."""
    lengths = draw(st.lists(st.integers(1, 30), min_size=1, max_size=12))
    ids = np.arange(sum(lengths), dtype=np.uint16)
    ids[np.cumsum([0, *lengths])[draw(st.integers(0, 1)) : -1]] = EOT
    with tempfile.NamedTemporaryFile(dir=Path.cwd(), delete=False) as file:
        ids.tofile(file.name)
        return TokenStream([Shard(Path(file.name), "uint16", len(ids))])


@FEW
@given(documents(), SIZES)
def test_packed_windows_are_the_stream(tokens: TokenStream, size: int) -> None:
    windows = packed(tokens, size, EOT)
    x, y, *_ = every(windows)
    ids = tokens[:].tolist()
    lengths = [int(stop) - int(start) for start, stop in zip(windows.starts, windows.stops, strict=True)]
    assert [i for row, n in zip(x.tolist(), lengths, strict=True) for i in row[:n]] == ids
    assert y[y != IGNORE].tolist() == ids[1:]
    for row, n in enumerate(lengths):
        assert 0 < n <= size
        assert (x[row, n:] == 0).all() and (y[row, n:] == IGNORE).all()
    assert windows.dropped == 0
    assert windows.fill * y.numel() == pytest.approx(len(ids))


@FEW
@given(documents(), SIZES)
def test_only_documents_longer_than_a_window_are_cut(tokens: TokenStream, size: int) -> None:
    windows = packed(tokens, size, EOT)
    borders = [*tokens.document_starts(EOT).tolist(), len(tokens)]
    for start, stop in zip(windows.starts, windows.stops, strict=True):
        after = next((border for border in borders if border > stop), stop)
        before = max(border for border in borders if border <= start)
        if start not in borders:
            assert min(border for border in borders if border > start) - before > size
        if stop in borders and stop < len(tokens):
            assert after - start > size  # the next one would not have fitted
        elif stop not in borders:
            assert stop - start == size


@st.composite
def layouts(draw: st.DrawFn, batch_size: int) -> tuple[int, int]:
    """Return the (devices, micro-batch) layouts of a global batch."""
    world_size = draw(st.sampled_from([1, 2, 4, 8]))
    share = batch_size // world_size
    return world_size, draw(st.sampled_from([m for m in range(1, share + 1) if share % m == 0]))


@FEW
@given(documents(), SIZES)
def test_targets_are_counted_without_reading(tokens: TokenStream, size: int) -> None:
    n = len(tokens)
    for windows in (dense(tokens, size), dense(tokens, size, 3), whole(tokens, size), packed(tokens, size, EOT)):
        _, y, *_ = every(windows)
        assert windows.targets.tolist() == (y != IGNORE).sum(1).tolist()
        assert not windows.full or (y != IGNORE).all()
    assert packed(tokens, size, EOT).targets.sum() == n - 1


@pytest.mark.slow
@FEW
@given(documents(), documents(), SIZES, st.data())
def test_every_micro_batch_knows_the_size_of_its_step(
    first: TokenStream, second: TokenStream, size: int, data: st.DataObject
) -> None:
    sources = TrainWindows([packed(first, size, EOT), packed(second, size, EOT)])
    order = Order([len(windows) for windows in sources.sources], [3, 1], 5)
    B, steps, begin = 8, 5, data.draw(st.integers(0, 4))
    world_size, micro = data.draw(layouts(B))
    expected = []
    for s in range(steps):
        places = order.at(range(s * B, s * B + B))
        targets = int((sources.rows(places).y != IGNORE).sum())
        windows = [(sources.sources[source], window) for source, window in places]
        expected.append((targets, sum(int(each.stops[i]) - int(each.starts[i]) for each, i in windows)))
    with mock.patch.object(sampler, "AHEAD", 20):
        for rank in range(world_size):
            batches = TrainBatches(order, steps, BatchSizes(B), micro, rank, world_size, begin, counts=sources)
            found = [sources.__getitems__(micro_batch)[2:] for micro_batch in batches]
            assert found == [sizes for sizes in expected[begin:] for _ in range(B // (micro * world_size))]


def test_full_windows_are_not_counted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = TrainWindows([dense(np.arange(100, dtype=np.uint16), T)])
    monkeypatch.delattr(TrainWindows, "targets")
    monkeypatch.delattr(TrainWindows, "lengths")
    batches = list(TrainBatches(Order([12], [1.0], 0), 2, BatchSizes(6), 3, 0, 1, counts=sources))
    assert [batch[1:] for batch in batches] == [(6 * T, 6 * T)] * 4
    assert [batch[1:] for batch in TrainBatches(Order([12], [1.0], 0), 1, BatchSizes(6), 6, 0, 1)] == [(None, None)]


@pytest.mark.parametrize("ahead", [1, 30, 4096])
def test_steps_that_grow_on_any_devices_and_after_any_restart(ahead: int, tmp_path: Path) -> None:
    """Steps of 8, 8, 8, 24, 24, 16 windows, packed by documents: their windows, targets and tokens by the order alone."""
    np.array([EOT if i % 7 == 0 else i % 50 for i in range(400)], np.uint16).tofile(tmp_path / "ids")
    tokens = TokenStream([Shard(tmp_path / "ids", "uint16", 400)])
    sources = TrainWindows([packed(tokens, T, EOT)])
    order, sizes = Order([len(sources.sources[0])], [1.0], 5), BatchSizes(8, [[20, 24], [50, 16]])
    expected, at = list[tuple[list[tuple[int, int]], int]](), 0
    for size in (8, 8, 8, 24, 24, 16):
        places = order.at(range(at, at + size))
        expected.append((sorted(places), int((sources.rows(places).y != IGNORE).sum())))
        at += size
    with mock.patch.object(sampler, "AHEAD", ahead):
        for world_size, micro, first in ((1, 4, 0), (2, 4, 2), (4, 2, 4)):
            ranks = [TrainBatches(order, 6, sizes, micro, r, world_size, first, sources) for r in range(world_size)]
            dealt = [list(rank) for rank in ranks]
            assert {len(rank) for rank in ranks} == {len(each) for each in dealt}
            found, begin = [], 0
            for size in (8, 8, 8, 24, 24, 16)[first:]:
                end = begin + size // (micro * world_size)
                parts = [part for each in dealt for part in each[begin:end]]
                (counted,) = {part.step_targets for part in parts}
                found.append((sorted(place for part in parts for place in part.windows), counted))
                begin = end
            assert found == expected[first:]


def test_a_batch_of_several_sources() -> None:
    sources = [dense(np.arange(start, start + 50, dtype=np.uint16), T) for start in (0, 1000)]
    x, y, *_ = TrainWindows(sources).rows([(1, 2), (0, 0), (1, 0)])
    assert x[:, 0].tolist() == [1016, 0, 1000]
    assert torch.equal(y, x + 1)


@pytest.mark.slow
@FEW
@given(st.data(), st.sampled_from([8, 16, 24, 48]), st.integers(1, 7))
def test_any_devices_before_and_after_any_restart_give_the_same_steps(data: st.DataObject, B: int, steps: int) -> None:
    order = Order([20, 9], [3, 1], 5)  # through several epochs
    first_step = data.draw(st.integers(0, steps))
    seen: list[list[tuple[int, int]]] = []
    with mock.patch.object(sampler, "AHEAD", 30):
        for begin, end in ((0, first_step), (first_step, steps)):
            world_size, micro = data.draw(layouts(B))
            samplers = [
                TrainBatches(order, steps, BatchSizes(B), micro, rank, world_size, begin) for rank in range(world_size)
            ]
            ranks = [list(sampler) for sampler in samplers]
            passes = B // (micro * world_size)
            assert {len(rank) for rank in ranks} == {len(samplers[0])} == {(steps - begin) * passes}
            assert {len(batch.windows) for rank in ranks for batch in rank} <= {micro}
            for step in range(end - begin):
                mine = [rank[step * passes : (step + 1) * passes] for rank in ranks]
                seen.append([place for rank in mine for batch in rank for place in batch.windows])
    expected = [order.at(range(step * B, step * B + B)) for step in range(steps)]
    assert list(map(sorted, seen)) == list(map(sorted, expected))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_each_window_on_one_rank_in_equally_many_batches(world_size: int) -> None:
    samplers = [EvalBatches(10, 4, rank, world_size) for rank in range(world_size)]
    ranks = [list(sampler) for sampler in samplers]
    seen = [i for rank in ranks for batch in rank for i in batch if i < 10]
    assert sorted(seen) == list(range(10))
    assert {len(rank) for rank in ranks} == {len(samplers[0])}
