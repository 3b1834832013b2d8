"""Sequences of titles as numbers: items with the same title are the same item."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np

from llm4dsr_cli.noise import Indices
from llm4dsr_cli.titles import clean_title


@dataclass(frozen=True)
class IndexedSequences:
    """Sequences by the numbers of their titles; ``sequences`` and ``users`` have one entry each.

    Attributes:
        titles: the different titles, clean: the catalog's first, then those that only the sequences have, as they came.
        sequences: title numbers, oldest first; int64, shape (n_items,).
        users: whose sequence each is.
        n_catalog: how many of the titles are the catalog's.
    """

    titles: list[str]
    sequences: list[Indices]
    users: list[Hashable]
    n_catalog: int

    @classmethod
    def build(
        cls, sequences: Iterable[tuple[Hashable, Iterable[str]]], catalog: Iterable[str] = ()
    ) -> IndexedSequences:
        """From (user, titles, oldest first) pairs and a catalog's titles."""
        number: dict[str, int] = {}
        for title in catalog:
            number.setdefault(clean_title(title), len(number))
        n_catalog = len(number)
        rows: list[Indices] = []
        users: list[Hashable] = []
        for user, titles in sequences:
            items = [number.setdefault(clean_title(title), len(number)) for title in titles]
            rows.append(np.array(items, dtype=np.int64))
            users.append(user)
        return cls(list(number), rows, users, n_catalog)
