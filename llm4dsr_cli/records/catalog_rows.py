"""Rows: what the file of a catalog says of each item, line by line."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from llm4dsr_cli.errors import CatalogError
from llm4dsr_cli.records.bounds import bounded_lines
from llm4dsr_cli.records.json_lines import kind, parse_object, quote, quote_names

ItemId = int | str

_ID_NAMES = ("id", "item_id")
_TITLE_NAMES = ("title", "item_title", "name", "movie_title")  # RecBole's MovieLens says movie_title
_JSON_LINES = (".jsonl", ".json", ".ndjson")
_FORMATS = (*_JSON_LINES, ".csv", ".tsv", ".item")


class Row(NamedTuple):
    """One item as a catalog's file has it.

    Attributes:
        line: where it begins, from 1.
        id: its id, text in a table.
        title: its title, None where it has none.
        names: the names of its fields.
        fields: all fields, as the line of JSON or as the cells of the table's row.
    """

    line: int
    id: ItemId
    title: str | None
    names: Collection[str]
    fields: bytes | list[str]


class CatalogFile:
    """A catalog's file, read once; see ``Catalog.load`` for the formats.

    Attributes:
        is_table: whether it is a table; else it is JSON lines.
        columns: names of a table's columns, known once a row was read.
        column_types: RecBole's types by column, likewise.
    """

    def __init__(self, path: Path, item_id_field: str | None, item_title_field: str | None) -> None:
        """Raises CatalogError when the file's extension is of no known kind."""
        extension = (path.with_suffix("") if _is_gzip(path) else path).suffix
        if extension.lower() not in _FORMATS:
            raise CatalogError(
                f"not a known kind of catalog ({quote(extension)})",
                where=str(path),
                remedy=f"use one of {', '.join(_FORMATS)}, each also with .gz",
            )
        self._path, self._name = path, str(path)
        self._extension = extension.lower()
        self._id_field, self._title_field = item_id_field, item_title_field
        self.is_table = self._extension not in _JSON_LINES
        self.columns: list[str] = []
        self.column_types: dict[str, str] = {}

    def rows(self) -> Generator[Row, None, None]:
        """The items in order. Raises CatalogError, with file and line, for what cannot be read or is no catalog."""
        with closing(_lines(self._path)) as lines:
            yield from self._table_rows(lines) if self.is_table else self._json_rows(lines)

    def _json_rows(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[Row]:
        id_names = (self._id_field,) if self._id_field else _ID_NAMES
        title_name = self._title_field or "title"
        first: list[str] | None = None
        any_title = False
        for number, line in lines:
            if not line.strip():
                continue
            where = f"{self._name}:{number}"
            item = parse_object(line, where, CatalogError)
            first = list(item) if first is None else first
            id_name = next((field for field in id_names if field in item), None)
            if id_name is None:
                raise CatalogError(
                    f"{quote(id_names[0])} is missing, the fields are {quote_names(list(item)) or 'none'}",
                    where=where,
                    remedy="say which field holds the id with `item_id_field`",
                )
            id_, title = item[id_name], item.get(title_name)
            if type(id_) not in (int, str) or id_ == "":
                what = "empty" if id_ == "" else kind(id_)
                raise CatalogError(f"{quote(id_name)} is {what}", where=where, remedy="use an integer or a string")
            if title is not None and not isinstance(title, str):
                raise CatalogError(f"{quote(title_name)} is {kind(title)}", where=where, remedy="use a string or null")
            any_title = any_title or title_name in item
            yield Row(number, id_, title, item, line.strip())
        if first is not None and not any_title:
            raise CatalogError(
                f"no line has {quote(title_name)}, the fields are {quote_names(first)}",
                where=self._name,
                remedy="say which field holds the title with `item_title_field`",
            )

    def _table_rows(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[Row]:
        texts = self._decoded(lines)
        if self._extension == ".item":  # RecBole joins its columns with tabs and quotes nothing
            rows = csv.reader(texts, delimiter="\t", quoting=csv.QUOTE_NONE)
        else:
            # strict: a stray quotation mark would otherwise swallow the lines that follow it
            rows = csv.reader(texts, delimiter="," if self._extension == ".csv" else "\t", strict=True)
        id_column = title_column = 0
        number = 1  # where the row begins; a quoted field may hold newlines
        try:
            for row in rows:
                where = f"{self._name}:{number}"
                if row and not self.columns:
                    self.columns = [self._column_name(cell) for cell in row]
                    self.column_types = self._types(row)
                    id_column, title_column = self._find_columns(where)
                elif row:
                    self._check_row(row, id_column, where)
                    yield Row(number, row[id_column], row[title_column], self.columns, row)
                number = rows.line_num + 1
        except csv.Error as error:
            raise CatalogError(
                f"not a table that can be read ({error})",
                where=f"{self._name}:{number}",
                remedy='write quoted fields as "...", and a quotation mark inside as ""',
            ) from None

    def _check_row(self, row: list[str], id_column: int, where: str) -> None:
        if len(row) != len(self.columns):
            raise CatalogError(
                f"{len(row)} columns where the header has {len(self.columns)}",
                where=where,
                remedy="repair the line" if self._extension == ".item" else "quote what holds a separator",
            )
        if not row[id_column]:
            raise CatalogError(f"{quote(self.columns[id_column])} is empty", where=where, remedy="give the item an id")

    def _decoded(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[str]:
        number = 0
        try:
            for number, line in lines:  # noqa: B007 - the message below needs it
                yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CatalogError(
                f"not UTF-8 (byte {error.start + 1} of the line)",
                where=f"{self._name}:{number}",
                remedy="convert the file, for instance with iconv -t UTF-8",
            ) from None

    def _column_name(self, cell: str) -> str:
        return (cell.partition(":")[0] if self._extension == ".item" else cell).strip()

    def _types(self, header: list[str]) -> dict[str, str]:
        """What RecBole writes behind the names of columns, as in ``price:float``."""
        if self._extension != ".item":
            return {}
        parts = [cell.partition(":") for cell in header]
        return {name.strip(): type_.strip() for name, mark, type_ in parts if mark}

    def _find_columns(self, where: str) -> tuple[int, int]:
        """Where the ids and the titles stand. Raises CatalogError, naming the columns there are."""
        columns = f"the columns are {quote_names(self.columns)}"
        id_names = (self._column_name(self._id_field),) if self._id_field else (*_ID_NAMES, self.columns[0])
        title_names = (self._column_name(self._title_field),) if self._title_field else _TITLE_NAMES
        id_name = next((column for column in id_names if column in self.columns), None)
        title_name = next((column for column in title_names if column in self.columns), None)
        if title_name is None:
            raise CatalogError(
                f"no column {quote(title_names[0])}, {columns}",
                where=where,
                remedy="say which column holds the title with `item_title_field`",
            )
        if id_name is None or id_name == title_name:
            missing = quote(id_names[0]) if id_name is None else "of ids"
            raise CatalogError(
                f"no column {missing}, {columns}",
                where=where,
                remedy="say which column holds the id with `item_id_field`",
            )
        return self.columns.index(id_name), self.columns.index(title_name)


def _is_gzip(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _lines(path: Path) -> Generator[tuple[int, bytes], None, None]:
    """The lines with their numbers, endings kept, a byte order mark dropped."""
    number = 0
    try:
        with gzip.open(path, "rb") if _is_gzip(path) else path.open("rb") as file:
            for number, line in enumerate(bounded_lines(cast(BinaryIO, file), str(path), CatalogError), 1):
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except FileNotFoundError:
        raise CatalogError("no such file", where=str(path), remedy="check the catalog's path") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise CatalogError(
            "damaged or cut short gzip data", where=f"{path}:{number + 1}", remedy="fetch or compress the file again"
        ) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CatalogError(f"cannot be read ({reason})", where=str(path), remedy="give a readable file") from None
