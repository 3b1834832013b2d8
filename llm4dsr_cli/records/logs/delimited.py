"""Delimited files: CSV, TSV, RecBole's atomic files, MovieLens' ``::``; rows as they stand, byte for byte."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from llm4dsr_cli.errors import OptionError, RecordError
from llm4dsr_cli.records.bounds import bounded_lines
from llm4dsr_cli.records.file_kinds import LONGEST_MAGIC, format_of, refuse_binary
from llm4dsr_cli.records.json_lines import NUMBER, dumps
from llm4dsr_cli.records.logs.patches import HEADER, Patch, PatchedRows
from llm4dsr_cli.records.logs.row_file import Added, Cell, Changes
from llm4dsr_cli.records.logs.unreadable import Unreadable
from llm4dsr_cli.records.reader import open_input
from llm4dsr_cli.records.shapes import separating

Span = tuple[int, int]
# Bytes of a row with newlines in its cells: a mark that is never closed shows before the file is read to its end.
_LONGEST_ROW = 1_000_000
_MARK = b"\xef\xbb\xbf"  # of UTF-8
_QUOTED = re.compile(rb'"[^"]*(?:""[^"]*)*"')


@dataclass(frozen=True)
class Dialect:
    """How the rows of a delimited file are written.

    Attributes:
        kind: in words.
        delimiter: between the cells.
        quotes: whether a cell may be quoted as RFC 4180 has it, with newlines inside.
        typed: whether the header has a type behind each name, as RecBole's atomic files have
            (https://recbole.io/docs/user_guide/data/atomic_files.html).
        header: whether the first row names the columns; else ``names`` do.
        names: of the columns; without any they are numbers, from 1.
        encoding: of the text.
        endings: what a file's name ends in.
    """

    kind: str
    delimiter: bytes
    quotes: bool = True
    typed: bool = False
    header: bool = True
    names: tuple[str, ...] = ()
    encoding: str = "utf-8"
    endings: tuple[str, ...] = ()

    def spans(self, row: bytes) -> list[Span] | None:
        """Where the cells of a row stand; None where a quoted cell goes on in the next line."""
        end = _content(row)
        found: list[Span] = []
        at = 0
        while True:
            stop = -1
            if self.quotes and row[at : at + 1] == b'"':
                match = _QUOTED.match(row, at, end)
                if match is None or row[match.end() : match.end() + 1] == b'"':
                    return None  # the last mark is one of two
                # What stands behind the closing mark belongs to the cell, too.
                stop = match.end()
                if stop < end and not row.startswith(self.delimiter, stop):
                    stop = row.find(self.delimiter, stop, end)
            else:
                stop = row.find(self.delimiter, at, end)
            if stop < 0 or stop >= end:
                return [*found, (at, end)]
            found.append((at, stop))
            at = stop + len(self.delimiter)

    def text(self, cell: bytes) -> str:
        """What a cell says. Raises UnicodeDecodeError."""
        if self.quotes and cell[:1] == b'"' and cell[-1:] == b'"' and len(cell) > 1:
            cell = cell[1:-1].replace(b'""', b'"')
        return cell.decode(self.encoding)

    def cell(self, text: str, like: bytes = b"") -> bytes:
        """A text as a cell; quoted where it has to be, or where the cell in whose place it stands is.

        Raises:
            UnicodeEncodeError: the encoding has no such character.
            ValueError: it cannot stand in a file without quoting.
        """
        cell = text.encode(self.encoding)
        risky = self.delimiter in cell or b"\n" in cell or b"\r" in cell
        if not self.quotes:
            if risky:
                raise ValueError(text)
            return cell
        quoted = like[:1] == b'"' and like[-1:] == b'"' and len(like) > 1
        return b'"' + cell.replace(b'"', b'""') + b'"' if quoted or risky or cell[:1] == b'"' else cell


CSV = Dialect("CSV", b",", endings=(".csv",))
TSV = Dialect("TSV", b"\t", endings=(".tsv", ".txt"))
ATOMIC = Dialect("RecBole", b"\t", quotes=False, typed=True, endings=(".inter",))
_RATINGS = ("user_id", "item_id", "rating", "timestamp")
MOVIELENS = Dialect("MovieLens' ::", b"::", quotes=False, header=False, names=_RATINGS, endings=(".dat",))
MOVIELENS_100K = Dialect("MovieLens' u.data", b"\t", quotes=False, header=False, names=_RATINGS, endings=(".data",))


class DelimitedFile:
    """The rows of a delimited file; see ``RowFile``.

    Args:
        path: the file, which may be compressed as its name says.
        name: of the file for messages.

    Raises:
        OptionError: it has no rows.
    """

    rows_are_bytes = True
    has_types = False
    unreadable: Unreadable | None = None

    def __init__(self, path: str | Path, dialect: Dialect, name: str | None = None) -> None:
        self._path = path
        self.name = name or str(path)
        self.kind = dialect.kind
        self.endings = dialect.endings
        self._dialect = dialect
        with closing(self._raw()) as rows:
            _, first = next(rows, (1, b""))
        cells = self._cells(first, f"{self.name}:1")
        if not first:
            raise OptionError("empty", where=self.name, remedy="give a file with a header and rows")
        self._header = [cell or "" for cell in cells]
        if not dialect.header:
            numbers = tuple(str(n) for n in range(1, len(cells) + 1))
            self._dialect = replace(dialect, names=(dialect.names + numbers[len(dialect.names) :])[: len(cells)])
            self.columns = list(self._dialect.names)
        else:
            self.columns = [name.partition(":")[0].strip() if dialect.typed else name.strip() for name in self._header]
        if len(self.columns) == 1:
            remedy = self._separated(self._header[0])
            raise OptionError(f"one column alone, {self.columns[0]!r}", where=self.name, remedy=remedy)

    def _separated(self, header: str) -> str:
        """What to do with a table that has another separator than its format."""
        if (named := format_of(header)) is not None:
            return f"read it with `format` {named}"
        wanted = self._dialect.delimiter.decode()
        remedy = f"put {wanted!r} between the columns"
        mark = next((mark for mark in ";|" if mark in header), None)
        if mark is None or not self._dialect.quotes:
            return remedy
        return f"{remedy}: {separating(mark, wanted, f'{self.name}:1')}"

    def types(self) -> list[str]:
        """What stands behind the names of an atomic file's columns."""
        return [name.partition(":")[2].strip() for name in self._header]

    def rows(self, columns: Sequence[str], as_json: Sequence[str] = ()) -> Iterator[tuple[int, list[Cell]]]:
        """See ``RowFile.rows``; an empty cell is None, and what looks like a number is one."""
        n, places = len(columns), [self.columns.index(name) for name in (*columns, *as_json)]
        number, is_header = 0, self._dialect.header
        with closing(self._raw()) as raw:
            for line, row in raw:
                if is_header:
                    is_header = False
                    continue
                try:
                    found = self._cells_of(row, places, f"{self.name}:{line}")
                except RecordError as error:
                    if self.unreadable is None:
                        raise
                    self.unreadable.add(number, error)
                    found = [None] * len(places)
                yield number, [*(cell or None for cell in found[:n]), *(_as_json(cell) for cell in found[n:])]
                number += 1

    def _cells_of(self, row: bytes, places: Sequence[int], where: str) -> list[Cell]:
        """What stands in a row at these places. Raises RecordError."""
        dialect, width = self._dialect, len(self.columns)
        if dialect.quotes and b'"' in row:
            cells = self._cells(row, where)
            n_cells = len(cells)
            found = [cells[place] if place < n_cells else None for place in places]
        else:
            parts = row[: _content(row)].split(dialect.delimiter)
            n_cells = len(parts)
            try:
                found = [parts[place].decode(dialect.encoding) if place < n_cells else None for place in places]
            except UnicodeDecodeError:
                raise self._undecodable(where) from None
        if n_cells != width:
            raise RecordError(
                f"{n_cells} cells where the {'header' if dialect.header else 'first row'} has {width}",
                where=where,
                remedy="quote what holds a separator" if dialect.quotes else "repair the line",
            )
        return found

    def write(
        self, write: Callable[[bytes], None], changes: Changes, patched: Callable[[Patch], None] | None = None
    ) -> None:
        """See ``RowFile.write``."""
        out = PatchedRows(write, patched)
        for added in changes.added:
            if added.name in self.columns:
                raise OptionError(
                    f"has a column {added.name} already", where=self.name, remedy="rename it in the input"
                )
        number, is_header = 0, self._dialect.header
        with closing(self._raw(with_blank=True)) as raw:
            for line, row in raw:
                if line == 1 and row.startswith(_MARK):
                    out.write(HEADER, _MARK, _MARK)
                    row = row[len(_MARK) :]
                if not row.strip():
                    out.write(HEADER, row, row)
                elif is_header:
                    is_header = False
                    out.write(HEADER, row, self._with(row, [self._title(added) for added in changes.added]))
                else:
                    new = b""
                    if changes.keeps(number):
                        put = changes.put.get(number)
                        new = row if put is None else self._put(row, put, f"{self.name}:{line}")
                        if changes.added and not (self.unreadable and number in self.unreadable):
                            new = self._with(new, [_written(added, number) for added in changes.added])
                    out.write(changes.first_of(number), row, new)
                    number += 1

    def _title(self, added: Added) -> str:
        if not self._dialect.typed:
            return added.name
        return f"{added.name}:{'float_seq' if added.type is str else 'float'}"

    def _with(self, row: bytes, cells: Sequence[str]) -> bytes:
        """A row with cells behind its last one."""
        end = _content(row)
        more = b"".join(self._dialect.delimiter + self._dialect.cell(cell) for cell in cells)
        return row[:end] + more + row[end:]

    def _put(self, row: bytes, put: dict[str, str], where: str) -> bytes:
        spans = self._dialect.spans(row)
        assert spans is not None
        for place, text in sorted(((self.columns.index(name), text) for name, text in put.items()), reverse=True):
            start, end = spans[place]
            try:
                row = row[:start] + self._dialect.cell(text, row[start:end]) + row[end:]
            except UnicodeEncodeError:
                raise RecordError(
                    f"{text!r} cannot be written in {self._dialect.encoding}", where=where, remedy="drop, not replace"
                ) from None
            except ValueError:
                raise RecordError(
                    f"{text!r} cannot stand in a row without quoting", where=where, remedy="drop, not replace"
                ) from None
        return row

    def _cells(self, row: bytes, where: str) -> list[Cell]:
        spans = self._dialect.spans(row.removeprefix(_MARK) if where.endswith(":1") else row)
        row = row.removeprefix(_MARK) if where.endswith(":1") else row
        if spans is None:
            raise RecordError("a quotation mark is never closed", where=where, remedy="close it, or write it twice")
        try:
            return [self._dialect.text(row[start:end]) for start, end in spans]
        except UnicodeDecodeError:
            raise self._undecodable(where) from None

    def _undecodable(self, where: str) -> RecordError:
        return RecordError(
            f"not {self._dialect.encoding.upper()}",
            where=where,
            remedy="say what it is with `encoding`, perhaps latin-1",
        )

    def _raw(self, *, with_blank: bool = False) -> Generator[tuple[int, bytes], None, None]:
        """Rows with their endings and the number of the line where each begins; without blank ones."""
        with closing(open_input(self._path)) as stream:
            yield from _joined(stream, self.name, self._dialect, with_blank=with_blank)


def _joined(stream: BinaryIO, name: str, dialect: Dialect, *, with_blank: bool) -> Iterator[tuple[int, bytes]]:
    """Lines, of which those that share a quoted cell are one row."""
    lines = enumerate(bounded_lines(stream, name, RecordError), 1)
    for number, row in lines:
        if number == 1:
            refuse_binary(row[:LONGEST_MAGIC], name)
        if dialect.quotes and b'"' in row:
            plain = row.removeprefix(_MARK) if number == 1 else row
            while dialect.spans(plain) is None:
                more = b""
                while b'"' not in more and len(row) + len(more) < _LONGEST_ROW:
                    _, line = next(lines, (0, b""))
                    more += line
                    if not line:
                        break
                if b'"' not in more:
                    raise RecordError(
                        "a quotation mark is never closed",
                        where=f"{name}:{number}",
                        remedy="close it, or write it twice",
                    )
                row, plain = row + more, plain + more
        if with_blank or row.strip():
            yield number, row


def _content(row: bytes) -> int:
    """Where a row's line ending begins."""
    end = len(row)
    if row.endswith(b"\n"):
        end -= 1
    return end - 1 if row[end - 1 : end] == b"\r" else end


def _as_json(cell: Cell) -> Cell:
    if not cell:
        return None
    return cell if NUMBER.fullmatch(cell) else dumps(cell).decode()


def _written(added: Added, row: int) -> str:
    value = added.value(row)
    return "" if value is None else str(added.type(value))
