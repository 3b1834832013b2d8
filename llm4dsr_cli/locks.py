"""Locks on files, which end with the process that holds them."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

# Windows' locks keep others from reading what is locked: lock a byte that no file has.
_LOCKED_BYTE = 1 << 40
_POLL_S = 0.1


@contextmanager
def exclusive(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a file, which is there only meanwhile; other processes that want it wait until the block ends.

    ``waiting`` is called once, when this one has to wait. Raises OSError when the file cannot be made.
    """
    told = False
    while (file := opened_locked(path)) is None:
        if not told:
            waiting()
            told = True
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        # While it is locked: afterwards it may be another's. Windows removes no open file.
        with suppress(OSError):
            if os.name != "nt":
                path.unlink()
        file.close()
        with suppress(OSError):
            if os.name == "nt":
                path.unlink()


def opened_locked(path: Path) -> BinaryIO | None:
    """A file, made if it is not there, open to be read and added to, and locked; None when another has it locked.

    Raises OSError when it cannot be made.
    """
    file = path.open("a+b")
    # Whoever had the lock may have removed the file between its opening and its lock here.
    with suppress(FileNotFoundError):
        if lock(file) and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    file.close()
    return None


def lock(file: BinaryIO) -> bool:
    """Lock a file for as long as it is open; False when another process, or another opening of it, has it locked.

    Where the file system knows no locks nothing is locked, and the answer is True.
    """
    try:
        return lock_surely(file)
    except OSError:
        return True


def lock_surely(file: BinaryIO) -> bool:
    """As ``lock``. Raises OSError where the file system knows no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(_LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(0)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True
