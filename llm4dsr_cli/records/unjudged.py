"""Unjudged items: those that nobody can judge, counted by reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.json_lines import quote
from llm4dsr_cli.records.record import Lack, Record
from llm4dsr_cli.sequences import ItemId

# So many ids are compared with the catalog's, to find near spellings.
_REMEMBERED = 1000
# What data sets commonly fill sequences up with, in lower case.
_PADDING = ("0", "-1", "", "pad", "<pad>", "[pad]")
_WORDS: dict[Lack, str] = {
    "no title": "without a title",
    "not in the catalog": "not in the catalog",
    "no score": "without a score",
}


@dataclass
class Unjudged:
    """How many items of a run nobody could judge, for which reason, and where the first of them stands.

    Attributes:
        items: how many, by reason.
        records: how many records have such items.
    """

    items: dict[Lack, int] = field(default_factory=dict)
    records: int = 0
    _first: dict[Lack, tuple[ItemId | None, str]] = field(default_factory=dict, repr=False)
    _unknown: dict[ItemId, None] = field(default_factory=dict, repr=False)

    def add(self, record: Record) -> None:
        """Count a record's items."""
        self.records += bool(record.lacks)
        for position, lack in record.lacks.items():
            id_ = record.ids[position]
            self.items[lack] = self.items.get(lack, 0) + 1
            self._first.setdefault(lack, (id_, record.where))
            if lack == "not in the catalog" and id_ is not None and len(self._unknown) < _REMEMBERED:
                self._unknown[id_] = None

    def merge(self, other: Unjudged) -> None:
        """Add the items of another part of the run."""
        self.records += other.records
        for lack, count in other.items.items():
            self.items[lack] = self.items.get(lack, 0) + count
            self._first.setdefault(lack, other._first[lack])
        self._unknown.update(dict.fromkeys([*other._unknown][: _REMEMBERED - len(self._unknown)]))

    @property
    def total(self) -> int:
        """How many items there are."""
        return sum(self.items.values())

    def describe(self, catalog: Catalog | None, *, undone: str = "left as they are, unjudged") -> str | None:
        """One sentence about them, with an example each, and an id that the catalog spells otherwise; None without any.

        Args:
            undone: what became of them.
        """
        if not self.items:
            return None
        parts = []
        for lack, count in self.items.items():
            id_, where = self._first[lack]
            example = f"id {_shown(id_)} in {where}" if id_ is not None else where
            parts.append(f"{count:,} {_WORDS[lack]} ({example})")
        near = {} if catalog is None else catalog.near(self._unknown)
        spelled = "".join(f"; id {_shown(id_)} is not in the catalog, {_shown(near[id_])} is" for id_ in [*near][:1])
        padding = next((id_ for id_ in self._unknown if str(id_).casefold() in _PADDING), None)
        if padding is not None:
            spelled += f"; if id {_shown(padding)} only fills sequences up, name it with `padding_id`"
        items = "1 item" if self.total == 1 else f"{self.total:,} items"
        return f"{items} {undone}: {', '.join(parts)}{spelled}"

    def as_dict(self) -> dict[str, Any]:
        """By reason, for reports."""
        return {
            lack: {"items": count, "example": self._first[lack][0], "record": self._first[lack][1]}
            for lack, count in self.items.items()
        }


def _shown(id_: ItemId) -> str:
    """An id for a message: ids are compared as text, so quotation marks are only where blanks would not show."""
    text = quote(str(id_))
    return text if " " in text or len(text) == 2 else text[1:-1]
