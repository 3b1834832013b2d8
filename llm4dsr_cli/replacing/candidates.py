"""Candidates: the items that may take a flagged one's place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from llm4dsr_cli.errors import OptionError, RecordError
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.json_lines import quote, quote_names
from llm4dsr_cli.records.record import Record
from llm4dsr_cli.replacing.cells import value_of
from llm4dsr_cli.sequences import ItemId, ItemSequence
from llm4dsr_cli.titles import clean_title


class Candidates:
    """Different items with different titles, in the order they came in; a title stands for the first item of it.

    A candidate is known by its number, from 0.

    Attributes:
        titles: of the items, as the catalog writes them.
        ids: of the items; None where the data have no ids.
        without_id: whether ``item`` replaced an object without an id that has more fields than a title: one of them may
            be an id, and still the old item's.
        left_out: how many candidates ``numbers`` excluded because they are ``misfits`` (the most for any sequence).
        unread: how many cells of a table ``item`` had to write as null, by field, for they are not of the field's type.
    """

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.ids: list[Any | None] = []
        self.without_id = False
        self.left_out = 0
        self.unread: Counter[str] = Counter()
        self._catalog: Catalog | None = None
        self._places: list[int] = []  # of the catalog's candidates, among its items; they come first
        self._number: dict[str, int] = {}
        self._number_of_id: dict[str, int] = {}
        # Candidates whose id cannot stand among integers, and among floats.
        self._not: dict[type, set[int]] = {int: set(), float: set()}
        self._nameless: set[int] = set()  # candidates without an id

    @classmethod
    def from_catalog(cls, catalog: Catalog, is_padding: Callable[[ItemId], bool] = lambda id_: False) -> Candidates:
        """All items of a catalog that have a title, but for padding.

        For items that are objects, the catalog has to be loaded with ``keep_fields``: ``check_fields`` and ``item``
        raise OptionError where it was not and a record's objects have fields of the catalog.
        """
        result = cls()
        result._catalog = catalog
        for place, (id_, title) in enumerate(catalog):
            if title is not None and not is_padding(id_):
                result.add(title, id_)
                if len(result) > len(result._places):
                    result._places.append(place)
        return result

    def add(self, title: str, id_: Any | None) -> None:
        """Take an item in, unless its title or its id is there already.

        Titles that differ in white space alone are the same; ids are compared as text.
        """
        clean, key = clean_title(title), None if id_ is None else str(id_)
        number = self._number.get(clean)
        if number is None and key is not None:
            number = self._number_of_id.get(key)
        if number is None:
            number = len(self.titles)
            self.titles.append(title)
            self.ids.append(id_)
            if id_ is None:
                self._nameless.add(number)
            else:
                for kind, those in self._not.items():
                    if _as_number(id_, kind) is None:
                        those.add(number)
        self._number.setdefault(clean, number)
        if key is not None:
            self._number_of_id.setdefault(key, number)

    def add_items(self, sequence: ItemSequence) -> None:
        """Take in all items of a sequence that have a title; only that and their ids are known of them."""
        for id_, title in zip(sequence.ids, sequence.titles, strict=True):
            if title is not None:
                self.add(title, id_)

    def numbers(self, sequence: ItemSequence) -> frozenset[int]:
        """The candidates that may not be proposed for a sequence.

        They are those that it has already, known by their title or by their id, and the ``misfits``.
        """
        ids = [*sequence.ids, *sequence.unjudged_ids]
        by_title = (self._number.get(clean_title(title)) for title in sequence.titles if title is not None)
        by_id = (self._number_of_id.get(str(id_)) for id_ in ids if id_ is not None)
        misfits = self._misfits(ids)
        self.left_out = max(self.left_out, sum(map(len, misfits)))
        return frozenset(number for number in (*by_title, *by_id) if number is not None).union(*misfits)

    def misfits(self, ids: Sequence[ItemId | None]) -> frozenset[int]:
        """The candidates that cannot stand beside items of these ids, because their own are of another kind.

        Among integers, an id has to be an integer, or a text that spells one: ``x9`` and ``007`` do not; likewise among
        floats. Among items with ids, a candidate has to have one.
        """
        return frozenset().union(*self._misfits(ids))

    def _misfits(self, ids: Sequence[ItemId | None]) -> list[set[int]]:
        kinds = {type(id_) for id_ in ids if id_ is not None}
        result = [those for kind, those in self._not.items() if kind in kinds]
        return [*result, self._nameless] if kinds else result

    def item(self, number: int, record: Record, position: int) -> Any:
        """The candidate as an item of a record, of the same kind as the one in that position.

        An id has the JSON type of the record's own. Of an object, the id, the title and all fields that the catalog
        knows are the candidate's, where it has them; those that it does not know tell of the interaction, and stay.

        A table (CSV, TSV, ``.item``) has texts only. They become values of the type that the field has in the old item,
        or else in the record's other items: ``8.50`` becomes the float 8.5, an empty cell null. A text that is no value
        of that type, ``unknown`` for a number say, becomes null and is counted in ``unread``: a field never changes its
        type. ``cells.value_of`` has the details.

        Raises:
            RecordError: the candidate is one of the record's ``misfits``.
            OptionError: the item has fields of the catalog, which were not kept.
        """
        self.check_fields(record)
        old = record.item_values[position]
        id_ = self._id(number, record, position)
        if not isinstance(old, dict):
            return self.titles[number] if record.ids[position] is None else id_
        names = record.record_format
        self.without_id |= names.id_name not in old and len(old) > 1
        known = set() if self._catalog is None else self._catalog.field_names
        fields: dict[str, Any] | None = None
        new = {}
        for name, value in old.items():
            if name == names.id_name:
                if id_ is not None:
                    new[name] = id_
            elif name == names.title_name:
                new[name] = self.titles[number]
            elif name not in known:
                new[name] = value
            else:
                fields = self._fields(number) if fields is None else fields
                if name in fields:
                    new[name] = self._typed(name, fields[name], record, position)
        return new

    def _fields(self, number: int) -> dict[str, Any]:
        if self._catalog is None or number >= len(self._places):
            return {}
        return self._catalog.fields(self._places[number])

    def _typed(self, name: str, value: Any, record: Record, position: int) -> Any:
        """The catalog's value of a field, of the type that the record has there."""
        if self._catalog is None or not self._catalog.is_table:
            return value
        items = [item for item in record.item_values if isinstance(item, dict)]
        models = (item.get(name) for item in (record.item_values[position], *items))
        typed = value_of(value, models, self._catalog.column_types.get(name))
        if typed is None and value.strip():
            self.unread[name] += 1
        return typed

    def check_fields(self, record: Record) -> None:
        """Refuse a catalog whose fields were not kept, for objects that would keep the old item's beside a new title.

        Raises:
            OptionError: the record's items have fields of the catalog, which were not kept.
        """
        if self._catalog is None or self._catalog.keeps_fields:
            return
        record_format = record.record_format
        names = self._catalog.field_names - {record_format.id_name, record_format.title_name}
        for item in record.item_values:
            if isinstance(item, dict) and not names.isdisjoint(item):
                shared = quote_names([name for name in item if name in names])
                raise OptionError(
                    f"the items have fields of the catalog ({shared}), and it was loaded without",
                    where=record.where,
                    remedy="load the catalog with `keep_fields`",
                )

    def _id(self, number: int, record: Record, position: int) -> Any | None:
        new = self.ids[number]
        others = (id_ for id_ in (record.ids[position], *record.ids) if id_ is not None)
        kind = type(next(others, new))  # an object may have no id of its own
        if new is None or type(new) is kind:
            return new
        converted = str(new) if kind is str else _as_number(new, kind)
        if converted is None:
            raise RecordError(
                f"has {'integer' if kind is int else 'float'} ids, and the catalog's {quote(new)} is none",
                where=record.where,
                remedy="give a catalog with ids like the records'",
            )
        return converted

    def __len__(self) -> int:
        return len(self.titles)


def _as_number(id_: ItemId, kind: type) -> int | float | None:
    """The integer or float that an id is, or is written as; None where it is none: 007 is not what records call 7."""
    try:
        number: int | float = kind(id_)
    except (ValueError, OverflowError):
        return None
    return number if str(number) == str(id_) else None
