"""Noise of known place: items of a window replaced by random ones, the labels of self-supervision.

Source: LLM4DSR (Wang et al., arXiv 2408.08208), section 3.2, with an independent draw for each different item where the
paper replaces exactly one. An item that a window holds twice is replaced in both places by the same item: noise repeats
as the data's own items do, so that a repetition tells nothing of an item.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
# A title to put in the place of this one.
Draw = Callable[[int, np.random.Generator], int]
# A draw of another kind may know no title that the window lacks; then it is a uniform one.
TRIES = 20


def inject_noise(
    window: Indices, n_titles: int, rate: float, rng: np.random.Generator, draw: Draw | None = None
) -> tuple[Indices, NDArray[np.int8]]:
    """Replace each different item with probability ``rate`` by a title drawn from those not in the window.

    Args:
        window: title indices, shape (n_items,), each in 0..n_titles-1.
        n_titles: number of different titles to draw from; more than two windows' worth is needed.
        rate: noise rate, 0 to 1.
        draw: how a title is drawn; None draws uniformly.

    Returns:
        The noisy window and its labels (1 = replaced), both of shape (n_items,).

    Raises:
        ValueError: too few titles to draw from.
    """
    if n_titles < 2 * len(window):
        raise ValueError(f"{n_titles} titles are too few to draw noise for a window of {len(window)} items")
    # Different items by their first places, so that a window without repetitions is drawn as one item after another.
    different, first, item_of = np.unique(window, return_index=True, return_inverse=True)
    in_order = np.argsort(first)
    replaced = rng.random(len(different)) < rate
    titles = different.copy()
    labels = np.zeros(len(different), dtype=np.int8)
    present = set(window.tolist())
    for item in in_order[replaced]:
        for attempt in itertools.count():
            by = draw if attempt < TRIES else None
            drawn = int(rng.integers(n_titles)) if by is None else by(int(different[item]), rng)
            if drawn not in present:
                break
        present.add(drawn)
        titles[item] = drawn
        labels[item] = 1
    return titles[item_of], labels[item_of]
