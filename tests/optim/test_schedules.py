import math

import pytest

from gptlab.optim.schedules import Constant, Cosine


def test_warm_up_is_linear_and_never_zero() -> None:
    for schedule in (Constant(warmup_steps=4), Cosine(warmup_steps=4)):
        assert [schedule(s, 100) for s in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_constant_stays() -> None:
    assert Constant()(0, 10) == Constant()(9, 10) == 1


def test_cosine_ends_at_its_floor() -> None:
    schedule = Cosine(warmup_steps=10, min_ratio=0.1)
    assert schedule(10, 111) == 1
    assert schedule(60, 111) == pytest.approx(0.55)  # half-way
    assert schedule(35, 111) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 4)))
    assert schedule(110, 111) == pytest.approx(0.1)
    assert schedule(500, 111) == pytest.approx(0.1)


def test_a_run_shorter_than_its_warm_up() -> None:
    assert Cosine(warmup_steps=50)(2, 3) == pytest.approx(3 / 51)


@pytest.mark.parametrize("field", [{"warmup_steps": -1}, {"min_ratio": 1.5}])
def test_impossible_settings_say_so(field: dict[str, float]) -> None:
    ((name, value),) = field.items()
    with pytest.raises(ValueError, match=f"^{name}={value}: .+; .+"):
        Cosine(**field)
