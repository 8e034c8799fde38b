"""Limits the memory that freed pictures keep occupied."""

import sys

_M_ARENA_MAX = -8  # from malloc.h
_ARENAS = 2


def limit_arenas() -> None:
    """Let all threads share two memory arenas. Call this before the first picture is decoded.

    By default glibc makes up to eight arenas for each core, and each one keeps memory of the pictures that its thread
    has worked on. Other C libraries have no such arenas.
    """
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_ARENA_MAX, _ARENAS)
