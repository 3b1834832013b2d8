"""EASE^R (Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019): a linear item-item model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.noise import Indices
from llm4dsr_cli.trial.recommenders import Validation, Weights

Floats = NDArray[np.float32]
# The matrix that is inverted has a row for each user or for each item, whichever are fewer: 576 MB at this size.
LARGEST = 12_000
# Where users are fewer, a matrix of users by items is held, too: 2 GB at this size.
LARGEST_TABLE = 500_000_000
_BLOCK = 1024


def check_size(n_users: int, n_items: int) -> None:
    """Refuse what EASE cannot take.

    Raises:
        OptionError: users and items are both more than LARGEST, or a table of them is more than LARGEST_TABLE.
    """
    if min(n_users, n_items) > LARGEST:
        takes = f"{LARGEST:,} of one"
    elif n_users < n_items and n_users * n_items > LARGEST_TABLE:
        takes = f"{LARGEST_TABLE // n_users:,} items of so many users"
    else:
        return
    raise OptionError(
        f"{n_users:,} users and {n_items:,} items are too many for EASE, which takes {takes}",
        remedy="choose another `recommender`, or give fewer users",
    )


class Ease:
    """The closed form of EASE, by users or by items.

    With X, shape (n_users, n_items), a penalty c and G = X'X + cI, the item-item weights are -P[i, j] / P[j, j] with
    P = G^-1, and 0 for i = j. Where users are fewer than items, P is (I - X'(cI + XX')^-1 X) / c (Woodbury), and no
    matrix of items by items is made. X holds an interaction's weight where a user has the item, else 0: an interaction
    of half weight counts half for its neighbours and half as a target.

    Args:
        penalty: c, positive.
    """

    name = "ease"
    version = 1
    seeded = False

    def __init__(self, penalty: float = 200.0) -> None:
        self.penalty = penalty
        self._between: Floats | None = None  # P, or (cI + XX')^-1
        self._users: Floats | None = None  # X, where the matrix is one of users
        self._own = np.zeros(0, dtype=np.float32)  # diagonal of cP - I, negated, or of P

    def fit(
        self,
        sequences: Sequence[Indices],
        weights: Sequence[Weights] | None,
        n_items: int,
        seed: int,
        validation: Validation,
    ) -> None:
        """See ``Recommender.fit``.

        Raises:
            OptionError: as ``check_size``.
        """
        check_size(len(sequences), n_items)
        if weights is None:
            weights = [np.ones(len(sequence), dtype=np.float32) for sequence in sequences]
        if n_items <= len(sequences):
            self._users = None
            gram = np.zeros((n_items, n_items), dtype=np.float32)
            for start in range(0, len(sequences), _BLOCK):
                block = _rows(sequences[start : start + _BLOCK], weights[start : start + _BLOCK], n_items)
                gram += block.T @ block
        else:
            self._users = _rows(sequences, weights, n_items)
            gram = self._users @ self._users.T
        gram[np.diag_indices(len(gram))] += self.penalty
        self._between = np.linalg.inv(gram)
        if self._users is None:
            self._own = np.diag(self._between).copy()
        else:
            self._own = np.empty(n_items, dtype=np.float32)
            for start in range(0, n_items, _BLOCK):
                block = self._users[:, start : start + _BLOCK]
                self._own[start : start + _BLOCK] = (block * (self._between @ block)).sum(axis=0)

    def scores(self, histories: Sequence[Indices]) -> Floats:
        """See ``Recommender.scores``; an item of a history does not speak for itself."""
        assert self._between is not None
        known = _rows(histories, None, len(self._own))
        if self._users is None:
            found = known @ self._between - known * self._own
            scores = found / -self._own
        else:
            found = (known @ self._users.T) @ self._between @ self._users - known * self._own
            scores = found / (1 - self._own)
        return np.asarray(scores, dtype=np.float32)


def _rows(sequences: Sequence[Indices], weights: Sequence[Weights] | None, n_items: int) -> Floats:
    """An interaction's weight by user and item, the largest where a user has the item more than once."""
    rows = np.zeros((len(sequences), n_items), dtype=np.float32)
    for number, items in enumerate(sequences):
        np.maximum.at(rows[number], items, 1.0 if weights is None else weights[number])
    return rows
