"""A batch in a thread of its own."""

import threading
from collections.abc import Iterator

import pytest

from gptlab.decoding.continuous import ContinuousBatch, Scored
from gptlab.decoding.decoders import Sample
from gptlab.decoding.engine import Closed, Engine
from tests.decoding.test_continuous import Heard, T, alone, gpt, heard, row
from tests.waiting import wait_until


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(ContinuousBatch(gpt(), T, 4))
    yield engine
    engine.close()


def test_texts_of_many_threads_are_those_written_alone(engine: Engine) -> None:
    rows = [row([n + 1, 3 * n % 50], 9, Sample()) for n in range(24)]
    threads = [threading.Thread(target=engine.submit, args=([each],)) for each in rows]
    for thread in threads:
        thread.start()
    wait_until(lambda: all(heard(each).ended for each in rows))
    assert all(heard(each).ids == alone(gpt(), each, 9) for each in rows)
    assert engine.counts() == (0, 0)


class Blocking(Heard):
    """A listener that keeps the engine at its first token."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go_on = threading.Event(), threading.Event()

    def add(self, token: Scored) -> bool:
        self.reached.set()
        assert self.go_on.wait(30)
        return super().add(token)


def test_what_is_cancelled_and_what_is_given_up() -> None:
    engine = Engine(ContinuousBatch(gpt(), T, 2))
    held, cancelled, waiting = row([1], 20), row([2], 20), row([3], 20)
    held.listener = blocking = Blocking()
    engine.submit([held, cancelled, waiting])
    assert blocking.reached.wait(30)
    assert engine.counts()[1] == 1
    engine.cancel([cancelled])
    engine.stop()
    with pytest.raises(Closed):
        engine.submit([row([4])])
    blocking.go_on.set()
    assert engine.close() == 2
    assert isinstance(blocking.ended, Closed) and isinstance(heard(waiting).ended, Closed)
    assert heard(cancelled).ended is None


def test_an_engine_goes_on_after_a_fault(engine: Engine) -> None:
    bad, good = row([1], 5), row([2], 5)
    bad.key = (-1,)  # which no draw can be made of
    engine.submit([bad])
    wait_until(lambda: heard(bad).ended)
    assert isinstance(heard(bad).ended, ValueError)
    engine.submit([good])
    wait_until(lambda: heard(good).ended)
    assert heard(good).ids == alone(gpt(), good, 5)
