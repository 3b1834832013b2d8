"""Tables: the rows of a CSV, a TSV or one of RecBole's atomic files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from llm4dsr_cli.errors import CatalogError
from llm4dsr_cli.records.json_objects import file_of, to_utf8

Lines = Iterable[tuple[int, bytes]]  # with their numbers

_NO_LIMIT = 2**31 - 1  # of a cell; csv's own is 131,072 characters


class Table:
    """The rows of a table, of which the first names the columns.

    A TSV of the wild quotes nothing: where each of its lines has the columns of the header, a line in which quotation
    marks are out of place is split at its tabs. RecBole's ``.item`` quotes nothing at all.

    Attributes:
        header: the first line as it stands, known once a row was read.
    """

    def __init__(self, path: Path, extension: str, lines: Lines) -> None:
        self.header = ""
        self._path, self._name, self._extension = path, str(path), extension
        self._lines = lines

    def rows(self, again: Callable[[], Any]) -> Iterator[tuple[int, list[str]]]:
        """The rows with the number of the line where each begins, the header first; blank ones are left out.

        Args:
            again: opens the lines once more; the result has to be closed.

        Raises:
            CatalogError: a row has another number of columns than the header, or quotation marks are out of place.
        """
        csv.field_size_limit(_NO_LIMIT)
        texts = self._decoded(self._lines)
        # Only a regular file can be looked at first.
        unquoted = self._extension == ".tsv" and self._path.is_file() and self._quotes_nothing(again)
        rows = self._split(texts) if unquoted or self._extension == ".item" else self._quoted(texts)
        columns = 0
        for number, row in rows:
            if columns and not any(cell.strip() for cell in row):
                continue
            if columns and len(row) != columns:
                raise CatalogError(
                    f"{len(row)} columns where the header has {columns}",
                    where=f"{self._name}:{number}",
                    remedy="repair the line" if self._extension == ".item" else "quote what holds a separator",
                )
            columns = len(row)
            yield number, row

    def _quoted(self, texts: Iterator[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
        # strict: a stray quotation mark would otherwise swallow the lines that follow it
        rows = csv.reader((text for _, text in texts), delimiter=self._delimiter, strict=True)
        number = 1  # where the row begins; a quoted cell may hold newlines
        try:
            for row in rows:
                if row:
                    yield number, row
                number = rows.line_num + 1
        except csv.Error as error:
            if "new-line character" in str(error):
                raise CatalogError(
                    "lines that end as an old Mac's, in carriage returns alone",
                    where=f"{self._name}:1",
                    remedy=f"give them newlines: tr '\\r' '\\n' < {file_of(self._name + ':1')} > NEW",
                ) from None
            more = "; a .item is read without quoting" if self._extension == ".tsv" else ""
            raise CatalogError(
                f"not a table that can be read ({error})",
                where=f"{self._name}:{number}",
                remedy=f'write quoted fields as "...", and a quotation mark inside as ""{more}',
            ) from None

    def _split(self, texts: Iterator[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
        for number, text in texts:
            line = text.rstrip("\r\n")
            if line:
                yield number, self._cells(line)

    def _cells(self, line: str) -> list[str]:
        cells = line.split("\t")
        if self._extension == ".tsv" and '"' in line:
            with suppress(csv.Error):  # some of its lines may be quoted all the same
                quoted = next(csv.reader([line], delimiter="\t", strict=True))
                return quoted if len(quoted) == len(cells) else cells
        return cells

    def _quotes_nothing(self, again: Callable[[], Any]) -> bool:
        """Whether each line is a row as it stands, though quotation marks are out of place in some."""
        tabs: int | None = None
        out_of_place = False
        with closing(again()) as lines:
            for _, line in lines:
                if not line.strip():
                    continue
                if tabs is None:
                    if b'"' in line:
                        return False
                    tabs = line.count(b"\t")
                elif line.count(b"\t") != tabs:
                    return False
                elif b'"' in line and not out_of_place:
                    try:
                        next(csv.reader([line.decode("utf-8", "replace").rstrip("\r\n")], delimiter="\t", strict=True))
                    except csv.Error:
                        out_of_place = True
        return out_of_place

    @property
    def _delimiter(self) -> str:
        return "," if self._extension == ".csv" else "\t"

    def _decoded(self, lines: Lines) -> Iterator[tuple[int, str]]:
        number = 0
        try:
            for number, line in lines:
                text = line.decode("utf-8")
                self.header = self.header or text.strip("\r\n")
                yield number, text
        except UnicodeDecodeError as error:
            where = f"{self._name}:{number}"
            raise CatalogError(
                f"not UTF-8 (byte {error.start + 1} of the line)", where=where, remedy=to_utf8(file_of(where))
            ) from None
