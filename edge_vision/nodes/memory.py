"""Keeps memory from holding up a frame: that of pictures stays in the process, that of modules is left alone."""

import ctypes
import gc

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


def leave_alone_what_stays() -> None:
    """Take everything there is so far out of garbage collection.

    A full collection looks at every object of every module, tens of ms in which no thread decides anything; it
    begins by itself every now and then.
    """
    gc.collect()
    gc.freeze()
