"""Columns: which of a log's columns hold users, items, times and titles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.records.columns import id_names, time_name, title_name, user_name
from llm4dsr_cli.records.json_lines import quote_names

# A log with one of these beside its "title" holds reviews, and the title is the review's.
_REVIEWS = frozenset({"text", "review", "reviewText", "review_text", "summary", "verified_purchase", "helpful_vote"})


@dataclass(frozen=True)
class Columns:
    """The names of the columns; None for one that is not there, or not known yet; "" for times that do not count."""

    user: str | None = None
    item: str | None = None
    time: str | None = None
    title: str | None = None

    def found(self, names: Sequence[str], where: str, catalog_id: str | None = None) -> Columns:
        """These columns, and by their usual names those that are not known.

        Args:
            names: of all columns.
            where: the log's name for messages.
            catalog_id: what the catalog calls its ids, to choose between several columns that may hold them.

        Raises:
            OptionError: a column that was named is not there, or users or items cannot be told.
        """
        for option, name in (("user", self.user), ("item", self.item), ("time", self.time), ("title", self.title)):
            if name is not None and name not in names and (option, name) != ("time", ""):
                raise OptionError(
                    f"no column {name}, the columns are {quote_names(list(names))}",
                    where=where,
                    remedy=f"name another with `{option}_column`",
                )
        user = self.user or user_name(names)
        if user is None:
            raise OptionError(
                f"no column of users, the columns are {quote_names(list(names))}",
                where=where,
                remedy="name it with `user_column`",
            )
        left = [name for name in names if name not in (user, self.time, self.title)]
        item = self.item or _item(id_names(left), catalog_id)
        if item is None:
            few = id_names(left)
            raise OptionError(
                f"{' and '.join(few)} may each hold the items"
                if few
                else f"no column of items, the columns are {quote_names(list(names))}",
                where=where,
                remedy="name it with `item_column`",
            )
        left = [name for name in left if name != item]
        title = self.title or (None if _REVIEWS & {*names} else title_name(left))
        time = time_name(left) if self.time is None else self.time or None
        return replace(self, user=user, item=item, time=time, title=title)


def _item(found: Sequence[str], catalog_id: str | None) -> str | None:
    """The column of items among those that may be; None where only a person can tell."""
    if catalog_id in found:
        return catalog_id
    # Amazon's reviews know a product by parent_asin, and a variant of it by asin.
    parents = [name for name in found if name.casefold().startswith("parent")]
    if len(found) == 1 or len(parents) == 1:
        return (parents or found)[0]
    # A bare id beside another one is the row's.
    others = [name for name in found if name.casefold() != "id"]
    return others[0] if len(others) == 1 else None
