"""Sweeps that take the values of several keys in step."""

import json
from collections.abc import Sequence

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from gptlab.errors import UserError
from hydra_plugins.gptlab_sweeper import in_step
from tests.conftest import tiny_overrides
from tests.forked import gptlab


def jobs(*given: str, product: Sequence[str] = ("seed",)) -> list[str]:
    overrides = OverridesParser.create().parse_overrides(list(given))
    return [" ".join(each) for each in in_step(overrides, product)]


def test_values_go_in_step_and_seeds_are_crossed_with_them() -> None:
    assert jobs("model=nano,micro", "optimizer.lr=1e-3,3e-3", "ema=0.9") == [
        "model=nano optimizer.lr=0.001 ema=0.9",
        "model=micro optimizer.lr=0.003 ema=0.9",
    ]
    assert jobs("a=1,2", "seed=5,6", "b=x,y") == [
        "a=1 seed=5 b=x",
        "a=1 seed=6 b=x",
        "a=2 seed=5 b=y",
        "a=2 seed=6 b=y",
    ]
    assert jobs("a=1,2", "b=3,4", product=["b"]) == ["a=1 b=3", "a=1 b=4", "a=2 b=3", "a=2 b=4"]
    assert jobs("seed=1,2") == ["seed=1", "seed=2"] and jobs("a=1") == ["a=1"]
    assert jobs("files=[x],['y,z']", "range=range(2)") == ["files=[x] range=0", "files=['y,z'] range=1"]


def test_unequal_numbers_are_refused() -> None:
    with pytest.raises(UserError, match=r"hydra/sweeper=zip: takes values in step, and a has 2, b has 3; give as many"):
        jobs("a=1,2", "b=1,2,3")


@pytest.mark.slow
def test_a_sweep_in_step(texts: str) -> None:
    ask = ["-m", "hydra/sweeper=zip", *tiny_overrides(texts), "model.n_layer=1,2", "optimizer.lr=1e-2,1e-3"]
    done = gptlab("train", *ask, "budget.steps=1", "json=true")
    found = [
        set(run["overrides"]) & {"model.n_layer=1", "model.n_layer=2", "optimizer.lr=0.01", "optimizer.lr=0.001"}
        for run in json.loads(done.stdout)["runs"]
    ]
    assert found == [{"model.n_layer=1", "optimizer.lr=0.01"}, {"model.n_layer=2", "optimizer.lr=0.001"}]
