"""Undo: the lines that were there before the edits, from the output and its audit."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from llm4dsr_cli.errors import Llm4dsrError, RecordError
from llm4dsr_cli.records import splice
from llm4dsr_cli.records.audit import AuditedEdit, AuditedRecord, Original, read_audit
from llm4dsr_cli.records.edits import FLAG_FIELD, PROBABILITY_FIELD, Edit, dropped_and_put
from llm4dsr_cli.records.json_lines import loads
from llm4dsr_cli.records.json_objects import parse_object
from llm4dsr_cli.records.logs.gathered import check_name, is_stream
from llm4dsr_cli.records.logs.log import holds
from llm4dsr_cli.records.logs.patches import LINES, WHOLE, Digest
from llm4dsr_cli.records.names import names_of, value_at
from llm4dsr_cli.records.reader import LineReader, can_be_read_twice, readable_twice
from llm4dsr_cli.records.record import Record
from llm4dsr_cli.records.record_format import RecordFormat
from llm4dsr_cli.records.undo_log import undo_log, written_with
from llm4dsr_cli.records.undone import Chosen, Place, Undone
from llm4dsr_cli.records.writer import OutputFile

_BATCH = 1024  # lines


def undo_edits(
    audit: str | Path, file: str | Path, target: str | Path, only: Collection[Place] | None = None
) -> Undone:
    """Take edits back: write the lines of ``file`` to ``target`` as they were before.

    Without ``only``, every line comes out byte for byte as ``clean`` read it, less its line ending. With it, each line
    comes out as if the named edits had never been made; what ``annotate`` and the action "mark" have added to the
    records stays, with the values of these items.

    A log comes out byte for byte as it was; with ``only``, less the rows that stay edited.

    Args:
        audit: written together with ``file``; read twice, so that a pipe is copied first.
        file: output of ``clean`` or ``apply``, JSON lines or a log.
        target: appears only when it is whole; ``.gz`` is compressed. Its name may not say another kind of file.
        only: the edits to take back.

    Raises:
        RecordError: a line of the audit is none, or ``file`` is not what was written with it.
        OptionError: ``only`` holds no places, or names an edit that the audit does not have, some of those of one row
            of a log, or one of a log to whose rows a column was added; or ``target`` is called as what it will not
            hold.
        Llm4dsrError: a file cannot be read.
        OutputError: ``target`` cannot be written.
    """
    if not can_be_read_twice(audit):
        with readable_twice(audit) as copy:
            return undo_edits(copy, file, target, only)
    if _is_parquet(file):
        raise Llm4dsrError(
            "is Parquet, whose edits cannot be taken back",
            where=str(file),
            remedy="use the file that was cleaned; one that was made CSV by `llm4dsr convert` first can be undone",
        )
    whole = written_with(audit, WHOLE)
    if whole is None:
        check_name(str(target))
    elif not is_stream(str(file)) and (kind := holds(file)) is not None:
        check_name(str(target), *kind)
    if whole is not None:
        return undo_log(audit, file, target, whole, only)
    chosen = Chosen(only)
    lines = written_with(audit, LINES)
    with (
        LineReader.open(audit) as audit_reader,
        LineReader.open(file, exact=True) as reader,
        OutputFile(target) as out,
    ):
        for line in _lines(audit_reader, reader, lines, chosen):
            out.write(line)
        chosen.check_found()
    return chosen.undone


def _is_parquet(path: str | Path) -> bool:
    if not Path(path).is_file():
        return False
    with Path(path).open("rb") as file:
        return file.read(4) == b"PAR1"


def _lines(audit: LineReader, reader: LineReader, whole: dict[str, Any] | None, chosen: Chosen) -> Iterator[bytes]:
    """The lines of the output as they were.

    Raises RecordError for an output that is another one, which shows at its end at the latest where ``whole``, its
    length and SHA-256, is known.
    """
    found = Digest(lambda data: None)
    edited = read_audit(audit)
    record = next(edited, None)
    added = [] if record is None or record.original is None else record.original.added
    number = 0
    for batch in reader.batches(_BATCH):
        for number, line in batch:
            where = f"{reader.name}:{number}"
            found.write(line + b"\n")
            if record is not None and record.output_line == number:
                yield _restored(line, record, where, chosen)
                record = next(edited, None)
            elif chosen.only is None and added:
                yield _without_added(line, added, where)[0]
            else:
                yield line
    if record is not None:
        raise _stranger(f"{reader.name}:{number + 1}", f"is missing, and {record.where} tells of an edit in it")
    if whole not in (None, found.whole):
        raise _stranger(reader.name, "has lines that are other ones, more or fewer than what the audit tells of")


def _restored(line: bytes, record: AuditedRecord, where: str, chosen: Chosen) -> bytes:
    """A line of which the audit tells, without the edits that are to be taken back."""
    original = record.original
    if original is None:
        raise RecordError(
            "does not hold the line that was edited",
            where=record.where,
            remedy="clean again, with --audit of this version and JSON lines as input",
        )
    back = chosen.of(record)
    plain, values = _without_added(line, original.added, where)
    try:
        was = _record_of(original, record.where)
        if was.render(*_drop_and_put(record.edits), original.parallel) != plain:
            raise _stranger(where)
        if chosen.only is None:
            return original.line
        if not back:
            return line
        drop, add, put = _drop_and_put([edit for edit in record.edits if edit.position not in back])
        add = _added(record, values, back, len(was.titles))
        return was.render(drop, add, put, original.parallel)
    except (LookupError, TypeError, ValueError):
        raise RecordError(
            "contradicts itself", where=record.where, remedy="give a file that `clean` or `apply` wrote with --audit"
        ) from None


def _record_of(original: Original, where: str) -> Record:
    """The record that was read, as far as rendering takes it. Raises LookupError or TypeError where it is none."""
    data = parse_object(original.line, where, RecordError)
    items = value_at(data, names_of(data, original.items_field))
    if not isinstance(items, list):
        raise TypeError
    record_format = RecordFormat(items_field=original.items_field, titles_field=original.titles_field)
    nothing: list[Any] = [None] * len(items)
    return Record(original.line, where, data, nothing, nothing, record_format, {}, range(len(items)))


def _drop_and_put(edits: list[AuditedEdit]) -> tuple[list[int], None, dict[int, tuple[Any, str]]]:
    """For ``Record.render``: what is dropped, that nothing is added, and what is put."""
    dropped, put = dropped_and_put(
        [
            Edit(
                edit.position,
                edit.action,
                edit.noise_probability,
                edit.to,
                edit.proposal.title if edit.proposal else "",
            )
            for edit in edits
        ]
    )
    return dropped, None, put


def _without_added(line: bytes, added: list[str], where: str) -> tuple[bytes, dict[str, Any]]:
    """A line before fields were appended to it (``splice.appended``), and the values of these fields."""
    if not added:
        return line, {}
    parse_object(line, where, RecordError)
    last = splice.members(line)[-len(added) :]
    if [member.name for member in last] != added or line[last[0].start - 1 : last[0].start] != b",":
        raise _stranger(where)
    plain = line[: last[0].start - 1] + line[len(line.rstrip()) - 1 :]
    return plain, {member.name: loads(line[slice(*member.value)]) for member in last}


def _added(record: AuditedRecord, values: dict[str, Any], back: set[int], n_items: int) -> dict[str, Any]:
    """The added fields when some edits have been taken back. Raises LookupError where the values are too few."""
    dropped = {edit.position for edit in record.edits if edit.action == "drop"}
    add = dict(values)
    if PROBABILITY_FIELD in values:
        kept = [i for i in range(n_items) if i not in dropped]
        chances = {position: values[PROBABILITY_FIELD][place] for place, position in enumerate(kept)}
        chances |= {position: (record.chances or [])[position] for position in back}
        add[PROBABILITY_FIELD] = [chances[position] for position in sorted(chances)]
    if FLAG_FIELD in values:
        add[FLAG_FIELD] = [0 if i in back else values[FLAG_FIELD][i] for i in range(n_items)]
    return add


def _stranger(where: str, what: str = "is not the line that the audit tells of") -> RecordError:
    return RecordError(
        what, where=where, remedy="give the JSON lines that were written together with this audit, unchanged"
    )


def read_places(path: str | Path) -> set[Place]:
    """The edits that a list names, one a line: the line of the output (from 1), a blank, the item's position (from 0).

    What follows a ``#`` is a comment.

    Raises:
        Llm4dsrError: the list cannot be read, or a line is another.
    """
    places: set[Place] = set()
    with LineReader.open(path) as reader:
        for batch in reader.batches(_BATCH):
            for number, line in batch:
                words = line.split(b"#", 1)[0].split()
                if len(words) == 2 and all(word.isdigit() and len(word) < 19 for word in words):
                    places.add((int(words[0]), int(words[1])))
                elif words:
                    raise Llm4dsrError(
                        "names no edit",
                        where=f"{reader.name}:{number}",
                        remedy="write the line of the output and the item's position, two whole numbers: 12 3",
                    )
    return places
