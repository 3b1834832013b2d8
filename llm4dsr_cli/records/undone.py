"""What was taken back, of which edits."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from operator import index

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.records.audit import AuditedRecord

Place = tuple[int, int]  # line of the output, from 1; position of the item in the record, from 0


@dataclass
class Undone:
    """What was taken back, of how much; records are those that were edited."""

    edits: int = 0
    of_edits: int = 0
    records: int = 0
    of_records: int = 0


@dataclass
class Chosen:
    """The edits that are to be taken back.

    Args:
        only: their places; None for all.

    Attributes:
        undone: counts those that were asked about.

    Raises:
        OptionError: ``only`` has something else than places.
    """

    only: Collection[Place] | None
    undone: Undone = field(default_factory=Undone, init=False)

    def __post_init__(self) -> None:
        self._unit = "line"  # that the places number
        try:
            self._left = {_place(place) for place in (() if self.only is None else self.only)}
        except (TypeError, ValueError):
            raise OptionError(
                f"`only` is {self.only!r:.80}, and not a list of places",
                remedy="give pairs of the line of the output, from 1, and the item's position, from 0: [(12, 3)]",
            ) from None

    def of(self, record: AuditedRecord) -> set[int]:
        """The positions of a record's edits that are to be taken back."""
        places = {edit.position: (record.output_line, edit.position) for edit in record.edits}
        back = {position for position, place in places.items() if self.only is None or place in self._left}
        self._left.difference_update(places.values())
        self._unit = record.unit
        self.undone.of_records += 1
        self.undone.of_edits += len(places)
        self.undone.edits += len(back)
        self.undone.records += bool(back)
        return back

    def check_found(self) -> None:
        """Raises OptionError for a place at which no record had an edit."""
        if self._left:
            line_number, position = min(self._left)
            raise OptionError(
                f"`only` names item {position} of {self._unit} {line_number}, of which the audit has no edit",
                remedy="give a list that was made from this audit",
            )


def _place(place: Place) -> Place:
    """A place in Python's own integers. Raises TypeError or ValueError where it is none."""
    line_number, position = map(index, place)
    return line_number, position
