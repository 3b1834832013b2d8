"""Edits: what a record becomes when its items have been judged, and the audit line that tells of each edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from llm4dsr_cli.records.json_lines import dumps
from llm4dsr_cli.records.names import Names, names_of, value_at
from llm4dsr_cli.records.record import Record

Action = Literal["drop", "mark", "replace"]
PROBABILITY_FIELD = "noise_probability"
FLAG_FIELD = "noise_flag"


@dataclass(frozen=True)
class Edit:
    """What is done to one item of a record.

    Attributes:
        position: of the item, from 0.
        action: "drop" takes the item out, "mark" leaves it, "replace" puts ``item`` in its place.
        noise_probability: of the item, rounded as the audit has it.
        item: as it is to stand in the record; for "replace".
        title: of that item.
        about: what more the audit says of the edit.
    """

    position: int
    action: Action
    noise_probability: float
    item: Any = None
    title: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EditedRecord:
    """A record after the gate: its output line, and an audit line for each edit, all without newlines.

    ``replaced`` of the edits put another item in an item's place; ``before`` is the line without any edit.
    """

    line: bytes
    audit: list[bytes]
    before: bytes
    replaced: int = 0


def edit_record(
    record: Record,
    edits: Sequence[Edit],
    *,
    add: Mapping[str, Any],
    output_line: int,
    threshold: float,
    parallel: Sequence[Names] = (),
    user: Any = None,
    chances: Sequence[float | None] = (),
    expected: Mapping[float, float] | None = None,
) -> EditedRecord:
    """Apply edits to a record.

    A dropped item takes its entries in all parallel lists with it. What is not edited keeps its bytes; the audit has
    the bytes of what was there. With a record's first edit it has the whole sequence and the line, too.

    Args:
        edits: at most one an item, in the order of the items.
        add: fields to append.
        output_line: number of the record's line in the output, from 1, for the audit.
        threshold: noise probability above which items were flagged, for the audit.
        parallel: the names that lead to each list, besides the titles', that runs parallel to the items.
        user: whose record it is, for the audit.
        chances: noise probabilities of all items, None for items that nobody judged, for the audit.
        expected: share of the run's edits that is right, by the share of the data that is noise, for the audit.

    Raises:
        RecordError: a field to be added is there already.
    """
    record_format = record.record_format
    dropped, put = dropped_and_put(edits)
    audit = [
        dumps(
            {
                "record": record.where,
                "output_line": output_line,
                "user": orjson.Fragment(dumps(user)),
                "position": edit.position,
                "action": edit.action,
                "title": record.titles[edit.position],
                "from": _was(record, names_of(record.data, record_format.items_field), edit.position),
                **_parallel_values(record, parallel, edit.position),
                "to": orjson.Fragment(dumps(edit.item)),
                "noise_probability": edit.noise_probability,
                "threshold": threshold,
                **edit.about,
                **({} if number else _once(record, add, parallel, chances, expected)),
            }
        )
        for number, edit in enumerate(edits)
    ]
    return EditedRecord(record.render(dropped, add, put, parallel), audit, record.render(), len(put))


def dropped_and_put(edits: Sequence[Edit]) -> tuple[list[int], dict[int, tuple[Any, str]]]:
    """The positions of dropped items, and the item and title that takes another's place, by position."""
    dropped = [edit.position for edit in edits if edit.action == "drop"]
    return dropped, {edit.position: (edit.item, edit.title) for edit in edits if edit.action == "replace"}


def _once(
    record: Record,
    add: Mapping[str, Any],
    parallel: Sequence[Names],
    chances: Sequence[float | None],
    expected: Mapping[float, float] | None,
) -> dict[str, Any]:
    """What the audit says of a record with the first of its edits: what people look at, and what undo takes.

    The whole line, since dropped entries leave no trace of the blanks around them.
    """
    told: dict[str, Any] = {"sequence": {"titles": record.titles, PROBABILITY_FIELD: list(chances)}}
    if expected is not None:
        told["expected_precision"] = {f"{noise:g}": round(share, 4) for noise, share in expected.items()}
    if record.line is not None:
        told["undo"] = {
            "line": record.line.decode(),
            "items_field": record.record_format.items_field,
            "titles_field": record.record_format.titles_field,
            "parallel": list(parallel),
            "added": list(add),
        }
    return told


def _parallel_values(record: Record, parallel: Sequence[Names], position: int) -> dict[str, Any]:
    """The entries of the parallel lists that go with an item, so that a dropped one can be put back."""
    titles_field = record.record_format.titles_field
    own = [] if titles_field is None else [names_of(record.data, titles_field)]
    lists = dict.fromkeys([*own, *parallel])
    return {"parallel": {".".join(names): _was(record, names, position) for names in lists}} if lists else {}


def _was(record: Record, names: Names, position: int) -> orjson.Fragment:
    """An entry of a list as it stands in the record's line."""
    if record.line is None:
        return orjson.Fragment(dumps(value_at(record.data, names)[position]))
    start, end = record.lists()[names].entries[position]
    return orjson.Fragment(record.line[start:end])
