"""Folds of users: baselines that count a data set judge it without its judged user's own sequences."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from llm4dsr_cli.evaluation.baselines import Floats, Items, NoiseScorer


def random_folds(users: Iterable[Hashable], n: int = 2) -> dict[Hashable, int]:
    """One of ``n`` folds, from 0, for every user, the same on every machine."""
    # By type first: 5 and "5" cannot be compared.
    distinct: list[Any] = sorted(set(users), key=lambda user: (type(user).__name__, user))
    shuffled = np.random.default_rng(0).permutation(len(distinct))
    return {user: int(place % n) for user, place in zip(distinct, shuffled, strict=True)}


def joined_by_user(users: Sequence[Hashable], sequences: Sequence[Items]) -> list[list[int]]:
    """One list of distinct items a user."""
    histories: dict[Hashable, dict[int, None]] = {}
    for user, items in zip(users, sequences, strict=True):
        histories.setdefault(user, {}).update(dict.fromkeys(int(item) for item in items))
    return [list(history) for history in histories.values()]


def score_by_folds(
    scorer: NoiseScorer,
    counted: Sequence[tuple[Hashable, Items]],
    judged: Sequence[tuple[Hashable, Items]],
    folds: Mapping[Hashable, int],
    *,
    join: bool = False,
) -> list[Floats]:
    """Suspicion from counts that hold no sequence of the judged user's fold.

    Args:
        counted: (user, item indices) of the sequences to count; users in no fold are counted for all.
        judged: the same of the sequences to judge; each of these users is in a fold.
        folds: number of the fold by user.
        join: count each user's sequences as one history.

    Returns:
        One array of shape (n_items,) for each judged sequence; higher = more suspicious.
    """
    scores: dict[int, Floats] = {}
    for fold in sorted({folds[user] for user, _ in judged}):
        here = [place for place, (user, _) in enumerate(judged) if folds[user] == fold]
        others = [(user, items) for user, items in counted if folds.get(user) != fold]
        sequences = [items for _, items in others]
        scorer.fit(joined_by_user([user for user, _ in others], sequences) if join else sequences)
        found = scorer.score([judged[place][1] for place in here])
        scores.update(zip(here, found, strict=True))
    return [scores[place] for place in range(len(judged))]
