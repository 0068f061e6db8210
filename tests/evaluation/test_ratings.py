"""What people prefer: strengths as a direct fit has them, planted orders, and intervals that hold the truth."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import t

from gptlab.evaluation.bradley_terry import PRIOR, Pairs, head_to_head, standings, win_rates
from gptlab.evaluation.ratings import (
    Answer,
    agreement,
    mean_scores,
    order_bias,
    preferred,
    rank_correlation,
    wilson,
)

NAMES = ["a", "b", "c", "d"]
TRUE = np.array([0.6, 0.2, -0.2, -0.6])


def simulated(seed: int, strengths: np.ndarray = TRUE, spread: float = 0.4, left: float = 0.0) -> list[Answer]:
    """Return answers of 8 raters about 20 prompts, each with tastes of their own; `left` is what the left text gains."""
    rng = np.random.default_rng(seed)
    of_prompt, of_rater = (rng.normal(0, spread, (n, len(strengths))) for n in (20, 8))
    found = []
    for rater in range(8):
        for _ in range(30):
            i, j = rng.choice(len(strengths), 2, replace=False)
            prompt = int(rng.integers(20))
            of = strengths + of_prompt[prompt] + of_rater[rater]
            ratio = math.exp(of[i] - of[j] + left)
            at = rng.random() * (ratio + 1 + 0.5 * math.sqrt(ratio))
            said = "left" if at < ratio else "right" if at < ratio + 1 else "tie"
            found.append(Answer(f"rater {rater}", prompt, NAMES[i], NAMES[j], said))
    return found


def test_strengths_are_those_of_a_direct_fit() -> None:
    """Of Davidson's likelihood (1970), maximised by SciPy, with the ties that the prior adds."""
    wins, ties = Pairs.of(simulated(1), NAMES).tables(np.ones(240))
    rates, strengths = win_rates(wins, ties)

    def cost(x: np.ndarray) -> float:
        gap = x[:4, None] - x[None, :4]
        both = np.logaddexp(np.logaddexp(gap / 2, -gap / 2), x[4])  # of (i, j), over the root of both strengths
        upper = np.triu_indices(4, 1)
        return float(
            -(wins * (gap / 2 - both)).sum() - ((ties + PRIOR) * (x[4] - both))[upper].sum() + x[:4].sum() ** 2
        )

    best = minimize(cost, np.zeros(5), method="BFGS", options={"gtol": 1e-8}).x
    assert strengths == pytest.approx(best[:4], abs=1e-4)
    gap = best[:4, None] - best[None, :4]
    tie = np.exp(best[4])
    expected = (np.exp(gap / 2) + tie / 2) / (np.exp(gap / 2) + np.exp(-gap / 2) + tie)
    assert rates == pytest.approx(expected, abs=1e-4) and rates + rates.T == pytest.approx(np.ones((4, 4)))


def test_a_planted_order_is_found_and_near_ones_share_a_place() -> None:
    found = standings(Pairs.of(simulated(3, np.array([2.5, 0.5, 0.5, -2.0]), 0.2), NAMES), 200, 1)
    assert [each.source for each in found][::3] == ["a", "d"] and {found[1].source, found[2].source} == {"b", "c"}
    assert [(each.best, each.worst) for each in found] == [(1, 1), (2, 3), (2, 3), (4, 4)]
    assert sum(each.answers for each in found) == 2 * 240
    again = standings(Pairs.of(simulated(3, np.array([2.5, 0.5, 0.5, -2.0]), 0.2), NAMES), 200, 1)
    assert again == found


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """20 studies of 4 sources: 95% of 80 is 76, and a binomial is below 70 once in 500 times."""
    rng = np.random.default_rng(0)
    of = TRUE + rng.normal(0, math.sqrt(2) * 0.4, (200_000, 4))
    ratio = np.exp(of[:, :, None] - of[:, None, :])
    truth = ((ratio + 0.25 * np.sqrt(ratio)) / (ratio + 1 + 0.5 * np.sqrt(ratio))).mean(0)
    expected = (truth.sum(1) - 0.5) / 3
    held = 0
    for seed in range(20):
        for each in standings(Pairs.of(simulated(seed), NAMES), 60, seed):
            held += each.win_rate.low <= expected[NAMES.index(each.source)] <= each.win_rate.high
    print(held)
    assert held >= 70


