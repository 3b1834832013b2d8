"""Splice: edits of one line of JSON that leave all other bytes as they are.

Parsing a record and writing it again loses what parsers lose: the digits of long floats, ``-0``, ``1e-400``, keys that
are there twice, and blanks. So an edited line is the original one with a few stretches of bytes cut out or replaced. A
scanner finds where the lists of an object are, and where each of their entries begins and ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from llm4dsr_cli.records.names import Names

Span = tuple[int, int]  # of bytes, the end not included
Cut = tuple[int, int, bytes]  # a span and what takes its place

_TOKEN = re.compile(rb'[\[\]{}:,]|"[^"\\]*(?:\\.[^"\\]*)*"|[^\s\[\]{}:,"]+', re.DOTALL)


@dataclass(frozen=True, slots=True)
class ListSpan:
    """A list of a line: the span of each entry, and where its brackets stand."""

    entries: list[Span]
    opened: int
    closed: int


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an object: its name, the span of all of it and that of its value."""

    name: str
    start: int
    value: Span


class _Open:
    """A list or an object that has not ended yet."""

    __slots__ = ("entries", "is_list", "key", "opened", "path", "start")

    def __init__(self, opened: int, *, is_list: bool, path: Names | None) -> None:
        self.opened, self.is_list = opened, is_list
        self.path = path  # None inside a list
        self.key: str | None = None  # of the member that is being read
        self.start: int | None = None  # of the entry that is being read
        self.entries: list[Span] = []


def lists(line: bytes) -> dict[Names, ListSpan]:
    """Every list of a JSON object that is no part of another list, by the names that lead to it.

    Of a name that is there twice, the last value counts, as for JSON parsers.

    Args:
        line: a JSON object that a parser has accepted.
    """
    found: dict[Names, ListSpan] = {}
    stack: list[_Open] = []
    end = 0  # of the token before
    for token in _TOKEN.finditer(line):
        mark = line[token.start()]
        top = stack[-1] if stack else None
        if mark in b",]}" and top is not None:
            if top.is_list and top.start is not None:
                top.entries.append((top.start, end))
            top.start = top.key = None
            if mark != 0x2C:  # a comma
                stack.pop()
                if top.is_list and top.path:
                    found[top.path] = ListSpan(top.entries, top.opened, token.start())
        elif mark in b"[{":
            path: Names | None = None
            if top is None:
                path = ()
            elif not top.is_list and top.path is not None and top.key is not None:
                path = (*top.path, top.key)
                _forget(found, path)
            if top is not None and top.start is None:
                top.start = token.start()
            stack.append(_Open(token.start(), is_list=mark == 0x5B, path=path))
        elif top is not None and mark != 0x3A:  # a colon
            if top.is_list:
                top.start = token.start() if top.start is None else top.start
            elif top.key is None and mark == 0x22 and top.path is not None:
                top.key = json.loads(token[0])
            elif top.key is not None and top.path is not None:
                _forget(found, (*top.path, top.key))
        end = token.end()
    return found


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
        mark = text[token.start()]
        if mark in b"]}":
            depth -= 1
        if key is not None and ((mark == 0x2C and depth == 1) or (mark == 0x7D and depth == 0)):
            found.append(Member(key[0], key[1], (value, end)))
            key, value = None, -1
        elif key is None and depth == 1 and mark == 0x22:
            key = json.loads(token[0]), token.start()
        elif key is not None and value < 0 and mark != 0x3A:
            value = token.start()
        if mark in b"[{":
            depth += 1
        end = token.end()
    return found


def without(span: ListSpan, drop: Collection[int]) -> list[Cut]:
    """What takes entries out of a list: each goes with the separator before it, the first ones with those behind."""
    kept = [i for i in range(len(span.entries)) if i not in drop]
    if not kept:
        return [(span.entries[0][0], span.entries[-1][1], b"")] if span.entries else []
    first = kept[0]
    cuts: list[Cut] = [(span.entries[0][0], span.entries[first][0], b"")] if first else []
    cuts += [(span.entries[i - 1][1], span.entries[i][1], b"") for i in drop if i > first]
    return cuts


def changed(text: bytes, values: Mapping[str, bytes], remove: Collection[str] = ()) -> bytes:
    """A JSON object with other values for some of its members, and without others; all other bytes stay.

    A member that is there twice changes twice, whichever of them a reader takes.
    """
    found = members(text)
    cuts: list[Cut] = [(*member.value, values[member.name]) for member in found if member.name in values]
    gone = {i for i, member in enumerate(found) if member.name in remove}
    if gone:
        spans = [(member.start, member.value[1]) for member in found]
        cuts += without(ListSpan(spans, 0, len(text)), gone)
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
