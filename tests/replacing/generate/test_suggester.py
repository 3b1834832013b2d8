"""The suggester, with llama.cpp itself on a tiny random model, against every answer that a catalog has, read whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from pathlib import Path

import gguf
import numpy as np
import pytest
from conftest import write_tiny_adapter
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm4dsr_cli.cache import KEPT
from llm4dsr_cli.errors import ModelError, OptionError
from llm4dsr_cli.model import merged_model as runtime_model
from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.model.engine import Engine, Request
from llm4dsr_cli.model.llama import Model
from llm4dsr_cli.model.loading import read_denoiser
from llm4dsr_cli.replacing.candidates import Candidates
from llm4dsr_cli.replacing.generate.suggester import WIDTH, GeneratingProposer, Suggester
from llm4dsr_cli.replacing.generate.trie import Trie
from llm4dsr_cli.replacing.proposals import Gaps

# Mean log-probabilities a token, in nats; see test_engine. Titles' means lie about 1 apart.
TOLERANCE = 0.1
EVERYTHING = 60
MAX_TITLE_TOKENS = 16  # of the tiny denoiser; a letter is a token
CATALOG = ["abc", "abd", "ab", "a", "zebra", "the end", "the end of it all", "q q", "Amélie", "x", "xylophone", "m"]
SMALL = [CATALOG[i] for i in (0, 2, 4, 5, 9)]

unhurried = settings(deadline=None, max_examples=25)
words = st.text("abcdeqxyz ", min_size=1, max_size=8).map(lambda word: f"t{word}t")
windows = st.lists(words, max_size=5)


@pytest.fixture(scope="module")
def suggesting(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A denoiser that suggests titles: its detector, that of ``tiny_denoiser``, is cut to one layer."""
    folder = tmp_path_factory.mktemp("suggesting")
    return write_tiny_adapter(folder / "suggesting.gguf", tiny_base, layers=1, suggests=True)


