"""The log with a sequence a row: histories in a cell, as RecBole, MIND and the CSV of LLM papers have them."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from llm4dsr_cli.console import Advance, untold
from llm4dsr_cli.errors import OptionError, RecordError
from llm4dsr_cli.records.edits import FLAG_FIELD, PROBABILITY_FIELD
from llm4dsr_cli.records.logs.columns import Columns
from llm4dsr_cli.records.logs.list_cells import ListCell
from llm4dsr_cli.records.logs.row_file import Added, Changes, RowFile, added_name
from llm4dsr_cli.records.logs.row_log import as_value, plain_id, refuse_taken
from llm4dsr_cli.records.parallel import runs_parallel

# In a gathered record, the row of its list.
ROW_FIELD = "row"
# In a gathered record, where each item stands in the row's list.
PLACES_FIELD = "places"
_TOLD_EVERY = 10_000  # rows


@dataclass(frozen=True)
class ListColumns:
    """Where a row has its sequence.

    Attributes:
        items: the list of ids, or of titles where there are no ids.
        user: whose it is; None where the rows do not say.
        titles: a list of titles beside that of the ids.
        target: the item that comes after the list, which nobody edits.
    """

    items: str
    user: str | None = None
    titles: str | None = None
    target: str | None = None


@dataclass
class _Beside:
    """A column whose cells may be lists that run parallel to the items, and how often they were as long."""

    named: bool = False
    equal: int = 0
    different: int = 0

    @property
    def is_parallel(self) -> bool:
        return self.named or runs_parallel(self.equal, self.different)


class ListLog:
    """A log whose rows are sequences. A list that a user has in several rows is judged once.

    Lists in other columns that are as long as the items, ratings say, lose what stands beside a dropped item.

    Args:
        beside: the columns whose cells may be such lists.
        parallel: those that are, whatever their length; another one is an error.

    Attributes:
        judged: how many rows have a list.
        unjudged: how many have none, or cannot be read.

    Raises:
        OptionError: there is no column that ``parallel`` names.
    """

    reads = "one sequence a row"
    is_timed = False
    places_field = PLACES_FIELD

    def __init__(
        self,
        file: RowFile,
        columns: ListColumns,
        cell: ListCell,
        *,
        beside: Sequence[str] = (),
        parallel: Sequence[str] = (),
        takes_titles: bool = True,
        whole: bool = False,
    ) -> None:
        self.file = file
        self.columns = columns
        self.cell = cell
        self.titles = columns.titles if takes_titles else None
        taken = set(vars(columns).values())
        self._also = [name for name in file.columns if name not in taken] if whole else []
        for name in parallel:
            if name not in file.columns:
                raise OptionError(
                    f"there is no column {name}", where=file.name, remedy=f"the columns are {', '.join(file.columns)}"
                )
        # Where ids have types, a record that is to have all has them with it.
        self._typed = [columns.items, columns.user] if whole and file.has_types else []
        self._lists = set(beside)
        self._beside = {} if whole else {name: _Beside(name in parallel) for name in beside if name not in taken}
        self._spelled = whole
        self.judged = self.unjudged = 0
        self._first = array("q")  # the row that has the same list first, for each row; -1 for none

    @property
    def items_are_titles(self) -> bool:
        """Whether the list holds titles, not ids, by its name."""
        return re.search("title|name", self.columns.items, re.IGNORECASE) is not None

    @property
    def names(self) -> Columns:
        """What users and titles are called; the items are one by one in a column of another name."""
        return Columns(self.columns.user)

    @property
    def taken(self) -> str:
        """Which columns were taken for what."""
        columns = self.columns
        user = "nobody is named" if columns.user is None else f"users from {columns.user}"
        titles = "" if self.titles is None else f", titles from {self.titles}"
        target = "" if columns.target is None else f", {columns.target} comes after them"
        return f"{user}, items from {columns.items} ({self.cell.name}){titles}{target}"

    @property
    def in_step(self) -> list[str]:
        """The columns that run parallel to the items, as far as the rows tell that were read."""
        return [name for name, beside in self._beside.items() if beside.is_parallel]

    def records(self, user_field: str, advance: Advance = untold) -> Iterator[bytes]:
        """A line of JSON for each list: its user if it has one, its items, their titles where they are taken, its row.

        A target stands behind the items, so that it is the last one.

        Raises:
            OptionError: a further column would take the place of a field of the record's own.
            RecordError: a cell holds no list, or titles are more or fewer than items, or a list that is to be parallel,
                and the file has no ``unreadable``.
        """
        columns = self.columns
        refuse_taken(self._also, (user_field, "items", "titles"), self.file.name)
        names = [name for name in (columns.items, columns.user, self.titles, columns.target) if name is not None]
        n_judged = len(names)
        names += self._beside  # or what else there is as JSON, never both
        as_json = [name for name in (*self._typed, *self._also) if name is not None]
        self._beside = {name: _Beside(beside.named) for name, beside in self._beside.items()}
        self.judged = self.unjudged = 0
        del self._first[:]
        seen: dict[bytes, int] = {}
        for row, cells in self.file.rows(names, as_json):
            by_name = dict(zip(names, cells, strict=False))
            further = dict(zip(as_json, cells[len(names) :], strict=True))
            if row % _TOLD_EVERY == 0:
                advance(f"read {row:,} sequences", None)
            if by_name[columns.items] is None:
                self.unjudged += 1
                self._first.append(-1)
                continue
            key = hashlib.blake2b(repr(cells[:n_judged]).encode(), digest_size=12).digest()
            line = b""
            try:
                if self._beside:
                    self._look_beside(by_name, row)
                if self._spelled or key not in seen:
                    line = orjson.dumps(self._record(by_name, further, row, user_field))
            except RecordError as error:
                if self.file.unreadable is None:
                    raise
                self.file.unreadable.add(row, error)
                self.unjudged += 1
                self._first.append(-1)
                continue
            self.judged += 1
            self._first.append(seen.setdefault(key, row))
            if line:
                yield line

    def _record(
        self, cells: dict[str, str | None], further: dict[str, str | None], row: int, user_field: str
    ) -> dict[str, Any]:
        columns = self.columns
        items = self._list(cells, columns.items, row)
        titles = None if self.titles is None else self._list(cells, self.titles, row)
        if titles is not None and len(titles) != len(items):
            raise RecordError(
                f"{len(titles)} titles for {len(items)} items",
                where=f"{self.file.name}, row {row + 1}",
                remedy="make them as many, or give titles with `catalog`",
            )
        places: list[int | None] = [*range(len(items))]
        target = None if columns.target is None else cells[columns.target]
        if target is not None:
            items, places = [*items, target], [*places, None]
            titles = None if titles is None else [*titles, None]
        user = None if columns.user is None else cells[columns.user]
        record: dict[str, Any] = {} if user is None else {user_field: user}
        record["items"] = items if self._spelled else [None if item is None else plain_id(item) for item in items]
        if titles is not None:
            record["titles"] = titles
        if self._typed:
            own = {"items": self.columns.items, user_field: self.columns.user}
            record.update((name, as_value(further[column])) for name, column in own.items() if column is not None)
        record.update((name, self._further(name, further[name])) for name in self._also)
        if self._spelled:
            return record
        return {**record, PLACES_FIELD: places, ROW_FIELD: row}

    def _further(self, name: str, cell: str | None) -> Any:
        """The value of a further column, whose cell is JSON: a list where that is the text of one."""
        if cell is None or name not in self._lists or self.file.has_types:
            return as_value(cell)
        text = orjson.loads(cell) if cell[0] == '"' else cell
        try:
            return as_value(self.cell.as_json(text))
        except (ValueError, SyntaxError):
            return as_value(cell)

    def _look_beside(self, cells: dict[str, str | None], row: int) -> None:
        n = len(self._list(cells, self.columns.items, row))
        for name, beside in self._beside.items():
            cell = cells[name]
            if cell is None:
                continue
            equal = self.is_as_long(cell, n)
            if beside.named and not equal:
                raise self.unequal(name, row)
            if n > 1:
                beside.equal += equal
                beside.different += not equal

    def is_as_long(self, cell: str, n: int) -> bool:
        """Whether a cell is a list of n entries."""
        try:
            return len(self.cell.parsed(cell)) == n
        except (ValueError, SyntaxError):
            return False

    def unequal(self, name: str, row: int) -> RecordError:
        """What to say of a parallel list that is not as long as the items."""
        return RecordError(
            f"{name} is no list as long as {self.columns.items}",
            where=f"{self.file.name}, row {row + 1}",
            remedy="make them equally long, or say that it is something else with `not_parallel`",
        )

    def _list(self, cells: dict[str, str | None], name: str, row: int) -> list[str | None]:
        try:
            return self.cell.parsed(cells[name] or "")
        except (ValueError, SyntaxError):
            raise RecordError(
                f"{name} holds no list", where=f"{self.file.name}, row {row + 1}", remedy="write ['A', 'B'] or [1, 2]"
            ) from None

    def changes(self, title_of: Callable[[str], str | None]) -> ListChanges:
        """Gathers what becomes of the rows; ``title_of`` an id, where another item takes a place."""
        return ListChanges(self, self._first, title_of)


class ListChanges:
    """What edited records say of the rows of a log."""

    def __init__(self, log: ListLog, first: array[int], title_of: Callable[[str], str | None]) -> None:
        self._log = log
        self._first = first
        self._title_of = title_of
        self._edits: dict[int, tuple[set[int], dict[int, str], dict[int, str]]] = {}
        self._added: dict[str, dict[int, str]] = {}

    def take(self, before: bytes, after: bytes | None) -> None:
        """A gathered record, and what became of it; None where it could not be edited, and stays."""
        if before == after or after is None:
            return
        old, new = orjson.loads(before), orjson.loads(after)
        was = dict(zip(old[PLACES_FIELD], old["items"], strict=True))
        dropped = {place for place in was if place not in new[PLACES_FIELD] and place is not None}
        items, titles = {}, {}
        for at, (place, item) in enumerate(zip(new[PLACES_FIELD], new["items"], strict=True)):
            if place is not None and item != was[place]:
                items[place] = str(item)
                title = new["titles"][at] if "titles" in new else self._title_of(str(item))
                titles[place] = title or ""
        row = old[ROW_FIELD]
        if dropped or items:
            self._edits[row] = (dropped, items, titles)
        for name in (PROBABILITY_FIELD, FLAG_FIELD):
            if name in new:
                values = [v for v, place in zip(new[name], new[PLACES_FIELD], strict=True) if place is not None]
                self._added.setdefault(name, {})[row] = self._log.cell.numbers(values)

    def found(self) -> Changes:
        """All changes; columns are added for what the records had added."""
        changes = Changes(first=self._first)
        columns = self._log.columns
        names = [columns.items] if columns.titles is None else [columns.items, columns.titles]
        in_step = self._log.in_step
        if self._edits:
            for row, cells in self._log.file.rows([*names, *in_step]):
                edits = self._edits.get(self._first[row])
                if edits is None:
                    continue
                dropped, items, titles = edits
                changes.put[row] = {
                    name: self._log.cell.edited(cell or "", dropped, put)
                    for name, cell, put in zip(names, cells, (items, titles), strict=False)
                }
                if dropped:
                    n = len(self._log.cell.parsed(cells[0] or ""))
                    beside = dict(zip(in_step, cells[len(names) :], strict=True))
                    changes.put[row] |= self._beside(beside, dropped, n, row)
        for name, values in self._added.items():
            changes.added.append(Added(added_name(name, self._log.file), self._of_first(values), str))
        return changes

    def _beside(self, cells: dict[str, str | None], dropped: set[int], n: int, row: int) -> dict[str, str]:
        """Parallel lists without what stands beside dropped items."""
        found = {}
        for name, cell in cells.items():
            if cell is None:
                continue
            if not self._log.is_as_long(cell, n):
                raise self._log.unequal(name, row)
            found[name] = self._log.cell.edited(cell, dropped, {})
        return found

    def _of_first(self, values: dict[int, str]) -> Callable[[int], str | None]:
        return lambda row: values.get(self._first[row])
