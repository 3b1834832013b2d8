"""The catalog: what the items are called, and what else its file says of them."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from llm4dsr_cli.errors import CatalogError, OptionError
from llm4dsr_cli.records.catalog_rows import CatalogFile
from llm4dsr_cli.records.file_kinds import for_catalog
from llm4dsr_cli.records.json_lines import dumps, loads, quote
from llm4dsr_cli.sequences import ItemId
from llm4dsr_cli.titles import title_of

_BLOCK = 100
_SHOWN = 3  # titles of a catalog, so that a person sees whether they are
_UUID = re.compile(r"\{?[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}\}?")


class Catalog:
    """Titles by item id.

    Ids are compared as text, so that the ``"5"`` of a CSV file is the ``5`` of a record. An item may have no title
    (None, or what ``title_of`` says is none): it is in nobody's way. Of several titles of an id the first counts.

    Attributes:
        ids: the items' ids as the file has them, each once, in the order of the file.
        field_names: names of all fields that the file has, those of ids and titles among them.
        column_types: RecBole's type (``token``, ``float``, ``token_seq``, ``float_seq``) by field, where the file's
            header says it.
        is_table: whether the file is a table, in which every field is a text.
        about: a sentence that says where ids and titles were taken from; empty for a catalog that was made of pairs.
        contradictions: how many rows give an id another title than an earlier one.
        contradiction: a sentence about the first of them.
    """

    def __init__(self, items: Iterable[tuple[ItemId, str | None]] = ()) -> None:
        """A catalog of (id, title) pairs, which have no other fields."""
        self.ids: list[ItemId] = []
        self.field_names: set[str] = set()
        self.column_types: dict[str, str] = {}
        self.is_table = False
        self.about = ""
        self.contradictions = 0
        self.contradiction = ""
        self._titles: dict[str, str | None] = {}  # in the order of ids
        self._kept: _Texts | None = None  # likewise, where they were asked for
        self._columns: list[str] = []
        for id_, title in items:
            self._add(id_, title_of(title))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        item_id_field: str | None = None,
        item_title_field: str | None = None,
        keep_fields: bool = False,
        record_ids: Callable[[], Collection[str]] | None = None,
    ) -> Catalog:
        """Read a catalog; the file name's extension, in capitals or not, says how.

        ``.jsonl``, ``.json`` and ``.ndjson`` are JSON lines, one object a line; or one object of all titles by id.
        ``.csv``, ``.tsv`` and RecBole's ``.item`` (an "atomic file": tabs, no quoting, a type behind each column's
        name, https://recbole.io/docs/user_guide/data/atomic_files.html) are tables whose first line names the columns.
        Each of them may be compressed, with ``.gz`` behind its extension. ``columns`` knows the usual names of ids and
        titles (``item_id``, ``movieId``, ``asin``, ``title``, ``name``, ...).

        Args:
            item_id_field: the field of the ids, where it has another name.
            item_title_field: the field of the titles, where it has another name.
            keep_fields: keep the items' other fields too, for ``fields``. ``Candidates`` need them to replace items
                that are objects; they take less memory than the file has bytes.
            record_ids: gives ids that the records have, as texts, to choose between several fields that may hold ids.

        Raises:
            CatalogError: the file cannot be read or is no catalog, or several of its fields may hold the ids; it names
                file and line.
        """
        path = Path(path)
        try:
            return cls._read(path, item_id_field, item_title_field, keep_fields, record_ids)
        except CatalogError as error:
            raise CatalogError(error.what, where=error.where, remedy=for_catalog(error.remedy or "", path)) from None

    @classmethod
    def _read(
        cls,
        path: Path,
        item_id_field: str | None,
        item_title_field: str | None,
        keep_fields: bool,
        record_ids: Callable[[], Collection[str]] | None,
    ) -> Catalog:
        catalog = cls()
        catalog._kept = _Texts() if keep_fields else None
        file = CatalogFile(path, item_id_field, item_title_field, record_ids)
        with closing(file.rows()) as rows:
            for row in rows:
                known = len(catalog)
                catalog._add(row.id, row.title, f"{path}:{row.line}")
                if len(catalog) > known:
                    catalog.field_names.update(row.names)
                    if catalog._kept is not None:
                        catalog._kept.append(row.fields if isinstance(row.fields, bytes) else dumps(row.fields))
        catalog.is_table, catalog.column_types, catalog._columns = file.is_table, file.column_types, file.columns
        if not catalog.ids:
            raise CatalogError("holds no items", where=str(path), remedy="give a catalog with at least one item")
        ids = "ids are the names of an object" if file.id_field is None else f"ids from {quote(file.id_field)}"
        titles = "titles its values" if file.title_field is None else f"titles from {quote(file.title_field)}"
        shown = [quote(title) for title in islice(filter(None, catalog._titles.values()), _SHOWN)]
        catalog.about = f"catalog {path}: {ids}, {titles}, as {', '.join(shown) or 'none'}"
        return catalog

    def _add(self, id_: ItemId, title: str | None, where: str = "") -> None:
        """Take one item in; of its titles, the first."""
        key = str(id_)
        if key not in self._titles:
            self.ids.append(key if isinstance(id_, str) else id_)
            self._titles[key] = title
        elif title is not None and self._titles[key] != title:
            if self._titles[key] is None:
                self._titles[key] = title
                return
            self.contradictions += 1
            if not self.contradiction:
                both = f"{quote(self._titles[key])} and {quote(title)}"
                self.contradiction = f"{where}{where and ': '}id {quote(id_)} has two titles, {both}"

    def near(self, ids: Iterable[ItemId]) -> dict[ItemId, ItemId]:
        """For each of some unknown ids the one of the catalog that differs from it in spelling alone, if there is one.

        The spellings differ in capitals, blanks, zeros in front (``7`` and ``007``), a ``.0`` behind, or the hyphens
        and braces of a UUID.
        """
        wanted: dict[str, list[ItemId]] = {}
        for id_ in ids:
            wanted.setdefault(_spelling(id_), []).append(id_)
        found: dict[ItemId, ItemId] = {}
        for known in self.ids if wanted else ():
            for id_ in wanted.get(_spelling(known), ()):
                found.setdefault(id_, known)
        return found

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


def _spelling(id_: ItemId) -> str:
    """An id without what programs change in it on the way."""
    text = str(id_).strip().casefold()
    if _UUID.fullmatch(text):
        return re.sub("[{}-]", "", text)
    if text.endswith(".0") and text[:-2].lstrip("-").isdecimal():
        text = text[:-2]
    return text.lstrip("0") or text[:1]


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
