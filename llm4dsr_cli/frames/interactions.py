"""Interactions: the rows of a frame as the sequences of its users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.frames.frame import Frame
from llm4dsr_cli.frames.ids import id_of
from llm4dsr_cli.noise import Indices
from llm4dsr_cli.records.logs.times import time_of
from llm4dsr_cli.sequences import ItemId, ItemSequence


@dataclass(frozen=True)
class Interactions:
    """The rows that name a user and an item, and have a time where there are times.

    Attributes:
        sequences: of the users, in the order in which they first appear; of each its items, oldest first, those of the
            same time in the order of the rows.
        rows: for each sequence the rows of its items.
    """

    sequences: list[ItemSequence]
    rows: list[Indices]

    @classmethod
    def gather(
        cls,
        users: Sequence[ItemId | None],
        items: Sequence[ItemId | None],
        titles: Sequence[str | None],
        times: NDArray[np.float64] | None = None,
    ) -> Interactions:
        """From columns, all of shape (n_rows,); None and NaN where there is nothing."""
        numbers: dict[str, int] = {}
        there = np.array([user is not None and item is not None for user, item in zip(users, items, strict=True)], bool)
        if times is not None:
            there &= ~np.isnan(times)
        rows = np.flatnonzero(there)
        owners = np.array([numbers.setdefault(str(users[row]), len(numbers)) for row in rows.tolist()], dtype=np.int64)
        keys = (owners,) if times is None else (times[rows], owners)
        order = np.lexsort(keys)  # stable; the last key comes first
        split = np.split(rows[order], np.cumsum(np.bincount(owners))[:-1]) if numbers else []
        sequences = [
            ItemSequence([titles[row] for row in those], user, [items[row] for row in those])
            for user, those in zip(numbers, (one.tolist() for one in split), strict=True)
        ]
        return cls(sequences, split)


def ids(frame: Frame, column: str) -> list[ItemId | None]:
    """The ids that a column holds; None where it holds none."""
    return [id_of(value) for value in frame.values(column)]


def times(frame: Frame, column: str) -> NDArray[np.float64]:
    """Numbers that grow with the times of a column, NaN where there is none.

    Raises:
        OptionError: it holds texts that are neither numbers nor ISO dates.
    """
    found = frame.ranks(column)
    if found is not None:
        return found
    values = frame.values(column)
    try:
        return np.array([np.nan if value is None else time_of(str(value)) for value in values], dtype=np.float64)
    except ValueError as error:
        raise OptionError(
            f"`time` is the column {column}, where neither a number nor an ISO date stands: {error}",
            remedy="make it numbers or dates, or leave `time` out for the order of the rows",
        ) from None
