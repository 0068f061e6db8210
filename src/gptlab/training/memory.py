"""Configure memory on a CPU: pages that one step frees are reused by the next."""

import ctypes
import platform

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
