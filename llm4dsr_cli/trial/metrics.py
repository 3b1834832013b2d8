"""Full ranking: where a recommender puts the target among all items, and what that is worth.

NDCG with one relevant item is 1 / log2(rank + 1) for ranks from 1 to k (Järvelin and Kekäläinen, ACM TOIS 2002), and HR
is 1 there; both are 0 beyond. Items of equal score share the mean of their ranks, so that a recommender that knows
nothing of most items gains nothing by their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.noise import Indices

if TYPE_CHECKING:
    from llm4dsr_cli.trial.recommenders import Recommender

Floats = NDArray[np.float64]
CUTS = (10, 20)
METRICS = tuple(f"{name}@{cut}" for name in ("NDCG", "HR") for cut in CUTS)
# By this one a recommender stops early and a setting is chosen.
CHOSEN_BY = "NDCG@20"
_ROWS = 256


def ranks(
    recommender: Recommender, histories: Sequence[Indices], targets: Indices, masked: Sequence[Indices] | None = None
) -> NDArray[np.float32]:
    """The rank of each target among all items, 1 = best, shape (n_targets,); the mean of the ranks of a tie.

    Args:
        masked: for each target the items that are not recommended; a target among them has an infinite rank. None
            ranks all items.
    """
    found = np.empty(len(targets), dtype=np.float32)
    for start in range(0, len(targets), _ROWS):
        rows = slice(start, start + _ROWS)
        scores = recommender.scores(histories[rows])
        if masked is not None:
            for row, hidden in zip(scores, masked[rows], strict=True):
                row[hidden] = -np.inf
        truth = scores[np.arange(len(scores)), targets[rows]][:, None]
        found[rows] = (scores > truth).sum(axis=1) + ((scores == truth).sum(axis=1) + 1) / 2
        found[rows][~(truth[:, 0] > -np.inf)] = np.inf  # NaN, too
    return found


def gains(ranks: NDArray[np.float32], metric: str) -> Floats:
    """What each rank is worth by one of METRICS; same shape."""
    name, _, cut = metric.partition("@")
    within = ranks <= int(cut)
    if name == "HR":
        return within.astype(np.float64)
    return np.where(within, 1 / np.log2(1 + np.where(within, ranks, 1)), 0.0)
