"""Tables of Arrow, one row a record: their lists to records, and decisions back into the lists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from llm4dsr_cli.cleaning.editing import additions, record_edits
from llm4dsr_cli.cleaning.run import Cleaning
from llm4dsr_cli.cleaning.tally import RunCounts
from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.edits import FLAG_FIELD, PROBABILITY_FIELD, dropped_and_put
from llm4dsr_cli.records.json_lines import dumps, quote
from llm4dsr_cli.records.parallel import ParallelLists
from llm4dsr_cli.records.parsing import record_of
from llm4dsr_cli.records.record import OnError, R, Record
from llm4dsr_cli.records.record_format import RecordFormat
from llm4dsr_cli.scores import BATCH_RECORDS

Numbered = tuple[int, R]  # a row's number in its table, and its record


def table_records(
    table: Any,
    where: str,
    first: int,
    record_format: RecordFormat,
    catalog: Catalog | None,
    user_field: str,
    on_error: OnError | None = None,
) -> Iterator[Numbered[Record]]:
    """The records of a table. They have its lists, its structs and the user; no other column is looked at.

    Args:
        table: a ``pyarrow.Table``.
        where: what it is part of, for messages.
        first: the number of its first row there, from 1.
        on_error: gets a row that is no record, as JSON, and the error; without it, the error is raised.
    """
    named = [one.name for one in table.schema if _is_nested(one.type) or one.name == user_field]
    for number, data in enumerate(table.select(named).to_pylist()):
        try:
            record = record_of(data, f"{where}:{first + number}", record_format, catalog)
        except RecordError as error:
            if on_error is None:
                raise
            on_error(error, row_json(data))
            continue
        yield number, record


def row_json(data: dict[str, Any]) -> bytes:
    """A row as JSON; what JSON has no word for is a text."""
    try:
        return dumps(data)
    except (TypeError, ValueError):
        return dumps({name: str(value) for name, value in data.items()})


@dataclass
class TableCleaner:
    """Cleans tables: the same columns and types come back; ``cleaner.Cleaner`` does it with lines.

    Attributes:
        cleaning: decides.
        lists: the lists that run parallel to the items; decided.
        annotate: add each item's noise probability, as a column.
        counts: kept up to date.
        nameless: how many records named no user.
    """

    cleaning: Cleaning
    lists: ParallelLists
    annotate: bool = False
    counts: RunCounts = field(default_factory=RunCounts)
    nameless: int = 0

    def clean(self, table: Any, records: Iterator[Numbered[R]], on_error: OnError | None = None) -> Any:
        """The table with its items edited; a row without a record, or that cannot be edited, is left out.

        Raises:
            RecordError: a column that is to be added is there already, or a list that runs parallel to the items
                elsewhere is of another length.
        """
        for name in self._added():
            if name in table.column_names:
                where = "the table"
                raise RecordError(f"has a column {quote(name)} already", where=where, remedy="rename or remove it")
        kept: list[int] = []
        edited: dict[int, dict[str, Any]] = {}
        added: list[dict[str, Any]] = []
        while batch := list(islice(records, BATCH_RECORDS)):
            decisions = self.cleaning.decide_batch([self.cleaning.sequence(record) for _, record in batch])
            for (row, record), decision in zip(batch, decisions, strict=True):
                self.nameless += record.data.get(self.cleaning.user_field) is None
                decision = decision.placed(record.order, len(record.titles))
                try:
                    edits = record_edits(record, decision, self.cleaning.candidates)
                    dropped, put = dropped_and_put(edits)
                    data = record.edited(dropped, {}, put, self.lists.of(record, dropping=bool(dropped)))
                except RecordError as error:
                    if on_error is None:
                        raise
                    on_error(error, row_json(record.data))
                    continue
                if data is not record.data:
                    edited[len(kept)] = data
                kept.append(row)
                added.append(additions(decision, annotate=self.annotate, fused=self.cleaning.fuses))
                self.counts.add(record)
                self.counts.edited_records += bool(edits)
                self.counts.edited_items += len(edits)
                self.counts.replaced_items += len(put)
        if len(kept) < len(table):
            table = table.take(kept)
        return self._with_added(_with_edited(table, edited), added)

    def _added(self) -> list[str]:
        marks = self.cleaning.settings.action == "mark"
        return [*([PROBABILITY_FIELD] if self.annotate else []), *([FLAG_FIELD] if marks else [])]

    def _with_added(self, table: Any, added: list[dict[str, Any]]) -> Any:
        import pyarrow as pa

        types = {PROBABILITY_FIELD: pa.list_(pa.float64()), FLAG_FIELD: pa.list_(pa.int8())}
        for name in self._added():
            table = table.append_column(name, pa.array([one[name] for one in added], type=types[name]))
        return table


def _with_edited(table: Any, edited: dict[int, dict[str, Any]]) -> Any:
    """The table with other values in some rows; columns in which none is another stay as they are."""
    import pyarrow as pa

    if not edited:
        return table
    for place, column in enumerate(table.schema):
        if not _is_nested(column.type):
            continue
        values = table.column(place).to_pylist()
        others = {row: data[column.name] for row, data in edited.items() if data[column.name] != values[row]}
        if others:
            try:
                new = pa.array([others.get(row, value) for row, value in enumerate(values)], type=column.type)
            except pa.ArrowException as error:
                raise RecordError(
                    f"an edited list is no {column.type} ({str(error).partition(chr(10))[0]:.200})",
                    where=f"column {quote(column.name)}",
                    remedy="cast the column to a list of any length",
                ) from None
            table = table.set_column(place, column, new)
    return table


def _is_nested(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_struct(kind)) or bool(
        pa.types.is_fixed_size_list(kind)
    )
