import math

from gptlab.planning.critical_batch import Branches, schedule_of


def branches(position: int, *losses: float, own: int = 8) -> Branches:
    return Branches(position // 8, position, {own * 2**i: loss for i, loss in enumerate(losses)})


def test_the_critical_size_is_the_last_before_the_first_loss_above() -> None:
    found = branches(80, 3.0, 3.009, 3.02, 2.9)
    assert (found.own, found.critical(0.01), found.critical(0.0), found.critical(0.03)) == (8, 16, 8, 64)
    assert found.beyond(0.03) and not found.beyond(0.01)
    assert branches(80, 3.0, math.nan, 2.9).critical(1.0) == 8  # a diverged branch is above everything


def test_a_schedule_takes_each_size_from_its_checkpoint_on() -> None:
    first, second, third = branches(80, 3.0, 3.1), branches(160, 2.5, 2.5, 2.5, 2.6), branches(320, 2.2, 2.2, 2.4)
    last = branches(640, 2.0, 2.0, own=32)
    assert schedule_of([last, third, first, second], 0.01) == [[160, 32], [640, 64]]
    assert schedule_of([first], 0.01) == []
