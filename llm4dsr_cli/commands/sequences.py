"""Sequences with their users, as calibration and training read them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm4dsr_cli.records.catalog import Catalog
    from llm4dsr_cli.records.record import OnError, RecordFormat


def read_sequences(
    source: str, form: RecordFormat, catalog: Catalog | None, user_field: str, on_error: OnError | None
) -> tuple[list[tuple[Hashable, list[str]]], int]:
    """Each record's user and titles, and how many records name nobody."""
    from llm4dsr_cli.records.reader import LineReader, read_records
    from llm4dsr_cli.records.record import user_of

    sequences: list[tuple[Hashable, list[str]]] = []
    nameless = 0
    with LineReader.open(source) as reader:
        for batch in read_records(reader, 1024, form, catalog, on_error):
            sequences += [(user_of(record, user_field), record.titles) for record in batch]
            nameless += sum(record.data.get(user_field) is None for record in batch)
    return sequences, nameless
