"""The catalog: what the items are called."""

from __future__ import annotations

import csv
import gzip
import zlib
from array import array
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from llm4dsr_cli.errors import CatalogError
from llm4dsr_cli.records.json_lines import kind, parse_object, quote, quote_names

ItemId = int | str
_Row = tuple[int, ItemId, str | None, Mapping[str, Any]]  # line number, id, title, and everything in the line

_ID_NAMES = ("id", "item_id")
_TITLE_NAMES = ("title", "item_title", "name", "movie_title")  # RecBole's MovieLens says movie_title
_FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".item")


class Catalog:
    """Titles by item id.

    Ids are compared as text, so that the ``"5"`` of a CSV file is the ``5`` of a record; ``ids`` keeps them as the
    file has them. An item may have no title (None): only a record that uses it is in error.
    """

    def __init__(self, items: Iterable[tuple[ItemId, str | None]] = ()) -> None:
        """A catalog of (id, title) pairs. Raises CatalogError when an id has two titles."""
        self.ids: list[ItemId] = []
        self._titles: dict[str, str | None] = {}  # in the order of ids
        self._fields: list[Mapping[str, Any]] | None = None  # likewise, where they were asked for
        for id_, title in items:
            if not self._add(id_, title):
                raise CatalogError(f"id {quote(id_)} has two titles", remedy="keep one of them")

    @classmethod
    def load(
        cls, path: Path, *, id_field: str | None = None, title_field: str | None = None, keep_fields: bool = False
    ) -> Catalog:
        """Read a catalog; the extension says how.

        ``.jsonl`` and ``.json``: one object a line, fields ``id`` (or ``item_id``) and ``title``. ``.csv``, ``.tsv``
        and RecBole's ``.item``: columns named by the first line; ``id``, ``item_id`` or the first column, and
        ``title``, ``item_title``, ``name`` or ``movie_title``. Each of them also with ``.gz``. ``keep_fields`` keeps
        the items' other fields too (texts, in a table), for items that take another's place.

        Raises CatalogError, naming file and line, for whatever cannot be read or contradicts itself.
        """
        path = Path(path)
        kind_of_file = (path.with_suffix("") if path.suffix == ".gz" else path).suffix
        if kind_of_file not in _FORMATS:
            raise CatalogError(
                f"not a known kind of catalog ({quote(kind_of_file)})",
                where=str(path),
                remedy=f"use one of {', '.join(_FORMATS)}, each also with .gz",
            )
        catalog = cls()
        numbers = array("Q")  # the line of each item
        with closing(_lines(path)) as lines:
            if kind_of_file in (".jsonl", ".json"):
                rows = _json_rows(lines, str(path), id_field, title_field)
            else:
                rows = _table_rows(lines, str(path), id_field, title_field, kind_of_file)
            kept: list[Mapping[str, Any]] = []
            for number, id_, title, fields in rows:
                if not catalog._add(id_, title):
                    first = numbers[list(catalog._titles).index(str(id_))]
                    raise CatalogError(
                        f"id {quote(id_)} has another title in line {first}",
                        where=f"{path}:{number}",
                        remedy="keep one of the two lines",
                    )
                if len(catalog) > len(numbers):
                    numbers.append(number)
                    if keep_fields:
                        kept.append(fields)
        catalog._fields = kept if keep_fields else None
        if not catalog.ids:
            raise CatalogError("holds no items", where=str(path), remedy="give a catalog with at least one item")
        return catalog

    def _add(self, id_: ItemId, title: str | None) -> bool:
        """Take one item in; False when its id is there already with another title. A blank title is no title."""
        title = None if title is None or not title.strip() else title
        key = str(id_)
        if key in self._titles:
            return self._titles[key] == title
        self._titles[key] = title
        self.ids.append(key if isinstance(id_, str) else id_)
        return True

    def title(self, id_: ItemId) -> str | None:
        """The item's title, None when it has none. Raises KeyError for an unknown id."""
        return self._titles[str(id_)]

    def fields(self) -> Iterator[Mapping[str, Any]]:
        """Everything that the file says of each item, in the order of ``ids``; nothing where it was not kept."""
        return iter([{}] * len(self) if self._fields is None else self._fields)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[tuple[ItemId, str | None]]:
        return zip(self.ids, self._titles.values(), strict=True)


