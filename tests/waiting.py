"""Wait in a test for what another thread or process does."""

import time
from collections.abc import Callable


def wait_until(true: Callable[[], object], seconds: float = 30, every: float = 0.002) -> None:
    """Look again and again; fails where it is not true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(every)
