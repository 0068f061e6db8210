"""What a search draws from, by the overrides of its command line."""

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from gptlab.errors import UserError
from gptlab.sweep.search_space import Parameter, space_of


def parsed(*given: str) -> list[str | Parameter]:
    return space_of(OverridesParser.create().parse_overrides(list(given)))


class Lowest:
    """A trial that draws the first of some values, or the lowest number, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def suggest_categorical(self, name: str, choices: Any) -> str:
        self.asked.append((name, tuple(choices)))
        return choices[0]

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self.asked.append((name, int, low, high, step, log))
        return low

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        self.asked.append((name, float, low, high, step, log))
        return low


@pytest.mark.parametrize(
    ("given", "drawn", "asked"),
    [
        ("lr=interval(1e-4,1e-2)", "lr=0.0001", (float, 1e-4, 1e-2, None, False)),
        ("lr=tag(log,interval(1e-4,1e-2))", "lr=0.0001", (float, 1e-4, 1e-2, None, True)),
        ("n=interval(1,8)", "n=1.0", (float, 1.0, 8.0, None, False)),  # of real numbers, as in Hydra
        ("n=int(interval(1,8))", "n=1", (int, 1, 8, 1, False)),
        ("n=tag(log,int(interval(1,8)))", "n=1", (int, 1, 8, 1, True)),
        ("n=range(2,9,3)", "n=2", (int, 2, 8, 3, False)),  # 9 is no value of it, as in Hydra
        ("p=range(0.0,0.5,0.2)", "p=0.0", (float, 0.0, 0.4, 0.2, False)),
        ("n=2,4,8", "n=2", (("2", "4", "8"),)),
        ("model=choice(micro,nano)", "model=micro", (("micro", "nano"),)),
        ("x='a,b',c,c", "x='a,b'", (("'a,b'", "c"),)),
        ("n=range(9,2,-3)", "n=9", (("9", "6", "3"),)),
    ],
)
def test_a_key_with_several_values(given: str, drawn: str, asked: tuple[Any, ...]) -> None:
    (parameter,) = parsed(given)
    assert isinstance(parameter, Parameter)
    trial = Lowest()
    assert parameter.suggest(trial) == parameter.first == drawn
    assert trial.asked[0][1:] == pytest.approx(asked) if float in asked else trial.asked[0][1:] == asked


def test_others_stay_as_they_are() -> None:
    fixed = ["a=1", "x=[1,2]", "+y=b", "z='q, r'", "a=interval(1,2)"]
    space = parsed(*fixed)
    assert space[1:] == ["x=[1,2]", "+y=b", "z='q, r'"]
    assert isinstance(space[0], Parameter)  # the last of a key counts, in the place of the first


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("lr=interval(3,3)", r"^lr=interval\(3,3\): is empty; give interval\(LOWEST, HIGHEST\)"),
        ("lr=interval(0,inf)", r"^lr=interval\(0,inf\): has no end; give interval\(LOWEST, HIGHEST\)"),
        ("lr=interval(-inf,1)", r"^lr=interval\(-inf,1\): has no end"),
        ("lr=interval(nan,1)", r"^lr=interval\(nan,1\): is empty"),
        (
            "n=tag(log,range(1,9))",
            r"^n=tag\(log,range\(1,9\)\): draws evenly from its values, which tag\(log, ...\) does",
        ),
        ("n=tag(log,choice(1,9))", r"^n=tag\(log,choice\(1,9\)\): draws evenly from its values"),
        ("lr=tag(log,interval(0,3))", r"^lr=tag\(log,interval\(0,3\)\): has no logarithm at its lower end"),
    ],
)
def test_nothing_to_draw_from(given: str, error: str) -> None:
    with pytest.raises(UserError, match=error):
        parsed(given)


def test_a_grid_has_no_intervals() -> None:
    values = [
        each.grid() for each in parsed("n=range(1,4)", "m=a,b", "p=range(0.5,2.5)") if isinstance(each, Parameter)
    ]
    assert values == [[1, 2, 3], ["a", "b"], [0.5, 1.5]]
    (parameter,) = parsed("lr=interval(1,2)")
    assert isinstance(parameter, Parameter)
    with pytest.raises(UserError, match=r"^hydra.sweeper.sampler=grid: lr is an interval; give its values"):
        parameter.grid()
