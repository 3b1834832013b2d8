"""The recommenders with torch learn what is there to learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from llm4dsr_cli.trial.metrics import gains, ranks  # noqa: E402
from llm4dsr_cli.trial.recommenders import Validation, make_recommender  # noqa: E402
from llm4dsr_cli.trial.recommenders.networks import (  # noqa: E402
    NetworkRecommender,
    SoftmaxLoss,
    Training,
    Transformer,
    next_items,
)

N_ITEMS = 60
SMALL = Training(width=32, blocks=1, dropout=0.1, batch=32, rate=5e-3, patience=2, epochs=30)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def runs(n: int, seed: int, longest: int = 9) -> list[NDArray[np.int64]]:
    """Sequences in which the next item is always the next number."""
    rng = np.random.default_rng(seed)
    return [(rng.integers(N_ITEMS) + np.arange(rng.integers(3, longest))) % N_ITEMS for _ in range(n)]


def small(name: str) -> NetworkRecommender:
    made = make_recommender(name)
    assert isinstance(made, NetworkRecommender)
    made.training = SMALL
    return made


def targets(sequences: list[NDArray[np.int64]]) -> Validation:
    return Validation([one[:-1] for one in sequences], np.array([one[-1] for one in sequences]))


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "bert4rec"])
def test_a_network_learns_that_the_next_item_is_the_next_number(name: str) -> None:
    """Guards targets that are shifted, a mask that shows what is to be guessed, and a place that is not the last."""
    model = small(name)
    model.fit(runs(500, 0), None, N_ITEMS, 0, targets(runs(100, 1)))
    asked = targets(runs(200, 2))
    found = gains(ranks(model, asked.histories, asked.targets), "HR@10").mean()
    # Popularity, or chance, is right ten times in sixty.
    assert found > 0.9


def test_places_count_from_the_end() -> None:
    """Guards a last item that is another one's neighbour, and nothing more, once an item was dropped before it."""
    network = Transformer(N_ITEMS, 9, replace(SMALL, blocks=0, dropout=0.0), causal=True)
    rows = torch.full((2, 9), network.padding)
    rows[0, :9], rows[1, :4] = torch.arange(9), torch.arange(5, 9)
    with torch.inference_mode():
        long, short = network(rows)
    torch.testing.assert_close(long[5:], short[:4])
    assert not torch.allclose(long[4], short[3])


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "bert4rec"])
def test_scores_depend_on_the_history_alone(name: str) -> None:
    """Guards filling that is taken for items, dropout that is on, and long histories that are not cut."""
    model = small(name)
    model.training = replace(SMALL, epochs=2, longest=5)
    model.fit(runs(100, 0), None, N_ITEMS, 0, targets(runs(40, 1)))
    some = [*runs(10, 3, longest=14), np.array([4]), np.zeros(0, dtype=np.int64)]
    together = model.scores(some)
    alone = np.concatenate([model.scores([one]) for one in some])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert together.shape == (12, N_ITEMS)
    assert not together[-1].any()


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "bert4rec"])
def test_a_seed_fixes_a_fit_and_leaves_other_draws_alone(name: str) -> None:
    """Guards fits that cannot be repeated, and a seed that is not used."""

    def scores(seed: int) -> NDArray[np.float32]:
        model = small(name)
        model.training = replace(SMALL, epochs=1)
        model.fit(runs(60, 0), None, N_ITEMS, seed, targets(runs(40, 1)))
        return model.scores(runs(5, 4))

    before = torch.random.get_rng_state()
    first = scores(0)
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(first, scores(0))
    assert np.abs(first - scores(1)).max() > 1e-3


def test_interactions_of_no_weight_are_not_learned() -> None:
    """Guards weights that reach neither loss nor gradient."""
    right, wrong = runs(400, 0), [one[::-1].copy() for one in runs(800, 1)]
    weights = [
        *(np.ones(len(one), np.float32) for one in right),
        *(np.full(len(one), 1e-6, np.float32) for one in wrong),
    ]
    model = small("sasrec")
    model.fit([*right, *wrong], weights, N_ITEMS, 0, targets(runs(100, 2)))
    asked = targets([one[::-1].copy() for one in runs(200, 3)])
    # A reversed run says that the next item is the number before: what nothing has taught.
    up = (asked.targets + 2) % N_ITEMS
    assert (ranks(model, asked.histories, up) < ranks(model, asked.histories, asked.targets)).mean() > 0.8


def test_the_loss_is_torchs_own_cross_entropy() -> None:
    """Guards the gradient that is written by hand."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(7, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    table = torch.randn(11, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    wanted = torch.randint(0, 11, (7,), generator=generator)
    weights = torch.rand(7, generator=generator, dtype=torch.float64)
    ours = SoftmaxLoss.apply(vectors, table, wanted, weights)
    theirs = (torch.nn.functional.cross_entropy(vectors @ table.T, wanted, reduction="none") * weights).sum()
    theirs = theirs / weights.sum()
    assert ours.item() == pytest.approx(theirs.item())
    for one, other in zip(
        torch.autograd.grad(3 * ours, (vectors, table)), torch.autograd.grad(3 * theirs, (vectors, table)), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_every_step_of_a_long_sequence_is_learned_once() -> None:
    """Guards histories longer than the network's, of which only the end would count."""
    items = np.arange(23)
    inputs, wanted, counts = next_items([items], [np.ones(23, np.float32)], 5)
    pairs = [
        pair for one, two in zip(inputs, wanted, strict=True) for pair in zip(one.tolist(), two.tolist(), strict=True)
    ]
    assert sorted(pairs) == [(i, i + 1) for i in range(22)]
    assert max(map(len, inputs)) == 5
    assert [len(one) for one in counts] == [len(one) for one in inputs]
