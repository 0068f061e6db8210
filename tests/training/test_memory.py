import math
import subprocess
import sys

import pytest
import torch

from gptlab.commands.bench_inference import _timed
from gptlab.training.memory import is_out_of_memory, keep_freed_pages

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


def test_what_is_refused_its_memory() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 50)
    assert is_out_of_memory(refused.value) and is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_batch_that_has_no_memory_is_not_measured() -> None:
    assert _timed(lambda: torch.empty(1 << 50).tolist(), math.inf) == []
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        _timed(lambda: (torch.ones(2, 3) @ torch.ones(2, 3)).tolist(), math.inf)
