"""The record: one line of the input, its item titles, and the line it becomes."""

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

    ``titles_field`` and ``parallel_fields`` name lists that run parallel to the items. ``item_id_field`` and
    ``item_title_field`` are the fields of an item, where it is an object and in the catalog; None stands for ``id`` and
    ``title``, and for the other names that ``Catalog.load`` knows.
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

    ``line`` is the original without its line ending, ``where`` is ``file:line``, ``data`` the parsed object (not to
    be changed). ``ids`` and ``titles`` have one entry for each item; an id is None where the input has none.
    """

    line: bytes
    where: str
    data: dict[str, Any]
    ids: list[Any | None]
    titles: list[str]
    format: RecordFormat

    def render(
        self,
        drop: Collection[int] = (),
        add: Mapping[str, Any] | None = None,
        put: Mapping[int, tuple[Any, str]] | None = None,
    ) -> bytes:
        """The output line, without a newline; the record itself stays as it is.

        ``drop`` holds positions (from 0) to leave out of the items and all lists parallel to them, ``add`` fields to
        append, ``put`` another item and its title by position. With none, it is the original line, byte for byte.

        Raises RecordError when a field of ``add`` is there already, IndexError for a position that is not.
        """
        if not len(drop) and not add and not put:
            return self.line
        positions = {*drop, *(put or {})}
        if not positions <= set(range(len(self.titles))):
            raise IndexError(f"{self.where}: positions {sorted(positions)} of {len(self.titles)} items")
        data = dict(self.data)
        for position, (item, title) in (put or {}).items():
            names = {self.format.items_field: item}
            if self.format.titles_field is not None:
                names[self.format.titles_field] = title
            for name, value in names.items():
                data[name] = [*data[name][:position], value, *data[name][position + 1 :]]
        if len(drop):
            dropped = set(drop)
            titles_field = [] if self.format.titles_field is None else [self.format.titles_field]
            # A list that is named twice is still one list.
            for name in dict.fromkeys([self.format.items_field, *titles_field, *self.format.parallel_fields]):
                data[name] = [value for i, value in enumerate(data[name]) if i not in dropped]
        for name, value in (add or {}).items():
            if name in self.data:
                raise self._error(f"has a field {quote(name)} already", "rename or remove it in the input")
            data[name] = value
        try:
            return dumps(data)
        except ValueError as error:
            raise self._error(f"cannot be written as JSON ({error})", "simplify the line") from None

    def _error(self, what: str, remedy: str) -> RecordError:
        return RecordError(what, where=self.where, remedy=remedy)


# What is done with a line that is no record.
OnError = Callable[[RecordError, bytes], None]
R = TypeVar("R", bound=Record)


def parse_record(line: bytes, where: str, fmt: RecordFormat, catalog: Catalog | None) -> Record:
    """Read one line (without its ending).

    Items are objects, ids, or titles, all of one kind. Strings are ids when there is a catalog or a titles field,
    else titles. A title is the first that is there (not null) of: the object's own, the entry of the titles field,
    the catalog's.

    Raises RecordError when the line has another shape, or a title is unknown or blank.
    """
    data = parse_object(line, where, RecordError)
    items = _items(data, where, fmt)
    parallel_titles: list[Any] | None = None
    if fmt.titles_field is not None:
        parallel_titles = _parallel_list(data, where, fmt, fmt.titles_field, "--titles-field")
    for name in fmt.parallel_fields:
        _parallel_list(data, where, fmt, name, "--parallel-field")

    strings_are_titles = parallel_titles is None and catalog is None
    ids: list[Any | None] = []
    titles: list[str] = []
    for i, item in enumerate(items):
        place = f"{quote(fmt.items_field)}[{i}]"
        id_, title = item, None
        if isinstance(item, dict):
            id_, title = item.get(fmt.id_name), item.get(fmt.title_name)
            if type(id_) not in (int, str, type(None)):
                raise RecordError(
                    f"{place} has {kind(id_)} as {quote(fmt.id_name)}",
                    where=where,
                    remedy="use integers or strings",
                )
        elif isinstance(item, str) and strings_are_titles:
            id_, title = None, item
        if title is None and parallel_titles is not None:
            title = parallel_titles[i]
        if title is None:
            title = _catalog_title(id_, place, where, fmt, catalog)
        if not isinstance(title, str):
            raise RecordError(f"the title of {place} is {kind(title)}", where=where, remedy="make it a string")
        if not title.strip():
            raise RecordError(f"the title of {place} is blank", where=where, remedy="give it one, or drop the item")
        ids.append(id_)
        titles.append(title)
    return Record(line=line, where=where, data=data, ids=ids, titles=titles, format=fmt)


def load_catalog(path: str | None, fmt: RecordFormat, *, keep_fields: bool = False) -> Catalog | None:
    """``Catalog.load`` with the field names of the records; None where there is no catalog."""
    if path is None:
        return None
    names = {"id_field": fmt.item_id_field, "title_field": fmt.item_title_field}
    return Catalog.load(Path(path), **names, keep_fields=keep_fields)


def user_of(record: Record, user_field: str) -> Hashable:
    """Whose sequence a record is; one that names nobody is of a user of its own, known by its titles."""
    user = record.data.get(user_field)
    return tuple(record.titles) if user is None else user_text(user)


def _items(data: dict[str, Any], where: str, fmt: RecordFormat) -> list[Any]:
    """The list of items, all of them objects, or integers, or strings."""
    name = quote(fmt.items_field)
    if fmt.items_field not in data:
        raise RecordError(
            f"{name} is missing, the fields are {quote_names(list(data)) or 'none'}",
            where=where,
            remedy="say which one holds the items with --items-field",
        )
    items = data[fmt.items_field]
    if not isinstance(items, list):
        raise RecordError(
            f"{name} is {kind(items)}", where=where, remedy="make it a list, or name another with --items-field"
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


def _parallel_list(data: dict[str, Any], where: str, fmt: RecordFormat, name: str, option: str) -> list[Any]:
    """The list named ``name``, as long as the items."""
    if name not in data:
        raise RecordError(
            f"{quote(name)} is missing, the fields are {quote_names(list(data))}",
            where=where,
            remedy=f"add it, or leave out {option}",
        )
    values, items = data[name], data[fmt.items_field]
    if not isinstance(values, list):
        raise RecordError(f"{quote(name)} is {kind(values)}", where=where, remedy=f"make it a list, or change {option}")
    if len(values) != len(items):
        raise RecordError(
            f"{quote(name)} has {len(values)} entries, {quote(fmt.items_field)} {len(items)}",
            where=where,
            remedy="make them equally long",
        )
    return values


def _catalog_title(id_: Any | None, place: str, where: str, fmt: RecordFormat, catalog: Catalog | None) -> str:
    if catalog is None:
        raise RecordError(f"{place} has no title", where=where, remedy="give --catalog, or titles in the records")
    if id_ is None:
        raise RecordError(
            f"{place} has neither {quote(fmt.title_name)} nor {quote(fmt.id_name)}",
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
