"""Memory on a CPU: is there enough of it, and pages that one step frees are for the next one."""

import ctypes
import os
import platform

import torch

from gptlab.errors import require

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_pages() -> bool:
    """Make glibc keep freed memory; returns False without glibc.

    By default each large tensor gets fresh pages from the kernel, which zeroes them, and returns them when it is freed,
    at every step.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def require_memory(parameters: int) -> None:
    """Refuse a model whose weights alone, in fp32, are more than this machine's memory; where that is known."""
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    there, needed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), 4 * parameters
    why = f"are {needed / 1e9:,.0f} GB, and this machine has {there / 1e9:,.0f} GB of memory"
    require(needed <= there, "model", f"{parameters:,} weights", why, "choose a smaller one")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether an error is that a tensor was refused its memory; a CPU refuses only what it cannot have at all."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
