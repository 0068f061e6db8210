"""Let what hangs fail."""

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def ended_after(seconds: int, error: BaseException) -> Iterator[None]:
    """Raise `error` in what is done here if it takes longer."""

    def late(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
