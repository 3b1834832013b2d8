"""Memory: what training has freed goes back to the system."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def give_back() -> None:
    """Let glibc return freed memory, which it keeps for itself; elsewhere than on Linux it does nothing.

    Batches of many lengths leave holes between what lives on, and a run would grow by gigabytes an hour
    (docs/experiments.md, "Memory that training had freed").
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
