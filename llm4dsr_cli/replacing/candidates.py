"""Candidates: the items that may take a flagged one's place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.json_lines import quote
from llm4dsr_cli.records.record import Record
from llm4dsr_cli.titles import clean_title


@dataclass
class Candidates:
    """Different items with different titles, in the order they came in; a title stands for the first item of it.

    Attributes:
        titles: as the catalog writes them.
        ids: of the items; None where the data have no ids.
        fields: all that the catalog says of the items; nothing where they come from records.
        known: names of these fields.
        without_id: whether an object without an id was replaced that has more fields than a title: one of them may be
            an id, and still the old item's.
    """

    titles: list[str] = field(default_factory=list)
    ids: list[Any | None] = field(default_factory=list)
    fields: list[Mapping[str, Any]] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    without_id: bool = False
    _number: dict[str, int] = field(default_factory=dict)
    _number_of_id: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_catalog(cls, catalog: Catalog) -> Candidates:
        """All items of a catalog that have a title."""
        result = cls()
        for (id_, title), fields in zip(catalog, catalog.fields(), strict=True):
            result.known.update(fields)
            if title is not None:
                result.add(title, id_, fields)
        return result

    def add(self, title: str, id_: Any | None, fields: Mapping[str, Any] | None = None) -> None:
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
            self.fields.append(fields or {})
        self._number.setdefault(clean, number)
        if key is not None:
            self._number_of_id.setdefault(key, number)

    def add_items(self, record: Record) -> None:
        """Take in all items of a record, of which only ids and titles are known."""
        for id_, title in zip(record.ids, record.titles, strict=True):
            self.add(title, id_)

    def item(self, number: int, record: Record, position: int) -> Any:
        """The candidate as an item of a record, of the same kind as the one in that position.

        An id has the JSON type of the record's own. Of an object, the id, the title and all fields that the catalog
        knows are the candidate's, where it has them; those that it does not know tell of the interaction, and stay.

        Raises:
            RecordError: the catalog's id is not of that type.
        """
        old = record.data[record.format.items_field][position]
        id_ = self._id(number, record, position)
        if not isinstance(old, dict):
            return self.titles[number] if record.ids[position] is None else id_
        self.without_id |= record.format.id_name not in old and len(old) > 1
        new = {}
        for name, value in old.items():
            if name == record.format.id_name:
                if id_ is not None:
                    new[name] = id_
            elif name == record.format.title_name:
                new[name] = self.titles[number]
            elif name not in self.known:
                new[name] = value
            elif name in self.fields[number]:
                new[name] = self.fields[number][name]
        return new

    def _id(self, number: int, record: Record, position: int) -> Any | None:
        old, new = record.ids[position], self.ids[number]
        if type(old) is type(new) or old is None or new is None:
            return new
        try:
            converted = str(new) if isinstance(old, str) else int(new)
            if str(converted) != str(new):
                raise ValueError("007 is not what records call 7")
            return converted
        except ValueError:
            raise RecordError(
                f"has integer ids, and the catalog's {quote(new)} is none",
                where=record.where,
                remedy="give a catalog with ids like the records'",
            ) from None

    def numbers(self, record: Record) -> frozenset[int]:
        """The candidates that are in a record, by their title or by their id."""
        by_title = (self._number.get(clean_title(title)) for title in record.titles)
        by_id = (self._number_of_id.get(str(id_)) for id_ in record.ids if id_ is not None)
        return frozenset(number for number in (*by_title, *by_id) if number is not None)

    def __len__(self) -> int:
        return len(self.titles)
