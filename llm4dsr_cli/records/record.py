"""The record: one sequence of items, as a line of the input or as an object in memory, and what it becomes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.json_lines import dumps, kind, parse_object, quote, quote_names
from llm4dsr_cli.users import user_text


@dataclass(frozen=True)
class RecordFormat:
    """Where in a record its items are.

    Attributes:
        items_field: the list of items.
        titles_field: a list of titles that runs parallel to the items, if there is one.
        parallel_fields: other lists that run parallel to the items.
        item_id_field: the id's field of an item that is an object, and in the catalog; None stands for ``id``, and for
            the other names that ``Catalog.load`` knows.
        item_title_field: the title's field, likewise; None stands for ``title``.
    """

    items_field: str = "items"
    titles_field: str | None = None
    parallel_fields: tuple[str, ...] = ()
    item_id_field: str | None = None
    item_title_field: str | None = None

    @property
    def id_name(self) -> str:
        """The id's field in an object."""
        return self.item_id_field or "id"

    @property
    def title_name(self) -> str:
        """The title's field in an object."""
        return self.item_title_field or "title"


@dataclass(slots=True)
class Record:
    """One sequence of items.

    Attributes:
        line: the original line without its line ending; None where the record came as an object.
        where: the record's place for messages, ``file:line``.
        data: the parsed object, not to be changed.
        ids: of the items, shape (n_items,); None for an item without one.
        titles: of the items, shape (n_items,).
        record_format: where in ``data`` the items are.
    """

    line: bytes | None
    where: str
    data: dict[str, Any]
    ids: list[Any | None]
    titles: list[str]
    record_format: RecordFormat

    def edited(
        self,
        drop: Collection[int] = (),
        add: Mapping[str, Any] | None = None,
        put: Mapping[int, tuple[Any, str]] | None = None,
    ) -> dict[str, Any]:
        """The record's object with edits; ``data`` itself when there are none, else a copy that shares other values.

        Args:
            drop: positions, from 0, to leave out of the items and of all lists parallel to them.
            add: fields to append.
            put: another item and its title, by position.

        Raises:
            RecordError: a field of ``add`` is there already.
            IndexError: there is no item in a position.
        """
        if not len(drop) and not add and not put:
            return self.data
        positions = {*drop, *(put or {})}
        if not positions <= set(range(len(self.titles))):
            raise IndexError(f"{self.where}: positions {sorted(positions)} of {len(self.titles)} items")
        names = self.record_format
        titles_field = [] if names.titles_field is None else [names.titles_field]
        data = dict(self.data)
        for position, (item, title) in (put or {}).items():
            for name, value in zip([names.items_field, *titles_field], (item, title), strict=False):
                data[name] = [*data[name][:position], value, *data[name][position + 1 :]]
        if len(drop):
            dropped = set(drop)
            # A list that is named twice is still one list.
            for name in dict.fromkeys([names.items_field, *titles_field, *names.parallel_fields]):
                data[name] = [value for i, value in enumerate(data[name]) if i not in dropped]
        for name, value in (add or {}).items():
            if name in self.data:
                raise self._error(f"has a field {quote(name)} already", "rename or remove it in the input")
            data[name] = value
        return data

    def render(
        self,
        drop: Collection[int] = (),
        add: Mapping[str, Any] | None = None,
        put: Mapping[int, tuple[Any, str]] | None = None,
    ) -> bytes:
        """The output line, without a newline: ``edited`` as JSON, or the original line when nothing is edited.

        Raises:
            RecordError: a field of ``add`` is there already, or a value cannot be written as JSON.
            IndexError: there is no item in a position.
        """
        data = self.edited(drop, add, put)
        if data is self.data and self.line is not None:
            return self.line
        try:
            return dumps(data)
        except (TypeError, ValueError) as error:
            raise self._error(f"cannot be written as JSON ({error})", "simplify the record") from None

    def _error(self, what: str, remedy: str) -> RecordError:
        return RecordError(what, where=self.where, remedy=remedy)


# What is done with a line that is no record.
OnError = Callable[[RecordError, bytes], None]
R = TypeVar("R", bound=Record)


def parse_record(line: bytes, where: str, record_format: RecordFormat, catalog: Catalog | None) -> Record:
    """``record_of`` for a line of JSON, without its line ending.

    Raises RecordError when it is no JSON object, and as ``record_of`` does.
    """
    return record_of(parse_object(line, where, RecordError), where, record_format, catalog, line=line)


