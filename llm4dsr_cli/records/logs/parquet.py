"""Parquet: rows of a file with one interaction, or one list, in each; written back with its own schema."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from llm4dsr_cli.errors import Llm4dsrError, MissingExtraError, OptionError, RecordError
from llm4dsr_cli.records.logs.patches import Patch
from llm4dsr_cli.records.logs.row_file import Added, Cell, Changes
from llm4dsr_cli.records.logs.unreadable import Unreadable

_COPIED = 1 << 20  # bytes at a time
_BATCH = 65_536  # rows
_A_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


class ParquetFile:
    """The rows of a Parquet file; see ``RowFile``. Cells of lists are JSON.

    Raises:
        MissingExtraError: pyarrow is not installed.
        Llm4dsrError: the file cannot be read.
    """

    kind = "Parquet"
    rows_are_bytes = False
    has_types = True
    endings: tuple[str, ...] = (".parquet", ".pq")
    unreadable: Unreadable | None = None

    def __init__(self, path: str | Path, name: str | None = None) -> None:
        try:
            import pyarrow.parquet
        except ModuleNotFoundError:
            raise MissingExtraError("parquet", "pyarrow") from None
        self._parquet: Any = pyarrow.parquet
        self._arrow: Any = pyarrow
        self._path = path
        self.name = name or str(path)
        with self._open() as file:
            self._schema = file.schema_arrow
        self.columns: list[str] = list(self._schema.names)

    def lists(self) -> list[str]:
        """The columns of lists."""
        types = self._arrow.types
        return [
            field.name
            for field in self._schema
            if types.is_list(field.type) or types.is_large_list(field.type) or types.is_fixed_size_list(field.type)
        ]

    def check_list(self, name: str) -> None:
        """Raise OptionError where a column of lists has objects, not ids or titles."""
        inner = self._schema.field(name).type.value_type
        if self._arrow.types.is_nested(inner):
            raise OptionError(
                f"{name} is a list of {inner}",
                where=self.name,
                remedy="put ids into one list and titles into another",
            )

    def rows(self, columns: Sequence[str], as_json: Sequence[str] = ()) -> Iterator[tuple[int, list[Cell]]]:
        """See ``RowFile.rows``; null and NaN are None."""
        number = 0
        with self._open() as file:
            for batch in file.iter_batches(_BATCH, columns=list(dict.fromkeys([*columns, *as_json]))):
                column = {name: batch.column(batch.schema.get_field_index(name)) for name in (*columns, *as_json)}
                cells = [
                    *(self._texts(column[name]) for name in columns),
                    *(self._as_json(column[name]) for name in as_json),
                ]
                for row in zip(*cells, strict=True):
                    yield number, list(row)
                    number += 1

    def write(
        self, write: Callable[[bytes], None], changes: Changes, patched: Callable[[Patch], None] | None = None
    ) -> None:
        """See ``RowFile.write``; row groups, schema, metadata and compression are those of the file."""
        if not (changes.dropped or changes.put or changes.added):
            with Path(self._path).open("rb") as source:
                while data := source.read(_COPIED):
                    write(data)
            return
        with self._open() as file:
            schema = self._schema
            for added in changes.added:
                if added.name in self.columns:
                    raise OptionError(
                        f"has a column {added.name} already", where=self.name, remedy="rename it in the input"
                    )
                schema = schema.append(self._arrow.field(added.name, self._type(added)))
            with self._parquet.ParquetWriter(Sink(write), schema, compression=self._compression(file)) as writer:
                first = 0
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group)
                    writer.write_table(self._changed(table, first, changes, schema), row_group_size=max(1, len(table)))
                    first += len(table)

    def _changed(self, table: Any, first: int, changes: Changes, schema: Any) -> Any:
        rows = range(first, first + len(table))
        put = {row: changes.put[row] for row in rows if row in changes.put} if changes.put else {}
        for name in dict.fromkeys(name for texts in put.values() for name in texts):
            place = table.schema.get_field_index(name)
            field = table.schema.field(place)
            values = table.column(place).to_pylist()
            for row, texts in put.items():
                values[row - first] = self._typed(texts[name], field.type, name)
            plain = field.type.value_type if self._arrow.types.is_dictionary(field.type) else field.type
            table = table.set_column(place, field, self._arrow.array(values, plain).cast(field.type))
        for added in changes.added:
            values = [_value(added, row) for row in rows]
            table = table.append_column(added.name, self._arrow.array(values, self._type(added)))
        if changes.dropped:
            table = table.filter(self._arrow.array([changes.keeps(row) for row in rows], self._arrow.bool_()))
        return table.cast(schema)

    def _type(self, added: Added) -> Any:
        if added.type is str:
            return self._arrow.list_(self._arrow.float64())
        return self._arrow.float64() if added.type is float else self._arrow.int8()

    def _typed(self, text: str, type_: Any, name: str) -> Any:
        types = self._arrow.types
        try:
            if types.is_nested(type_):
                inner, entries = getattr(type_, "value_type", None), _list_of(text)
                if inner is None or not (types.is_timestamp(inner) or types.is_date(inner)):
                    return entries
                read = datetime.fromisoformat if types.is_timestamp(inner) else date.fromisoformat
                return [None if entry is None else read(entry) for entry in entries]
            if types.is_integer(type_):
                return int(text)
            if types.is_decimal(type_):
                return Decimal(text)
            return float(text) if types.is_floating(type_) else text
        except (ValueError, InvalidOperation):
            raise RecordError(
                f"{text!r} is no {type_}, as {name} is", where=self.name, remedy="drop, not replace"
            ) from None

    def _texts(self, column: Any) -> list[Cell]:
        types = self._arrow.types
        if types.is_duration(column.type):
            column = column.cast(self._arrow.int64())
        elif types.is_timestamp(column.type):
            column = column.cast(self._arrow.timestamp("us", column.type.tz), safe=False)
        elif types.is_time(column.type):
            column = column.cast(self._arrow.time64("us"), safe=False)
        values = column.to_pylist()
        if types.is_temporal(column.type):  # as ISO dates, by which `where` compares
            return [None if value is None else value.isoformat().replace("T", " ") for value in values]
        if types.is_nested(column.type):
            return [None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in values]
        return [None if value is None or value != value or value == "" else str(value) for value in values]

    def _as_json(self, column: Any) -> list[Cell]:
        types = self._arrow.types
        values = column.to_pylist()
        if types.is_date(column.type) or types.is_timestamp(column.type):
            days = types.is_date32(column.type)
            counts = column.cast(self._arrow.int32() if days else self._arrow.int64()).to_pylist()
            each = 1 / 86_400 if days else _A_SECOND["ms" if types.is_date64(column.type) else column.type.unit]
            values = [None if count is None else _whole(count / each) for count in counts]
        elif types.is_decimal(column.type):
            return [None if value is None else str(value) for value in values]
        found = map(_finite, values)
        return [None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in found]

    def _compression(self, file: Any) -> str | dict[str, str]:
        if not file.num_row_groups:
            return "snappy"
        group = file.metadata.row_group(0)
        chunks = [group.column(place) for place in range(group.num_columns)]
        # What the reader calls UNCOMPRESSED the writer calls NONE.
        return {chunk.path_in_schema: chunk.compression.replace("UNCOMPRESSED", "NONE") for chunk in chunks}

    def _open(self) -> Any:
        try:
            return self._parquet.ParquetFile(self._path)
        except FileNotFoundError:
            raise Llm4dsrError("no such file", where=self.name, remedy="check the path") from None
        except (OSError, self._arrow.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise Llm4dsrError(
                f"cannot be read as Parquet ({reason})", where=self.name, remedy="write it again"
            ) from None


class Sink:
    """What pyarrow takes for a file that is written."""

    closed = False

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._at = 0

    def write(self, data: Any) -> int:
        self._write(bytes(data))
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def _list_of(text: str) -> Any:
    """The list that a cell is: JSON, or, with a text of ours in it, Python."""
    try:
        return json.loads(text)
    except ValueError:
        return ast.literal_eval(text)


def _whole(seconds: float) -> int | float:
    return int(seconds) if seconds == int(seconds) else seconds


def _finite(value: Any) -> Any:
    """A value without the numbers that JSON does not know; they are null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [*map(_finite, value)]
    return {name: _finite(one) for name, one in value.items()} if isinstance(value, dict) else value


def _value(added: Added, row: int) -> Any:
    value = added.value(row)
    if value is not None and added.type is str:
        with suppress(ValueError):
            return [None if number is None else float(number) for number in json.loads(str(value))]
    return value
