"""What is told to change first, for measurements that are made up."""

from dataclasses import replace

import pytest

from gptlab.planning.advice import Decoding, Stepping, Trial, decoding_advice, training_advice

USUAL = {"data": 0.01, "forward": 0.3, "backward": 0.55, "optimizer": 0.1, "weight_average": 0.0, "rest": 0.04}
STEP = Stepping(USUAL, 0.0, 10, batch_size=8, micro_batches=1, micro_batch_size=8, workers=0)


def advised(trials: list[Trial] | None = None, log: float = 0.0, micro_batches: int = 1, **parts: float) -> list[str]:
    step = replace(STEP, parts=USUAL | parts, log=log, micro_batches=micro_batches)
    return [f"{each.change} {each.gain:.2f}" for each in training_advice(step, trials or [])]


def test_nothing_stands_out() -> None:
    assert advised() == []
    assert advised([Trial("compile=true", None), Trial("a=1", 1.04, clear=True), Trial("b=1", 3.0, clear=False)]) == []


def test_each_part_has_its_advice() -> None:
    assert advised(data=0.51) == ["data.num_workers=2 1.52"]  # 0.51 of 1.5 seconds
    assert advised(optimizer=0.9) == ["data.batch_size=16 1.33"]  # half of 0.9 of 1.8 seconds
    assert advised(rest=0.96) == ["data.batch_size=16 1.33"]
    assert advised(rest=0.96, micro_batches=4) == ["data.micro_batch_size=16 1.33"]
    # of 2.61 seconds: half of the 0.9 of the optimizer and of the 0.76 of Lightning, by one change
    both = replace(STEP, parts=USUAL | {"optimizer": 0.9, "rest": 0.76})
    (one,) = training_advice(both, [])
    total = sum(both.parts.values())
    assert one.change == "data.batch_size=16" and one.gain == pytest.approx(total / (total - 0.83))
    assert "the optimizer takes" in one.why and "what Lightning does" in one.why
    failed = Trial("data.num_workers=2", None, error="no such device")
    assert advised([failed], data=0.51) == []
    assert advised(rest=0.14, log=0.11) == [
        "logger.every_n_steps=100 1.10"
    ]  # 0.09 of 1.1 seconds, of 0.1 that nine tenths are


def test_the_largest_gain_comes_first_and_what_was_tried_is_not_guessed() -> None:
    workers, compiled = Trial("data.num_workers=2", 1.0), Trial("compile=true", 1.7, clear=True)
    assert advised([compiled], data=0.51) == ["compile=true 1.70", "data.num_workers=2 1.52"]
    assert advised([workers, compiled], data=0.51) == ["compile=true 1.70"]


def test_a_trial_is_clear_when_most_steps_were_slower_before() -> None:
    before = [1.0] * 9 + [0.5]
    assert Trial.of("a", before, [0.6, 0.6, 9.0]) == Trial("a", 1.0 / 0.6, clear=True)
    assert not Trial.of("a", [1.0] * 8 + [0.5] * 2, [0.6]).clear
    assert Trial.of("a", before, []) == Trial("a", None)


@pytest.mark.parametrize(
    ("of_bandwidth", "of_peak", "why"),
    [
        (0.8, 0.1, "with one text reading the weights takes 80% of the bandwidth; all texts share it"),
        (0.02, 0.001, "with one text a step is at 2% of the nearer limit: the rest is a cost that all texts share"),
        (None, None, "measured here, beside one text"),
    ],
)
def test_several_texts_at_once(of_bandwidth: float | None, of_peak: float | None, why: str) -> None:
    rows = [Decoding(1, 100.0, of_bandwidth, of_peak), Decoding(8, 700.0, 0.9, 0.5), Decoding(32, 600.0, 0.9, 0.5)]
    (found,) = decoding_advice(rows, [])
    assert (found.change, found.why, found.gain, found.measured) == ("8 texts at once", why, 7.0, True)
    assert decoding_advice([rows[0], replace(rows[1], tokens_per_second=190.0)], []) == []