@pytest.fixture(scope="module")
def merged(suggesting: Path, tiny_base: Path) -> Path:
    """Its suggester with 32-bit weights."""
    path = suggesting.with_name("merged.gguf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(runtime_model._TYPES, "bf16", (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32))
        runtime_model.merge(suggesting, tiny_base, path, "bf16", "suggester")
    return path


@pytest.fixture(scope="module")
def suggester(suggesting: Path, merged: Path) -> Iterator[Suggester]:
    with Suggester(read_denoiser(str(suggesting))[1], merged, threads=1) as suggester:
        yield suggester


Naive = Callable[[Sequence[str], Sequence[str]], list[float]]


@pytest.fixture(scope="module")
def naive(merged: Path) -> Iterator[Naive]:
    """``naive(window, titles)``: the mean log-probability of each title to come after the window and those before it,
    by running all their tokens at once."""
    with Model(merged) as model, Engine(model, causal=True, threads=1) as engine:
        everything = np.arange(model.n_vocab, dtype=np.int32)

        def means(window: Sequence[str], titles: Sequence[str]) -> list[float]:
            tokens = model.tokenize("\n")
            ends = []
            for title in [*window, *titles]:
                line = model.tokenize(" ".join(title.split()))[:MAX_TITLE_TOKENS]
                tokens = np.concatenate([tokens, line, model.tokenize("\n")])
                ends.append(len(tokens))
            bounds = [1, *ends][-len(titles) - 1 :]
            read = np.arange(bounds[0] - 1, bounds[-1] - 1, dtype=np.int32)
            (rows,) = engine.log_probabilities([Request(tokens, read)], everything)
            found = rows[np.arange(len(read)), tokens[read + 1]]
            return [float(part.mean()) for part in np.split(found, np.array(bounds[1:-1]) - bounds[0])]

        yield means


def total_mean(means: Sequence[float], titles: Sequence[str]) -> float:
    """Of all tokens of an answer, from the means of its titles."""
    sizes = [min(MAX_TITLE_TOKENS, len(title.encode())) + 1 for title in titles]
    return float(np.average(means, weights=sizes))


def ask(
    suggester: Suggester,
    catalog: list[str],
    asked: Sequence[Sequence[str]],
    n_titles: Sequence[int],
    excluded: Sequence[Sequence[int]],
    width: int,
) -> list[dict[tuple[str, ...], float]]:
    """The answers, best first, as titles and their means, of windows with some of the catalog excluded by number."""
    trie = suggester.trie(catalog)
    rows = [trie.row_of[list(numbers)].tolist() for numbers in excluded]
    found = suggester.continuations(trie, asked, n_titles, rows, width)
    return [
        {tuple(catalog[i] for i in trie.title_of[list(beam.rows)]): beam.mean_log_probability for beam in beams}
        for beams in found
    ]


@unhurried
@given(
    st.lists(st.tuples(windows, st.integers(1, 3), st.sets(st.sampled_from(range(len(CATALOG))))), max_size=6),
    st.integers(1, 6),
)
@example([([], 1, {*range(len(CATALOG))}), (["abc"], 2, {*range(len(CATALOG) - 1)})], 4)
def test_answers_are_of_different_titles_of_the_catalog_that_are_not_excluded(
    suggester: Suggester, asked: list[tuple[list[str], int, set[int]]], width: int
) -> None:
    """Guards made-up or half titles, what the user already has, answers mixed up between windows, and a window with
    nothing left to name that stops the others."""
    shuffled = CATALOG[::-1]
    texts, sizes, excluded = ([row[i] for row in asked] for i in range(3))
    found = ask(suggester, shuffled, texts, sizes, excluded, width)
    assert len(found) == len(asked)
    for answers, size, closed in zip(found, sizes, excluded, strict=True):
        assert bool(answers) == (len(shuffled) - len(closed) >= size)
        assert len(answers) <= width
        for titles in answers:
            assert len(titles) == len({*titles}) == size
            assert {*titles} <= {*shuffled} - {shuffled[i] for i in closed}


@unhurried
@given(windows)
@example([])
@example(["abc", "abd"])
def test_one_gap_is_filled_as_by_reading_every_title_of_the_catalog(
    suggester: Suggester, naive: Naive, window: list[str]
) -> None:
    """Guards a prompt that is cut or read twice, positions off by one, the other adapter, or none, beams that see each
    other, and long titles scored by their first tokens."""
    (found,) = ask(suggester, CATALOG, [window], [1], [[]], EVERYTHING)
    expected = {(title,): naive(window, [title])[0] for title in CATALOG}
    assert found == pytest.approx(expected, abs=TOLERANCE)
    assert [*found.values()] == sorted(found.values(), reverse=True)
    # What is compared matters.
    assert np.ptp([*expected.values()]) > 10 * TOLERANCE


@settings(deadline=None, max_examples=8)
@given(windows)
def test_two_gaps_are_filled_as_by_reading_every_ordered_pair(
    suggester: Suggester, naive: Naive, window: list[str]
) -> None:
    """Guards a second title that does not see the first, and a title named twice."""
    (found,) = ask(suggester, SMALL, [window], [2], [[]], EVERYTHING)
    expected = {pair: total_mean(naive(window, pair), pair) for pair in permutations(SMALL, 2)}
    assert found == pytest.approx(expected, abs=TOLERANCE)
    assert [*found.values()] == sorted(found.values(), reverse=True)
    assert max(abs(expected[a, b] - expected[b, a]) for a, b in expected) > 3 * TOLERANCE


def test_many_windows_together_are_answered_as_each_alone(
    suggester: Suggester, random_titles: Callable[[int, int], list[list[str]]]
) -> None:
    """Guards windows that see each other, answers in another order, and batches of windows that lose one."""
    asked = random_titles(15, 0)
    sizes = [1 + i % 2 for i in range(15)]
    excluded = [[i % 5] if i % 3 else [] for i in range(15)]
    together = ask(suggester, SMALL, asked, sizes, excluded, EVERYTHING)
    alone = [
        ask(suggester, SMALL, [window], [size], [closed], EVERYTHING)[0]
        for window, size, closed in zip(asked, sizes, excluded, strict=True)
    ]
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=TOLERANCE)
    assert alone[0] != pytest.approx(alone[6], abs=10 * TOLERANCE)


# The proposer


def test_a_proposal_scores_each_title_by_its_mean_log_probability_a_token(suggester: Suggester, naive: Naive) -> None:
    """Guards totals, by which long titles always lose, a mean over both titles, and numbers of the trie's rows taken
    for the candidates'."""
    candidates = Candidates()
    for number, title in enumerate(CATALOG):
        candidates.add(title, number)
    proposer = GeneratingProposer(suggester, candidates)
    asked = [
        Gaps(["tat", "tet"], 2, frozenset({0, 7})),
        Gaps([], 1, frozenset()),
        Gaps(["x"], 2, frozenset(range(len(CATALOG) - 1))),
    ]
    several, (one,), none = proposer.propose(asked, 3)[0], proposer.propose(asked, 1)[1], proposer.propose(asked, 3)[2]
    assert len(several) == 3
    assert none == []
    for window, proposal in [*((asked[0], proposal) for proposal in several), (asked[1], one)]:
        assert not window.excluded & {*proposal.candidates}
        titles = [CATALOG[i] for i in proposal.candidates]
        assert proposal.scores == pytest.approx(naive(window.titles, titles), abs=TOLERANCE)
    means = [total_mean(proposal.scores, [CATALOG[i] for i in proposal.candidates]) for proposal in several]
    assert means == sorted(means, reverse=True)
    # As good as a wider search, or nearly: a narrow one may miss the best.
    assert WIDTH > 3
    (best,) = proposer.propose(asked[:1], EVERYTHING)
    assert means[0] > total_mean(best[0].scores, [CATALOG[i] for i in best[0].candidates]) - 1


