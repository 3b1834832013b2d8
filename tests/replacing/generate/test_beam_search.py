"""The beam search against naive ones: all answers there are, and beams kept as lists of tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import permutations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llm4dsr_cli.replacing.generate.beam_search import BeamSearch
from llm4dsr_cli.replacing.generate.trie import Trie

Title = tuple[int, ...]
# The log-probabilities of the next token after a history.
LanguageModel = Callable[[Title], NDArray[np.float32]]
# Rows and mean log-probability.
Answer = tuple[tuple[int, ...], float]

END, N_VOCAB = 2, 6
EVERYTHING = 10**6
unhurried = settings(deadline=None, max_examples=200)
titles = st.lists(st.sampled_from([0, 1, 3, 4]), max_size=4).map(lambda body: (*body, END))
seeds = st.integers(0, 2**32 - 1)


@st.composite
def catalogs(draw: st.DrawFn, most: int = 6) -> tuple[list[Title], set[int]]:
    """Different titles in the order of the trie's rows, and some rows to exclude."""
    catalog = sorted(draw(st.sets(titles, max_size=most)))
    excluded = draw(st.sets(st.sampled_from(range(len(catalog))), max_size=most)) if catalog else set()
    return catalog, excluded


def random_model(seed: int) -> LanguageModel:
    @cache
    def model(history: Title) -> NDArray[np.float32]:
        logits = np.random.default_rng([seed, *history]).standard_normal(N_VOCAB) * 3
        return (logits - np.log(np.exp(logits).sum())).astype(np.float32)

    return model


def total(model: LanguageModel, tokens: Title) -> float:
    return sum(float(model(tokens[:i])[token]) for i, token in enumerate(tokens))


def joined(catalog: list[Title], rows: tuple[int, ...]) -> Title:
    return tuple(token for row in rows for token in catalog[row])


def run(search: BeamSearch, model: LanguageModel, width: int) -> list[Answer]:
    histories: list[Title] = [()]
    for _ in range(50):
        if not search.beams:
            return [(beam.rows, beam.mean_log_probability) for beam in search.answers]
        extensions = search.extend(np.array([model(history) for history in histories]))
        histories = [(*histories[extension.parent], extension.token) for extension in extensions]
        assert len(search.beams) == len(histories) <= width
    raise AssertionError("the search does not end")


def answers(catalog: list[Title], model: LanguageModel, n_titles: int, width: int, excluded: set[int]) -> list[Answer]:
    return run(BeamSearch(Trie(catalog), n_titles, width, excluded), model, width)


def naive_beam_search(
    catalog: list[Title], model: LanguageModel, n_titles: int, width: int, excluded: set[int]
) -> list[tuple[int, ...]]:
    """Rows of the answers: beams are lists of tokens, and every continuation of every beam is scored anew."""
    wanted = {joined(catalog, rows): rows for rows in permutations(sorted({*range(len(catalog))} - excluded), n_titles)}

    def mean(tokens: Title) -> float:
        return total(model, tokens) / len(tokens)

    beams: list[Title] = [()]
    whole: list[Title] = []
    while beams:
        longer = {tokens[: len(beams[0]) + 1] for tokens in wanted if tokens[: len(beams[0])] in beams}
        best = sorted(longer, key=lambda tokens: -total(model, tokens))[:width]
        whole = sorted([*whole, *(tokens for tokens in best if tokens in wanted)], key=lambda tokens: -mean(tokens))[
            :width
        ]
        least = mean(whole[-1]) if len(whole) == width else -np.inf
        beams = [tokens for tokens in best if tokens not in wanted and mean(tokens) > least]
    return [wanted[tokens] for tokens in whole]


