"""The record's format: where in a record its items are, and which of them are none."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from llm4dsr_cli.records.columns import id_names, title_name


@dataclass(frozen=True)
class RecordFormat:
    """Where in a record its items are.

    Attributes:
        items_field: the list of items.
        titles_field: a list of titles that runs parallel to the items, if there is one.
        parallel_fields: lists that run parallel to the items. Others that are always as long as the items are found to
            be (``ParallelLists``). A list inside an object goes by both names, with a dot between.
        not_parallel: lists that do not, whatever their lengths say.
        item_id_field: the id's field of an item that is an object; None stands for ``id``, or else for the name that
            ``columns.id_names`` finds.
        item_title_field: the title's field; None stands for ``title``, or else for what ``columns.title_name`` finds.
        catalog_id_field, catalog_title_field: the same in the catalog; None is as for the items.
        padding_ids: texts of ids that fill a sequence up, and are no items.
        newest_first: the newest item comes first, not last.
        ids_for_titles: let an id stand for the title that an item lacks, as it may where scores are there already.
    """

    items_field: str = "items"
    titles_field: str | None = None
    parallel_fields: tuple[str, ...] = ()
    item_id_field: str | None = None
    item_title_field: str | None = None
    not_parallel: tuple[str, ...] = ()
    catalog_id_field: str | None = None
    catalog_title_field: str | None = None
    padding_ids: tuple[str, ...] = ()
    newest_first: bool = False
    ids_for_titles: bool = False

    @property
    def id_name(self) -> str:
        """The id's field in an object."""
        return self.item_id_field or "id"

    @property
    def title_name(self) -> str:
        """The title's field in an object."""
        return self.item_title_field or "title"

    def named_by(self, names: Collection[str], *, titles: bool) -> RecordFormat:
        """The format for items that are objects with these fields, where the usual ones are not among them.

        Two names that may be the id's are left to ``id_name``.

        Args:
            titles: look for another name of the title, too.
        """
        changes: dict[str, str] = {}
        if self.item_id_field is None and "id" not in names:
            found = id_names(names)
            if len(found) == 1:
                changes["item_id_field"] = found[0]
        if titles and self.item_title_field is None and "title" not in names:
            title = title_name([*names])
            if title is not None:
                changes["item_title_field"] = title
        return _renamed(self, tuple(changes.items())) if changes else self

    def is_padding(self, id_: Any) -> bool:
        """Whether an id, or a title that stands for the item, is one that fills up."""
        if not self.padding_ids:
            return False
        if isinstance(id_, float) and id_.is_integer() and str(int(id_)) in self.padding_ids:
            return True
        return ("null" if id_ is None else str(id_)) in self.padding_ids


@lru_cache(maxsize=64)
def _renamed(record_format: RecordFormat, changes: tuple[tuple[str, str], ...]) -> RecordFormat:
    return replace(record_format, **dict(changes))  # type: ignore[arg-type]