def test_titles_that_are_the_same_to_the_model_are_one(suggester: Suggester) -> None:
    """Guards an item of the sequence proposed again under the name of another that is cut to the same tokens."""
    candidates = Candidates()
    for title in ("a very long title: part one", "b", "a very long title: part two"):
        candidates.add(title, title)
    proposer = GeneratingProposer(suggester, candidates)
    for excluded, left in (({2}, {1}), ({0}, {1}), (set(), {0, 1})):
        (proposals,) = proposer.propose([Gaps(["c"], 1, frozenset(excluded))], 3)
        assert {number for proposal in proposals for number in proposal.candidates} == left


# The trie of a catalog


def test_a_trie_is_made_once_for_each_catalog_and_read_afterwards(suggester: Suggester, own_cache: Path) -> None:
    """Guards minutes of tokenizing at every start, the trie of another catalog, and a cache that grows for ever."""
    trie = suggester.trie(CATALOG)
    (path,) = (own_cache / "tries").iterdir()
    assert {*trie.title_of.tolist()} == {*range(len(CATALOG))}
    again = suggester.trie(CATALOG)
    assert np.array_equal(again.rows, trie.rows)
    assert np.array_equal(again.row_of, trie.row_of)
    Trie([[5, 10], [6, 10]]).save(path)
    assert suggester.trie(CATALOG).rows.tolist() == [[5, 10], [6, 10]]
    for other in (CATALOG[::-1], CATALOG[1:], [*CATALOG[:-2], "/".join(CATALOG[-2:])], []):
        assert len(suggester.trie(other).row_of) == len(other)
        assert not np.array_equal(suggester.trie(other).row_of, trie.row_of)
    for number in range(KEPT["tries"] + 3):
        suggester.trie([f"{number}"])
        for path in (own_cache / "tries").iterdir():
            os.utime(path, (path.stat().st_mtime - 7200,) * 2)  # two hours pass
    assert len([*(own_cache / "tries").iterdir()]) == KEPT["tries"]


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 1, exclude_max=True), st.sampled_from(["cut", "zeros", "other bytes", "more"]))
@example(0.0, "cut")
def test_a_damaged_trie_is_made_again(suggester: Suggester, tmp_path_factory: pytest.TempPathFactory, at, how) -> None:
    """Guards a traceback at every start, or titles that nobody wrote, after a crash or a full disk."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM4DSR_CACHE", str(folder))
        expected = suggester.trie(CATALOG)
        (path,) = (folder / "tries").iterdir()
        whole = path.read_bytes()
        place = int(at * len(whole))
        changes = {"cut": b"", "zeros": bytes(len(whole) - place), "other bytes": bytes(b ^ 255 for b in whole[place:])}
        path.write_bytes(whole[:place] + changes.get(how, whole))
        found = suggester.trie(CATALOG)
        for name in ("rows", "title_of", "row_of"):
            assert np.array_equal(getattr(found, name), getattr(expected, name))
        assert np.array_equal(Trie.load(path).rows, expected.rows)


# Files


def test_a_denoiser_loads_its_suggester_and_a_loaded_one_answers_alike(
    suggesting: Path, suggester: Suggester, tiny_base: Path, own_cache: Path
) -> None:
    """Guards the detector's merged file served for the suggester's, and either of them merged again at every start."""
    said: list[str] = []
    options = {"base": str(tiny_base), "weights": "q8_0", "threads": 1, "say": said.append}
    with Denoiser.load(str(suggesting), **options) as denoiser:
        scores = denoiser.score([["abc", "x y"]])
    for _ in range(2):
        with Suggester.load(str(suggesting), **options) as loaded:
            (found,) = ask(loaded, SMALL, [["tat"]], [1], [[]], EVERYTHING)
    (expected,) = ask(suggester, SMALL, [["tat"]], [1], [[]], EVERYTHING)
    assert found == pytest.approx(expected, abs=0.5)
    assert len([line for line in said if "first use" in line]) == len([*(own_cache / "runtime").iterdir()]) == 2
    with Denoiser.load(str(suggesting), **options) as denoiser:
        assert np.array_equal(denoiser.score([["abc", "x y"]])[0], scores[0])


def test_a_denoiser_that_suggests_nothing_is_refused_with_the_way_out(tiny_denoiser: Path, own_cache: Path) -> None:
    """Guards a base model that was never trained for it, suggesting all the same."""
    with pytest.raises(ModelError) as caught:
        Suggester.load(str(tiny_denoiser), threads=1)
    sentence = str(caught.value)
    assert sentence.startswith(f"{tiny_denoiser}: this denoiser suggests no titles: ")
    assert "use `proposer` counts" in sentence and "llm4dsr finetune --train suggester" in sentence
    assert "\n" not in sentence
    with pytest.raises(OptionError, match="`threads` is 0"):
        Suggester.load(str(tiny_denoiser), threads=0)
    assert not (own_cache / "runtime").exists()