@unhurried
@given(catalogs(12), st.integers(1, 3), st.integers(1, 8), seeds)
@example(([], set()), 1, 3, 0)
def test_every_answer_is_of_different_titles_that_may_be_named(
    drawn: tuple[list[Title], set[int]], n_titles: int, width: int, seed: int
) -> None:
    """Guards half titles, an item suggested twice in one sequence, and suggestions of what the user already has."""
    catalog, excluded = drawn
    model = random_model(seed)
    found = answers(catalog, model, n_titles, width, excluded)
    assert len({rows for rows, _ in found}) == len(found) <= width
    assert bool(found) == (len(catalog) - len(excluded) >= n_titles)
    for rows, mean in found:
        assert len(rows) == len({*rows}) == n_titles
        assert {*rows} <= {*range(len(catalog))} - excluded
        tokens = joined(catalog, rows)
        assert mean == pytest.approx(total(model, tokens) / len(tokens))
    assert [mean for _, mean in found] == sorted((mean for _, mean in found), reverse=True)


@unhurried
@given(catalogs(5), st.integers(1, 3), seeds)
@example(([(0, 1, END), (0, END), (END,)], {1}), 2, 0)
def test_a_width_that_covers_everything_finds_all_answers_best_first(
    drawn: tuple[list[Title], set[int]], n_titles: int, seed: int
) -> None:
    """Guards scores of another beam or token, answers lost, and answers that compete by their total, so that long
    titles are never suggested."""
    catalog, excluded = drawn
    model = random_model(seed)
    means = {}
    for rows in permutations({*range(len(catalog))} - excluded, n_titles):
        tokens = joined(catalog, rows)
        means[rows] = total(model, tokens) / len(tokens)
    found = answers(catalog, model, n_titles, EVERYTHING, excluded)
    assert {*dict(found)} == {*means}
    np.testing.assert_allclose([mean for _, mean in found], sorted(means.values(), reverse=True), atol=1e-9)
    np.testing.assert_allclose([mean for _, mean in found], [means[rows] for rows, _ in found], atol=1e-9)


@unhurried
@given(catalogs(8), st.integers(1, 2), st.integers(1, 6), seeds)
def test_a_narrow_search_keeps_the_beams_of_the_greatest_total(
    drawn: tuple[list[Title], set[int]], n_titles: int, width: int, seed: int
) -> None:
    """Guards beams cut for each parent rather than over all, or by the last token alone, and a search that goes on
    when it has the answers it was asked for."""
    catalog, excluded = drawn
    model = random_model(seed)
    found = answers(catalog, model, n_titles, width, excluded)
    assert [rows for rows, _ in found] == naive_beam_search(catalog, model, n_titles, width, excluded)


@unhurried
@given(catalogs(12), st.integers(1, 3), seeds)
def test_width_one_takes_the_likeliest_token_that_leads_to_a_title(
    drawn: tuple[list[Title], set[int]], n_titles: int, seed: int
) -> None:
    """Guards a token that the model likes but no open title has, as the next of the one beam there is."""
    catalog, excluded = drawn
    assume(len(catalog) - len(excluded) >= n_titles)
    model = random_model(seed)
    history: Title = ()
    named: list[int] = []
    for _ in range(n_titles):
        title: Title = ()
        while title not in catalog:
            options = {
                other[len(title)]
                for row, other in enumerate(catalog)
                if row not in {*excluded, *named} and other[: len(title)] == title
            }
            title += (max(options, key=lambda token: model((*history, *title))[token]),)
        history += title
        named.append(catalog.index(title))
    ((rows, mean),) = answers(catalog, model, n_titles, 1, excluded)
    assert rows == tuple(named)
    assert mean == pytest.approx(total(model, history) / len(history))


@unhurried
@given(catalogs(8), st.integers(1, 3), st.integers(1, 8), seeds)
def test_each_title_of_an_answer_has_the_mean_of_its_own_tokens(
    drawn: tuple[list[Title], set[int]], n_titles: int, width: int, seed: int
) -> None:
    """Guards a title that is given the score of those before it, or of the whole answer."""
    catalog, excluded = drawn
    model = random_model(seed)
    search = BeamSearch(Trie(catalog), n_titles, width, excluded)
    run(search, model, width)
    for beam in search.answers:
        ends = np.cumsum([0, *(len(catalog[row]) for row in beam.rows)])
        totals = np.diff([total(model, joined(catalog, beam.rows)[:end]) for end in ends])
        np.testing.assert_allclose(beam.means, totals / np.diff(ends), atol=1e-9)


