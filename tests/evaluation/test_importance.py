"""How much the parameters of a search matter, against other ways to compute it."""

import numpy as np
import pytest
from scipy import stats

from gptlab.evaluation.importance import importance


def adjusted(explained: float, n: int, coefficients: int) -> float:
    return 1 - (1 - explained) * (n - 1) / (n - coefficients)


def test_it_is_the_adjusted_share_of_a_parabola_or_of_categories() -> None:
    random = np.random.default_rng(1)
    n = 40
    rate = 10 ** random.uniform(-4, -1, n)
    kind = random.choice(["a", "b", "c"], n)
    idle = random.uniform(size=n)
    loss = (np.log10(rate) + 2.5) ** 2 + 0.3 * (kind == "a") + 0.05 * random.normal(size=n)
    found = importance({"idle": list(idle), "kind": list(kind), "rate": list(map(float, rate))}, list(loss))
    y, r = stats.rankdata(loss), stats.rankdata(rate)
    curve = np.polyval(np.polyfit(r, y, 2), r)
    assert found["rate"] == pytest.approx(adjusted(np.corrcoef(curve, y)[0, 1] ** 2, n, 3))
    f = stats.f_oneway(*(y[kind == each] for each in "abc")).statistic
    explained = 2 * f / (2 * f + n - 3)  # of an analysis of variance
    assert found["kind"] == pytest.approx(max(0.0, adjusted(explained, n, 3)))
    assert max(found, key=found.__getitem__) == "rate" and found["rate"] > 0.8 and found["idle"] < 0.15


def test_only_the_order_counts() -> None:
    values = {"n": [1, 2, 3, 4, 5, 6, 7, 8, 9], "m": [1, 1, 1, 2, 2, 2, 3, 3, 3]}
    loss = [0.3, 0.1, 0.2, 0.9, 0.7, 0.8, 0.5, 0.6, 0.4]
    outcomes = [(each > 0.6, each) for each in loss]
    warped = {key: [2.0**each for each in column] for key, column in values.items()}
    assert importance(values, loss) == pytest.approx(importance(warped, outcomes))


def test_what_nothing_is_said_of() -> None:
    eight = list(range(8))
    assert importance({"n": eight[:7]}, eight[:7]) == {}
    assert importance({"n": eight}, [1.0] * 8) == {}
    assert list(importance({"one": [1] * 8, "many": [str(each) for each in eight], "n": eight}, eight)) == ["n"]
    assert importance({"n": eight}, eight) == pytest.approx({"n": 1.0})
