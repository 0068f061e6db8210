"""The time that is left of a run, against sums by hand."""

import time

import pytest

from gptlab.training.remaining_time import RemainingTime


def at(step: int, steps: int = 100, val: int = 30, checkpoint: int | None = 40) -> RemainingTime:
    """Return what is left after some steps of half a second each, of which the first took a minute."""
    remaining = RemainingTime(steps, val, checkpoint)
    for number in range(1, step + 1):
        remaining.stepped(number, 60 + 0.5 * (number - 1))
    return remaining


def test_steps_validations_and_checkpoints_count() -> None:
    """After step 45 of 100: 55 steps, validations at 60, 90 and 100, checkpoints at 80 and 100."""
    remaining = at(45)
    for seconds in (4.0, 6.0):
        remaining.paused("validation", seconds)
    remaining.paused("checkpoint", 3.0)
    assert remaining.seconds() == pytest.approx(55 * 0.5 + 3 * 5.0 + 2 * 3.0)
    assert remaining.text() == "0:00:48 left"


def test_what_was_never_timed_is_named_instead() -> None:
    assert at(1).text() == ""  # the first step says nothing: it includes compilation
    assert at(2).text() == "0:00:49 left + 4 validations"
    assert at(95).text() == "0:00:02 left + 1 validation"


@pytest.mark.parametrize(
    ("step", "steps", "val", "left"),
    [
        (29, 100, 30, 4),
        (30, 100, 30, 4),
        (31, 100, 30, 3),
        (89, 90, 30, 1),
        (90, 90, 30, 1),
        (5, 9, 99, 1),
        (0, 9, 3, 3),
    ],
)
def test_each_multiple_and_the_last_step_once(step: int, steps: int, val: int, left: int) -> None:
    remaining = at(step, steps, val)
    due = {s for s in range(1, steps + 1) if s % val == 0 or s == steps}
    assert remaining.left("validation") == left == len({s for s in due if s >= step})
    if step in due:  # that of this step is left until it is done
        remaining.paused("validation", 1.0)
        assert remaining.left("validation") == left - 1


def test_only_the_last_steps_say_how_fast_it_is() -> None:
    """A hundred steps of 0.5 s and then a hundred of 2 s: the latter go on."""
    remaining = at(100, steps=300, val=1000, checkpoint=None)
    now = 60 + 0.5 * 99
    for number in range(101, 201):
        now += 2.0
        remaining.stepped(number, now)
    assert remaining.seconds() == pytest.approx(100 * 2.0)


def test_a_limit_of_time_ends_it_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    assert at(10).text(deadline=1010.0) == "0:00:10 left"
    assert at(10).text(deadline=5000.0) == "0:00:45 left + 4 validations"
