"""What the recommenders with torch have in common: the full softmax, batches, the early stop, and scores."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim.swa_utils import AveragedModel

from llm4dsr_cli.noise import Indices
from llm4dsr_cli.trial.metrics import CHOSEN_BY, gains, ranks
from llm4dsr_cli.trial.recommenders import Recommender, Validation, Weights

# Validation after an epoch takes so many targets at most.
_VALIDATED = 2_000
_SCORED = 512


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes:
        width: of embeddings and layers.
        blocks: how many layers stand on each other.
        longest: items of a history that are looked at, the last ones.
        dropout: share of activations that are left out, of embeddings and of layers' outputs.
        batch: sequences to a step.
        rate: learning rate of Adam (Kingma and Ba, ICLR 2015).
        memory: how many steps the running mean of the weights, which is validated and used, looks back
            (Polyak and Juditsky, SIAM Journal on Control and Optimization 30(4), 1992). Without it two seeds differ by
            more than a cleaning does (docs/experiments.md, "The seeds of a trial").
        patience: epochs without a better validation before it stops; the best epoch's weights count.
        epochs: at most so many.
    """

    width: int = 64
    blocks: int = 2
    longest: int = 50
    dropout: float = 0.3
    batch: int = 128
    rate: float = 2e-3
    memory: int = 100
    patience: int = 5
    epochs: int = 200


class Network(nn.Module):
    """Item numbers in, a vector for each place out; scores are the products with the items' embeddings.

    Number ``n_items`` fills rows up at their end, ``n_items + 1`` is a hidden item.
    """

    def __init__(self, n_items: int, training: Training) -> None:
        super().__init__()
        self.n_items = n_items
        self.padding, self.hidden = n_items, n_items + 1
        self.items = nn.Embedding(n_items + 2, training.width, padding_idx=self.padding)
        self.dropout = nn.Dropout(training.dropout)

    def start(self) -> None:
        """Small random weights, as in BERT."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.items.weight[self.padding] = 0

    def vectors(self, items: Any) -> Any:
        """Embeddings as inputs, as large as a layer's activations (Vaswani et al., NeurIPS 2017, section 3.4)."""
        return self.items(items) * self.items.embedding_dim**0.5

    @property
    def table(self) -> Any:
        """The embeddings of the items, shape (n_items, width)."""
        return self.items.weight[: self.n_items]


def _short_floats(device: Any) -> bool:
    """Whether a device multiplies bfloat16 by itself; where it does not, it is slower than float32."""
    here: Any = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(here is not None and here()) if device.type == "cpu" else torch.cuda.is_bf16_supported()


class SoftmaxLoss(torch.autograd.Function):
    """Weighted cross-entropy over all items, a part of the rows at a time.

    The gradient is made beside the loss, so that no array of (n, n_items) is kept. Products are of bfloat16 where the
    device has it, sums of float32: half the time of a training (docs/experiments.md, "The softmax of a trial").
    """

    ROWS = 128

    @staticmethod
    def forward(ctx: Any, vectors: Any, table: Any, targets: Any, weights: Any) -> Any:
        """The sum of weights times negated log-probabilities, over the sum of the weights.

        Args:
            vectors: shape (n, width).
            table: shape (n_items, width).
            targets: item numbers, shape (n,).
            weights: shape (n,), not all 0.
        """
        kind = torch.bfloat16 if vectors.dtype == torch.float32 and _short_floats(vectors.device) else vectors.dtype
        shares = weights / weights.sum()
        items, rows = table.to(kind), vectors.to(kind)
        loss, by_vector, by_item = vectors.new_zeros(()), torch.empty_like(vectors), torch.zeros_like(table)
        for start in range(0, len(vectors), SoftmaxLoss.ROWS):
            part = slice(start, start + SoftmaxLoss.ROWS)
            share, target = shares[part], targets[part, None]
            scores = (rows[part] @ items.T).to(vectors.dtype)
            scores -= scores.amax(dim=1, keepdim=True)
            truth = scores.gather(1, target)[:, 0]
            total = scores.exp_().sum(dim=1)
            loss += (share * (total.log() - truth)).sum()
            scores *= (share / total)[:, None]
            scores.scatter_add_(1, target, -share[:, None])
            slope = scores.to(kind)
            by_vector[part] = slope @ items
            by_item += slope.T @ rows[part]
        ctx.save_for_backward(by_vector, by_item)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        by_vector, by_item = ctx.saved_tensors
        return gradients[0] * by_vector, gradients[0] * by_item, None, None


