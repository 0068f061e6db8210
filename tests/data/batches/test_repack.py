"""Documents in a new order each epoch."""

import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.data.batches.batch import IGNORE
from gptlab.data.batches.datamodule import TextDataModule
from gptlab.data.batches.order import Order
from gptlab.data.batches.repack import Reordered, Repacked
from gptlab.data.batches.windows import TrainWindows, Windows, dense, packed
from gptlab.data.text.sources import Files
from gptlab.data.tokens.prepare import prepare
from gptlab.data.tokens.shards import Shard, TokenStream
from gptlab.errors import UserError
from gptlab.tokenizers.byte import Byte

EOT = 500
T = 8
FEW = settings(deadline=None, max_examples=50)


def stream(ids: list[int], mask: list[int] | None = None) -> TokenStream:
    path = Path(tempfile.mkdtemp(dir=Path.cwd())) / "a.bin"
    np.array(ids, np.uint16).tofile(path)
    beside = path.with_suffix(".mask.bin") if mask else None
    if mask and beside:
        np.array(mask, np.uint8).tofile(beside)
    return TokenStream([Shard(path, "uint16", len(ids), mask=beside)])


def joined(documents: list[list[int]]) -> list[int]:
    return [i for document in documents for i in (EOT, *document)]


def split(ids: list[int]) -> list[tuple[int, ...]]:
    documents: list[list[int]] = []
    for i in ids:
        documents.append([]) if i == EOT else documents[-1].append(i)
    return [tuple(document) for document in documents]


CUTS: dict[str, Callable[[TokenStream], Windows]] = {
    "stream": partial(dense, block_size=T),
    "documents": partial(packed, block_size=T, eot=EOT),
}
DOCUMENTS = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=20), min_size=2, max_size=12)


@FEW
@given(DOCUMENTS, st.randoms(), st.integers(-5, 150), st.integers(-5, 150))
def test_a_reordered_stream_is_its_documents_in_that_order(documents, random, start: int, stop: int) -> None:  # type: ignore[no-untyped-def]
    order = [*range(len(documents))]
    random.shuffle(order)
    ids = joined(documents)
    mask = [i % 2 for i in range(len(ids))]
    plain = stream(ids, mask)
    starts = plain.document_starts(EOT)
    found = Reordered(plain, starts, np.array(order))
    pieces = [(ids[a:b], mask[a:b]) for a, b in zip(starts, [*starts[1:], len(ids)], strict=True)]
    expected = [i for place in order for i in pieces[place][0]]
    masks = [i for place in order for i in pieces[place][1]]
    assert len(found) == len(ids)
    assert found[start:stop].tolist() == expected[start:stop]
    assert found.mask(slice(start, stop)).tolist() == masks[start:stop]  # type: ignore[union-attr]
    assert found.document_starts(EOT).tolist() == np.flatnonzero(np.array(expected) == EOT).tolist()
    positions = np.arange(len(ids) + 1)
    assert found.counted_before(positions).tolist() == [sum(masks[:p]) for p in positions]


@pytest.mark.parametrize("packing", CUTS)
@FEW
@given(DOCUMENTS, st.integers(0, 5))
def test_every_epoch_has_the_same_documents_in_another_order(
    packing: str, documents: list[list[int]], seed: int
) -> None:
    plain = stream(joined(documents))
    windows = Repacked(plain, EOT, CUTS[packing], seed, 0)
    orders = []
    for number in range(4):
        tokens = windows.epoch(number).tokens
        orders.append(split(tokens[0 : len(tokens)].tolist()))
    assert orders[0] == [*map(tuple, documents)]
    assert all(Counter(order) == Counter(orders[0]) for order in orders)
    again = Repacked(plain, EOT, CUTS[packing], seed, 0)
    last = again.epoch(3).tokens  # asked for first
    assert split(last[0 : len(last)].tolist()) == orders[3]


def test_orders_differ_between_epochs_seeds_and_sources() -> None:
    plain = stream(joined([[i] * 3 for i in range(30)]))
    found = set()
    for seed, source, epoch in [(0, 0, 1), (0, 0, 2), (1, 0, 1), (0, 1, 1)]:
        tokens = Repacked(plain, EOT, CUTS["stream"], seed, source).epoch(epoch).tokens
        found.add(tuple(tokens[0 : len(tokens)].tolist()))
    assert len(found) == 4