@pytest.mark.slow
def test_answers_of_one_prompt_say_less_than_as_many_of_different_ones() -> None:
    """The same 60 answers, of 30 raters on 60 prompts, or on 3 that decide them: the interval is wider."""
    widths = []
    for prompts in (60, 3):
        said = [Answer(f"{n % 30}", n % prompts, "a", "b", "left" if n % 3 else "right") for n in range(60)]
        first = standings(Pairs.of(said, ["a", "b"]), 300, 1)[0]
        assert first.source == "a" and first.win_rate.value == pytest.approx(40.25 / 60.5, abs=0.01)
        widths.append(first.win_rate.high - first.win_rate.low)
    assert widths[1] > 2 * widths[0]


def test_a_source_that_never_lost_has_a_finite_strength() -> None:
    said = [Answer("Ann", n, "a", "b", "left") for n in range(10)]
    first, second = standings(Pairs.of(said, ["a", "b"]), 100, 1)
    assert 0.9 < first.win_rate.value < 1 and math.isfinite(first.strength) and second.strength == -first.strength
    assert (first.best, first.worst, second.best) == (1, 1, 2)


def test_agreement_is_krippendorff_s() -> None:
    """The example of Krippendorff (2011, Computing Krippendorff's Alpha-Reliability, sec. D): ordinal 0.815."""
    table = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    scores = [
        Answer(f"rater {row}", unit, "a", None, {"fluency": int(value)})
        for row, values in enumerate(table)
        for unit, value in enumerate(values)
        if value != "."
    ]
    assert agreement(scores)["fluency"] == pytest.approx(0.815, abs=5e-4)
    same = [Answer(rater, n, "a", "b", ("left", "right")[n % 2]) for rater in "xy" for n in range(4)]
    turned = [Answer("z", n, "b", "a", ("right", "left")[n % 2]) for n in range(4)]  # the same choice, sides exchanged
    assert agreement([*same, *turned])["choice"] == pytest.approx(1)
    assert agreement([Answer("x", 1, "a", "b", "left")])["choice"] is None


def test_order_bias_of_a_rater_is_seen() -> None:
    fair, biased = order_bias(simulated(5)), order_bias(simulated(5, left=1.0))
    assert fair["all"].low < 0.5 < fair["all"].high and biased["all"].low > 0.55
    assert biased["all"].low < 0.72 < biased["all"].high  # e to the 1st to 1, less what the other terms blur
    assert wilson(0, 10).low == 0
    assert (wilson(8, 10).low, wilson(8, 10).high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_mean_scores() -> None:
    said = [
        Answer(r, p, s, None, {"x": 3 + (s == "a") + p % 2, "y": 1}) for r in "uvw" for p in range(10) for s in "ab"
    ]
    found = mean_scores(said, 200, 1)
    assert [found[s]["x"].value for s in "ab"] == [4.5, 3.5] and found["a"]["y"].high == 1.0
    half = found["a"]["x"].high - 4.5
    assert half == pytest.approx(t.isf(0.025, 2) * 0.5 / math.sqrt(10), rel=0.25)  # raters agree, prompts do not
    assert mean_scores([], 100, 1) == {}


def test_pairs_for_tuning_are_those_that_most_agree_about() -> None:
    said = [Answer("x", 1, "a", "b", "left"), Answer("y", 1, "b", "a", "right"), Answer("z", 1, "a", "b", "right")]
    said += [Answer("x", 2, "a", "b", "left"), Answer("y", 2, "a", "b", "right"), Answer("x", 3, "a", "b", "tie")]
    said += [Answer("x", 4, "a", "b", "right")]
    assert preferred(said) == [(1, "a", "b"), (4, "b", "a")]
    (row,) = head_to_head(Pairs.of(said, ["a", "b"]))
    assert row == {"a": "a", "b": "b", "a_wins": 3, "b_wins": 3, "ties": 1, "win_rate": 0.5}


def test_rank_correlation() -> None:
    assert rank_correlation([1, 2, 3], [9, 5, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2], [2, 1]) is None and rank_correlation([1, 1, 1], [1, 2, 3]) is None
