"""The fusion: a logistic model of the denoiser's log-odds and the counts."""

from __future__ import annotations

import numpy as np
import pytest

from llm4dsr_cli.gate.fusion import RIDGE, Fusion


def data(n: int = 2_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 3)) * [1, 5, 0.1] + [0, 3, -1]
    chance = 1 / (1 + np.exp(-(features @ [1.0, -0.4, 0.0] - 1)))
    return features, (rng.random(n) < chance).astype(np.int8)


def test_weights_are_those_of_scikit_learns_logistic_regression() -> None:
    """Guards Newton's method: a wrong gradient or penalty still gives plausible weights."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels = data()
    fusion = Fusion.fit(features, labels)
    oracle = linear_model.LogisticRegression(C=1 / RIDGE, tol=1e-10).fit(
        (features - features.mean(axis=0)) / features.std(axis=0), labels
    )
    np.testing.assert_allclose(fusion.weights, oracle.coef_[0], atol=1e-4)
    assert fusion.bias == pytest.approx(oracle.intercept_[0], abs=1e-4)


def test_an_items_log_odds_do_not_depend_on_the_others_judged_with_it() -> None:
    """Guards byte equality of `apply` and `clean`: a matrix product rounds differently for another number of rows."""
    features, labels = data()
    fusion = Fusion.fit(features, labels)
    together = fusion.log_odds(features)
    assert all(fusion.log_odds(features[i : i + 1])[0] == together[i] for i in range(200))


def test_a_feature_that_separates_perfectly_or_never_varies_keeps_weights_finite() -> None:
    """Guards weights that run to infinity, and a division by a deviation of nothing."""
    labels = np.array([0, 1] * 50)
    fusion = Fusion.fit(np.column_stack([labels * 2.0, np.ones(100)]), labels)
    assert np.isfinite(fusion.weights).all()
    assert (fusion.log_odds(np.array([[0.0, 1.0], [2.0, 1.0]])) > 0).tolist() == [False, True]
