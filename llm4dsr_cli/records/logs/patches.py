"""Patches: what it takes to make a log again of the log that was written in its place."""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.records.json_lines import dumps

# Of the audit's lines that hold patches, and of its last one: of a log, and of JSON lines.
PATCH = "log_row"
WHOLE = "log"
LINES = "lines"
HEADER = -1  # as the number of a row
_COPIED = 1 << 20


@dataclass(frozen=True)
class Patch:
    """Bytes of a written log, and what stood there before.

    Attributes:
        row: number of the row, from 0, or HEADER; of a list that stands in several rows, the first of them.
        at: where they begin.
        length: how many there are now; 0 where the row was dropped.
        was: what stood there.
    """

    row: int
    at: int
    length: int
    was: bytes

    def line(self) -> bytes:
        """As a line of an audit."""
        try:
            was = {"was": self.was.decode()}
        except UnicodeDecodeError:
            was = {"was_base64": b64encode(self.was).decode()}
        return dumps({PATCH: self.row, "at": self.at, "length": self.length, **was})

    @classmethod
    def of(cls, data: dict[str, Any]) -> Patch:
        """From a line of an audit. Raises LookupError, TypeError or ValueError where it is none."""
        row, at, length = (data[name] for name in (PATCH, "at", "length"))
        if not all(type(value) is int for value in (row, at, length)) or min(row + 1, at, length) < 0:
            raise ValueError
        try:
            was = data["was"].encode() if "was" in data else b64decode(data["was_base64"], validate=True)
        except (AttributeError, Base64Error):
            raise ValueError from None
        return cls(row, at, length, was)


class PatchedRows:
    """Hands the rows of a log on, and notes what is changed in them.

    Args:
        write: takes bytes.
        patched: takes a patch for each row that changes.
    """

    def __init__(self, write: Callable[[bytes], None], patched: Callable[[Patch], None] | None) -> None:
        self._write = write
        self._patched = patched
        self._at = 0

    def write(self, row: int, was: bytes, now: bytes) -> None:
        """A row that was, and what is to stand in its place; nothing where it is dropped."""
        if self._patched is not None and was != now:
            self._patched(Patch(row, self._at, len(now), was))
        self._at += len(now)
        self._write(now)


class Digest:
    """Hands bytes on, and knows how many they were, and their SHA-256."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._hash = hashlib.sha256()
        self._length = 0

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self._length += len(data)
        self._write(data)

    @property
    def whole(self) -> dict[str, Any]:
        """What an audit tells of the bytes."""
        return {"length": self._length, "sha256": self._hash.hexdigest()}

    def line(self, name: str) -> bytes:
        """As the last line of an audit; ``name`` is WHOLE or LINES."""
        return dumps({name: self.whole})


def unpatched(stream: BinaryIO, patches: Iterator[Patch], whole: dict[str, Any], name: str) -> Iterator[bytes]:
    """The bytes of a written log, with what stood in the places of patches; these come in the order of the file.

    Args:
        whole: the length and the SHA-256 of what ``stream`` has to hold.
        name: of the stream for messages.

    Raises:
        RecordError: it holds something else, which shows at its end at the latest.
    """
    found = hashlib.sha256()
    at = 0

    def take(n: int) -> Iterator[bytes]:
        nonlocal at
        while n and (data := stream.read(min(n, _COPIED))):
            found.update(data)
            at += len(data)
            n -= len(data)
            yield data

    for patch in patches:
        yield from take(patch.at - at)
        for _ in take(patch.length):
            pass
        yield patch.was
    yield from take(int(whole["length"]) - at)
    if stream.read(1) or found.hexdigest() != whole["sha256"]:
        raise RecordError(
            "is not the log that was written together with this audit", where=name, remedy="give that one, unchanged"
        )
