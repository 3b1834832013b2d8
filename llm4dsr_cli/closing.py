"""Closing: what holds a resource is a context manager, and gives it back at the end of the ``with`` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TypeVar

_Closing = TypeVar("_Closing", bound="Closing")


class Closing(ABC):
    """A context manager whose end is its ``close``."""

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds; harmless when called again."""

    def __enter__(self: _Closing) -> _Closing:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