def test_a_branch_of_which_all_is_excluded_is_not_entered() -> None:
    """Guards beams that the model likes best led to where no title may be named, with no answer at the end."""
    catalog = [(0, 0, END), (0, 1, END), (0, END), (1, 0, END), (1, 1, END)]

    def model(history: Title) -> NDArray[np.float32]:
        return np.log(np.array([0.97, 0.01, 0.01, 0.005, 0.005, 0.0001], dtype=np.float32))

    trie = Trie(catalog)
    row = {title: trie.find(title) for title in catalog}
    under_zero = {row[title] for title in catalog if title[0] == 0}
    ((rows, _),) = run(BeamSearch(trie, 1, 1, under_zero), model, 1)
    assert rows == (row[1, 0, END],)
    under_zero.discard(row[0, 1, END])
    ((rows, _),) = run(BeamSearch(trie, 1, 1, under_zero), model, 1)
    assert rows == (row[0, 1, END],)
    # Named once, it closes its branch for the second title.
    ((rows, _),) = run(BeamSearch(trie, 2, 1, under_zero), model, 1)
    assert rows == (row[0, 1, END], row[1, 0, END])


@pytest.mark.parametrize("n_titles", [1, 2])
@pytest.mark.parametrize("width", [1, 4])
def test_a_catalog_with_everything_excluded_gives_no_answers(n_titles: int, width: int) -> None:
    """Guards a search that never ends, or names the least bad of the excluded."""
    catalog = [(0, END), (0, 1, END), (3, END)]
    model = random_model(0)
    assert answers(catalog, model, n_titles, width, {0, 1, 2}) == []
    found = answers(catalog, model, n_titles, width, {0, 1})
    assert [rows for rows, _ in found] == ([(2,)] if n_titles == 1 else [])


@unhurried
@given(st.sets(titles, min_size=2, max_size=12).map(sorted), st.integers(1, 8), seeds)
def test_two_gaps_are_never_filled_with_the_same_title(catalog: list[Title], width: int, seed: int) -> None:
    """Guards a model that repeats itself: here it likes the title it has just named more than all others."""
    noise = random_model(seed)
    favourite = catalog[seed % len(catalog)]

    def model(history: Title) -> NDArray[np.float32]:
        logits = noise(history).copy()
        at = len(history) % len(favourite)
        if history == (favourite * 2)[: len(history)]:
            logits[favourite[at]] += 50
        return (logits - np.log(np.exp(logits).sum())).astype(np.float32)

    found = answers(catalog, model, 2, width, set())
    assert found
    assert all(first != second for (first, second), _ in found)
    (((once,), _),) = answers(catalog, model, 1, 1, set())
    (((first, second), _),) = answers(catalog, model, 2, 1, set())
    assert catalog[once] == catalog[first] == favourite != catalog[second]


def test_a_likely_title_is_found_behind_many_whole_short_ones() -> None:
    """Guards a search that ends with its first answers: a film series' short titles hid the likely long one."""
    short = [(0, 3, letter, END) for letter in (4, 5, 6, 7, 8, 9)]
    long = (1, 3, 4, 5, 6, END)

    def model(history: Title) -> NDArray[np.float32]:
        if len(history) == 0:
            return np.log(np.array([0.6, 0.4, *[1e-9] * 8], dtype=np.float32))
        if history == (0, 3):
            return np.log(np.array([*[1e-9] * 4, *[1 / 6] * 6], dtype=np.float32))
        return np.full(10, np.log(0.99), dtype=np.float32)

    found = answers([*short, long], model, 1, 3, set())
    assert found[0][0] == (len(short),)
