"""Edits: what a record becomes when its items have been judged, and the audit line that tells of each edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llm4dsr_cli.records.json_lines import dumps
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

    ``replaced`` of the edits put another item in an item's place.
    """

    line: bytes
    audit: list[bytes]
    replaced: int = 0


def edit_record(
    record: Record, edits: Sequence[Edit], *, add: Mapping[str, Any], output_line: int, threshold: float
) -> EditedRecord:
    """Apply edits to a record.

    A dropped item takes its entries in all parallel lists with it. A record with neither edits nor additions keeps its
    bytes.

    Args:
        edits: at most one an item, in the order of the items.
        add: fields to append.
        output_line: number of the record's line in the output, from 1, for the audit.
        threshold: noise probability above which items were flagged, for the audit.

    Raises:
        RecordError: a field to be added is there already.
    """
    dropped, put = dropped_and_put(edits)
    audit = [
        dumps(
            {
                "record": record.where,
                "output_line": output_line,
                "position": edit.position,
                "action": edit.action,
                "title": record.titles[edit.position],
                "from": record.data[record.record_format.items_field][edit.position],
                **_parallel_values(record, edit.position),
                "to": edit.item,
                "noise_probability": edit.noise_probability,
                "threshold": threshold,
                **edit.about,
            }
        )
        for edit in edits
    ]
    return EditedRecord(record.render(drop=dropped, add=add, put=put), audit, len(put))


def dropped_and_put(edits: Sequence[Edit]) -> tuple[list[int], dict[int, tuple[Any, str]]]:
    """The positions of dropped items, and the item and title that takes another's place, by position."""
    dropped = [edit.position for edit in edits if edit.action == "drop"]
    return dropped, {edit.position: (edit.item, edit.title) for edit in edits if edit.action == "replace"}


def _parallel_values(record: Record, position: int) -> dict[str, Any]:
    """The entries of the parallel lists that go with an item, so that a dropped one can be put back."""
    form = record.record_format
    names = [*([form.titles_field] if form.titles_field else []), *form.parallel_fields]
    return {"parallel": {name: record.data[name][position] for name in names}} if names else {}
