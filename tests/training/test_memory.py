import subprocess
import sys

import pytest

from gptlab.training.memory import keep_freed_pages

FAULTS = """
import resource, sys, torch
from gptlab.training.memory import keep_freed_pages
if sys.argv[1] == "keep":
    assert keep_freed_pages()
def step():
    torch.ones(16_000_000), torch.ones(8_000_000)  # 64 and 32 MB, which is beyond any threshold of the default
for _ in range(20):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
def test_what_one_step_frees_the_next_one_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernel's count of page faults."""
    if not keep_freed_pages():
        pytest.skip("no glibc here")

    def faults(how: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True).stdout)

    assert faults("keep") < faults("as it is") / 5


def test_no_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("musl", "1.2"))
    assert not keep_freed_pages()
