"""The table: records written as a log with one interaction a row, in any format that logs are read from."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import orjson

from llm4dsr_cli.errors import MissingExtraError, OptionError, RecordError
from llm4dsr_cli.records.columns import id_names, title_name
from llm4dsr_cli.records.logs.columns import Columns
from llm4dsr_cli.records.logs.delimited import ATOMIC, CSV, TSV, Dialect
from llm4dsr_cli.records.logs.row_log import ROWS_FIELD
from llm4dsr_cli.records.logs.value_kinds import NUMBERS, Digits, arrow_type, common_kind, kind_of, typed
from llm4dsr_cli.records.parallel import runs_parallel
from llm4dsr_cli.titles import clean_title

_DIALECTS = {".csv": CSV, ".tsv": TSV, ".inter": ATOMIC}
_PARQUET = (".parquet", ".pq")
ENDINGS = (*_DIALECTS, *_PARQUET)
_BATCH = 65_536  # rows

Row = list[str | None]


@dataclass(frozen=True)
class RecordFields:
    """Where a record has its user and its items.

    Attributes:
        user, items: fields.
        titles: a list of titles beside the items; None where there is none.
        id, title: fields of items that are objects.
    """

    user: str
    items: str
    titles: str | None = None
    id: str = "id"
    title: str = "title"


class Table:
    """Interactions by rows, as records hold them.

    A list that is always as long as the items is a column; so is a field that is not, which is the same in all rows of
    its record, and a further field of items that are objects. A list of row numbers puts the rows in their old order.

    Args:
        records: reads the records' lines; called twice.
        fields: where a record has what.
        columns: what users, items and titles are to be called; None for the usual names.

    Attributes:
        has_user: whether a record says whose it is.

    Raises:
        RecordError: a line is no record.
    """

    def __init__(
        self, records: Callable[[], Iterable[tuple[str, bytes]]], fields: RecordFields, columns: Columns
    ) -> None:
        self._records = records
        self._fields = fields
        self._own = {fields.user, fields.items, fields.titles, ROWS_FIELD}
        self._others: dict[str, _Lists] = {}
        self._of_items: dict[str, None] = {}  # further fields of items that are objects
        self._kinds: dict[tuple[str, str], set[str]] = {}  # by field, and what it is a field of; nulls left out
        self.has_user = self._has_titles = False
        self._is_ordered = True
        self.rows_written = 0
        for where, line in records():
            self._look_at(_parsed(line, where), where)
        self.names = [name for name, there in (
            (columns.user or "user_id", self.has_user),
            (columns.item or "item_id", True),
            (columns.title or "title", self._has_titles),
        ) if there] + [*self._others, *self._of_items]  # fmt: skip
        twice = next((name for name in self.names if self.names.count(name) > 1), None)
        if twice is not None:
            raise OptionError(
                f"two columns are called {twice}", remedy="rename a field, or name `user_column` and `item_column`"
            )

    def _look_at(self, data: dict[str, Any], where: str) -> None:
        items = data.get(self._fields.items)
        if not isinstance(items, list):
            raise RecordError(f"has no list {self._fields.items}", where=where, remedy="name it with `items_field`")
        self.has_user = self.has_user or self._fields.user in data
        titles = self._fields.titles is not None and self._fields.titles in data
        self._has_titles = self._has_titles or titles or any(isinstance(one, dict) for one in items)
        numbers_rows = _are_rows(data.get(ROWS_FIELD), len(items))
        self._is_ordered = self._is_ordered and numbers_rows
        for name, values in data.items():
            if name not in self._own or (name == ROWS_FIELD and not numbers_rows):
                self._others.setdefault(name, _Lists()).look_at(values, len(items))
                self._note("record", name, [values])
                self._note("list", name, values if isinstance(values, list) else [values])
        for item in items:
            if isinstance(item, dict):
                self._name_item(item)
                for name in item.keys() - {self._fields.id, self._fields.title}:
                    self._of_items[name] = None
                    self._note("item", name, [item[name]])
        self._note("record", self._fields.user, [data.get(self._fields.user)])
        ids = [one.get(self._fields.id) if isinstance(one, dict) else one for one in items]
        self._note("record", self._fields.items, ids)

    def _name_item(self, item: dict[str, Any]) -> None:
        """Take another name for the id, or the title, of items that are objects without the usual one."""
        if self._of_items or self._fields.id in item:
            return
        ids, title = id_names(item), title_name([*item])
        if len(ids) == 1:
            named = title if title is not None and self._fields.title not in item else self._fields.title
            self._fields = replace(self._fields, id=ids[0], title=named)

    def _note(self, of: str, field: str, values: list[Any]) -> None:
        self._kinds.setdefault((of, field), set()).update(kind_of(one) for one in values if one is not None)

    def _kinds_of(self, name: str) -> set[str]:
        if name in self._others:
            return self._kinds["list" if self._others[name].are_parallel else "record", name]
        return self._kinds["item", name]

    def rows(self) -> Iterator[Row]:
        """The rows in their order; None where a record says nothing."""
        if not self._is_ordered:
            for where, line in self._records():
                for _, row in self._rows_of(line, where):
                    yield row
            return
        with closing(sqlite3.connect("", isolation_level=None)) as database:
            database.execute("CREATE TABLE rows (number INTEGER, cells TEXT)")
            database.execute("BEGIN")
            database.executemany(
                "INSERT INTO rows VALUES (?, ?)",
                (
                    (number, json.dumps(row))
                    for where, line in self._records()
                    for number, row in self._rows_of(line, where)
                ),
            )
            database.execute("COMMIT")
            for (cells,) in database.execute("SELECT cells FROM rows ORDER BY number, rowid"):
                yield json.loads(cells)

    def _rows_of(self, line: bytes, where: str) -> Iterator[tuple[int, Row]]:
        data, fields = _parsed(line, where), self._fields
        items = data[fields.items]
        titles = data.get(fields.titles) if fields.titles is not None else None
        numbers = data[ROWS_FIELD] if self._is_ordered else [0] * len(items)
        for place, item in enumerate(items):
            id_, title = item, titles[place] if titles is not None and place < len(titles) else None
            if isinstance(item, dict):
                id_, title = item.get(fields.id), title if title is not None else item.get(fields.title)
            row = [_text(data.get(fields.user), where)] if self.has_user else []
            row.append(_text(id_, where))
            if self._has_titles:
                row.append(_text(title, where))
            for name, lists in self._others.items():
                value = data.get(name)
                if lists.are_parallel and isinstance(value, list) and len(value) == len(items):
                    value = value[place]
                row.append(_text(value, where))
            row += [_text(item.get(name) if isinstance(item, dict) else None, where) for name in self._of_items]
            yield int(numbers[place]), row

    def write(self, write: Callable[[bytes], None], ending: str) -> None:
        """Hand the table on, as files of this ending (one of ENDINGS) are.

        Raises:
            MissingExtraError: it is Parquet, and pyarrow is not installed.
            RecordError: an atomic file cannot hold a cell.
        """
        if ending in _PARQUET:
            self._write_parquet(write)
            return
        dialect = _DIALECTS[ending]
        names = self.names if not dialect.typed else [f"{name}:{self._type(name)}" for name in self.names]
        write(_line(names, dialect))
        title = self.names.index("title") if "title" in self.names and dialect.typed else None
        for row in self.rows():
            if title is not None and row[title] is not None:
                row[title] = clean_title(str(row[title]))  # nothing is quoted there
            write(_line(row, dialect))
            self.rows_written += 1

    def _type(self, name: str) -> str:
        """RecBole's type of a column."""
        if name in self._others or name in self._of_items:
            return "float" if self._kinds_of(name) <= NUMBERS else "token"
        return "token_seq" if self._has_titles and name == self.names[2 - (not self.has_user)] else "token"

    def _write_parquet(self, write: Callable[[bytes], None]) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ModuleNotFoundError:
            raise MissingExtraError("parquet", "pyarrow") from None
        from llm4dsr_cli.records.logs.parquet import Sink

        own = [self._kinds["record", self._fields.user]] * self.has_user + [self._kinds["record", self._fields.items]]
        own += [{"text"}] * self._has_titles
        kinds = [common_kind(kinds) for kinds in (*own, *map(self._kinds_of, [*self._others, *self._of_items]))]
        types = [arrow_type(pyarrow, kind) for kind in kinds]
        schema = pyarrow.schema([*zip(self.names, types, strict=True)])
        with pyarrow.parquet.ParquetWriter(Sink(write), schema) as writer:
            rows = self.rows()
            while batch := [*islice(rows, _BATCH)]:
                columns = [
                    [typed(cell, kind) for cell in column]
                    for kind, column in zip(kinds, zip(*batch, strict=True), strict=True)
                ]
                writer.write_table(pyarrow.table(columns, schema=schema))
                self.rows_written += len(batch)


