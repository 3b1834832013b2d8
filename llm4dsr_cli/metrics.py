"""How well noise scores find the noise: per-item detection quality against known labels.

All functions take 1-D arrays of one length: scores (higher = more suspicious; infinities allowed, NaN not) and labels
(1 = noise, 0 = belongs). They raise ValueError when the arrays do not fit together, and return NaN where the quantity
is undefined. Which items are measured is the caller's to decide: the recommender's target is to be left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class DetectionQuality:
    """Detection quality of one scorer over a set of items; all rates are shares in [0, 1], or NaN where undefined."""

    auroc: float
    average_precision: float
    precision_at_1pct: float
    precision_at_3pct: float
    n_items: int
    n_noise: int


def detection_quality(scores: ArrayLike, labels: ArrayLike) -> DetectionQuality:
    """All threshold-free measures at once, for ``scores`` and ``labels`` of shape (n,). Raises ValueError."""
    values, noise = _checked(scores, labels)
    return DetectionQuality(
        auroc=auroc(values, noise),
        average_precision=average_precision(values, noise),
        precision_at_1pct=precision_at(values, noise, 0.01),
        precision_at_3pct=precision_at(values, noise, 0.03),
        n_items=len(noise),
        n_noise=int(noise.sum()),
    )


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Probability that a random noise item scores higher than a random clean one, ties counting one half.

    Shapes (n,) and (n,). NaN when one class is absent. This is the Mann-Whitney U statistic divided by the number of
    pairs (Hanley and McNeil 1982), which equals the area under the ROC curve. Raises ValueError.
    """
    noise_at, clean_at = _counts_by_score(*_checked(scores, labels))
    pairs = int(noise_at.sum()) * int(clean_at.sum())
    if not pairs:
        return math.nan
    clean_above = np.cumsum(clean_at) - clean_at
    return 1 - float(noise_at @ (clean_above + clean_at / 2)) / pairs


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Sum over thresholds of (recall gained there) x (precision there), tied items sharing one threshold.

    Shapes (n,) and (n,). NaN without any noise. No interpolation: scikit-learn's ``average_precision_score``.
    Raises ValueError.
    """
    noise_at, clean_at = _counts_by_score(*_checked(scores, labels))
    n_noise = int(noise_at.sum())
    if not n_noise:
        return math.nan
    precision = np.cumsum(noise_at) / np.cumsum(noise_at + clean_at)
    return float(noise_at @ precision) / n_noise


def precision_at(scores: ArrayLike, labels: ArrayLike, share: float) -> float:
    """Share of noise among the ceil(share * n) most suspicious items.

    Shapes (n,) and (n,); ``share`` in (0, 1]. Ties at the cut are broken in expectation: of the items tied there, each
    counts by the chance that a random order puts it above the cut. With one class only it is 0 or 1, as it should be;
    NaN when n is 0. Raises ValueError.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], not {share}")
    values, noise = _checked(scores, labels)
    if not len(noise):
        return math.nan
    # Rounded first, because 0.07 * 100 is a little more than 7 in floating point.
    taken = max(1, math.ceil(round(share * len(noise), 9)))
    noise_at, clean_at = _counts_by_score(values, noise)
    items_at = noise_at + clean_at
    above = np.cumsum(items_at) - items_at
    taken_at = np.clip(taken - above, 0, items_at)
    return float(noise_at @ (taken_at / items_at)) / taken


def false_edit_rate(edited: ArrayLike, labels: ArrayLike) -> float:
    """Share of the clean items that were edited.

    ``edited`` of shape (n,), true where an item was changed. NaN without any clean item. Raises ValueError.
    """
    values, noise = _checked(edited, labels)
    clean = noise == 0
    return float((values[clean] != 0).mean()) if clean.any() else math.nan


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    values, raw = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.ndim != 1 or values.shape != raw.shape:
        raise ValueError(f"scores and labels must be 1-D and of one length, not {values.shape} and {raw.shape}")
    if np.isnan(values).any():
        raise ValueError("scores must not be NaN")
    if not np.isin(raw, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    return values, raw.astype(np.int64)


def _counts_by_score(
    values: NDArray[np.float64], noise: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Noise and clean items at each distinct score, the most suspicious score first."""
    distinct, place = np.unique(values, return_inverse=True)
    noise_at = np.bincount(place[noise == 1], minlength=len(distinct))[::-1]
    clean_at = np.bincount(place[noise == 0], minlength=len(distinct))[::-1]
    return noise_at.astype(np.int64), clean_at.astype(np.int64)
