"""Parallel lists: those of a record that have one entry for each item, and lose the entries of dropped items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.records.json_lines import kind, quote, quote_names
from llm4dsr_cli.records.names import Names, find
from llm4dsr_cli.records.record_format import RecordFormat

if TYPE_CHECKING:
    from llm4dsr_cli.records.record import Record

# Where a list is as long as the items in so many records for one in which it is not, that one is damaged; where there
# are fewer, the list is no parallel one, and the lengths agree by chance.
_FOR_ONE_DAMAGED = 10


def lists_of(data: dict[str, Any]) -> Iterator[tuple[Names, list[Any]]]:
    """The lists of a record, with those in objects of it, but not those in other lists."""
    waiting: list[tuple[Names, Any]] = [((name,), value) for name, value in reversed(data.items())]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, list):
            yield path, value
        elif isinstance(value, dict):
            waiting += [((*path, name), inner) for name, inner in reversed(value.items())]


def named_list(
    data: dict[str, Any], where: str, record_format: RecordFormat, n_items: int, name: str, option: str
) -> list[Any]:
    """The list that an option names, as long as the items. Raises RecordError for anything else."""
    found = find(data, name)
    if found is None:
        raise RecordError(
            f"{quote(name)} is missing, the fields are {quote_names(list(data))}",
            where=where,
            remedy=f"add it, or leave out {option}",
        )
    values = found[1]
    if not isinstance(values, list):
        raise RecordError(f"{quote(name)} is {kind(values)}", where=where, remedy=f"make it a list, or change {option}")
    if len(values) != n_items:
        raise RecordError(_lengths(name, values, record_format, n_items), where=where, remedy="make them equally long")
    return values


@dataclass
class _Seen:
    """How often a list was as long as the items, and how often it was not, counting sequences of two items and more."""

    equal: int = 0
    different: int = 0
    where: str = ""  # it was different first
    decided: bool | None = None  # whether it is parallel


@dataclass
class ParallelLists:
    """Finds the lists that run parallel to the items, over the records of a run.

    A list that is named is one. Of the others, those are that are as long as the items in every record seen before an
    item is first dropped, or in all but a few damaged ones. A sequence of one item tells nothing, and loses nothing.

    Attributes:
        kept: the lists that lost entries with their items.
        left: lists that were as long as the items where some were dropped, but not elsewhere, and stayed as they were;
            with the place where they were not.
    """

    record_format: RecordFormat
    kept: dict[str, None] = field(default_factory=dict, init=False)
    left: dict[str, str] = field(default_factory=dict, init=False)
    _seen: dict[Names, _Seen] = field(default_factory=dict, init=False)

    def observe(self, records: Iterable[Record]) -> None:
        """Look at records before any of them is edited."""
        for record in records:
            n = len(record.titles)
            if n < 2:
                continue
            for path, values in self._candidates(record):
                seen = self._seen.setdefault(path, _Seen())
                if len(values) == n:
                    seen.equal += 1
                else:
                    seen.where = seen.where or record.where
                    seen.different += 1

    def of(self, record: Record, *, dropping: bool) -> list[Names]:
        """The lists that go with the items of a record: those that are named; with ``dropping`` those found, too.

        Raises:
            RecordError: a list is as long as the items in the other records, but not in this one; or something that is
                no list, as a tuple or an array, is as long as they are.
        """
        record_format = self.record_format
        paths = record.named_lists
        if not dropping:
            return paths
        _refuse_arrays(record)
        for path, values in self._candidates(record):
            name = ".".join(path)
            if self._is_parallel(path):
                if len(values) != len(record.titles):
                    lengths = _lengths(name, values, record_format, len(record.titles))
                    raise RecordError(
                        f"{lengths}, and as many in the records before",
                        where=record.where,
                        remedy="make them equally long, or say that it is something else with `not_parallel`",
                    )
                paths.append(path)
            elif len(values) == len(record.titles):
                self.left.setdefault(name, self._seen[path].where)
        self.kept.update(dict.fromkeys(".".join(path) for path in paths))
        return paths

    def merge(self, other: ParallelLists) -> None:
        """Add what was seen, kept and left in another part of the data."""
        for path, theirs in other._seen.items():
            seen = self._seen.setdefault(path, _Seen())
            seen.equal += theirs.equal
            seen.different += theirs.different
            seen.where = seen.where or theirs.where
        self.kept.update(other.kept)
        self.left = {**other.left, **self.left}

    def decided(self) -> ParallelLists:
        """Lists of which it is decided by what was seen here whether they run parallel, whatever is seen later."""
        lists = ParallelLists(self.record_format)
        for path, seen in self._seen.items():
            lists._seen[path] = replace(seen, decided=runs_parallel(seen.equal, seen.different))
        return lists

    @property
    def found(self) -> list[str]:
        """The lists that no option is about and that run parallel to the items, as far as the records tell."""
        return [".".join(path) for path, seen in self._seen.items() if runs_parallel(seen.equal, seen.different)]

    def _candidates(self, record: Record) -> Iterator[tuple[Names, list[Any]]]:
        """The record's lists that no option is about."""
        record_format = self.record_format
        named = {
            record_format.items_field,
            record_format.titles_field,
            *record_format.parallel_fields,
            *record_format.not_parallel,
        }
        for path, values in lists_of(record.data):
            if ".".join(path) not in named and path[0] not in record_format.not_parallel:
                yield path, values

    def _is_parallel(self, path: Names) -> bool:
        seen = self._seen.setdefault(path, _Seen())
        if seen.decided is None:
            seen.decided = runs_parallel(seen.equal, seen.different)
        return seen.decided


def runs_parallel(equal: int, different: int) -> bool:
    """Whether a list that was so often as long as the items, and so often not, runs parallel to them."""
    return equal > 0 and equal >= _FOR_ONE_DAMAGED * different


def _refuse_arrays(record: Record) -> None:
    for name, value in record.data.items():
        plain = isinstance(value, (list, dict, str, bytes)) or not hasattr(value, "__len__")
        if not plain and name not in record.record_format.not_parallel and len(value) == len(record.titles) > 1:
            raise RecordError(
                f"{quote(name)} is {kind(value)} as long as the items",
                where=record.where,
                remedy="make it a list, or say that it is something else with `not_parallel`",
            )


def _lengths(name: str, values: list[Any], record_format: RecordFormat, n_items: int) -> str:
    return f"{quote(name)} has {len(values)} entries, {quote(record_format.items_field)} {n_items}"
