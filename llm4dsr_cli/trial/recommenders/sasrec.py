"""SASRec (Kang and McAuley, "Self-attentive sequential recommendation", ICDM 2018), with the full softmax.

The paper's loss has one sampled negative; with the cross-entropy over all items it is far better (Klenitskiy and
Vasilev, "Turning dross into gold loss", RecSys 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llm4dsr_cli.noise import Indices
from llm4dsr_cli.trial.recommenders import Weights
from llm4dsr_cli.trial.recommenders.networks import Network, NetworkRecommender, Transformer, next_items


class SasRec(NetworkRecommender):
    """A causal transformer that learns every next item."""

    name = "sasrec"

    def network(self, n_items: int, longest: int) -> Network:
        return Transformer(n_items, longest, self.training, causal=True)

    def examples(
        self, sequences: Sequence[Indices], weights: Sequence[Weights], longest: int, rng: np.random.Generator
    ) -> tuple[list[Indices], list[Indices], list[Weights]]:
        return next_items(sequences, weights, longest)
