"""Fusion: the denoiser's log-odds and collaborative evidence, weighed by a small logistic model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.gate.evidence import FEATURES
from llm4dsr_cli.scores import Scores

Floats = NDArray[np.float64]

# Of standardized weights: keeps them finite where a feature separates noise perfectly, and no more than that.
RIDGE = 1.0
# Where there are weights of other data to start from, so much holds on to them (docs/experiments.md).
PRIOR_RIDGE = 15.0
# No standardized data give weights as large, and with less no sum of them comes near a float32's end.
LARGEST = 1e6
SMALLEST_DEVIATION = 1e-9
_STEPS = 50
N_FEATURES = 1 + len(FEATURES)
# Standardized weights of the features, fitted on several data sets together (benchmarks/default_fusion.py).
LEAST_DEVIATION = np.array([0.35, 0.3, 0.034, 0.022, 0.023, 0.017, 0.012])  # a quarter of what they have there
PRIOR_WEIGHTS = np.array([0.55, 0.02, -0.01, -0.71, -0.29, 0.04, -0.63])


def fusion_features(log_odds: NDArray[np.floating[Any]], evidence: Floats) -> Floats:
    """What the fusion weighs, for each item of a sequence, shape (n_items, N_FEATURES).

    Args:
        log_odds: the denoiser's noise log-odds, shape (n_items,).
        evidence: what the counts say, shape (n_items, len(FEATURES)).
    """
    return np.column_stack([log_odds.astype(np.float64), evidence])


@dataclass(frozen=True)
class Fusion:
    """Noise log-odds as a weighted sum: ``bias + weights @ (features - mean) / deviation``; all of shape (n_features,).

    The features are those of ``fusion_features``.
    """

    bias: float
    weights: Floats
    mean: Floats
    deviation: Floats

    def __post_init__(self) -> None:
        """Raises ValueError for weights that no fit gives: a file may come from a stranger."""
        arrays = (self.weights, self.mean, self.deviation)
        if any(array.shape != (self.weights.size,) or array.dtype != np.float64 for array in arrays):
            raise ValueError("weights that do not fit together")
        in_range = [(np.abs(array) <= LARGEST).all() for array in arrays]  # NaN is in no range
        if not all(in_range) or not (self.deviation >= SMALLEST_DEVIATION).all():
            raise ValueError("weights out of range")
        if type(self.bias) not in (int, float) or not abs(self.bias) <= LARGEST:
            raise ValueError("a bias out of range")

    @classmethod
    def fit(cls, features: Floats, labels: NDArray[np.integer], prior: Floats | None = None) -> Fusion:
        """Ridge-penalized logistic regression by Newton's method (Hastie et al., 2009, section 4.4.1).

        Args:
            features: shape (n_items, n_features).
            labels: 1 = noise, shape (n_items,).
            prior: standardized weights that the penalty draws the weights to, shape (n_features,); None is 0.
        """
        mean = features.mean(axis=0)
        # A prior's weight is for a feature that varies; of one that hardly does, an exception would outweigh all else.
        least = SMALLEST_DEVIATION if prior is None else LEAST_DEVIATION
        deviation = np.maximum(features.std(axis=0), least)
        design = np.column_stack([np.ones(len(features)), (features - mean) / deviation])
        ridge = RIDGE if prior is None else PRIOR_RIDGE
        penalty = np.diag([1e-6, *([ridge] * features.shape[1])])
        centre = np.concatenate([[0], np.zeros(features.shape[1]) if prior is None else prior])
        weights = np.zeros(design.shape[1])
        for _ in range(_STEPS):
            chance = 1 / (1 + np.exp(-design @ weights))
            gradient = design.T @ (labels - chance) - penalty @ (weights - centre)
            curvature = (design * (chance * (1 - chance))[:, None]).T @ design + penalty
            step = np.linalg.solve(curvature, gradient)
            weights += step
            if np.abs(step).max() < 1e-9:
                break
        return cls(float(weights[0]), weights[1:], mean, deviation)

    def log_odds(self, features: Floats) -> Scores:
        """Noise log-odds of items, float32, shape (n_items,), from features of shape (n_items, n_features)."""
        # Not a matrix product: its rounding depends on the number of rows.
        scaled = (features - self.mean) / self.deviation
        fused: Scores = (self.bias + (scaled * self.weights).sum(axis=1)).astype(np.float32)
        return fused
