"""Fits: recommenders that learn from edited sequences, and where they put the targets; each fit is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.noise import Indices
from llm4dsr_cli.trial.editing import Edited
from llm4dsr_cli.trial.kept import Kept, digest
from llm4dsr_cli.trial.metrics import ranks
from llm4dsr_cli.trial.recommenders import Recommender, Validation
from llm4dsr_cli.trial.splits import Split, Targets

# Where more of the validation targets than this stand in their own histories, repeating is a part of the data. A few
# repeats would outweigh all other targets: a recommender puts what has just been seen first.
REPEATS = 0.1


@dataclass(frozen=True)
class Fit:
    """Where one recommender, with one seed, puts the targets.

    Attributes:
        validation, test: ranks, 1 = best, float32, shape (n_targets,).
        seconds: of the fit and the ranking, at the time.
    """

    validation: NDArray[np.float32]
    test: NDArray[np.float32]
    seconds: float


class Fits:
    """Trains recommenders on a split.

    Args:
        clean_histories: whether recommenders are asked with edited histories, whose newest items stay as ``clean``
            leaves them; else with those of the split.
        kept: where each fit is kept.
    """

    def __init__(self, split: Split, kept: Kept, *, clean_histories: bool = True) -> None:
        self.split = split
        self.clean_histories = clean_histories
        self._kept = kept
        self._key = digest(
            [split.validation.target, split.test.target, split.validation.sequence, split.test.sequence],
            split.validation.after,
            split.test.after,
            split.sequences,
            split.trains,
            len(split.items),
            "newest stays" if clean_histories else clean_histories,
            self.masks_history,
        )

    @cached_property
    def masks_history(self) -> bool:
        """Whether the items of a target's history, as it is before any edit, are left out of its ranking.

        They are, unless users of these data come back to items: more than REPEATS of the validation targets.
        """
        validation = self.split.validation
        known = validation.histories(self.split.sequences)
        again = [target in history for target, history in zip(validation.target, known, strict=True)]
        return float(np.mean(again)) <= REPEATS

    def _masked(self, targets: Targets) -> list[Indices] | None:
        return targets.histories(self.split.sequences) if self.masks_history else None

    def _asked(self, targets: Targets, edited: Edited) -> list[Indices]:
        if not self.clean_histories:
            return targets.histories(self.split.sequences)
        return targets.edited_histories(self.split.sequences, edited.sequences, edited.newest_replaced)

    def fit(self, recommender: Recommender, edited: Edited, seed: int) -> Fit:
        """Train it, or read what an earlier training gave. Equal sequences and seeds are trained on once."""
        sequences: Sequence[Indices] = edited.sequences
        trained = np.flatnonzero(self.split.trains).tolist()
        learned = [sequences[i] for i in trained]
        weights = None if edited.weights is None else [edited.weights[i] for i in trained]
        key = self.key(recommender, edited, seed)
        kept = self._kept.get("fit", key)
        if kept is None:
            began = time.monotonic()
            validation, test = (self._asked(targets, edited) for targets in (self.split.validation, self.split.test))
            masked = [self._masked(targets) for targets in (self.split.validation, self.split.test)]
            given = Validation(validation, self.split.validation.target, masked[0])
            recommender.fit(learned, weights, len(self.split.items), seed if recommender.seeded else 0, given)
            kept = self._kept.put(
                "fit",
                key,
                validation=ranks(recommender, validation, self.split.validation.target, masked[0]),
                test=ranks(recommender, test, self.split.test.target, masked[1]),
                seconds=np.array(time.monotonic() - began),
            )
        return Fit(kept["validation"], kept["test"], float(kept["seconds"]))

    def key(self, recommender: Recommender, edited: Edited, seed: int) -> str:
        """What a fit depends on, as a digest."""
        return digest(
            self._key,
            recommender.name,
            recommender.version,
            seed if recommender.seeded else 0,
            edited.sequences,
            edited.weights,
        )

    def is_kept(self, recommender: Recommender, edited: Edited, seed: int) -> bool:
        """Whether a fit would be read, not made."""
        return self._kept.get("fit", self.key(recommender, edited, seed)) is not None
