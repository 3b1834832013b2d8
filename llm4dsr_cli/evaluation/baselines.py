"""Simple noise scorers on sequences of item indices: what a language model has to beat.

Every scorer is built for a catalog, ``fit`` on training sequences (lists of item indices 0..n_items-1, noise and all,
no labels) and then ``score``s sequences: one float array of shape (len(sequence),) for each, higher = more suspicious.
An item is judged from the other distinct items of its own sequence: neither itself nor its repetitions vouch for it.

A sequence that was also fitted does vouch for its own items, through the counts. Nothing is subtracted for that: fit
and judged sequences are meant to come from different users.

``fit`` and ``score`` raise ValueError for an index outside the catalog; ``score`` raises ModelError before ``fit``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.errors import MissingExtraError, ModelError, OptionError

Floats = NDArray[Any]
Items = Sequence[int] | NDArray[np.int64]


class NoiseScorer(Protocol):
    """What all baselines have in common."""

    def fit(self, sequences: Sequence[Items]) -> None:
        """Count what the training sequences show; replaces an earlier fit."""

    def score(self, sequences: Sequence[Items]) -> list[Floats]:
        """One array of shape (len(sequence),) for each sequence; higher = more suspicious."""


class Popularity:
    """-log(1 + number of training sequences that hold the item): blind to the sequence the item stands in."""

    def __init__(self, n_items: int) -> None:
        self.n_items = n_items
        self._score: Floats | None = None

    def fit(self, sequences: Sequence[Items]) -> None:
        counts = np.zeros(self.n_items)
        for sequence in sequences:
            counts[_distinct(sequence, self.n_items)[0]] += 1
        self._score = -np.log1p(counts)

    def score(self, sequences: Sequence[Items]) -> list[Floats]:
        score = _fitted(self._score)
        return [_for_distinct(sequence, self.n_items, lambda items: score[items]) for sequence in sequences]


class Ease:
    """EASE^R (Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019).

    An item's score is the negated prediction of a linear item-item model without self-similarity: minus the sum over
    the other distinct items j of ``B[j, i]``. Its ridge penalty ``regularization`` is positive (OptionError if not).
    ``B`` is dense, float32, of shape (n_items, n_items): 2.1 GB for 23,000 items, and about twice that while fitting.
    Steck's rows are whole users: joined histories suit it better than overlapping windows.
    Raises MissingExtraError without scipy.
    """

    def __init__(self, n_items: int, regularization: float = 1000.0) -> None:
        if not regularization > 0:
            raise OptionError(f"the regularization of EASE must be positive, not {regularization}")
        self.n_items = n_items
        self.regularization = regularization
        self._weights: Floats | None = None

    @property
    def weights(self) -> Floats:
        """``B`` of shape (n_items, n_items): B[j, i] is what item j contributes to the prediction of item i."""
        return _fitted(self._weights)

    def fit(self, sequences: Sequence[Items]) -> None:
        linalg = import_or_explain("scipy.linalg")
        self._weights = None  # an earlier fit's memory is needed for this one
        seen = _incidence(sequences, self.n_items)
        # Symmetric, so the transpose is the same matrix in the order in which LAPACK can invert it in place.
        gram = (seen.T @ seen).toarray().T
        gram[np.diag_indices(self.n_items)] += self.regularization
        inverse = linalg.inv(gram, overwrite_a=True, check_finite=False)
        inverse /= -np.diag(inverse)
        np.fill_diagonal(inverse, 0)
        self._weights = inverse

    def score(self, sequences: Sequence[Items]) -> list[Floats]:
        weights = self.weights
        return [
            _for_distinct(sequence, self.n_items, lambda items: -weights[np.ix_(items, items)].sum(axis=0))
            for sequence in sequences
        ]


class CoOccurrenceTfidf:
    """Three kinds of association with the other items of the sequence, standardized and summed, negated.

    Each is a mean over the other distinct items: the inner product in a truncated SVD of the positive PMI matrix of
    items that share a sequence, split evenly between both sides (Levy and Goldberg, NIPS 2014); the PPMI itself; and
    the cosine of the TF-IDF vectors of the titles (words and pairs of words). Standardized by mean and standard
    deviation over sequences drawn at random from the training items, so that a score depends on its own sequence only.

    ``titles`` has one title an item, ``n_factors`` is the rank of the SVD; the defaults were chosen by noise injected
    into held-out training users. ``seed`` makes SVD and standardization repeatable. Raises MissingExtraError without
    scikit-learn, ValueError when no title holds a word of two letters.
    """

    def __init__(self, titles: Sequence[str], n_factors: int = 16, seed: int = 0) -> None:
        self.n_items = len(titles)
        self.n_factors = n_factors
        self.seed = seed
        vectorizer = import_or_explain("sklearn.feature_extraction.text").TfidfVectorizer
        self._tfidf = vectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32).fit_transform(titles)
        self._pmi: Any = None
        self._factors: Floats | None = None
        self._mean = self._deviation = np.zeros(0)

    def fit(self, sequences: Sequence[Items]) -> None:
        extmath, sparse = import_or_explain("sklearn.utils.extmath"), import_or_explain("scipy.sparse")
        seen = _incidence(sequences, self.n_items)
        together = (seen.T @ seen).tocoo()
        pairs = together.row != together.col
        row, column, count = together.row[pairs], together.col[pairs], together.data[pairs]
        marginal = np.bincount(row, weights=count, minlength=self.n_items)
        pmi = np.log(count * marginal.sum() / (marginal[row] * marginal[column])).clip(0)
        self._pmi = sparse.csr_matrix((pmi, (row, column)), shape=(self.n_items, self.n_items))
        rank = max(1, min(self.n_factors, self.n_items - 1))
        _, strength, items = extmath.randomized_svd(self._pmi, rank, random_state=self.seed)
        self._factors = items.T * np.sqrt(strength)

        generator = np.random.default_rng(self.seed)
        pool = seen.indices if seen.nnz else np.arange(self.n_items)
        null = np.concatenate([self._association(np.unique(generator.choice(pool, 10))) for _ in range(1000)])
        self._mean, self._deviation = null.mean(axis=0), np.maximum(null.std(axis=0), 1e-9)

    def score(self, sequences: Sequence[Items]) -> list[Floats]:
        _fitted(self._factors)

        def suspicion(items: NDArray[np.int64]) -> Floats:
            total: Floats = ((self._mean - self._association(items)) / self._deviation).sum(axis=1)
            return total

        return [_for_distinct(sequence, self.n_items, suspicion) for sequence in sequences]

    def _association(self, items: NDArray[np.int64]) -> Floats:
        """Mean association of each distinct item with the others, of shape (len(items), 3)."""
        factors = _fitted(self._factors)[items]
        titles = self._tfidf[items]
        kinds = (factors @ factors.T, (titles @ titles.T).toarray(), self._pmi[items][:, items].toarray())
        return np.stack([(kind.sum(axis=1) - np.diag(kind)) / max(len(items) - 1, 1) for kind in kinds], axis=1)


def _distinct(sequence: Items, n_items: int) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """The distinct items of a sequence, sorted, and for every position the place of its item among them."""
    items = np.asarray(sequence, dtype=np.int64)
    if items.size and not 0 <= items.min() <= items.max() < n_items:
        raise ValueError(f"item indices must lie in 0..{n_items - 1}, not {items.min()}..{items.max()}")
    return np.unique(items, return_inverse=True)


def _for_distinct(sequence: Items, n_items: int, score: Callable[[NDArray[np.int64]], Floats]) -> Floats:
    items, place = _distinct(sequence, n_items)
    if not len(items):
        return np.zeros(0)
    scores: Floats = score(items)[place]
    return scores


def _incidence(sequences: Sequence[Items], n_items: int) -> Any:
    """Binary float32 CSR matrix of shape (sequences, n_items)."""
    rows = [_distinct(sequence, n_items)[0] for sequence in sequences]
    ends = np.cumsum([0, *map(len, rows)])
    columns = np.concatenate([np.zeros(0, np.int64), *rows])
    values = np.ones(len(columns), np.float32)
    return import_or_explain("scipy.sparse").csr_matrix((values, columns, ends), shape=(len(rows), n_items))


def _fitted(state: Floats | None) -> Floats:
    if state is None:
        raise ModelError("the baseline has counted nothing yet", remedy="call fit() first")
    return state


def import_or_explain(module: str) -> Any:
    """A module of the extra ``benchmark``. Raises MissingExtraError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError("benchmark", "scipy" if module.startswith("scipy") else "scikit-learn") from error
