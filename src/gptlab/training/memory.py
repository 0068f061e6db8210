"""Memory on a CPU: pages that one step frees are for the next one."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_pages() -> bool:
    """Let glibc keep what is freed. By default each large tensor gets fresh pages of the kernel, which zeroes them, and
    gives them back when it dies: at every step again. False where there is no glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
