"""Parsing: from a line or an object to a record, whatever shape its items have."""

from __future__ import annotations

from typing import Any

from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.columns import id_names
from llm4dsr_cli.records.json_lines import kind, quote, quote_names
from llm4dsr_cli.records.json_objects import parse_object
from llm4dsr_cli.records.names import find
from llm4dsr_cli.records.parallel import named_list
from llm4dsr_cli.records.record import Lack, Record
from llm4dsr_cli.records.record_format import RecordFormat
from llm4dsr_cli.records.shapes import grouping, splitting, turned
from llm4dsr_cli.titles import title_of

_IDS = (int, float, str)


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

    Items are objects, ids, or titles, all of one kind; null is an item of which nothing is known. Strings are ids when
    there is a catalog or a titles field, else titles. A title is the first that is there (``title_of``) of: the
    object's own, the entry of the titles field, the catalog's. An item without one has None, and a place in ``lacks``.

    Args:
        data: what JSON can say: dicts with strings as keys, lists, strings, numbers, booleans and None.
        where: its place for messages, ``file:line``.
        catalog: titles of items that have none in the record.
        line: what ``data`` was parsed from, to come back byte for byte where nothing is edited.

    Raises:
        RecordError: it is no object, has another shape, or there is nowhere that its items could have titles.
    """
    if not isinstance(data, dict):
        raise RecordError(f"is {kind(data)}", where=where, remedy='give a dict, such as {"items": ["Alien", "Aliens"]}')
    items = _items(data, where, record_format)
    strings_are_titles = record_format.titles_field is None and catalog is None
    _check_kinds(items, where, record_format, numbers_are_titles=strings_are_titles)
    parallel_titles: list[Any] | None = None
    if record_format.titles_field is not None:
        parallel_titles = named_list(
            data, where, record_format, len(items), record_format.titles_field, "`titles_field`"
        )
    for name in record_format.parallel_fields:
        named_list(data, where, record_format, len(items), name, "`parallel_field`")
    objects = [item for item in items if isinstance(item, dict)]
    if objects:
        record_format = _named_by(objects, where, record_format, catalog)
    elif strings_are_titles and not any(isinstance(item, str) or record_format.ids_for_titles for item in items):
        _check_titles([item for item in items if item is not None], where, record_format)
    ids: list[Any | None] = []
    titles: list[str | None] = []
    lacks: dict[int, Lack] = {}
    order: list[int] = []
    for i, item in enumerate(items):
        id_, title = item, None
        if isinstance(item, dict):
            id_, title = item.get(record_format.id_name), title_of(item.get(record_format.title_name))
            if type(id_) not in (*_IDS, type(None)):
                raise RecordError(
                    f"{_place(record_format, i)} has {kind(id_)} as {quote(record_format.id_name)}",
                    where=where,
                    remedy="use integers or strings",
                )
        elif strings_are_titles:
            id_, title = None, title_of(item)
        padding = record_format.is_padding(item if id_ is None and not isinstance(item, dict) else id_)
        if padding:
            title = None
        else:
            order.append(i)
            if title is None and parallel_titles is not None:
                title = title_of(parallel_titles[i])
            if title is None and record_format.ids_for_titles:
                title = title_of(item if id_ is None and not isinstance(item, dict) else id_)
            if title is None:
                title = _catalog_title(id_, catalog, lacks, i)
        ids.append(id_)
        titles.append(title)
    if record_format.newest_first:
        order.reverse()
    return Record(line, where, data, ids, titles, record_format, lacks, order)


def _items(data: dict[str, Any], where: str, record_format: RecordFormat) -> list[Any]:
    """The list of items, all of them objects, or numbers, or strings, or null."""
    name = quote(record_format.items_field)
    found = find(data, record_format.items_field)
    if found is None:
        remedy = grouping(data, where)
        fields = f"the fields are {quote_names(list(data)) or 'none'}"
        raise RecordError(
            f"{name} is missing, {fields if remedy is None else 'the line is one interaction'}",
            where=where,
            remedy=remedy or turned(data, where) or "say which one holds the items with `items_field`",
        )
    items = found[1]
    if not isinstance(items, list):
        raise RecordError(
            f"{name} is {kind(items)}",
            where=where,
            remedy=splitting(record_format.items_field, items, where)
            or turned(data, where)
            or "make it a list, or name another with `items_field`",
        )
    return items


def _check_kinds(items: list[Any], where: str, record_format: RecordFormat, *, numbers_are_titles: bool) -> None:
    """Raises RecordError unless the items are all objects, or numbers, or strings, or null.

    ``numbers_are_titles`` lets numbers stand among strings: ["Alien", 1984].
    """
    name = quote(record_format.items_field)
    for i, item in enumerate(items):
        if type(item) not in (dict, *_IDS, type(None)):
            raise RecordError(
                f"{name}[{i}] is {kind(item)}", where=where, remedy="use objects, integer or string ids, or titles"
            )
    kinds = {type(item) for item in items} - {type(None)}
    if len(kinds) > 1 and not kinds <= {int, float} and not (numbers_are_titles and dict not in kinds):
        first = next(i for i, item in enumerate(items) if item is not None)
        other = next(i for i, item in enumerate(items) if item is not None and type(item) is not type(items[first]))
        raise RecordError(
            f"{name}[{other}] is {kind(items[other])}, {name}[{first}] {kind(items[first])}",
            where=where,
            remedy="make all items of one kind",
        )


def _named_by(
    objects: list[dict[str, Any]], where: str, record_format: RecordFormat, catalog: Catalog | None
) -> RecordFormat:
    """The format with the names that the items have. Raises RecordError where nothing can be an item's title."""
    names = dict.fromkeys(name for item in objects for name in item)
    by_id = catalog is not None or record_format.ids_for_titles
    if by_id and record_format.item_id_field is None and len(several := id_names(names)) > 1:
        raise RecordError(
            f"its items have {' and '.join(map(quote, several))}, each of which may be the id",
            where=where,
            remedy="say which with `item_id_field`",
        )
    record_format = record_format.named_by(names, titles=catalog is None)
    if record_format.title_name in names or record_format.titles_field is not None:
        return record_format
    if record_format.ids_for_titles and record_format.id_name in names:
        return record_format
    if catalog is None:
        _check_titles(objects, where, record_format)
    elif record_format.id_name not in names:
        title, id_ = quote(record_format.title_name), quote(record_format.id_name)
        raise RecordError(
            f"{_place(record_format, 0)} has neither {title} nor {id_}",
            where=where,
            remedy="give it one of them, or name them with `item_id_field` and `item_title_field`",
        )
    return record_format


def _check_titles(items: list[Any], where: str, record_format: RecordFormat) -> None:
    """Raises RecordError unless all of the items are padding: none of them has a title, and none can have one."""
    for i, item in enumerate(items):
        if not record_format.is_padding(item.get(record_format.id_name) if isinstance(item, dict) else item):
            raise RecordError(
                f"{_place(record_format, i)} has no title",
                where=where,
                remedy="give `catalog`, or titles in the records",
            )


def _place(record_format: RecordFormat, position: int) -> str:
    return f"{quote(record_format.items_field)}[{position}]"


def _catalog_title(id_: Any | None, catalog: Catalog | None, lacks: dict[int, Lack], position: int) -> str | None:
    """The catalog's title of an item; None, with the reason in ``lacks``, where it has none."""
    title: str | None = None
    lack: Lack = "no title"
    if catalog is not None and id_ is not None:
        try:
            title = catalog.title(id_)
        except KeyError:
            lack = "not in the catalog"
    if title is None:
        lacks[position] = lack
    return title
