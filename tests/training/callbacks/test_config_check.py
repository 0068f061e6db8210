"""Ranks compare their configs; two processes that differ are in tests/end_to_end/test_sweeps.py."""

from unittest.mock import Mock

import pytest

from gptlab.errors import UserError
from gptlab.training.callbacks.config_check import ConfigCheck

CONFIG = {"optimizer": {"lr": 1e-3, "betas": [0.9, 0.95]}, "seed": 1}


def compared(monkeypatch: pytest.MonkeyPatch, *others: dict[str, object]) -> None:
    """Return the reaction of rank 0, with CONFIG, to these configs on the other ranks."""
    ranks = [ConfigCheck(config) for config in (CONFIG, *others)]

    def gather(mine: object) -> list[object]:
        return [rank.sha256 if isinstance(mine, str) else rank.config for rank in ranks]

    monkeypatch.setattr("gptlab.training.callbacks.config_check.gather", gather)
    ranks[0].setup(Mock(world_size=len(ranks)), Mock(), "fit")


def test_the_same_config_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    compared(monkeypatch, {"seed": 1, "optimizer": {"betas": [0.9, 0.95], "lr": 1e-3}})


def test_one_of_three_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {**CONFIG, "optimizer": {"lr": 1e-3, "betas": [0.9, 0.99]}}
    with pytest.raises(UserError, match=r"optimizer.betas=\[0.9, 0.99\]: on rank 2, but \[0.9, 0.95\] on rank 0"):
        compared(monkeypatch, CONFIG, other)
