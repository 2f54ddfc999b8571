"""Keeps the memory of pictures in the process, ready for the next one."""

import ctypes

# Of malloc.h. The first is the largest block that malloc takes from the heap instead of from the kernel, and
# 32 MiB the most it may be; the second how much free memory at the end of the heap is kept.
M_MMAP_THRESHOLD, LARGEST_BLOCK = -3, 32 << 20
M_TRIM_THRESHOLD, KEPT = -1, 128 << 20


def keep_freed_memory() -> None:
    """Let malloc keep what is freed.

    A picture on its way through ROS is copied several times into fresh memory. By default that memory goes back
    to the kernel after each picture, and getting it again, page by page, takes longer than all the copying.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)
    libc.mallopt(M_TRIM_THRESHOLD, KEPT)
