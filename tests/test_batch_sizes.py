import math
import random

import pytest

from gptlab.batch_sizes import BatchSizes, orderly
from gptlab.errors import UserError
from gptlab.optim.schedules import Constant, Cosine, Linear, batch_sizes, rate


def by_hand(first: int, changes: list[list[int]], steps: int) -> list[int]:
    """Return the size of each step, asking at each of them which changes it has come to."""
    sizes: list[int] = []
    for _ in range(steps):
        come = [size for position, size in changes if position <= sum(sizes)]
        sizes.append(([first] + come)[-1])
    return sizes


def test_the_size_of_a_step_is_that_of_the_last_change_that_it_has_come_to() -> None:
    draw = random.Random(3)
    for _ in range(50):
        places = sorted(draw.sample(range(1, 300), draw.randrange(4)))
        first, changes = draw.randrange(1, 20), [[place, draw.randrange(1, 40)] for place in places]
        sizes, expected = BatchSizes(first, changes), by_hand(first, changes, 60)
        starts = [sum(expected[:step]) for step in range(60)]
        assert [sizes.size(step) for step in range(60)] == expected
        assert [sizes.start(step) for step in range(60)] == starts
        assert sizes.constant == (len({*expected}) == 1 and all(size == first for _, size in changes)) or changes
        for sequences in range(starts[-2]):
            off = [abs(start - sequences) for start in starts]
            assert off[sizes.steps(sequences)] == min(off[1:])


def test_what_divides_all_steps_and_how_they_are_shown() -> None:
    sizes = BatchSizes(8, [[20, 12], [21, 32]])
    assert str(sizes) == "8 (from sequence 24 on 32)"  # no step has 12: the first one from 20 on begins with 24
    assert (sizes.common, BatchSizes(8, [[16, 12]]).common) == (8, 4)


def test_the_rate_goes_by_the_data_and_grows_with_the_batch() -> None:
    """Steps of 4, 4, 16, 16 and 16: the last begins with sequence 40, ten times the first size."""
    schedule = Linear(warmup_steps=0, min_ratio=0.2, batch=[[8, 16]])
    sizes = batch_sizes(4, schedule)
    found = [rate(schedule, sizes, step, 5) for step in range(5)]
    assert found == pytest.approx([1.0, 0.92, 2 * 0.84, 2 * 0.52, 2 * 0.2])
    flat = Constant(batch=[[8, 16]], batch_power=0)
    assert [rate(flat, sizes, step, 5) for step in range(5)] == [1.0] * 5
    plain = Cosine(warmup_steps=3)
    assert [rate(plain, batch_sizes(4, plain), step, 9) for step in range(9)] == [plain(step, 9) for step in range(9)]
    assert rate(lambda step, steps: 0.5, batch_sizes(4, lambda step, steps: 0.5), 3, 9) == 0.5  # of another package
    assert math.isclose(rate(Constant(batch=[[4, 12]]), batch_sizes(4, Constant(batch=[[4, 12]])), 1, 2), 3**0.5)


@pytest.mark.parametrize("batch", [[[0, 8]], [[8]], [[8, 0]], [[9, 4], [9, 8]], [[9, 4], [5, 8]], [[4, 1 << 25]]])
def test_what_is_no_list_of_changes_says_so(batch: list[list[int]]) -> None:
    assert (
        not orderly(batch) and orderly([[4, 8], [9, 1 << 24]]) and not orderly("[[4, 8]]") and not orderly([[4, 8.0]])
    )
    with pytest.raises(UserError, match=r"^batch=\[\[.+: is no list of .+; try \[\[2000,16\]\]$"):
        Constant(batch=batch)
