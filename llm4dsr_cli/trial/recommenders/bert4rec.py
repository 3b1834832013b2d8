"""BERT4Rec (Sun et al., "Sequential recommendation with bidirectional encoder representations", CIKM 2019).

Hidden items are guessed from both sides. As in section 3.6 of the paper, some examples hide the last item alone, which
is what a recommender is asked for; here it is the last one of any beginning of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llm4dsr_cli.noise import Indices
from llm4dsr_cli.trial.recommenders import Weights
from llm4dsr_cli.trial.recommenders.networks import Network, NetworkRecommender, Transformer

HIDDEN = 0.3
ONLY_LAST = 0.5
# An epoch hides other items of each sequence so many times: the paper's code makes ten examples of each.
TIMES = 3


class Bert4Rec(NetworkRecommender):
    """A transformer that sees both ways and learns hidden items."""

    name = "bert4rec"

    def network(self, n_items: int, longest: int) -> Network:
        self._hidden = n_items + 1
        return Transformer(n_items, longest, self.training, causal=False)

    def asked(self, history: Indices, network: Network) -> Indices:
        return np.append(history[1:] if len(history) == self._longest else history, network.hidden)

    def examples(
        self, sequences: Sequence[Indices], weights: Sequence[Weights], longest: int, rng: np.random.Generator
    ) -> tuple[list[Indices], list[Indices], list[Weights]]:
        inputs, targets, counts = [], [], []
        for whole, weight in [*zip(sequences, weights, strict=True)] * TIMES:
            for end in range(len(whole), 0, -longest):
                piece = slice(max(0, end - longest), end)
                items = whole[piece]
                count = weight[piece]
                hidden = rng.random(len(items)) < HIDDEN
                if rng.random() < ONLY_LAST or not hidden.any():
                    n = int(rng.integers(1, len(items) + 1))
                    items, count, hidden = items[:n], count[:n], np.arange(n) == n - 1
                inputs.append(np.where(hidden, self._hidden, items))
                targets.append(items)
                counts.append(np.where(hidden, count, np.float32(0)))
        return inputs, targets, counts
