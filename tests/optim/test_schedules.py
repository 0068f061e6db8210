import itertools
import math

import pytest

from gptlab.optim.schedules import WSD, Constant, Cosine, InverseSqrt, Linear


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


EVERY = [Constant, Cosine, Linear, WSD, InverseSqrt]


@pytest.mark.parametrize("kind", EVERY)
def test_every_schedule_warms_up_and_stays_in_bounds(kind: type[Constant]) -> None:
    rates = [kind(warmup_steps=10)(step, 200) for step in range(200)]
    assert rates[:11] == pytest.approx([(s + 1) / 11 for s in range(11)])
    assert all(0 <= rate <= 1 for rate in rates)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


@pytest.mark.parametrize("kind", EVERY)
def test_warm_up_as_a_share_is_that_many_steps(kind: type[Constant]) -> None:
    share, steps = kind(warmup_share=0.05), kind(warmup_steps=10)
    assert [share(s, 200) for s in range(200)] == [steps(s, 200) for s in range(200)]


def test_linear_is_a_line() -> None:
    schedule = Linear(warmup_steps=0, min_ratio=0.2)
    assert [schedule(s, 101) for s in (0, 25, 50, 100)] == pytest.approx([1, 0.8, 0.6, 0.2])


def test_wsd_is_flat_then_falls() -> None:
    schedule = WSD(warmup_steps=0, decay_share=0.2)
    rates = [schedule(s, 101) for s in range(101)]
    assert rates[:81] == [1.0] * 81
    assert rates[90] == pytest.approx(0.5) and rates[100] == 0
    assert WSD(warmup_steps=0, decay_share=0.2, shape="sqrt")(85, 101) == pytest.approx(1 - 0.25**0.5)


def test_the_decay_of_wsd_is_a_share_of_the_whole_run() -> None:
    """11 steps, 0 to 10, of which 4 warm up: half of the run is its last 5 steps, not half of the 6 after warm-up."""
    rates = [WSD(warmup_steps=4, decay_share=0.5)(s, 11) for s in range(11)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 0.8, 0.6, 0.4, 0.2, 0])
    rates = [WSD(warmup_steps=4, decay_share=1.0)(s, 11) for s in range(4, 11)]
    assert rates == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])  # the warm-up is not cut short


def test_decays_of_one_stable_run_branch_off_it() -> None:
    """Longer runs share all that came before the shorter one's decay."""
    schedule = WSD(warmup_steps=5, decay_share=0.2)
    short, long = [schedule(s, 100) for s in range(80)], [schedule(s, 500) for s in range(80)]
    assert short == long


def test_inverse_sqrt_halves_at_four_times_the_warm_up() -> None:
    schedule = InverseSqrt(warmup_steps=9)
    assert schedule(9, 1000) == 1 and schedule(39, 1000) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [(Constant, "warmup_share", 1.0), (WSD, "decay_share", 0.0), (WSD, "shape", "cliff"), (Linear, "min_ratio", -0.1)],
)
def test_more_impossible_settings(kind: type, key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{key}={value}: .+; .+"):
        kind(**{key: value})
