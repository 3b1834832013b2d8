"""Branching, with llama.cpp itself on a tiny random model, against every history read whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm4dsr_cli.errors import ModelError, OptionError
from llm4dsr_cli.model.branching import MAX_BRANCHES, Branching
from llm4dsr_cli.model.engine import Engine, Request
from llm4dsr_cli.model.llama import Model, Tokens

# See test_engine; here it is log-probabilities of the whole vocabulary.
TOLERANCE = 0.1
N_LETTERS = 256
History = list[int]

unhurried = settings(deadline=None, max_examples=25)
# Prompts' lengths, and for each step the parents' places, taken modulo the number of branches there are.
lengths = st.lists(st.integers(1, 30), min_size=1, max_size=5)
steps = st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=12), max_size=6)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Iterator[Model]:
    with Model(tiny_base) as model:
        yield model


@pytest.fixture(scope="module")
def branching(model: Model) -> Iterator[Branching]:
    with Branching(model, threads=1) as branching:
        yield branching


@pytest.fixture(scope="module")
def tight(model: Model) -> Iterator[Branching]:
    """Few cells, and fewer in a batch, so that prompts are read in several."""
    with Branching(model, cells=256, batch_tokens=32, threads=1) as tight:
        yield tight


@pytest.fixture(scope="module")
def engine(model: Model) -> Iterator[Engine]:
    with Engine(model, causal=True, threads=1) as engine:
        yield engine


def arrays(histories: Sequence[History]) -> list[Tokens]:
    return [np.array(history, dtype=np.int32) for history in histories]


def random_histories(sizes: Sequence[int], seed: int) -> list[History]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, N_LETTERS, size).tolist() for size in sizes]


def naive(engine: Engine, model: Model, histories: Sequence[History]) -> np.ndarray:
    """The log-probabilities after each history, by the engine that knows no branches, one history at a time."""
    everything = np.arange(model.n_vocab, dtype=np.int32)
    found = []
    for tokens in arrays(histories):
        request = Request(tokens, np.array([len(tokens) - 1], dtype=np.int32))
        found += engine.log_probabilities([request], everything)
    return np.concatenate(found)


def extend(
    branching: Branching, histories: list[History], parents: list[int], seed: int
) -> tuple[np.ndarray, list[History]]:
    """The log-probabilities after random tokens, and the histories that these make."""
    tokens = np.random.default_rng(seed).integers(0, N_LETTERS, len(parents)).tolist()
    longer = [[*histories[parent], token] for parent, token in zip(parents, tokens, strict=True)]
    return branching.extend(parents, tokens), longer


@unhurried
@given(lengths, steps, seeds)
@example([3, 20, 5], [[2, 0, 2, 2, 1], [4, 4, 0], [0], [0, 0, 0], [2, 1, 0]], 0)
@example([1], [[0] * 12] * 3, 1)
def test_branches_equal_their_whole_histories_read_afresh(
    branching: Branching,
    tight: Branching,
    engine: Engine,
    model: Model,
    sizes: list[int],
    steps: list[list[int]],
    seed: int,
) -> None:
    """Guards a branch that goes on from another parent, at another position, or from cells of one that was dropped."""
    for one in (branching, tight):
        histories = random_histories(sizes, seed)
        found = one.start(arrays(histories))
        np.testing.assert_allclose(found, naive(engine, model, histories), atol=TOLERANCE)
        for step, places in enumerate(steps):
            parents = [place % len(histories) for place in places]
            found, histories = extend(one, histories, parents, seed + step)
            assert found.shape == (len(parents), model.n_vocab)
            np.testing.assert_allclose(found, naive(engine, model, histories), atol=TOLERANCE)
        np.testing.assert_allclose(branching.start(arrays(histories)), found, atol=TOLERANCE)


def test_probabilities_sum_to_one_over_the_vocabulary(branching: Branching) -> None:
    """Guards logits, or odds among some tokens, taken for log-probabilities."""
    histories = random_histories([4, 9], 0)
    for rows in (branching.start(arrays(histories)), branching.extend([1, 1, 0], [5, 6, 7])):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.exp(rows.astype(np.float64)).sum(axis=1), 1, atol=1e-5)


def test_branches_do_not_see_each_other(branching: Branching) -> None:
    """Guards attention over all of the shared cells: what one branch is like must not depend on the rest."""
    ours = random_histories([12], 1)
    alone = [branching.start(arrays(ours))[0]] + [branching.extend([0], [token])[0] for token in (10, 20, 30)]
    for seed in range(3):
        first, last = random_histories([7, 25], 100 + seed)
        found = [branching.start(arrays([first, ours[0], last]))[1]]
        found.append(branching.extend([0, 1, 1, 2], [seed, 40 + seed, 10, 50])[2])
        found.append(branching.extend([2, 3, 1, 2], [20, seed, 20, 60 + seed])[0])
        found.append(branching.extend([3, 0, 0, 1], [30, 70, 30, seed])[2])
        np.testing.assert_allclose(found, alone, atol=TOLERANCE)
    other = branching.start(arrays([first]))[0]
    assert np.abs(other - alone[0]).max() > 1  # what a mix-up would change


@pytest.mark.parametrize("sizes", [[32, 32, 1, 31, 2], [20, 20, 20], [1] * 16, [17, 15, 16, 17]])
def test_prompts_read_in_several_batches_are_read_as_in_one(
    branching: Branching, tight: Branching, sizes: list[int]
) -> None:
    """Guards prompts lost or swapped between batches, and cells of the first batch overwritten by the next."""
    histories = random_histories(sizes, 2)
    np.testing.assert_allclose(tight.start(arrays(histories)), branching.start(arrays(histories)), atol=TOLERANCE)
    parents = list(range(len(sizes)))[::-1]
    found, _ = extend(tight, histories, parents, 3)
    expected, _ = extend(branching, histories, parents, 3)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_cells_of_dropped_branches_are_used_again(tight: Branching, engine: Engine, model: Model) -> None:
    """Guards a search that runs out of cells though few of its branches are alive: each keeps its own path alone."""
    histories = random_histories([20, 10], 4)
    tight.start(arrays(histories))
    rng = np.random.default_rng(5)
    for step in range(100):
        # One survivor, or two.
        survivors = rng.integers(0, len(histories), 1 + step % 2)
        found, histories = extend(tight, histories, rng.choice(survivors, 8).tolist(), step)
    assert 3 * tight.cells < 30 + 100 * 8
    np.testing.assert_allclose(found, naive(engine, model, histories), atol=TOLERANCE)


def test_branches_that_outgrow_the_cells_are_an_error_and_a_new_start_recovers(
    tight: Branching, engine: Engine, model: Model
) -> None:
    """Guards cells overwritten in silence, and a context that is of no use after a failure."""
    tight.start(arrays([[1]]))
    tight.extend([0] * 16, range(16))
    with pytest.raises(ModelError, match="failed on a batch of 16 tokens"):
        for _ in range(17):
            tight.extend(range(16), range(16))
    histories = random_histories([9, 30], 6)
    np.testing.assert_allclose(tight.start(arrays(histories)), naive(engine, model, histories), atol=TOLERANCE)


def test_as_many_branches_as_promised_are_extended(branching: Branching, engine: Engine, model: Model) -> None:
    """Guards sequences of the next step that are those of this one, or more than llama.cpp knows."""
    assert branching.max_branches == MAX_BRANCHES
    histories = [[letter, 7] for letter in range(MAX_BRANCHES)]
    found = branching.start(arrays(histories))
    for step in range(3):
        np.testing.assert_allclose(found, naive(engine, model, histories), atol=TOLERANCE)
        found, histories = extend(branching, histories, [*range(MAX_BRANCHES)][::-1], step)
    with pytest.raises(OptionError, match=f"{MAX_BRANCHES + 1} branches are more than {MAX_BRANCHES}"):
        branching.extend([0] * (MAX_BRANCHES + 1), range(MAX_BRANCHES + 1))


@pytest.mark.parametrize(("cells", "batch_tokens"), [(64, 16), (16, 64), (300, 100), (2, 2)])
def test_small_contexts_have_fewer_branches(model: Model, engine: Engine, cells: int, batch_tokens: int) -> None:
    """Guards llama.cpp aborting the process over more sequences than a batch has tokens, sequence numbers beyond those
    of the context, and a batch written beyond its end."""
    with Branching(model, cells=cells, batch_tokens=batch_tokens, threads=1) as small:
        n = small.max_branches
        assert n == min(cells, batch_tokens) // 2
        histories = [[letter] for letter in range(n)]
        np.testing.assert_allclose(small.start(arrays(histories)), naive(engine, model, histories), atol=TOLERANCE)
        for step in range(2):
            found, histories = extend(small, histories, [0] * n, step)
            np.testing.assert_allclose(found, naive(engine, model, histories), atol=TOLERANCE)
        with pytest.raises(OptionError, match=f"{n + 1} branches are more than {n}"):
            small.extend([0] * (n + 1), [1] * (n + 1))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([1] * 17, "17 prompts of 17 tokens are too many"),
        ([32] * 8 + [1], "9 prompts of 257 tokens are too many"),
        ([5, 33, 5], "a prompt of 33 tokens does not fit a batch of 32"),
    ],
)
def test_prompts_too_many_or_too_long_are_refused_and_the_branches_stay(
    tight: Branching, engine: Engine, model: Model, sizes: list[int], message: str
) -> None:
    """Guards prompts read in part, and branches that go on from forgotten cells."""
    tight.start(arrays(random_histories([32] * 8, 7)))  # fill all cells
    histories = random_histories([5, 6], 8)
    tight.start(arrays(histories))
    with pytest.raises(OptionError, match=message):
        tight.start(arrays(random_histories(sizes, 9)))
    found, histories = extend(tight, histories, [1, 0, 1], 10)
    np.testing.assert_allclose(found, naive(engine, model, histories), atol=TOLERANCE)


@pytest.mark.parametrize("sizes", [[], [0], [3, 0]])
def test_an_empty_prompt_is_refused(tight: Branching, sizes: list[int]) -> None:
    """Guards the prediction after the prompt before it taken for that of the empty one."""
    with pytest.raises(ValueError, match="empty prompt"):
        tight.start(arrays(random_histories(sizes, 0)))
