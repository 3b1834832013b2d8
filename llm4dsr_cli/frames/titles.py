"""Titles of a frame's items: from a column of its own, or by their ids from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.frames.frame import Frame, frame_of, is_frame
from llm4dsr_cli.frames.ids import id_of
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.columns import id_names, title_name
from llm4dsr_cli.records.json_lines import quote_names
from llm4dsr_cli.records.record import load_catalog
from llm4dsr_cli.records.record_format import RecordFormat
from llm4dsr_cli.sequences import ItemId


def catalog_of(titles: Any, frame: Frame, item: str, ids: Sequence[ItemId | None]) -> Catalog | None:
    """The catalog that ``titles`` is; None where it names a column of the frame.

    Args:
        titles: a column's name, a ``Catalog``, the path of a catalog, titles by id (a dict, a Series of pandas), or a
            frame of ids and titles.
        item: the column of the ids, after which a frame's may be called.
        ids: of the items, which tell between fields of a file that may hold ids.

    Raises:
        OptionError: it is none of these.
        CatalogError: the file cannot be read.
    """
    if isinstance(titles, Catalog):
        return titles
    if is_frame(titles):
        return _from_frame(frame_of(titles, "titles"), item)
    if isinstance(titles, str) and titles in frame.columns:
        return None
    if isinstance(titles, (str, Path)):
        if not Path(titles).is_file():
            raise OptionError(
                f"`titles` is {titles}, which is neither a column nor a file",
                remedy=f"the columns are {quote_names([str(name) for name in frame.columns])}",
            )
        return load_catalog(titles, RecordFormat(), record_ids=lambda: {str(id_) for id_ in ids if id_ is not None})
    if hasattr(titles, "items"):
        return Catalog((id_, title) for key, title in titles.items() if (id_ := id_of(key)) is not None)
    raise OptionError(
        f"`titles` is {type(titles).__name__}",
        remedy="give a column's name, titles by id, a frame of ids and titles, a `Catalog` or its file",
    )


def _from_frame(frame: Frame, item: str) -> Catalog:
    names = [name for name in frame.columns if isinstance(name, str)]
    title = title_name([name for name in names if name != item])
    found = [item] if item in names else id_names([name for name in names if name != title])
    if title is None or len(found) != 1:
        raise OptionError(
            f"`titles` is a frame of {quote_names(names)}",
            remedy=f"call the ids {item} and the titles title",
        )
    pairs = zip(map(id_of, frame.values(found[0])), frame.values(title), strict=True)
    return Catalog((id_, text) for id_, text in pairs if id_ is not None)