def record_of(
    data: dict[str, Any],
    where: str,
    record_format: RecordFormat,
    catalog: Catalog | None,
    *,
    line: bytes | None = None,
) -> Record:
    """The record that an object is.

    Items are objects, ids, or titles, all of one kind. Strings are ids when there is a catalog or a titles field,
    else titles. A title is the first that is there (not null) of: the object's own, the entry of the titles field,
    the catalog's.

    Args:
        data: what JSON can say: dicts with strings as keys, lists, strings, numbers, booleans and None.
        where: its place for messages, ``file:line``, say.
        catalog: titles of items that have none in the record.
        line: what ``data`` was parsed from, to come back byte for byte where nothing is edited.

    Raises:
        RecordError: the object has another shape, or a title is unknown or blank.
    """
    items = _items(data, where, record_format)
    parallel_titles: list[Any] | None = None
    if record_format.titles_field is not None:
        parallel_titles = _parallel_list(data, where, record_format, record_format.titles_field, "`titles_field`")
    for name in record_format.parallel_fields:
        _parallel_list(data, where, record_format, name, "`parallel_field`")

    strings_are_titles = parallel_titles is None and catalog is None
    ids: list[Any | None] = []
    titles: list[str] = []
    for i, item in enumerate(items):
        place = f"{quote(record_format.items_field)}[{i}]"
        id_, title = item, None
        if isinstance(item, dict):
            id_, title = item.get(record_format.id_name), item.get(record_format.title_name)
            if type(id_) not in (int, str, type(None)):
                raise RecordError(
                    f"{place} has {kind(id_)} as {quote(record_format.id_name)}",
                    where=where,
                    remedy="use integers or strings",
                )
        elif isinstance(item, str) and strings_are_titles:
            id_, title = None, item
        if title is None and parallel_titles is not None:
            title = parallel_titles[i]
        if title is None:
            title = _catalog_title(id_, place, where, record_format, catalog)
        if not isinstance(title, str):
            raise RecordError(f"the title of {place} is {kind(title)}", where=where, remedy="make it a string")
        if not title.strip():
            raise RecordError(f"the title of {place} is blank", where=where, remedy="give it one, or drop the item")
        ids.append(id_)
        titles.append(title)
    return Record(line=line, where=where, data=data, ids=ids, titles=titles, record_format=record_format)


def load_catalog(path: str | Path | None, record_format: RecordFormat, *, keep_fields: bool = False) -> Catalog | None:
    """``Catalog.load`` with the field names of the records; None where there is no catalog.

    Raises CatalogError as that does.
    """
    if path is None:
        return None
    return Catalog.load(
        path,
        item_id_field=record_format.item_id_field,
        item_title_field=record_format.item_title_field,
        keep_fields=keep_fields,
    )


def user_of(record: Record, user_field: str) -> Hashable:
    """Whose sequence a record is; one that names nobody is of a user of its own, known by its titles."""
    user = record.data.get(user_field)
    return tuple(record.titles) if user is None else user_text(user)


def _items(data: dict[str, Any], where: str, record_format: RecordFormat) -> list[Any]:
    """The list of items, all of them objects, or integers, or strings."""
    name = quote(record_format.items_field)
    if record_format.items_field not in data:
        raise RecordError(
            f"{name} is missing, the fields are {quote_names(list(data)) or 'none'}",
            where=where,
            remedy="say which one holds the items with `items_field`",
        )
    items = data[record_format.items_field]
    if not isinstance(items, list):
        raise RecordError(
            f"{name} is {kind(items)}", where=where, remedy="make it a list, or name another with `items_field`"
        )
    for i, item in enumerate(items):
        if type(item) not in (dict, int, str):
            raise RecordError(
                f"{name}[{i}] is {kind(item)}", where=where, remedy="use objects, integer or string ids, or titles"
            )
        if type(item) is not type(items[0]):
            raise RecordError(
                f"{name}[{i}] is {kind(item)}, {name}[0] {kind(items[0])}",
                where=where,
                remedy="make all items of one kind",
            )
    return items


def _parallel_list(data: dict[str, Any], where: str, record_format: RecordFormat, name: str, option: str) -> list[Any]:
    """The list named ``name``, as long as the items."""
    if name not in data:
        raise RecordError(
            f"{quote(name)} is missing, the fields are {quote_names(list(data))}",
            where=where,
            remedy=f"add it, or leave out {option}",
        )
    values, items = data[name], data[record_format.items_field]
    if not isinstance(values, list):
        raise RecordError(f"{quote(name)} is {kind(values)}", where=where, remedy=f"make it a list, or change {option}")
    if len(values) != len(items):
        raise RecordError(
            f"{quote(name)} has {len(values)} entries, {quote(record_format.items_field)} {len(items)}",
            where=where,
            remedy="make them equally long",
        )
    return values


def _catalog_title(
    id_: Any | None, place: str, where: str, record_format: RecordFormat, catalog: Catalog | None
) -> str:
    if catalog is None:
        raise RecordError(f"{place} has no title", where=where, remedy="give `catalog`, or titles in the records")
    if id_ is None:
        raise RecordError(
            f"{place} has neither {quote(record_format.title_name)} nor {quote(record_format.id_name)}",
            where=where,
            remedy="give it one of them",
        )
    try:
        title = catalog.title(id_)
    except KeyError:
        raise RecordError(f"id {quote(id_)} is not in the catalog", where=where, remedy="add it there") from None
    if title is None:
        raise RecordError(f"id {quote(id_)} has no title in the catalog", where=where, remedy="add one there")
    return title
