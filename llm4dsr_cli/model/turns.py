"""Turns: one thread at a time uses a model, in the process that loaded it, until it is closed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm4dsr_cli.errors import ModelError


class Turns:
    """Guards llama.cpp's contexts, which crash or hang the process when two threads, or a forked process, use one.

    Args:
        where: the model's file, for messages.
    """

    def __init__(self, where: Path) -> None:
        self._where = where
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._over = False

    @contextmanager
    def one(self) -> Iterator[None]:
        """A turn: other threads wait for their own until the block ends.

        Raises:
            ModelError: the model is closed, or another process loaded it and then forked into this one.
        """
        if self._forked:  # the lock may be held by a thread that was not forked along
            raise ModelError(
                "it was loaded before this process was forked, without the threads that it runs with",
                where=str(self._where),
                remedy="start processes by spawn, and load it in each",
            )
        with self._lock:
            if self._over:
                raise ModelError("it is closed", where=str(self._where), remedy="load it again")
            yield

    def end(self) -> bool:
        """Let nobody take a turn any more, once the last one is over.

        Returns whether the model is to be freed now: not again, and not in a forked process, which would wait for
        llama.cpp's threads for ever.
        """
        if self._forked:
            return False
        with self._lock:
            first, self._over = not self._over, True
        return first

    @property
    def _forked(self) -> bool:
        return os.getpid() != self._pid