def test_a_first_document_without_a_separator_stays_first() -> None:
    windows = Repacked(stream([1, 2, 3, *joined([[i] * 4 for i in range(10, 30)])]), EOT, CUTS["stream"], 0, 0)
    tokens = windows.epoch(1).tokens
    assert tokens[0:4].tolist() == [1, 2, 3, EOT]
    assert windows.documents == 20


@pytest.mark.parametrize("packing", CUTS)
def test_each_epoch_reads_each_window_once_from_any_position(packing: str) -> None:
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 99, rng.integers(1, 20)).tolist() for _ in range(30)]
    plain = stream(joined(documents))
    windows = Repacked(plain, EOT, CUTS[packing], 7, 0)
    sizes = [len(windows.epoch(number)) for number in range(4)]
    order = Order([len(windows)], [1.0], 7, bounds=[windows.bounds])
    places = order.at(range(sum(sizes)))
    begin = 0
    for number, size in enumerate(sizes):  # all windows of an epoch, before the first of the next one
        assert sorted(window for _, window in places[begin : begin + size]) == [*range(begin, begin + size)]
        expected = windows.epoch(number)
        x, y = TrainWindows([windows]).rows(sorted(places[begin : begin + size]))[:2]
        assert torch.equal(x, expected.__getitems__([*range(size)]).x)
        assert torch.equal(y, expected.__getitems__([*range(size)]).y)
        begin += size
    fresh = Repacked(plain, EOT, CUTS[packing], 7, 0)  # as a run that goes on in the middle
    resumed = Order([len(fresh)], [1.0], 7, bounds=[fresh.bounds])
    half = sum(sizes) // 2 + 1
    assert resumed.at(range(half, sum(sizes))) == places[half:]
    x = TrainWindows([fresh]).rows(places[half:]).x
    assert torch.equal(x, TrainWindows([windows]).rows(places[half:]).x)
    source, window = order.arrays(range(sum(sizes)))
    rows = [TrainWindows([windows]).rows([place]) for place in places]
    assert TrainWindows([fresh]).targets(source, window).tolist() == [int((row.y != IGNORE).sum()) for row in rows]
    spans = [windows.at(number) for _, number in places]
    lengths = [int(each.stops[i]) - int(each.starts[i]) for each, i in spans]
    assert TrainWindows([fresh]).lengths(source, window).tolist() == lengths


def test_other_sources_keep_their_order() -> None:
    plain = Repacked(stream(joined([[i] * 9 for i in range(9)])), EOT, CUTS["stream"], 3, 1)
    repacked = Order([20, len(plain)], [1, 1], 3, bounds=[None, plain.bounds]).at(range(200))
    before = Order([20, len(plain)], [1, 1], 3).at(range(200))
    assert [place for place in repacked if place[0] == 0] == [place for place in before if place[0] == 0]
    n = len(plain)
    assert [window % n for source, window in repacked if source == 1] == [w for source, w in before if source == 1]


def test_a_data_module_repacks(texts: str) -> None:
    data = Files(files=[texts.strip("[]")], repack=True, batch_size=4)
    corpus = prepare(data, Byte())
    module = TextDataModule(corpus, data, 16, 5)
    plain = TextDataModule(corpus, Files(files=data.files, batch_size=4), 16, 5)
    n = len(plain.train[0])
    first = n // 4  # steps of the first epoch
    assert all(module.windows_of(step) == plain.windows_of(step) for step in range(1, first))
    second = [place for step in range(first + 2, 2 * first) for place in module.windows_of(step)]
    assert {window // n for _, window in second} == {1}
    same = [(module.rows([(0, n + i)]).x == plain.rows([(0, i)]).x).all().item() for i in range(n)]
    assert sum(same) < n / 4  # one in 16 by chance: these documents repeat few words
    assert (module.tokens_per_epoch, module.tokens_per_step) == (plain.tokens_per_epoch, plain.tokens_per_step)
    assert "documents in a new order each epoch" in module.describe()


def test_one_document_has_no_order() -> None:
    Path("a.txt").write_text("one " * 100)
    data = Files(files=["a.txt"], repack=True)
    with pytest.raises(UserError, match=r"^data\.repack=true: there is one document, .+; leave it out$"):
        TextDataModule(prepare(data, Byte()), data, 16, 5)
