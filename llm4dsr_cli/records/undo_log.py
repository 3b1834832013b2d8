"""Undo of a log: its rows as they were before the edits, from the log that was written and its audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson

from llm4dsr_cli.errors import OptionError, RecordError
from llm4dsr_cli.records.audit import AuditedRecord, read_audit
from llm4dsr_cli.records.json_objects import parse_object
from llm4dsr_cli.records.logs.list_log import ROW_FIELD
from llm4dsr_cli.records.logs.patches import HEADER, PATCH, Patch, unpatched
from llm4dsr_cli.records.logs.row_log import ROWS_FIELD
from llm4dsr_cli.records.reader import LineReader, open_input
from llm4dsr_cli.records.undone import Chosen, Place, Undone
from llm4dsr_cli.records.writer import OutputFile

_BATCH = 1024  # lines


def written_with(audit: str | Path, name: str) -> dict[str, Any] | None:
    """The length and the SHA-256 of what was written with an audit; None where it does not say.

    Args:
        name: WHOLE for a log, LINES for JSON lines, of which older audits, and those of Python programs, do not tell.

    Raises:
        RecordError: a line of it is no object, or tells something else.
    """
    whole = None
    for data, where in _objects(audit, name):
        if name in data:
            whole = data[name]
            if not isinstance(whole, dict) or not isinstance(whole.get("length"), int) or "sha256" not in whole:
                raise _no_audit(where)
    return whole


def undo_log(
    audit: str | Path, file: str | Path, target: str | Path, whole: dict[str, Any], only: Collection[Place] | None
) -> Undone:
    """Take edits of a log back; see ``undo_edits``.

    Args:
        whole: as ``written_with`` gives it.
    """
    chosen = Chosen(only)
    rows = _chosen_rows(audit, chosen)
    with (
        closing(open_input(file)) as stream,
        OutputFile(target) as out,
    ):
        for data in unpatched(stream, _patches(audit, rows), whole, str(file)):
            out.write_bytes(data)
    return chosen.undone


def _chosen_rows(audit: str | Path, chosen: Chosen) -> set[int] | None:
    """The rows of what is to be taken back; None for all."""
    rows: set[int] = set()
    with LineReader.open(audit) as reader:
        for record in read_audit(reader):
            back = chosen.of(record)
            if chosen.only is not None:
                rows |= _rows(record, back)
    chosen.check_found()
    return None if chosen.only is None else rows


def _rows(record: AuditedRecord, back: set[int]) -> set[int]:
    """The rows of some edits of a record, by their positions."""
    of: dict[int, int] = {}
    if record.original is not None:
        data = orjson.loads(record.original.line)
        if isinstance(data.get(ROWS_FIELD), list):
            of = dict(enumerate(data[ROWS_FIELD]))
        elif ROW_FIELD in data:
            of = {edit.position: data[ROW_FIELD] for edit in record.edits}
    try:
        chosen = {of[position] for position in back}
        edited = Counter(of[edit.position] for edit in record.edits)
    except KeyError:
        raise _no_audit(record.where) from None
    if any(edited[row] > sum(of[position] == row for position in back) for row in chosen):
        raise OptionError(
            f"`only` names some of the edits of one row, those of {record.unit} {record.output_line}",
            remedy="name all of them, or none",
        )
    return chosen


def _patches(audit: str | Path, rows: set[int] | None) -> Iterator[Patch]:
    """The patches of these rows; all of them for None."""
    for data, where in _objects(audit, PATCH):
        if PATCH not in data:
            continue
        try:
            patch = Patch.of(data)
        except (LookupError, TypeError, ValueError):
            raise _no_audit(where) from None
        if rows is not None and patch.row == HEADER:
            raise OptionError(
                "`only` cannot take a column away that was added to all rows",
                remedy="take all edits back, or change the column's values yourself",
            )
        if rows is None or patch.row in rows:
            yield patch


def _objects(audit: str | Path, name: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The lines that may have a value of this name, with their places."""
    quoted = f'"{name}"'.encode()
    with LineReader.open(audit) as reader:
        for batch in reader.batches(_BATCH):
            for number, line in batch:
                if quoted in line:
                    where = f"{reader.name}:{number}"
                    yield parse_object(line, where, RecordError), where


def _no_audit(where: str) -> RecordError:
    return RecordError("contradicts itself", where=where, remedy="give a file that `clean` wrote with --audit")
