import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gptlab.config import TrainConfig, compose
from gptlab.errors import UserError
from gptlab.planning.flops import flops_per_token
from gptlab.training.budget import STEPS, Budget
from gptlab.training.run import train

SIZES = {"tokens_per_step": 1000, "tokens_per_epoch": 50_000, "parameters": 200, "flops_per_token": 1200}


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({}, STEPS),
        ({"steps": 7}, 7),
        ({"tokens": 20_000}, 20),
        ({"tokens": 20_600}, 21),
        ({"tokens": 1}, 1),
        ({"epochs": 2.5}, 125),
        ({"flops": 1.2e9}, 1000),
        ({"tokens_per_param": 20}, 4),
    ],
)
def test_one_unit_gives_the_others(given: dict[str, float], steps: int) -> None:
    plan = Budget(**given).plan(**SIZES)  # type: ignore[arg-type]
    assert (plan.steps, plan.tokens) == (steps, steps * 1000)
    assert plan.epochs == steps / 50 and plan.flops == steps * 1_200_000 and plan.tokens_per_param == steps * 5


def test_a_run_by_tokens(tiny: Callable[..., TrainConfig], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tiny("budget.steps=null", "budget.tokens=1000")
    summary = train(config)
    assert summary is not None and summary["steps"] == 8  # of 4 x 32 tokens
    model = json.loads(json.dumps(summary))
    assert model["flops"] == 8 * 128 * flops_per_token(
        config.model.__class__(**{**vars(config.model), "vocab_size": 257})
    )
    assert "8 steps, 1,024 tokens" in capsys.readouterr().out


def test_two_budgets_at_once() -> None:
    with pytest.raises(UserError, match=r"^tokens=5: and budget.steps are given; add budget.steps=null$"):
        Budget(steps=3, tokens=5)


@pytest.mark.parametrize("key", ["steps", "tokens", "epochs", "flops", "tokens_per_param"])
def test_a_budget_of_nothing(key: str) -> None:
    with pytest.raises(UserError, match=f"^budget.{key}=0"):
        compose("train", [f"budget.{key}=0"])
