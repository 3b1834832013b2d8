"""Standard streams that are closed, as daemons start programs, or that nobody reads any more."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from llm4dsr_cli.errors import OutputError


class _Forgiving:
    """A stream for messages: what it cannot take is not said, and stops nothing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def open_closed() -> None:
    """Open the standard streams that are closed, and let standard error forgive.

    Files that the run opens would take the numbers of closed streams, and libraries write messages to number 2. Idea:
    gnulib's ``stdopen``, which opens them for the other direction, so that using them fails all the same.
    ``sys.stdin`` stays None.
    """
    for number, name, flags in ((0, "stdin", os.O_WRONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_RDONLY)):
        if getattr(sys, name) is None:
            _occupy(number, flags)
            if number:
                setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115 - it stays open
    sys.stderr = _Forgiving(sys.stderr)


def _occupy(number: int, flags: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, flags)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)


def check_out() -> None:
    """Raises OutputError when nothing can be written to standard output because it was closed at the start."""
    with suppress(ValueError), _explained():  # a stream in memory has no number
        os.write(sys.stdout.fileno(), b"")


def write_out(text: str) -> None:
    """Write a result to standard output. Raises OutputError when that fails; a broken pipe passes."""
    with _explained():
        sys.stdout.write(text)


def flush_out() -> None:
    """Write what is left for standard output; errors as ``write_out``."""
    with _explained():
        sys.stdout.flush()


def give_up_out() -> None:
    """Flush standard output, or drop what it cannot take, so that Python does not complain at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno == errno.EBADF:
            raise OutputError("is closed", where="stdout", remedy="open it, or write to a file") from error
        raise OutputError(str(error.strerror).lower(), where="stdout", remedy="free some space") from error