class NetworkRecommender(Recommender):
    """A network that is trained until validation stops improving; subclasses say which, and on what."""

    version = 3
    seeded = True
    usual = Training()

    def __init__(self, training: Training | None = None) -> None:
        self.training = training or self.usual
        self.epochs = 0  # of the last fit
        self._network: Any = None
        self._device = "cuda" if torch.cuda.is_available() else "cpu"

    @abstractmethod
    def network(self, n_items: int, longest: int) -> Network:
        """A network for histories of so many items at most."""

    @abstractmethod
    def examples(
        self, sequences: Sequence[Indices], weights: Sequence[Weights], longest: int, rng: np.random.Generator
    ) -> tuple[list[Indices], list[Indices], list[Weights]]:
        """An epoch's inputs, targets and weights, of one length each; a weight of 0 asks for nothing."""

    def asked(self, history: Indices, network: Network) -> Indices:
        """A history as the network takes it; the last place is asked for the next item."""
        return history

    def fit(
        self,
        sequences: Sequence[Indices],
        weights: Sequence[Weights] | None,
        n_items: int,
        seed: int,
        validation: Validation,
    ) -> None:
        """See ``Recommender.fit``."""
        if weights is None:
            weights = [np.ones(len(sequence), dtype=np.float32) for sequence in sequences]
        rng = np.random.default_rng([seed, 3])
        chosen = np.sort(rng.permutation(len(validation.targets))[:_VALIDATED])
        histories = [validation.histories[i] for i in chosen]
        masked = None if validation.masked is None else [validation.masked[i] for i in chosen]
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            longest = min(self.training.longest, max(map(len, [*sequences, *validation.histories]), default=1))
            self._longest = max(1, longest)
            trained = self.network(n_items, self._longest).to(self._device)
            trained.start()
            optimizer = torch.optim.Adam(trained.parameters(), lr=self.training.rate)
            mean = AveragedModel(trained, multi_avg_fn=self._towards)
            self._network = mean.module
            best, waited, kept = -1.0, 0, copy.deepcopy(self._network.state_dict())
            for epoch in range(self.training.epochs):
                self._epoch(trained, mean, self.examples(sequences, weights, self._longest, rng), optimizer, rng)
                found = gains(ranks(self, histories, validation.targets[chosen], masked), CHOSEN_BY)
                reached = float(found.mean()) if len(found) else 0.0
                if reached > best:
                    best, waited, kept = reached, 0, copy.deepcopy(self._network.state_dict())
                    self.epochs = epoch + 1
                else:
                    waited += 1
                    if waited == self.training.patience:
                        break
            self._network.load_state_dict(kept)

    def _towards(self, means: Any, weights: Any, steps: Any) -> None:
        """Move the running means to the weights after so many steps; the first ones are soon forgotten."""
        share = max(1 / self.training.memory, 9 / (10 + int(steps)))
        with torch.no_grad():
            torch._foreach_lerp_(means, weights, share)

    def _epoch(
        self,
        network: Network,
        mean: AveragedModel,
        examples: tuple[list[Indices], list[Indices], list[Weights]],
        optimizer: Any,
        rng: np.random.Generator,
    ) -> None:
        network.train()
        inputs, targets, weights = examples
        order = rng.permutation(len(inputs))
        for start in range(0, len(order), self.training.batch):
            batch = order[start : start + self.training.batch]
            items = self._padded([inputs[i] for i in batch], network.padding)
            wanted = self._padded([targets[i] for i in batch], 0)
            weight = self._padded([weights[i] for i in batch], 0)
            asked = weight > 0
            if not asked.any():
                continue
            vectors = network(items)[asked]
            loss = SoftmaxLoss.apply(vectors, network.table, wanted[asked], weight[asked])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            mean.update_parameters(network)

    def _padded(self, rows: Sequence[NDArray[Any]], filling: int) -> Any:
        """Rows of one length, filled up at their end, as a tensor."""
        whole = np.full((len(rows), max(map(len, rows))), filling, dtype=rows[0].dtype)
        for line, row in zip(whole, rows, strict=True):
            line[: len(row)] = row
        return torch.from_numpy(whole).to(self._device)

    def scores(self, histories: Sequence[Indices]) -> NDArray[np.float32]:
        """See ``Recommender.scores``; of an empty history all are 0."""
        network = self._network.eval()
        found = np.zeros((len(histories), network.n_items), dtype=np.float32)
        asked = [self.asked(history[-self._longest :], network) for history in histories]
        there = [number for number, history in enumerate(histories) if len(history)]
        with torch.inference_mode():
            for start in range(0, len(there), _SCORED):
                part = there[start : start + _SCORED]
                rows = [asked[number] for number in part]
                last = torch.tensor([len(row) - 1 for row in rows], device=self._device)
                vectors = network(self._padded(rows, network.padding))[
                    torch.arange(len(rows), device=self._device), last
                ]
                found[part] = (vectors @ network.table.T).cpu().numpy()
        return found


