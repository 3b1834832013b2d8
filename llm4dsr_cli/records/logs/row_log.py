"""The log with one interaction a row: to sequences, and back with what was edited."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import orjson

from llm4dsr_cli.console import Advance, untold
from llm4dsr_cli.errors import OptionError, RecordError
from llm4dsr_cli.records.edits import FLAG_FIELD, PROBABILITY_FIELD
from llm4dsr_cli.records.logs.columns import Columns
from llm4dsr_cli.records.logs.gathering import Interaction, gathered
from llm4dsr_cli.records.logs.row_file import Added, Cell, Changes, RowFile, added_name
from llm4dsr_cli.records.logs.times import time_of
from llm4dsr_cli.records.logs.where import Condition

# The list of times, as numbers, in a record that is to have it.
TIMES_FIELD = "times"
# The list of row numbers in a gathered record, parallel to its items.
ROWS_FIELD = "rows"
_NOT_JUDGED = float("nan")


class RowLog:
    """A log whose rows are interactions.

    Args:
        file: the rows.
        columns: where users and items stand, and times and titles if there are any.
        conditions: what a row has to meet to be gathered; others stay as they are.
        takes_titles: whether titles are the log's own, not a catalog's.
        also: further columns that the records are to have, as lists beside the items; TIMES_FIELD for the times.
        whole: let the records have all columns, and ids as they are spelled.

    Attributes:
        n_rows: how many rows there are, known once they were read.
        judged: how many rows were gathered.
        unjudged: how many rows name no user or no item, do not meet the conditions, or cannot be read.
    """

    reads = "one interaction a row"
    places_field = ROWS_FIELD
    items_are_titles = False

    def __init__(
        self,
        file: RowFile,
        columns: Columns,
        conditions: Sequence[Condition] = (),
        *,
        takes_titles: bool = True,
        also: Sequence[str] = (),
        whole: bool = False,
    ) -> None:
        assert columns.user is not None and columns.item is not None
        self.file = file
        self.columns = columns
        self.titles = columns.title if takes_titles else None
        self.judged = self.unjudged = 0
        self._conditions = conditions
        own = (columns.user, columns.item, self.titles)
        self._also = [name for name in file.columns if name in also or (whole and name not in own)]
        self._spelled = whole
        # Where ids have types, a record that is to have all has them with it.
        self._typed = [columns.user, columns.item] if whole and file.has_types else []
        self._with_times = TIMES_FIELD in also and columns.time is not None
        self.n_rows = 0

    @property
    def is_timed(self) -> bool:
        """Whether times, not places, say which item is older."""
        return self.columns.time is not None

    @property
    def names(self) -> Columns:
        """The columns of users, items and titles."""
        return replace(self.columns, time=None, title=self.titles)

    @property
    def taken(self) -> str:
        """Which columns were taken for what."""
        columns = self.columns
        time = "in the order of the rows" if columns.time is None else f"oldest {columns.time} first"
        titles = "" if self.titles is None else f", titles from {self.titles}"
        return f"users from {columns.user}, items from {columns.item}, {time}{titles}"

    def records(self, user_field: str, advance: Advance = untold) -> Iterator[bytes]:
        """A line of JSON for each user: the user, the items, their titles where they are taken, and their rows.

        Raises:
            OptionError: a further column would take the place of one of these.
            RecordError: a row cannot be read, or its time is none, and the file has no ``unreadable``.
        """
        refuse_taken(self._also if self._spelled else (), (user_field, "items", "titles", ROWS_FIELD), self.file.name)
        for user, interactions in gathered(self.interactions, advance):
            more = [*zip(*(orjson.loads(one.more or "[]") for one in interactions), strict=True)]
            record: dict[str, Any] = {user_field: user, "items": [one.item for one in interactions]}
            if self._typed:
                users, items, *more = more
                record = {user_field: as_value(users[0]), "items": [*map(as_value, items)]}
            if self.titles is not None:
                record["titles"] = [one.title for one in interactions]
            record.update((name, [*map(as_value, cells)]) for name, cells in zip(self._also, more, strict=True))
            if self._with_times:
                record[TIMES_FIELD] = [one.time for one in interactions]
            record[ROWS_FIELD] = [one.row for one in interactions]
            yield orjson.dumps(record)

    def interactions(self) -> Iterator[Interaction]:
        """The rows that can be judged, in the order of the file."""
        columns = self.columns
        names = [str(columns.user), str(columns.item)]
        names += [name for name in (columns.time, self.titles) if name is not None]
        n_own = len(names)
        names += [one.column for one in self._conditions]
        n_met = len(names)
        as_json = [*self._typed, *self._also]
        has_time = columns.time is not None
        self.judged = self.unjudged = 0
        for row, cells in self.file.rows(names, as_json):
            user, item = cells[0], cells[1]
            self.n_rows = row + 1
            if user is None or item is None or not self._meets(cells[n_own:n_met]):
                self.unjudged += 1
                continue
            time = 0.0
            if has_time:
                try:
                    time = time_of(cells[2] or "")
                except ValueError:
                    error = RecordError(
                        f"{columns.time} is {cells[2] or 'empty'}, which is neither a number nor an ISO date",
                        where=f"{self.file.name}, row {row + 1}",
                        remedy="name another column with `time_column`, or none with ''",
                    )
                    if self.file.unreadable is None:
                        raise error from None
                    self.file.unreadable.add(row, error)
                    self.unjudged += 1
                    continue
            self.judged += 1
            title = cells[n_own - 1] if self.titles else None
            more = orjson.dumps(cells[n_met:]).decode() if as_json else None
            yield Interaction(row, user, item if self._spelled else plain_id(item), time, title, more)

    def _meets(self, cells: Sequence[Cell]) -> bool:
        return all(one.holds(cell) for one, cell in zip(self._conditions, cells, strict=True))

    def changes(self, title_of: Callable[[str], str | None]) -> RowChanges:
        """Gathers what becomes of the rows; ``title_of`` an id, where another item takes a row."""
        return RowChanges(self, title_of)


class RowChanges:
    """What edited records say of the rows of a log."""

    def __init__(self, log: RowLog, title_of: Callable[[str], str | None]) -> None:
        self._log = log
        self._title_of = title_of
        self._found = Changes()
        self._added: dict[str, array[float]] = {}

    def take(self, before: bytes, after: bytes | None) -> None:
        """A gathered record, and what became of it; None where it could not be edited, and stays."""
        if before == after or after is None:
            return
        old, new = orjson.loads(before), orjson.loads(after)
        rows = new[ROWS_FIELD]
        for row in set(old[ROWS_FIELD]) - set(rows):
            self._found.drop(row)
        was = dict(zip(old[ROWS_FIELD], old["items"], strict=True))
        for place, (row, item) in enumerate(zip(rows, new["items"], strict=True)):
            if item != was[row]:
                title = new["titles"][place] if "titles" in new else self._title_of(str(item))
                self._put(row, was[row], str(item), title)
        for name, kind in ((PROBABILITY_FIELD, "f"), (FLAG_FIELD, "b")):
            if name in new:
                values = self._added.setdefault(name, _nothing(kind, self._log.n_rows))
                for row, value in zip(rows, new[name], strict=True):
                    values[row] = _NOT_JUDGED if value is None else value

    def _put(self, row: int, old: str, item: str, title: str | None) -> None:
        columns = self._log.columns
        self._found.put[row] = {str(columns.item): item}
        if columns.title is not None and title is not None:
            self._found.put[row][columns.title] = title

    def found(self) -> Changes:
        """All changes; columns are added for what the records had added."""
        scores, flags = self._added.get(PROBABILITY_FIELD), self._added.get(FLAG_FIELD)
        name = added_name(PROBABILITY_FIELD, self._log.file)
        if scores is not None:
            self._found.added.append(
                Added(name, lambda row: None if scores[row] != scores[row] else round(scores[row], 5))
            )
        if flags is not None:
            self._found.added.append(Added(FLAG_FIELD, lambda row: flags[row], int))
        return self._found


def plain_id(text: str) -> str:
    """An id without what a column of floats makes of it: 17850.0 is 17850."""
    return text[:-2] if text.endswith(".0") and text[:-2].lstrip("-").isdecimal() else text


def refuse_taken(columns: Sequence[str], fields: Sequence[str], where: str) -> None:
    """Raise OptionError where a column, as a list of a record, would take the place of a field of the record's own."""
    taken = next((name for name in columns if name in fields or [*columns].count(name) > 1), None)
    if taken is not None:
        raise OptionError(f"a sequence has a field {taken} of its own", where=where, remedy="rename the column first")


def as_value(cell: Cell) -> Any:
    """The value of a cell that is JSON, as it is written there."""
    return None if cell is None else orjson.Fragment(cell)


def _nothing(kind: str, n: int) -> array[float]:
    return array(kind, [_NOT_JUDGED if kind == "f" else 0]) * n