def _lines(path: Path) -> Generator[tuple[int, bytes], None, None]:
    """The lines with their numbers, endings kept, a byte order mark dropped."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except FileNotFoundError:
        raise CatalogError("no such file", where=str(path), remedy="check the catalog's path") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise CatalogError(
            "damaged or cut short gzip data", where=f"{path}:{number + 1}", remedy="fetch or compress the file again"
        ) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CatalogError(f"cannot be read ({reason})", where=str(path), remedy="give a readable file") from None


def _json_rows(
    lines: Iterable[tuple[int, bytes]], name: str, id_field: str | None, title_field: str | None
) -> Iterator[_Row]:
    id_names = (id_field,) if id_field else _ID_NAMES
    title_name = title_field or "title"
    fields: list[str] | None = None
    any_title = False
    for number, line in lines:
        if not line.strip():
            continue
        where = f"{name}:{number}"
        item = parse_object(line, where, CatalogError)
        fields = list(item) if fields is None else fields
        id_name = next((field for field in id_names if field in item), None)
        if id_name is None:
            raise CatalogError(
                f"{quote(id_names[0])} is missing, the fields are {quote_names(list(item)) or 'none'}",
                where=where,
                remedy="say which field holds the id with --item-id-field",
            )
        id_, title = item[id_name], item.get(title_name)
        if type(id_) not in (int, str) or id_ == "":
            what = "empty" if id_ == "" else kind(id_)
            raise CatalogError(f"{quote(id_name)} is {what}", where=where, remedy="use an integer or a string")
        if title is not None and not isinstance(title, str):
            raise CatalogError(f"{quote(title_name)} is {kind(title)}", where=where, remedy="use a string or null")
        any_title = any_title or title_name in item
        yield number, id_, title, item
    if fields is not None and not any_title:
        raise CatalogError(
            f"no line has {quote(title_name)}, the fields are {quote_names(fields)}",
            where=name,
            remedy="say which field holds the title with --item-title-field",
        )


def _table_rows(
    lines: Iterable[tuple[int, bytes]], name: str, id_field: str | None, title_field: str | None, kind_of_file: str
) -> Iterator[_Row]:
    texts = _decoded(lines, name)
    if kind_of_file == ".item":  # RecBole joins its columns with tabs and quotes nothing
        rows = csv.reader(texts, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        # strict: a stray quotation mark would otherwise swallow the lines that follow it
        rows = csv.reader(texts, delimiter="," if kind_of_file == ".csv" else "\t", strict=True)
    header: list[str] | None = None
    id_column = title_column = 0
    number = 1  # where the row begins; a quoted field may hold newlines
    try:
        for row in rows:
            where = f"{name}:{number}"
            if row and header is None:
                header = [_column_name(cell, kind_of_file) for cell in row]
                id_column, title_column = _find_columns(header, where, id_field, title_field, kind_of_file)
            elif row and header is not None:
                _check_row(row, header, id_column, where, kind_of_file)
                yield number, row[id_column], row[title_column], dict(zip(header, row, strict=True))
            number = rows.line_num + 1
    except csv.Error as error:
        raise CatalogError(
            f"not a table that can be read ({error})",
            where=f"{name}:{number}",
            remedy='write quoted fields as "...", and a quotation mark inside as ""',
        ) from None


def _check_row(row: list[str], header: list[str], id_column: int, where: str, kind_of_file: str) -> None:
    if len(row) != len(header):
        raise CatalogError(
            f"{len(row)} columns where the header has {len(header)}",
            where=where,
            remedy="repair the line" if kind_of_file == ".item" else "quote what holds a separator",
        )
    if not row[id_column]:
        raise CatalogError(f"{quote(header[id_column])} is empty", where=where, remedy="give the item an id")


def _decoded(lines: Iterable[tuple[int, bytes]], name: str) -> Iterator[str]:
    number = 0
    try:
        for number, line in lines:  # noqa: B007 - the message below needs it
            yield line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CatalogError(
            f"not UTF-8 (byte {error.start + 1} of the line)",
            where=f"{name}:{number}",
            remedy="convert the file, for instance with iconv -t UTF-8",
        ) from None


def _column_name(cell: str, kind_of_file: str) -> str:
    return (cell.partition(":")[0] if kind_of_file == ".item" else cell).strip()


def _find_columns(
    header: list[str], where: str, id_field: str | None, title_field: str | None, kind_of_file: str
) -> tuple[int, int]:
    """Where the ids and the titles stand. Raises CatalogError, naming the columns there are."""
    columns = f"the columns are {quote_names(header)}"
    id_names = (_column_name(id_field, kind_of_file),) if id_field else (*_ID_NAMES, header[0])
    title_names = (_column_name(title_field, kind_of_file),) if title_field else _TITLE_NAMES
    id_name = next((column for column in id_names if column in header), None)
    title_name = next((column for column in title_names if column in header), None)
    if title_name is None:
        raise CatalogError(
            f"no column {quote(title_names[0])}, {columns}",
            where=where,
            remedy="say which column holds the title with --item-title-field",
        )
    if id_name is None or id_name == title_name:
        missing = quote(id_names[0]) if id_name is None else "of ids"
        raise CatalogError(
            f"no column {missing}, {columns}", where=where, remedy="say which column holds the id with --item-id-field"
        )
    return header.index(id_name), header.index(title_name)
