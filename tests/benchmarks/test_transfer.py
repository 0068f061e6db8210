"""The check of coordinates (Yang et al. 2022, appendix D.1), and how a best rate is found."""

import math
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def transfer(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    import transfer

    return transfer


@pytest.mark.slow
def test_sizes_stay_over_widths_with_mup_and_grow_without(transfer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of activations after five steps and of what these changed, from width 64 to 512: exponents in log-log."""
    monkeypatch.setattr(transfer, "BATCH", 2)
    ids = transfer.torch.tensor(list(b"a model of any width learns this sentence at one rate. " * 20))
    text = transfer.Text(ids, ids[:33][None])
    found = {}
    for name in ("mup", "standard"):
        rows = transfer.coordinates(transfer.WAYS[name], transfer.WIDTHS, text, lr=1e-3, steps=5, seed=0)
        found[name] = {key: transfer.exponents(rows, key) for key in ("sizes", "moved")}
    for key in ("sizes", "moved"):
        assert all(abs(slope) < 0.25 for slope in found["mup"][key].values()), found["mup"]
        assert all(slope > 0.5 for slope in found["standard"][key].values()), found["standard"]


def test_the_lowest_point_of_a_parabola_is_found_between_rates(transfer: Any) -> None:
    rates = [0.001 * 2 ** (i / 2) for i in range(7)]
    losses = {lr: 2 + 0.1 * math.log(lr / 0.0031) ** 2 for lr in rates}
    assert transfer.lowest(losses) == pytest.approx(0.0031)
    assert transfer.lowest({lr: -lr for lr in rates}) is None  # still falling at the end of the grid
    assert transfer.lowest({**losses, rates[4]: math.inf}) is None
    rows = [{"best": 0.002}, {"best": 0.003}, {"best": 0.0025}]
    assert transfer.moves(rows) == pytest.approx(1.5) and transfer.moves([*rows, {"best": None}]) is None


def test_sizes_of_the_base_are_trained_once(transfer: Any) -> None:
    ways, standard, mup = transfer.WAYS, transfer.Way("standard"), transfer.Way("mup")
    assert ways["completep"].same_as(256, 2) == ways["mup"].same_as(256, 16) == standard
    assert ways["completep"].same_as(64, 2) == mup and ways["completep"].same_as(64, 4) == ways["completep"]
    assert ways["hyperball"].same_as(256, 2) == ways["hyperball"]


def test_seeds_that_were_measured_are_not_measured_again(
    transfer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[int, int, int]] = []

    def trained(way: Any, text: Any, width: int, depth: int, lr: float, steps: int, seed: int) -> float:
        asked.append((width, depth, seed))
        return 2 + (math.log(lr / 1e-3) - 0.1 * seed) ** 2

    monkeypatch.setattr(transfer, "trained", trained)
    monkeypatch.setattr(transfer, "coordinates", lambda *_, **__: [])
    monkeypatch.setattr(transfer, "exponents", lambda *_: {})
    monkeypatch.setattr(transfer.Text, "bundled", lambda: None)
    found = {}
    for seeds, more in ((1, None), (3, tmp_path / "1.json")):
        options = transfer.argparse.Namespace(quick=True, steps=20, seeds=seeds, ways=["completep"], more=more)
        options.out = tmp_path / f"{seeds}.json"
        asked.clear()
        found[seeds] = transfer.measured(options)["axes"]
        assert {seed for *_, seed in asked} == ({0} if more is None else {1, 2})
    one, three = (found[seeds]["width"]["completep"][0] for seeds in (1, 3))
    assert len(one["best_by_seed"]) == 1 and three["best_by_seed"][0] == one["best_by_seed"][0]
    assert three["best_by_seed"] == pytest.approx([1e-3 * math.exp(0.1 * seed) for seed in range(3)])
    assert three["best"] == pytest.approx(1e-3 * math.exp(0.1))
    options.steps, options.quick = 30, False
    with pytest.raises(SystemExit, match="has other settings"):
        transfer.measured(options)
