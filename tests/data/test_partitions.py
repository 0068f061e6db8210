from pathlib import Path

import numpy as np
import pytest

from gptlab.data import partitions
from gptlab.data.partitions import Partitions

RECORD = np.dtype([("key", "<u8"), ("number", "<i8")])


@pytest.mark.parametrize("span", [1 << 64, 100])
def test_equal_keys_are_in_one_part_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, span: int) -> None:
    monkeypatch.setattr(partitions, "MOST", 64)
    monkeypatch.setattr(partitions, "AT_ONCE", 50)
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 100, 1000).astype(np.uint64) * np.uint64(span // 100) + np.uint64(span % 100)
    keys = np.minimum(keys, np.uint64(span - 1))
    every = Partitions(tmp_path / "records", RECORD, len(keys), span)
    for some in np.array_split(np.arange(len(keys)), 70):
        every.add(keys[some], some)
    assert every.count == 16  # 1,000 in parts of 64
    parts = [every.part(number) for number in range(every.count)]
    joined = np.concatenate(parts)
    expected = np.argsort(keys, kind="stable")
    by_part = np.concatenate([part[np.argsort(part["key"], kind="stable")] for part in parts])
    assert by_part["number"].tolist() == expected.tolist()  # parts ascend, and hold each key as it came
    assert all((np.diff(part["number"]) > 0).all() for part in parts) and len(joined) == 1000
    assert max(map(len, parts)) < 250


def test_one_record_and_none(tmp_path: Path) -> None:
    every = Partitions(tmp_path / "records", RECORD, 0)
    assert len(every.part(0)) == 0
    every.add(2**64 - 1, -5)
    assert every.part(0).tolist() == [(2**64 - 1, -5)]