def next_items(
    sequences: Sequence[Indices], weights: Sequence[Weights], longest: int
) -> tuple[list[Indices], list[Indices], list[Weights]]:
    """Every item that has another after it, with that one as its target; long sequences are cut into pieces."""
    inputs, targets, counts = [], [], []
    for items, weight in zip(sequences, weights, strict=True):
        for end in range(len(items), 1, -longest):
            start = max(0, end - 1 - longest)
            inputs.append(items[start : end - 1])
            targets.append(items[start + 1 : end])
            counts.append(weight[start + 1 : end])
    return inputs, targets, counts


class Block(nn.Module):
    """A transformer's layer, normalized before each half (Xiong et al., ICML 2020)."""

    def __init__(self, training: Training, *, causal: bool, heads: int = 2) -> None:
        super().__init__()
        width = training.width
        self.causal, self.heads = causal, heads
        self.before_attention, self.before_inner = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(training.dropout)

    def forward(self, vectors: Any, there: Any) -> Any:
        """The same shape, (n, length, width); ``there``, (n, length), is False where a row is filled up."""
        n, length, width = vectors.shape
        parts = self.mixed(self.before_attention(vectors)).view(n, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        # Rows are filled up at their end, which a causal layer does not see.
        seen = None if self.causal else there[:, None, None, :]
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, seen, is_causal=self.causal)
        vectors = vectors + self.dropout(self.out(mixed.transpose(1, 2).reshape(n, length, width)))
        return vectors + self.dropout(self.inner(self.before_inner(vectors)))


class Transformer(Network):
    """Items and their places, counted from the end as SASRec's are, and some blocks over them."""

    def __init__(self, n_items: int, longest: int, training: Training, *, causal: bool) -> None:
        super().__init__(n_items, training)
        self.places = nn.Embedding(longest, training.width)
        self.blocks = nn.ModuleList([Block(training, causal=causal) for _ in range(training.blocks)])
        self.last = nn.LayerNorm(training.width)

    def forward(self, items: Any) -> Any:
        """Vectors of shape (n, length, width) for item numbers of shape (n, length)."""
        there = items != self.padding
        place = there.flip(1).cumsum(1).flip(1) - 1  # 0 is the last item
        vectors = self.dropout(self.vectors(items) + self.places(place.clamp(min=0)))
        for block in self.blocks:
            vectors = block(vectors, there)
        return self.last(vectors)
