"""GRU4Rec (Hidasi et al., "Session-based recommendations with recurrent neural networks", ICLR 2016).

With the cross-entropy over all items in place of sampled ones, as Hidasi and Karatzoglou (CIKM 2018) recommend where
the items are few enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from llm4dsr_cli.noise import Indices
from llm4dsr_cli.trial.recommenders import Weights
from llm4dsr_cli.trial.recommenders.networks import Network, NetworkRecommender, Training, next_items


class Recurrent(Network):
    """A gated recurrent unit over the items."""

    def __init__(self, n_items: int, training: Training) -> None:
        super().__init__(n_items, training)
        self.unit = nn.GRU(training.width, training.width, batch_first=True)
        self.out = nn.Linear(training.width, training.width)

    def forward(self, items: Any) -> Any:
        """Vectors of shape (n, length, width) for item numbers of shape (n, length)."""
        vectors, _ = self.unit(self.dropout(self.vectors(items)))
        return self.out(self.dropout(vectors))


class Gru4Rec(NetworkRecommender):
    """A recurrent network that learns every next item."""

    name = "gru4rec"
    version = 4
    # It begins slowly: with SASRec's patience it stops before it has learned (docs/experiments.md).
    usual = Training(patience=12)

    def network(self, n_items: int, longest: int) -> Network:
        return Recurrent(n_items, self.training)

    def examples(
        self, sequences: Sequence[Indices], weights: Sequence[Weights], longest: int, rng: np.random.Generator
    ) -> tuple[list[Indices], list[Indices], list[Weights]]:
        return next_items(sequences, weights, longest)
