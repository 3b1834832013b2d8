"""What is put into sequences to weigh counts by: items that users have, drawn so that their counts tell no tale.

Nobody knows which noise some data have. Were it always uniform over a catalog, all that is rare would be noise; were it
drawn from what users have, nothing that nobody else has would be. So it is both, and independent of any catalog: an
item of the store that the data are from, however many of these nobody has yet, or an item as often as users have it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# So much of the noise is drawn as often as users have it (docs/experiments.md, "What is put in").
POPULAR_SHARE = 0.25


class NoiseSource:
    """Draws items, and says of each whether it comes with its user's count or without.

    An item of a user's own loses that user from its counts. So does one that is drawn as often as users have it: it
    was taken from one of them, its lender. One that is drawn uniformly was had by nobody before, and keeps its counts.
    Of all items of the store as many are had by nobody as Chao's estimate says (Scandinavian Journal of Statistics
    11(4), 1984, in the bias-corrected form): an item that one user has, taken from that user, stands for them.

    Args:
        popularity: users who have each item, 1 or more, shape (n_items,), n_items > 0.
    """

    def __init__(self, popularity: NDArray[np.integer]) -> None:
        n = len(popularity)
        once, twice = popularity == 1, popularity == 2
        n_once = int(once.sum())
        unseen = n_once * (n_once - 1) / (2 * (int(twice.sum()) + 1))
        in_store = n + unseen
        lent = POPULAR_SHARE * popularity / popularity.sum()
        lent += (1 - POPULAR_SHARE) * unseen / in_store * once / max(1, n_once)
        kept = np.full(n, (1 - POPULAR_SHARE) / in_store)
        self._up_to = np.cumsum(lent + kept)
        self._lent = lent / (lent + kept)

    def draw(self, item: int, rng: np.random.Generator) -> int:
        """The number of an item, whatever it is put in place of."""
        place = np.searchsorted(self._up_to, rng.random() * self._up_to[-1], side="right")
        return min(int(place), len(self._up_to) - 1)

    def is_lent(self, item: int, rng: np.random.Generator) -> bool:
        """Whether an item that was drawn was taken from a user who has it; at random, as often as it was drawn so."""
        return bool(rng.random() < self._lent[item])
