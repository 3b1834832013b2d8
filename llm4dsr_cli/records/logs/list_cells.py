"""List cells: a list that stands in one cell of a table, and what is left of it when some of its entries go."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from llm4dsr_cli.records.json_lines import NUMBER
from llm4dsr_cli.records.splice import spliced, without

# An entry of a literal: text in either kind of quotation marks, or a number or a word; or what begins or ends a list.
_ENTRY = re.compile(rb"""'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*"|[^\s,\[\](){}'"]+|[\[\](){}]""", re.DOTALL)


class ListCell(Protocol):
    """How lists are written in a cell."""

    name: str

    def parsed(self, text: str) -> list[str | None]:
        """The entries as text; None for one that says nothing. Raises ValueError where the text is no such list."""

    def edited(self, text: str, drop: Collection[int], put: Mapping[int, str]) -> str:
        """The list without some entries and with others in the place of some, all by position."""

    def numbers(self, values: Sequence[float | None]) -> str:
        """A list of numbers as such a cell."""

    def as_json(self, text: str) -> str:
        """The list as JSON. Raises ValueError where the text is no such list."""


class Blanks:
    """Entries with blanks between, as RecBole's ``token_seq``."""

    name = "blanks between the items"

    def parsed(self, text: str) -> list[str | None]:
        """See ``ListCell.parsed``."""
        return [*text.split()]

    def edited(self, text: str, drop: Collection[int], put: Mapping[int, str]) -> str:
        """See ``ListCell.edited``."""
        return _edited(text, [match.span() for match in re.finditer(r"\S+", text)], drop, put)

    def numbers(self, values: Sequence[float | None]) -> str:
        """See ``ListCell.numbers``."""
        return " ".join("nan" if value is None else str(value) for value in values)

    def as_json(self, text: str) -> str:
        """See ``ListCell.as_json``."""
        return _joined([one if NUMBER.fullmatch(one) else json.dumps(one) for one in text.split()])


class Literal:
    """A list of Python, or of JSON: ``[1, 2]`` or ``['A', "B's"]``."""

    name = "Python lists"

    def parsed(self, text: str) -> list[str | None]:
        """See ``ListCell.parsed``; nothing of the text is evaluated."""
        stripped = text.strip()
        if stripped[:1] not in ("[", "(") or stripped[-1:] not in ("]", ")"):
            raise ValueError(text)
        return [_value(text[start:end]) for start, end in self._spans(text)]

    def edited(self, text: str, drop: Collection[int], put: Mapping[int, str]) -> str:
        """See ``ListCell.edited``; an entry keeps its kind, number or text."""
        spans = self._spans(text)
        written = {}
        for position, value in put.items():
            quoted = text[spans[position][0]] in "'\"" or not re.fullmatch(r"-?\d+", value)
            written[position] = repr(value) if quoted else value
        return _edited(text, spans, drop, written)

    def numbers(self, values: Sequence[float | None]) -> str:
        """See ``ListCell.numbers``; as JSON."""
        return json.dumps(values)

    def as_json(self, text: str) -> str:
        """See ``ListCell.as_json``."""
        self.parsed(text)
        entries = [text[start:end] for start, end in self._spans(text)]
        return _joined([one if NUMBER.fullmatch(one) else json.dumps(_value(one)) for one in entries])

    @staticmethod
    def _spans(text: str) -> list[tuple[int, int]]:
        data = text.encode()
        found: list[tuple[int, int]] = []
        depth = begin = 0
        for match in _ENTRY.finditer(data):
            mark = match[0]
            if mark in (b"[", b"(", b"{"):
                depth, begin = depth + 1, match.start() if depth == 1 else begin
            elif mark in (b"]", b")", b"}"):
                depth -= 1
                if depth == 1:  # the end of a list in the list
                    found.append((begin, match.end()))
            elif depth == 1:
                found.append(match.span())
        if len(data) == len(text):
            return found
        return [(len(data[:start].decode()), len(data[:end].decode())) for start, end in found]


def _edited(text: str, spans: list[tuple[int, int]], drop: Collection[int], put: Mapping[int, str]) -> str:
    """Spans are of characters; the splicer takes bytes."""
    data = text.encode()
    if len(data) != len(text):
        spans = [(len(text[:start].encode()), len(text[:end].encode())) for start, end in spans]
    cuts = [(*spans[position], value.encode()) for position, value in put.items() if position not in drop]
    return spliced(data, [*cuts, *without(spans, sorted(drop))]).decode()


def _joined(entries: Sequence[str]) -> str:
    return f"[{','.join(entries)}]"


def _value(entry: str) -> str | None:
    if entry in ("None", "null", "nan", "NaN"):
        return None
    return str(ast.literal_eval(entry)) if entry[0] in "'\"" else entry
