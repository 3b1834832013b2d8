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

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class DetectionQuality:
    """Detection quality of one scorer over a set of items; all rates are shares in [0, 1], or NaN where undefined."""

    auroc: float
    average_precision: float
    precision_at_1pct: float
    precision_at_3pct: float
    precision_at_5pct: float
    precision_at_10pct: float
    n_items: int
    n_noise: int


@dataclass(frozen=True)
class EditQuality:
    """What edits did to a set of items; shares in [0, 1], or NaN where undefined.

    Attributes:
        precision: noise among the edited items.
        recall: edited among the noise items.
        f1: harmonic mean of the two, 0 when noise was there and none of it was edited.
        false_edit_rate: edited among the items that belong.
    """

    precision: float
    recall: float
    f1: float
    false_edit_rate: float


class Ranking:
    """Items sorted once by score, so that many weightings of them can be measured, as a bootstrap needs.

    Args:
        scores, labels: shape (n,).

    Raises:
        ValueError: they do not fit together.
    """

    def __init__(self, scores: ArrayLike, labels: ArrayLike) -> None:
        values, noise = _checked(scores, labels)
        distinct, place = np.unique(values, return_inverse=True)
        self._n_distinct = len(distinct)
        # The most suspicious score first.
        place = len(distinct) - 1 - place
        self._noise, self._clean = np.flatnonzero(noise == 1), np.flatnonzero(noise == 0)
        self._noise_place, self._clean_place = place[self._noise], place[self._clean]

    def quality(self, weights: ArrayLike | None = None) -> DetectionQuality:
        """All threshold-free measures, each item counted as often as ``weights`` says.

        Args:
            weights: whole numbers, 0 or more, shape (n,); None counts each item once. The result is that of arrays in
                which each item stands so many times.
        """
        noise_at, clean_at = self.counts(weights)
        return DetectionQuality(
            auroc=_auroc(noise_at, clean_at),
            average_precision=_average_precision(noise_at, clean_at),
            precision_at_1pct=_precision_at(noise_at, clean_at, 0.01),
            precision_at_3pct=_precision_at(noise_at, clean_at, 0.03),
            precision_at_5pct=_precision_at(noise_at, clean_at, 0.05),
            precision_at_10pct=_precision_at(noise_at, clean_at, 0.1),
            n_items=int(noise_at.sum() + clean_at.sum()),
            n_noise=int(noise_at.sum()),
        )

    def counts(self, weights: ArrayLike | None = None) -> tuple[Counts, Counts]:
        """Noise and clean items at each distinct score, the most suspicious score first."""
        of_noise = of_clean = None
        if weights is not None:
            of_item = np.asarray(weights)
            of_noise, of_clean = of_item[self._noise], of_item[self._clean]
        noise_at = np.bincount(self._noise_place, weights=of_noise, minlength=self._n_distinct)
        clean_at = np.bincount(self._clean_place, weights=of_clean, minlength=self._n_distinct)
        return noise_at.astype(np.int64), clean_at.astype(np.int64)


def detection_quality(scores: ArrayLike, labels: ArrayLike) -> DetectionQuality:
    """All threshold-free measures at once, for ``scores`` and ``labels`` of shape (n,). Raises ValueError."""
    return Ranking(scores, labels).quality()


def edit_quality(edited: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> EditQuality:
    """All measures of edits at once; ``edited`` of shape (n,), true where an item was changed, ``weights`` as above.

    Raises ValueError.
    """
    values, noise = _checked(edited, labels)
    kind = 2 * noise + (values != 0)
    kept_clean, edited_clean, kept_noise, edited_noise = np.bincount(kind, weights=weights, minlength=4).tolist()
    any_noise = kept_noise + edited_noise
    return EditQuality(
        precision=_share(edited_noise, edited_noise + edited_clean),
        recall=_share(edited_noise, any_noise),
        f1=_share(2 * edited_noise, any_noise + edited_noise + edited_clean) if any_noise else math.nan,
        false_edit_rate=_share(edited_clean, edited_clean + kept_clean),
    )


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Probability that a random noise item scores higher than a random clean one, ties counting one half.

    Shapes (n,) and (n,). NaN when one class is absent. This is the Mann-Whitney U statistic divided by the number of
    pairs (Hanley and McNeil 1982), which equals the area under the ROC curve. Raises ValueError.
    """
    return _auroc(*Ranking(scores, labels).counts())


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Sum over thresholds of (recall gained there) x (precision there), tied items sharing one threshold.

    Shapes (n,) and (n,). NaN without any noise. No interpolation: scikit-learn's ``average_precision_score``.
    Raises ValueError.
    """
    return _average_precision(*Ranking(scores, labels).counts())


def precision_at(scores: ArrayLike, labels: ArrayLike, share: float) -> float:
    """Share of noise among the ceil(share * n) most suspicious items.

    Shapes (n,) and (n,); ``share`` in (0, 1]. Ties at the cut are broken in expectation: of the items tied there, each
    counts by the chance that a random order puts it above the cut. With one class only it is 0 or 1, as it should be;
    NaN when n is 0. Raises ValueError.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], not {share}")
    return _precision_at(*Ranking(scores, labels).counts(), share)


def precision_recall_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall and precision at every distinct score, the most suspicious first; shape (n_distinct,) each.

    Empty without any noise. Raises ValueError.
    """
    noise_at, clean_at = Ranking(scores, labels).counts()
    if not noise_at.sum():
        return np.empty(0), np.empty(0)
    found = np.cumsum(noise_at)
    return found / found[-1], found / np.cumsum(noise_at + clean_at)


def _auroc(noise_at: Counts, clean_at: Counts) -> float:
    pairs = int(noise_at.sum()) * int(clean_at.sum())
    if not pairs:
        return math.nan
    clean_above = np.cumsum(clean_at) - clean_at
    return 1 - float(noise_at @ (clean_above + clean_at / 2)) / pairs


def _average_precision(noise_at: Counts, clean_at: Counts) -> float:
    n_noise = int(noise_at.sum())
    if not n_noise:
        return math.nan
    # Weights may leave a score without items; it counts nothing, whatever its precision.
    precision = np.cumsum(noise_at) / np.maximum(np.cumsum(noise_at + clean_at), 1)
    return float(noise_at @ precision) / n_noise


def _precision_at(noise_at: Counts, clean_at: Counts, share: float) -> float:
    items_at = noise_at + clean_at
    n = int(items_at.sum())
    if not n:
        return math.nan
    # Rounded first, because 0.07 * 100 is a little more than 7 in floating point.
    taken = max(1, math.ceil(round(share * n, 9)))
    above = np.cumsum(items_at) - items_at
    taken_at = np.clip(taken - above, 0, items_at)
    return float(noise_at @ (taken_at / np.maximum(items_at, 1))) / taken


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    values, raw = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.ndim != 1 or values.shape != raw.shape:
        raise ValueError(f"scores and labels must be 1-D and of one length, not {values.shape} and {raw.shape}")
    if np.isnan(values).any():
        raise ValueError("scores must not be NaN")
    if not np.isin(raw, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    return values, raw.astype(np.int64)
