"""Splice: edits of one line of JSON that leave all other bytes as they are.

Parsing a record and writing it again loses what parsers lose: the digits of long floats, ``-0``, ``1e-400``, keys that
are there twice, and blanks. So an edited line is the original one with a few stretches of bytes cut out or replaced. A
scanner finds where the lists of an object are, and where each of their entries begins and ends.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import orjson

from llm4dsr_cli.records.names import Names

Span = tuple[int, int]  # of bytes, the end not included
Cut = tuple[int, int, bytes]  # a span and what takes its place

# A list of numbers and words is one token: there are many of them, and few are looked into.
_TOKEN = re.compile(rb'\[[^\[\]{}"]*\]|[\[\]{}:,]|"[^"\\]*(?:\\.[^"\\]*)*"|[^\s\[\]{}:,"]+', re.DOTALL)
_COLON, _COMMA, _OPENS, _QUOTE = b':,["'


class ListSpan:
    """A list of a line: where its brackets stand, and the span of each entry.

    Attributes:
        opened, closed: where its first and its last byte are.
    """

    __slots__ = ("_entries", "_line", "closed", "opened")

    def __init__(self, line: bytes, opened: int, closed: int) -> None:
        self._line, self.opened, self.closed = line, opened, closed
        self._entries: list[Span] | None = None

    @property
    def entries(self) -> list[Span]:
        """The spans of the entries, in order."""
        if self._entries is None:
            self._entries = _entries(self._line, self.opened + 1, self.closed)
        return self._entries


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an object: its name, the span of all of it and that of its value."""

    name: str
    start: int
    value: Span


class _Open:
    """A list or an object that has not ended yet."""

    __slots__ = ("is_list", "key", "opened", "path")

    def __init__(self, opened: int, path: Names | None, *, is_list: bool) -> None:
        self.opened, self.is_list = opened, is_list
        self.path = path  # None inside a list
        self.key: str | None = None  # of the member that is being read


def lists(line: bytes) -> dict[Names, ListSpan]:
    """Every list of a JSON object that is no part of another list, by the names that lead to it.

    Of a name that is there twice, the last value counts, as for JSON parsers.

    Args:
        line: a JSON object that a parser has accepted.
    """
    found: dict[Names, ListSpan] = {}
    stack: list[_Open] = []
    for token in _TOKEN.finditer(line):
        start, end = token.span()
        mark = line[start]
        if not stack:
            stack.append(_Open(start, (), is_list=False))
            continue
        top = stack[-1]
        path = None if top.path is None or top.key is None else (*top.path, top.key)
        if mark == _COMMA:
            top.key = None
        elif mark in b"]}":
            stack.pop()
            if top.is_list and top.path is not None:
                found[top.path] = ListSpan(line, top.opened, start)
        elif mark in b"[{":
            if path is not None:
                _forget(found, path)
            if end - start == 1:
                stack.append(_Open(start, path, is_list=mark == _OPENS))
            elif path is not None:
                found[path] = ListSpan(line, start, end - 1)
        elif mark == _QUOTE and top.path is not None and top.key is None:
            if not top.is_list:
                top.key = orjson.loads(token[0])
        elif mark != _COLON and path is not None:
            _forget(found, path)
    return found


def _entries(line: bytes, start: int, end: int) -> list[Span]:
    """The spans of a list's entries, between its brackets."""
    found: list[Span] = []
    depth, begins, ends = 0, -1, -1
    for token in _TOKEN.finditer(line, start, end):
        at, ends_here = token.span()
        mark = line[at]
        if mark == _COMMA and not depth:
            found.append((begins, ends))
            begins = -1
        elif begins < 0:
            begins = at
        if ends_here - at == 1:
            depth += (mark in b"[{") - (mark in b"]}")
        ends = ends_here
    return [*found, (begins, ends)] if begins >= 0 else found


def members(text: bytes) -> list[Member]:
    """The members of a JSON object, in order; those with the same name are all there.

    Args:
        text: a JSON object that a parser has accepted.
    """
    found: list[Member] = []
    depth = end = 0
    key: tuple[str, int] | None = None
    value = -1  # where it begins
    for token in _TOKEN.finditer(text):
        start, ends_here = token.span()
        mark = text[start]
        if mark in b"]}":
            depth -= 1
        if key is not None and ((mark == _COMMA and depth == 1) or (mark in b"}" and depth == 0)):
            found.append(Member(key[0], key[1], (value, end)))
            key, value = None, -1
        elif key is None and depth == 1 and mark == _QUOTE:
            key = orjson.loads(token[0]), start
        elif key is not None and value < 0 and mark != _COLON:
            value = start
        if mark in b"[{" and ends_here - start == 1:
            depth += 1
        end = ends_here
    return found


def without(entries: Sequence[Span], drop: Collection[int]) -> list[Cut]:
    """What takes some entries out: each goes with the separator before it, the first ones with those behind them."""
    kept = [i for i in range(len(entries)) if i not in drop]
    if not kept:
        return [(entries[0][0], entries[-1][1], b"")] if entries else []
    first = kept[0]
    cuts: list[Cut] = [(entries[0][0], entries[first][0], b"")] if first else []
    return cuts + [(entries[i - 1][1], entries[i][1], b"") for i in drop if i > first]


def changed(text: bytes, values: Mapping[str, bytes], remove: Collection[str] = ()) -> bytes:
    """A JSON object with other values for some of its members, and without others; all other bytes stay.

    A member that is there twice changes twice, whichever of them a reader takes.
    """
    found = members(text)
    cuts: list[Cut] = [(*member.value, values[member.name]) for member in found if member.name in values]
    gone = {i for i, member in enumerate(found) if member.name in remove}
    if gone:
        cuts += without([(member.start, member.value[1]) for member in found], gone)
    return spliced(text, cuts)


def appended(line: bytes, fields: Iterable[tuple[bytes, bytes]], *, empty: bool) -> bytes:
    """A JSON object with more members behind its last one; names and values are JSON.

    Args:
        empty: whether it has no member yet.
    """
    body = line.rstrip()
    more = b",".join(name + b":" + value for name, value in fields)
    return b"".join([body[:-1], b"" if empty or not more else b",", more, line[len(body) - 1 :]])


def spliced(line: bytes, cuts: Iterable[Cut]) -> bytes:
    """The line with each span replaced; spans must not overlap."""
    pieces: list[bytes] = []
    at = 0
    for start, end, new in sorted(cuts):
        pieces += (line[at:start], new)
        at = end
    return b"".join([*pieces, line[at:]])


def _forget(found: dict[Names, ListSpan], path: Names) -> None:
    """An earlier member of the same name counts no more, nor do the lists in it."""
    if any(known[: len(path)] == path for known in found):
        for known in [known for known in found if known[: len(path)] == path]:
            del found[known]
