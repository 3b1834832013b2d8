"""Rows: what the file of a catalog says of each item, line by line."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from llm4dsr_cli.errors import CatalogError, Llm4dsrError
from llm4dsr_cli.records.bounds import bounded_lines
from llm4dsr_cli.records.columns import id_names, title_name
from llm4dsr_cli.records.file_kinds import CATALOG_KINDS, LONGEST_MAGIC, refuse_binary
from llm4dsr_cli.records.headerless import Headerless, headerless
from llm4dsr_cli.records.json_lines import dumps, kind, loads, quote, quote_names
from llm4dsr_cli.records.json_objects import file_of, parse_object
from llm4dsr_cli.records.shapes import separating, turned
from llm4dsr_cli.records.tables import Table
from llm4dsr_cli.sequences import ItemId
from llm4dsr_cli.titles import title_of

_JSON_LINES = (".jsonl", ".json", ".ndjson")
_HEADER_CHARACTERS = 200  # of a header in a message


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
        is_table: whether it is a table; else it is JSON.
        columns: names of a table's columns, known once a row was read.
        column_types: RecBole's types by column, likewise.
        id_field, title_field: where ids and titles come from, likewise; None in an object of titles by id.
    """

    def __init__(
        self,
        path: Path,
        item_id_field: str | None,
        item_title_field: str | None,
        record_ids: Callable[[], Collection[str]] | None = None,
    ) -> None:
        """A catalog whose columns have these names, or are found.

        Args:
            record_ids: ids that the records have, as texts; asked where several columns may hold the ids.

        Raises:
            CatalogError: the file's extension is of no known kind.
        """
        extension = (path.with_suffix("") if _is_gzip(path) else path).suffix
        self._path, self._name = path, str(path)
        self._headerless = _headerless(path)
        if extension.lower() not in CATALOG_KINDS and self._headerless is None:
            self._refuse_kind(extension)
        self._extension = extension.lower()
        self.id_field, self.title_field = item_id_field, item_title_field
        self._record_ids = record_ids
        self.is_table = self._extension not in _JSON_LINES
        self.columns: list[str] = []
        self.column_types: dict[str, str] = {}

    def rows(self) -> Generator[Row, None, None]:
        """The items in order. Raises CatalogError, with file and line, for what cannot be read or is no catalog."""
        with closing(_lines(self._path)) as lines:
            if self._headerless is not None:
                self.columns = [self.id_field or "id", self.title_field or "title"]
                self.id_field, self.title_field = self.columns
                for number, id_, title in self._headerless.rows(lines, self._name):
                    yield Row(number, id_, title_of(title), self.columns, [id_, title])
            else:
                yield from self._table_rows(lines) if self.is_table else self._json_rows(lines)

    def _json_rows(self, lines: Iterator[tuple[int, bytes]]) -> Iterator[Row]:
        first = next(((number, line) for number, line in lines if line.strip()), None)
        if first is None:
            return
        number, line = first
        names = _names_of(line)
        known = names is not None and (self.id_field in names if self.id_field else id_names(names))
        if not known and (names is None or title_name([*names]) is None):
            # Perhaps one object of all titles: {"1": "Heat", ...}, over many lines or on one.
            rest = [line, *(more for _, more in lines)]
            titles = _object(b"".join(rest))
            if titles is not None and titles:
                yield from self._titles_by_id(titles)
                return
            lines = iter([*enumerate(rest, number)])
        else:
            lines = _chain(first, lines)
        yield from self._object_rows(lines)

    def _object_rows(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[Row]:
        """Items of which each is an object on a line of its own."""
        first: dict[str, object] | None = None
        title_field, any_title = "title", False
        for number, line in lines:
            if not line.strip():
                continue
            where = f"{self._name}:{number}"
            item = parse_object(line, where, CatalogError)
            if first is None:
                first = item
                self.id_field = self._json_id(item, where)
                title_field = self.title_field or title_name([*item]) or "title"
            id_: Any = item.get(str(self.id_field))
            if self.id_field not in item:
                raise CatalogError(
                    f"{quote(self.id_field)} is missing, the fields are {quote_names(list(item)) or 'none'}",
                    where=where,
                    remedy="say which field holds the id with `item_id_field`",
                )
            if type(id_) not in (int, float, str) or id_ == "":
                what = "empty" if id_ == "" else kind(id_)
                remedy = (turned(item, where) if isinstance(id_, dict) else None) or "use an integer or a string"
                raise CatalogError(f"{quote(self.id_field)} is {what}", where=where, remedy=remedy)
            if not any_title and self.title_field is None and title_field not in item:
                title_field = title_name([*item]) or title_field  # the first item may have had no title
            any_title = any_title or title_field in item
            yield Row(number, id_, title_of(item.get(title_field)), item, line.strip())
        self.title_field = title_field
        if first is not None and not any_title:
            raise CatalogError(
                f"no line has {quote(title_field)}, the fields are {quote_names(list(first))}",
                where=self._name,
                remedy="say which field holds the title with `item_title_field`",
            )

    def _json_id(self, item: dict[str, object], where: str) -> str:
        """The field of the ids."""
        if self.id_field is not None:
            return self.id_field
        found = id_names(item)
        if len(found) > 1:
            return self._chosen(found, where)
        return found[0] if found else "id"

    def _titles_by_id(self, titles: dict[str, object]) -> Iterator[Row]:
        """Items of one object, {id: title}, or {id: {"title": ...}}."""
        values = list(titles.values())
        if all(type(value) is int for value in values):
            raise CatalogError(
                "an object of numbers: are these ids by title?",
                where=self._name,
                remedy=f"turn it round: jq 'with_entries({{key: (.value | tostring), value: .key}})' "
                f"{file_of(self._name + ':1')} > NEW.json",
            )
        names = dict.fromkeys(name for value in values if isinstance(value, dict) for name in value)
        field = self.title_field or title_name([*names]) or "title"
        if names and field not in names:
            raise CatalogError(
                f"no item has {quote(field)}, the fields are {quote_names([*names])}",
                where=self._name,
                remedy="say which field holds the title with `item_title_field`",
            )
        self.id_field, self.title_field = None, field if names else None
        for id_, value in titles.items():
            if isinstance(value, dict):
                yield Row(1, id_, title_of(value.get(field)), value, dumps(value))
            else:
                yield Row(1, id_, title_of(value), (), b"{}")

    def _table_rows(self, lines: Iterator[tuple[int, bytes]]) -> Iterator[Row]:
        table = Table(self._path, self._extension, lines)
        id_column = title_column = 0
        for number, row in table.rows(lambda: _lines(self._path)):
            where = f"{self._name}:{number}"
            if not self.columns:
                self.columns = [self._column_name(cell) for cell in row]
                self.column_types = self._types(row)
                id_column, title_column = self._find_columns(where, table.header)
                self.id_field, self.title_field = self.columns[id_column], self.columns[title_column]
            else:
                if not row[id_column].strip():
                    raise CatalogError(
                        f"{quote(self.columns[id_column])} is empty", where=where, remedy="give the item an id"
                    )
                yield Row(number, row[id_column], title_of(row[title_column]), self.columns, row)

    def _column_name(self, cell: str) -> str:
        return (cell.partition(":")[0] if self._extension == ".item" else cell).strip()

    def _types(self, header: list[str]) -> dict[str, str]:
        """What RecBole writes behind the names of columns, as in ``price:float``."""
        if self._extension != ".item":
            return {}
        parts = [cell.partition(":") for cell in header]
        return {name.strip(): type_.strip() for name, mark, type_ in parts if mark}

    def _find_columns(self, where: str, header: str) -> tuple[int, int]:
        """Where the ids and the titles stand. Raises CatalogError, with the header as it stands."""
        shown = f"the header is {quote(header.strip(), _HEADER_CHARACTERS)}"
        if len(self.columns) == 1:  # another separator
            raise CatalogError(f"one column alone, {shown}", where=where, remedy=self._separated(header, where))
        title = self.title_field and self._column_name(self.title_field)
        title = title or title_name(self.columns)
        if title not in self.columns:
            raise CatalogError(
                f"no column {quote(title or 'title')}, {shown}",
                where=where,
                remedy="name the columns in the first line, and say which holds the title with `item_title_field`",
            )
        wanted = self.id_field and self._column_name(self.id_field)
        found = [wanted] if wanted in self.columns else [] if wanted else id_names(self.columns)
        found = [name for name in found if name is not None and name != title]
        if not found:
            raise CatalogError(
                f"no column {quote(wanted) if wanted else 'of ids'}, {shown}",
                where=where,
                remedy="say which column holds the id with `item_id_field`",
            )
        id_ = found[0] if len(found) == 1 else self._chosen(found, where)
        return self.columns.index(id_), self.columns.index(title)

    def _separated(self, header: str, where: str) -> str:
        """What to do with a table that has another separator than its name says."""
        wanted = "commas" if self._extension == ".csv" else "tabs"
        mark = next((mark for mark in "\t,;|" if mark in header), None)
        if mark is None or header.lower().startswith("sep="):
            return f"put {wanted} between its columns" + (", and the header in line 1" if mark else "")
        if {mark, self._extension} in ({"\t", ".csv"}, {",", ".tsv"}):
            return f"put {wanted} between its columns, or name it {'.tsv' if mark == chr(9) else '.csv'}"
        return f"put {wanted} between its columns: {separating(mark, ',' if wanted == 'commas' else chr(9), where)}"

    def _chosen(self, names: list[str], where: str) -> str:
        """Of several names that may be the id's, the one whose values the records have, most of them and alone.

        Raises CatalogError where the records cannot tell.
        """
        held = self._held(names)
        best = max(names, key=lambda name: held[name])
        if all(2 * held[name] < held[best] for name in names if name != best):
            return best
        raise CatalogError(
            f"{' and '.join(map(quote, names))} may each hold the ids",
            where=where,
            remedy="say which does with `item_id_field`",
        )

    def _held(self, names: list[str]) -> dict[str, int]:
        """How many of the records' ids each of these fields holds."""
        none = dict.fromkeys(names, 0)
        if self._record_ids is None or not self._path.is_file():
            return none
        wanted = set(self._record_ids())
        if not wanted:
            return none
        held: dict[str, set[str]] = {name: set() for name in names}
        with closing(_lines(self._path)) as lines:
            for values in self._values(lines, names):
                for name, value in values.items():
                    if value in wanted:
                        held[name].add(value)
        return {name: len(found) for name, found in held.items()}

    def _values(self, lines: Iterator[tuple[int, bytes]], names: list[str]) -> Iterator[dict[str, str]]:
        if self.is_table:
            rows = Table(self._path, self._extension, lines).rows(lambda: _lines(self._path))
            for number, (_, row) in enumerate(rows):
                if number:
                    yield {name: row[self.columns.index(name)] for name in names}
            return
        for number, line in lines:
            if line.strip():
                item = parse_object(line, f"{self._name}:{number}", CatalogError)
                yield {name: str(item[name]) for name in names if name in item}

    def _refuse_kind(self, extension: str) -> None:
        """Raise CatalogError for an extension that says nothing."""
        raise CatalogError(
            f"not a known kind of catalog ({quote(extension)})",
            where=self._name,
            remedy=f"use one of {', '.join(CATALOG_KINDS)}, each also with .gz",
        )


def _headerless(path: Path) -> Headerless | None:
    """How a catalog without a header is written; only a regular file can be looked at first."""
    if not path.is_file():
        return None
    with closing(_lines(path)) as lines:
        return headerless(path, next((line for _, line in lines), b""))


def _names_of(line: bytes) -> Collection[str] | None:
    """The names of an object that stands on a line; None where the line is no object."""
    try:
        value = loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _object(text: bytes) -> dict[str, object] | None:
    """The object that a whole text is, if it may be one of titles by id."""
    try:
        value = loads(text)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    inner = {isinstance(one, dict) for one in value.values()}
    # One item, written over several lines, is no object of titles.
    if len(inner) > 1 or (False in inner and (id_names(value) or title_name([*value]))):
        return None
    return value if not any(isinstance(one, (list, bool)) for one in value.values()) else None


def _chain(first: tuple[int, bytes], rest: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    yield first
    yield from rest


def _is_gzip(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _lines(path: Path) -> Generator[tuple[int, bytes], None, None]:
    """The lines with their numbers, endings kept, a byte order mark dropped."""
    try:
        with gzip.open(path, "rb") if _is_gzip(path) else path.open("rb") as file:
            for number, line in enumerate(bounded_lines(cast(BinaryIO, file), str(path), CatalogError), 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                    refuse_binary(line[:LONGEST_MAGIC], str(path))
                yield number, line
    except FileNotFoundError:
        raise CatalogError("no such file", where=str(path), remedy="check the catalog's path") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CatalogError(f"cannot be read ({reason})", where=str(path), remedy="give a readable file") from None
    except CatalogError:
        raise
    except Llm4dsrError as error:
        raise CatalogError(error.what, where=error.where, remedy=error.remedy) from None
