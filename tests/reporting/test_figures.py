from typing import Any

from gptlab.metrics import HIGHER, metric
from gptlab.reporting.figures import figures_of, in_order_of_need, in_training
from gptlab.tasks.base import target_of
from gptlab.tasks.causal_lm import CausalLM
from gptlab.tasks.classification import Classification
from gptlab.tasks.preference import Preference

FIGURES = figures_of(CausalLM().metrics)
LOSS, BITS = metric("val/loss"), metric("val/bits_per_byte")


def test_figures_are_written_in_few_characters() -> None:
    told = {
        "steps": 1234.0,
        "flops": 1.28e18,
        "seconds": 3725.0,
        "val_loss": 2.5,
        "val_perplexity": 12345.678,
        "tokens_per_second": 1e6,
    }
    assert [FIGURES[key].text(value) for key, value in told.items()] == [
        *("1,234", "1.28e+18", "1:02:05", "2.5000", "12,345.68", "1,000,000"),
    ]
    assert FIGURES["seconds"].text(59.6) == "1:00" and FIGURES["val_loss"].text(float("nan")) == "not finite"
    assert {figure.text(None) for figure in FIGURES.values()} == {"-"}


def test_a_narrow_terminal_keeps_the_score() -> None:
    for score in (LOSS, BITS):
        spared = in_order_of_need(FIGURES, score)
        assert score.key not in spared and len(spared) == len(FIGURES) - 1 and spared[0] == "tokens_per_second"
    assert in_order_of_need(FIGURES, LOSS)[-1] == BITS.key


def test_what_ranks_runs_has_a_curve_and_an_axis() -> None:
    assert (LOSS.axis, BITS.axis) == ("loss (nats per token)", "bits per byte")
    assert in_training(LOSS) == metric("train/loss") and in_training(BITS) is None


def test_a_run_s_figures_are_those_of_its_task() -> None:
    assert [key for key in figures_of(["val/loss"]) if key.startswith("val")] == ["val_loss"]
    assert metric("train/tokens_per_second").better == HIGHER


def test_a_loss_is_per_what_its_tasks_predict() -> None:
    asked: list[tuple[list[Any], str]] = [
        ([CausalLM()], "token"),
        ([Classification()], "example"),
        ([Preference()], "pair"),
        ([CausalLM(), Classification()], "target"),
    ]
    for tasks, target in asked:
        assert target_of(tasks) == target
        assert LOSS.over(target).axis == f"loss (nats per {target})"
        assert BITS.over(target).axis == "bits per byte"
