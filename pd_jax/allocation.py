"""Keeps freed memory in the process instead of requesting it again at every step.

XLA on a CPU takes a step's temporary arrays from the C library and gives them back at its end. By
default the library maps blocks this large straight from the kernel, which then fills them with
zeros page by page, on every step: a third of a small model's processor time.
"""

import ctypes

# glibc's malloc.h, mallopt(3).
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_ARENA_MAX = -8

_KEPT_BYTES = 2**31 - 1
"""How much unused memory may stay with the process: the most that `mallopt` can express."""


def keep_memory() -> bool:
    """Keeps freed memory for the next step; returns whether the C library supports it (glibc does).

    Call it before the first computation: threads that already have an arena of their own would go
    on mapping, as only the main arena can have blocks of this size.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wishes = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _KEPT_BYTES))
    return all(mallopt(option, value) == 1 for option, value in wishes)
