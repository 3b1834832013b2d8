"""The catalog: what the items are called, and what else its file says of them."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from llm4dsr_cli.errors import CatalogError, OptionError
from llm4dsr_cli.records.catalog_rows import CatalogFile, ItemId
from llm4dsr_cli.records.json_lines import dumps, loads, quote

_BLOCK = 100


class Catalog:
    """Titles by item id.

    Ids are compared as text, so that the ``"5"`` of a CSV file is the ``5`` of a record. An item may have no title
    (None): only a record that uses it is in error.

    Attributes:
        ids: the items' ids as the file has them, each once, in the order of the file.
        field_names: names of all fields that the file has, those of ids and titles among them.
        column_types: RecBole's type (``token``, ``float``, ``token_seq``, ``float_seq``) by field, where the file's
            header says it.
        is_table: whether the file is a table, in which every field is a text.
    """

    def __init__(self, items: Iterable[tuple[ItemId, str | None]] = ()) -> None:
        """A catalog of (id, title) pairs, which have no other fields. Raises CatalogError when an id has two titles."""
        self.ids: list[ItemId] = []
        self.field_names: set[str] = set()
        self.column_types: dict[str, str] = {}
        self.is_table = False
        self._titles: dict[str, str | None] = {}  # in the order of ids
        self._kept: _Texts | None = None  # likewise, where they were asked for
        self._columns: list[str] = []
        for id_, title in items:
            if not self._add(id_, title):
                raise CatalogError(f"id {quote(id_)} has two titles", remedy="keep one of them")

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        item_id_field: str | None = None,
        item_title_field: str | None = None,
        keep_fields: bool = False,
    ) -> Catalog:
        """Read a catalog; the file name's extension, in capitals or not, says how.

        ``.jsonl``, ``.json`` and ``.ndjson`` are JSON lines: one object a line, with the fields ``id`` (or
        ``item_id``) and ``title``. ``.csv``, ``.tsv`` and RecBole's ``.item`` (an "atomic file": tabs, no quoting, a
        type behind each column's name, https://recbole.io/docs/user_guide/data/atomic_files.html) are tables whose
        first line names the columns: ``id``, ``item_id`` or the first column hold the ids; ``title``, ``item_title``,
        ``name`` or ``movie_title`` hold the titles. Each of them may be compressed, with ``.gz`` behind its extension.

        Args:
            item_id_field: the field of the ids, where it has another name.
            item_title_field: the field of the titles, where it has another name.
            keep_fields: keep the items' other fields too, for ``fields``. ``Candidates`` need them to replace items
                that are objects; they take less memory than the file has bytes.

        Raises:
            CatalogError: the file cannot be read, is no catalog, or contradicts itself; it names file and line.
        """
        path = Path(path)
        catalog = cls()
        catalog._kept = _Texts() if keep_fields else None
        file = CatalogFile(path, item_id_field, item_title_field)
        lines = array("Q")  # of each item
        with closing(file.rows()) as rows:
            for row in rows:
                if not catalog._add(row.id, row.title):
                    first = lines[list(catalog._titles).index(str(row.id))]
                    raise CatalogError(
                        f"id {quote(row.id)} has another title in line {first}",
                        where=f"{path}:{row.line}",
                        remedy="keep one of the two lines",
                    )
                if len(catalog) > len(lines):
                    lines.append(row.line)
                    catalog.field_names.update(row.names)
                    if catalog._kept is not None:
                        catalog._kept.append(row.fields if isinstance(row.fields, bytes) else dumps(row.fields))
        catalog.is_table, catalog.column_types, catalog._columns = file.is_table, file.column_types, file.columns
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

    @property
    def keeps_fields(self) -> bool:
        """Whether ``fields`` can tell all that the file says."""
        return self._kept is not None or not self.field_names

    def fields(self, number: int) -> dict[str, Any]:
        """All that the file's first line of the item ``ids[number]`` says, by field; in a table, every value is a text.

        Nothing for a catalog that was made of pairs.

        Raises:
            OptionError: the file has fields, and they were not kept.
        """
        if self._kept is None:
            if self.field_names:
                raise OptionError("the catalog's fields were not kept", remedy="load it with `keep_fields`")
            return {}
        value = loads(self._kept[number])
        return dict(zip(self._columns, value, strict=True)) if self.is_table else dict(value)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[tuple[ItemId, str | None]]:
        return zip(self.ids, self._titles.values(), strict=True)


class _Texts:
    """A list of texts of one line each, compressed by the hundred: few of them are ever looked at."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._last: list[bytes] = []  # fewer than a block

    def append(self, text: bytes) -> None:
        self._last.append(text)
        if len(self._last) == _BLOCK:
            self._blocks.append(zlib.compress(b"\n".join(self._last), 1))
            self._last = []

    def __getitem__(self, number: int) -> bytes:
        block, place = divmod(number, _BLOCK)
        texts = self._last if block == len(self._blocks) else zlib.decompress(self._blocks[block]).split(b"\n")
        return texts[place]
