"""Overlapping windows over each document, against a loop over its tokens."""

from pathlib import Path

import numpy as np
import pytest

from gptlab.data.batches.batch import IGNORE
from gptlab.data.batches.sliding import SlidingWindows
from gptlab.data.tokens.shards import Shard, TokenStream, mask_path

T, EOT = 8, 99


def stream(path: Path, ids: list[int], masked: bool = False) -> TokenStream:
    """Return ids as a stream on disk; with a mask, in which no separator is a target."""
    path.write_bytes(np.array(ids, np.uint16).tobytes())
    if masked:
        mask_path(path).write_bytes((np.array(ids) != EOT).astype(np.uint8).tobytes())
    return TokenStream([Shard(path, "uint16", len(ids), mask=mask_path(path) if masked else None)])


@pytest.mark.parametrize("lengths", [[3], [8], [9, 1, 30], [0, 5, 0, 0, 17], [16, 7, 0]], ids=str)
@pytest.mark.parametrize("stride", [1, 3, 5, 8])
@pytest.mark.parametrize("masked", [False, True])
def test_every_token_is_predicted_once_after_enough_of_its_document(
    lengths: list[int], stride: int, masked: bool, tmp_path: Path
) -> None:
    ids = [each for i, n in enumerate(lengths, 1) for each in (EOT, *range(100 * i, 100 * i + n))]
    windows = SlidingWindows(stream(tmp_path / "x.bin", ids, masked), T, stride, EOT)
    seen = []
    for i in range(len(windows)):
        x, y, *_ = windows.__getitems__([i])
        assert int(windows.targets[i]) == int((y != IGNORE).sum())
        assert EOT not in x[0, 1 : int(windows.lengths[i])].tolist()  # nothing of another document is read
        for place in np.flatnonzero(y[0].numpy() != IGNORE):
            read, at = x[0, : place + 1].tolist(), int(windows.starts[i]) + int(place) + 1
            assert read == ids[at - len(read) : at] and int(y[0, place]) == ids[at]
            assert read[0] == EOT or len(read) > T - stride
            seen.append(at)
    expected = [at for at in range(1, len(ids)) if not (masked and ids[at] == EOT)]
    assert sorted(seen) == expected and seen == sorted(seen)


def test_a_stride_of_a_window_reads_each_whole_window_once(tmp_path: Path) -> None:
    windows = SlidingWindows(stream(tmp_path / "x.bin", [EOT, *range(4 * T)]), T, T, EOT)
    assert list(windows.starts) == [0, T, 2 * T, 3 * T] and list(windows.targets) == [T] * 4
