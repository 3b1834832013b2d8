"""Bounds in bytes: memory follows neither a line without an end nor a batch of long lines."""

from __future__ import annotations

import gzip
import queue
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, TypeVar

from llm4dsr_cli.errors import Llm4dsrError
from llm4dsr_cli.records.zstd import DamagedError

LONGEST_LINE = 64_000_000
# A batch ends with the line that brings it to this; ordinary records fill none.
BATCH_BYTES = 8_000_000

T = TypeVar("T")


def bounded_lines(stream: BinaryIO, name: str, error: type[Llm4dsrError] = Llm4dsrError) -> Iterator[bytes]:
    """The lines of a stream with their endings, of which each takes at most LONGEST_LINE bytes.

    Raises ``error`` for a longer one, and for damaged data, with the stream's ``name`` and the line's number.
    """
    number = 0
    while line := _line(stream, f"{name}:{number + 1}", error):
        number += 1
        if len(line) > LONGEST_LINE:
            raise error(
                f"longer than {LONGEST_LINE // 1_000_000} MB",
                where=f"{name}:{number}",
                remedy="give a file of lines, with one sequence or item in each",
            )
        yield line


def _line(stream: BinaryIO, where: str, error: type[Llm4dsrError]) -> bytes:
    try:
        return stream.readline(LONGEST_LINE + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile, DamagedError):
        raise error(
            f"damaged or cut short {'zstd' if '.zst' in where.lower() else 'gzip'} data",
            where=where,
            remedy="fetch or compress the file again",
        ) from None


def bounded_batches(lines: Iterable[tuple[int, bytes]], size: int) -> Iterator[list[tuple[int, bytes]]]:
    """Lists of ``size`` lines, the last one apart, and of fewer where these have BATCH_BYTES."""
    batch: list[tuple[int, bytes]] = []
    held = 0
    for number, line in lines:
        batch.append((number, line))
        held += len(line)
        if is_full(len(batch), held, size):
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def is_full(lines: int, held: int, size: int) -> bool:
    """Whether a batch of so many lines and bytes is to be handed on."""
    return lines >= size or held >= BATCH_BYTES


class BoundedQueue(queue.Queue[T]):
    """A queue that is full with ``maxsize`` entries, and with as many bytes of lines as a batch may have."""

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self._held = 0

    def _put(self, item: T) -> None:
        super()._put(item)
        self._held += _bytes(item)

    def _get(self) -> T:
        item: T = super()._get()
        self._held -= _bytes(item)
        return item

    def _qsize(self) -> int:
        return super()._qsize() if self._held < BATCH_BYTES else max(super()._qsize(), self.maxsize)


def _bytes(entry: object) -> int:
    return len(entry[1]) if isinstance(entry, tuple) else 0
