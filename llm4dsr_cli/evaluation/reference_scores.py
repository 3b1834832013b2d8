"""Reference scores: what simple baselines say of the sequences that a denoiser is measured on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.errors import Llm4dsrError, MissingExtraError
from llm4dsr_cli.evaluation.baselines import (
    CoOccurrenceTfidf,
    Ease,
    Items,
    NoiseScorer,
    Popularity,
    import_or_explain,
)
from llm4dsr_cli.evaluation.folds import random_folds, score_by_folds

Indices = NDArray[np.int64]

# EASE inverts a dense matrix of all pairs of titles: 3 GB and some minutes at this size.
EASE_TITLES = 20_000


def check_baselines() -> None:
    """Raises MissingExtraError unless all that the baselines import is there."""
    for module in ("scipy", "sklearn"):
        import_or_explain(module)


def reference_scores(
    titles: Sequence[str],
    sequences: Sequence[tuple[Hashable, Indices]],
    judged: Sequence[int],
    *,
    folds: Mapping[Hashable, int] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, list[NDArray[Any]]]:
    """Suspicion by baseline: one array of shape (n_items,) for each judged sequence, higher = more suspicious.

    Each baseline judges a user's sequences by counts of the users outside of that user's fold. EASE counts users'
    joined histories, as it was published; the others count sequences. One that cannot work on this data, or misses a
    package, is left out.

    Args:
        titles: title by index.
        sequences: (user, title indices) of all the data, int64 of shape (n_items,).
        judged: which of them to judge.
        folds: 0 or 1 for every judged user, and for those of the others that not both folds count; None makes two
            random halves of all users.
        say: told in one line what is left out, and why.

    Raises:
        Llm4dsrError: there are no folds given, and fewer than two users.
    """
    if folds is None:
        folds = random_folds(user for user, _ in sequences)
        if len(folds) < 2:
            raise Llm4dsrError(
                "one user is too few for `baselines`, which judge each half of the users by the other half",
                remedy="give records of more users, or leave out `baselines`",
            )
    # A catalog may be much larger than the data.
    used, flat = np.unique(np.concatenate([items for _, items in sequences]), return_inverse=True)
    ends = np.cumsum([len(items) for _, items in sequences])[:-1]
    counted: list[tuple[Hashable, Items]] = [
        (user, items) for (user, _), items in zip(sequences, np.split(flat, ends), strict=True)
    ]
    n_items = len(used)
    kinds: dict[str, tuple[Callable[[], NoiseScorer], bool]] = {
        "popularity": (lambda: Popularity(n_items), False),
        "co-occurrence + TF-IDF": (lambda: CoOccurrenceTfidf([titles[item] for item in used]), False),
        "EASE": (lambda: Ease(n_items), True),
    }
    if n_items > EASE_TITLES:
        del kinds["EASE"]
        say(f"EASE is left out: its matrix for {n_items:,} titles would take {8 * n_items**2 / 1e9:.0f} GB")
    found = {}
    for name, (build, join) in kinds.items():
        try:
            found[name] = score_by_folds(build(), counted, [counted[place] for place in judged], folds, join=join)
        except MissingExtraError as error:  # noqa: PERF203
            say(f"no more baselines: {error}")
            break
        except ValueError as error:  # scikit-learn's: titles without words
            say(f"{name} is left out: {error}")
    return found