class _Lists:
    """How often a field was a list as long as the items, and how often it was not."""

    def __init__(self) -> None:
        self._equal = self._different = self._odd = 0

    def look_at(self, value: Any, n_items: int) -> None:
        is_equal = isinstance(value, list) and len(value) == n_items
        if n_items > 1:  # of one item anything may be as long
            self._equal += is_equal
            self._different += not is_equal and value is not None
        else:
            self._odd += not is_equal and value is not None

    @property
    def are_parallel(self) -> bool:
        known = self._equal or self._different
        return runs_parallel(self._equal, self._different) if known else not self._odd


def _are_rows(value: Any, n_items: int) -> bool:
    """Whether a field numbers the rows of the items."""
    return (
        isinstance(value, list)
        and len(value) == n_items == len({*value} if all(isinstance(one, Digits) for one in value) else ())
        and all(one.isdecimal() for one in value)
    )


def _line(cells: Sequence[str | None], dialect: Dialect) -> bytes:
    try:
        return dialect.delimiter.join(dialect.cell(cell or "") for cell in cells) + b"\n"
    except ValueError as error:
        raise RecordError(
            f"{str(error)!r} cannot stand in a file without quoting", where="OUT", remedy="write a .csv"
        ) from None


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        data = json.loads(line, parse_float=Digits, parse_int=Digits)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise RecordError("not a JSON object", where=where, remedy="repair the line")
    return data


def _text(value: Any, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return None if value is None else str(value)
    try:
        written = orjson.dumps(value, lambda digits: orjson.Fragment(str(digits)), orjson.OPT_PASSTHROUGH_SUBCLASS)
    except TypeError:
        raise RecordError("a field is nested too deeply", where=where, remedy="leave it out") from None
    return written.decode()
