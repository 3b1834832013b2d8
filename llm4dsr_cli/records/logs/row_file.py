"""The row file: rows of cells in some format, read lazily, and written back with changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from llm4dsr_cli.records.edits import PROBABILITY_FIELD
from llm4dsr_cli.records.logs.patches import Patch
from llm4dsr_cli.records.logs.unreadable import Unreadable

Cell = str | None


@dataclass(frozen=True)
class Added:
    """A column to add at the end of each row.

    Attributes:
        name: of the column.
        value: its value in a row by the row's number; None for none.
        type: of the values.
    """

    name: str
    value: Callable[[int], float | str | None]
    type: type = float


@dataclass
class Changes:
    """What becomes of a file's rows, by their numbers from 0.

    Attributes:
        dropped: 1 for each row that goes; a row beyond its end stays.
        put: the texts that take the place of others, by row and column.
        added: columns to add.
        first: the row that has the same list first, by row; empty where each row is one of its own.
    """

    dropped: bytearray = field(default_factory=bytearray)
    put: dict[int, dict[str, str]] = field(default_factory=dict)
    added: list[Added] = field(default_factory=list)
    first: Sequence[int] = ()

    def first_of(self, row: int) -> int:
        """The row whose edits a row takes."""
        return self.first[row] if row < len(self.first) else row

    def keeps(self, row: int) -> bool:
        """Whether a row stays."""
        return row >= len(self.dropped) or not self.dropped[row]

    def drop(self, row: int) -> None:
        """Let a row go."""
        if row >= len(self.dropped):
            self.dropped.extend(bytes(row + 1 - len(self.dropped)))
        self.dropped[row] = 1


def added_name(field: str, file: RowFile) -> str:
    """What a field that is added to records is called as a column of a log; RecBole filters by a score."""
    return "noise_score" if field == PROBABILITY_FIELD and file.kind == "RecBole" else field


class RowFile(Protocol):
    """A file of rows; each reading opens it anew.

    Attributes:
        name: for messages.
        kind: of file, in words: "CSV".
        columns: their names.
        endings: what its name may end in, ``.gz`` left out; its own first.
        rows_are_bytes: whether each row is a piece of the file's bytes, so that patches take it back.
        has_types: whether an id may be a number there, not text alone.
        unreadable: takes the rows that cannot be read, whose cells are None then; None where such a row is an error.
    """

    name: str
    kind: str
    columns: list[str]
    endings: tuple[str, ...]
    rows_are_bytes: bool
    has_types: bool
    unreadable: Unreadable | None

    def rows(self, columns: Sequence[str], as_json: Sequence[str] = ()) -> Iterator[tuple[int, list[Cell]]]:
        """The number of each row, from 0, with its cells of these columns; None where there is no value.

        Args:
            columns: whose cells are wanted as text.
            as_json: whose cells come behind those, as JSON, with the types that they have.

        Raises:
            RecordError: a row is none, and there is no ``unreadable``; it names file and line.
        """

    def write(
        self, write: Callable[[bytes], None], changes: Changes, patched: Callable[[Patch], None] | None = None
    ) -> None:
        """Hand all bytes of the file on, with changes; without any they are those of the file.

        Args:
            patched: takes a patch for each row that changes, in order; none where rows are no bytes.

        Raises:
            OptionError: a column that is to be added is there already.
        """
