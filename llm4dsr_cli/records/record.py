"""The record: one sequence of items, as a line of the input or as an object in memory, and what it becomes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.records import splice
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.json_lines import dumps, quote
from llm4dsr_cli.records.names import Names, names_of, put_at, value_at
from llm4dsr_cli.records.record_format import RecordFormat
from llm4dsr_cli.sequences import ItemId, ItemSequence
from llm4dsr_cli.users import user_text

# Why nobody can judge an item.
Lack = Literal["no title", "not in the catalog", "no score"]


@dataclass(slots=True)
class Record:
    """One sequence of items.

    Attributes:
        line: the original line without its line ending; None where the record came as an object.
        where: the record's place for messages, ``file:line``.
        data: the parsed object, not to be changed.
        ids: of the items, shape (n_items,); None for an item without one.
        titles: of the items, shape (n_items,); None for what nobody can judge: padding, and items that lack a title.
        record_format: where in ``data`` the items are, with the names of id and title that its items have.
        lacks: why an item has no title, by position.
        order: positions of the items without the padding, oldest first.
    """

    line: bytes | None
    where: str
    data: dict[str, Any]
    ids: list[ItemId | None]
    titles: list[str | None]
    record_format: RecordFormat
    lacks: dict[int, Lack]
    order: Sequence[int]
    _lists: dict[Names, splice.ListSpan] | None = field(default=None, init=False, repr=False)

    def sequence(self, user_field: str) -> ItemSequence:
        """The items without the padding, oldest first, and whose they are."""
        user = self.data.get(user_field)
        titles, ids = [self.titles[i] for i in self.order], [self.ids[i] for i in self.order]
        return ItemSequence(titles, None if user is None else user_text(user), ids)

    @property
    def judged(self) -> list[int]:
        """Positions of the items with a title, oldest first."""
        return [i for i in self.order if self.titles[i] is not None]

    @property
    def named_lists(self) -> list[Names]:
        """The names that lead to each list of which the format says that it runs parallel to the items."""
        return [names_of(self.data, name) for name in self.record_format.parallel_fields]

    @property
    def item_values(self) -> list[Any]:
        """The items as they stand in the record."""
        items: list[Any] = value_at(self.data, names_of(self.data, self.record_format.items_field))
        return items

    def edited(
        self,
        drop: Collection[int] = (),
        add: Mapping[str, Any] | None = None,
        put: Mapping[int, tuple[Any, str]] | None = None,
        parallel: Iterable[Names] | None = None,
    ) -> dict[str, Any]:
        """The record's object with edits; ``data`` itself when there are none, else a copy that shares other values.

        Args:
            drop: positions, from 0, to leave out of the items and of all lists parallel to them.
            add: fields to append.
            put: another item and its title, by position.
            parallel: the names that lead to each list, besides the titles', that runs parallel to the items; None for
                those that the record's format names.

        Raises:
            RecordError: a field of ``add`` is there already.
            IndexError: there is no item in a position.
        """
        if not len(drop) and not add and not put:
            return self.data
        self._check(drop, add, put)
        data = dict(self.data)
        for position, values in (put or {}).items():
            for names, value in zip(self._own_lists(), values, strict=False):
                old = value_at(data, names)
                put_at(data, names, [*old[:position], value, *old[position + 1 :]])
        if len(drop):
            dropped = set(drop)
            # A list that is named twice is still one list.
            for names in dict.fromkeys([*self._own_lists(), *self._parallel(parallel)]):
                put_at(data, names, [value for i, value in enumerate(value_at(data, names)) if i not in dropped])
        return {**data, **(add or {})}

    def render(
        self,
        drop: Collection[int] = (),
        add: Mapping[str, Any] | None = None,
        put: Mapping[int, tuple[Any, str]] | None = None,
        parallel: Iterable[Names] | None = None,
    ) -> bytes:
        """The output line, without a newline: ``edited`` as JSON, in which all that is not edited keeps its bytes.

        Raises:
            RecordError: a field of ``add`` is there already, or a value cannot be written as JSON.
            IndexError: there is no item in a position.
        """
        if self.line is None:
            return self._dumped(self.edited(drop, add, put, parallel))
        if not len(drop) and not add and not put:
            return self.line
        self._check(drop, add, put)
        lists = self.lists()
        cuts: list[splice.Cut] = []
        for position, values in (put or {}).items():
            for names, value in zip(self._own_lists(), values, strict=False):
                if position not in drop:
                    start, end = lists[names].entries[position]
                    cuts.append((start, end, self._put(self.line[start:end], position, value)))
        if len(drop):
            for names in dict.fromkeys([*self._own_lists(), *self._parallel(parallel)]):
                cuts += splice.without(lists[names].entries, drop)
        line = splice.spliced(self.line, cuts)
        fields = [(self._dumped(name), self._dumped(value)) for name, value in (add or {}).items()]
        return splice.appended(line, fields, empty=not self.data) if fields else line

    def lists(self) -> dict[Names, splice.ListSpan]:
        """Where the line's lists are, by the names that lead to each; of a record that has a line."""
        if self._lists is None:
            assert self.line is not None
            self._lists = splice.lists(self.line)
        return self._lists

    def _own_lists(self) -> list[Names]:
        """The names that lead to the items, and to their titles where these have a list."""
        record_format = self.record_format
        return [
            names_of(self.data, name)
            for name in (record_format.items_field, record_format.titles_field)
            if name is not None
        ]

    def _parallel(self, parallel: Iterable[Names] | None) -> Iterable[Names]:
        return self.named_lists if parallel is None else parallel

    def _put(self, text: bytes, position: int, value: Any) -> bytes:
        """What takes the place of an entry: of an object, only the members that are others."""
        old = self.item_values[position]
        if not (isinstance(old, dict) and isinstance(value, dict)) or not value.keys() <= old.keys():
            return self._dumped(value)
        others = {name: self._dumped(new) for name, new in value.items() if not _same(new, old[name])}
        return splice.changed(text, others, old.keys() - value.keys())

    def _check(
        self, drop: Collection[int], add: Mapping[str, Any] | None, put: Mapping[int, tuple[Any, str]] | None
    ) -> None:
        positions = {*drop, *(put or {})}
        if not positions <= set(range(len(self.titles))):
            raise IndexError(f"{self.where}: positions {sorted(positions)} of {len(self.titles)} items")
        refuse_fields(self.data, add or (), self.where)

    def _dumped(self, value: Any) -> bytes:
        try:
            return dumps(value)
        except (TypeError, ValueError) as error:
            raise RecordError(
                f"cannot be written as JSON ({error})", where=self.where, remedy="simplify the record"
            ) from None


def refuse_fields(data: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Raise RecordError where a record has one of the fields that it is to get."""
    taken = next((name for name in names if name in data), None)
    if taken is not None:
        raise RecordError(f"has a field {quote(taken)} already", where=where, remedy="rename or remove it in the input")


# What is done with a line that is no record.
OnError = Callable[[RecordError, bytes], None]
R = TypeVar("R", bound=Record)


def load_catalog(
    path: str | Path | None,
    record_format: RecordFormat,
    *,
    keep_fields: bool = False,
    record_ids: Callable[[], Collection[str]] | None = None,
) -> Catalog | None:
    """``Catalog.load`` with the field names of the records; None where there is no catalog.

    Raises CatalogError as that does.
    """
    if path is None:
        return None
    return Catalog.load(
        path,
        item_id_field=record_format.catalog_id_field or record_format.item_id_field,
        item_title_field=record_format.catalog_title_field or record_format.item_title_field,
        keep_fields=keep_fields,
        record_ids=record_ids,
    )


def _same(new: Any, old: Any) -> bool:
    """Whether a value is what stands there already; 1, 1.0 and true are three values."""
    return new is old or dumps(new) == dumps(old)
