"""The trie against naive ones: dictionaries in dictionaries, and sorted lists."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm4dsr_cli.replacing.generate.trie import PADDING, Node, Trie

# Ends a title; neither the smallest nor the greatest token, so that it is sorted in among the others.
END = 2
unhurried = settings(deadline=None, max_examples=200)
titles = st.lists(st.sampled_from([0, 1, 3, 4]), max_size=5).map(lambda body: (*body, END))
catalogs = st.lists(titles, max_size=25)
# Beginnings, titles that go on behind their end, and padding taken for a token, too.
sequences = st.lists(st.sampled_from([PADDING, 0, 1, END, 3, 4]), max_size=7).map(tuple)


def child(trie: Trie, node: Node, token: int) -> Node:
    tokens, bounds = trie.children(node)
    at = tokens.tolist().index(token)
    return Node(int(bounds[at]), int(bounds[at + 1]), node.depth + 1)


@unhurried
@given(catalogs)
@example([(0, END), (0, 1, END), (0, 3, END), (0, 1, 4, END)])
@example([(END,), (END,)])
@example([])
def test_every_node_has_the_children_of_a_dictionary(catalog: list[tuple[int, ...]]) -> None:
    """Guards tokens that follow in another title only, children lost at the edge of a node, and titles that are taken
    to go on because longer ones begin as they do."""
    naive: dict = {}
    for title in catalog:
        at = naive
        for token in title:
            at = at.setdefault(token, {})
    trie = Trie(catalog)
    rows = sorted(set(catalog))
    left = [(trie.root, naive, ())]
    while left:
        node, expected, path = left.pop()
        tokens, bounds = trie.children(node)
        assert tokens.tolist() == sorted(expected)
        assert len(bounds) == len(tokens) + 1
        assert [row for row in rows if row[: node.depth] == path] == rows[node.start : node.end]
        if path:
            assert trie.is_leaf(node) == (not expected)
        left += [(child(trie, node, token), expected[token], (*path, token)) for token in expected]
    assert not trie.is_leaf(trie.root)


@unhurried
@given(catalogs)
@example([(4, END), (0, END), (4, END), (0, END)])
def test_every_title_is_found_and_stands_for_the_first_of_its_equals(catalog: list[tuple[int, ...]]) -> None:
    """Guards rows of equal titles kept apart, and suggestions that name another title than the one found."""
    trie = Trie([np.array(title, dtype=np.int32) for title in catalog])
    assert len(trie.rows) == len(trie.title_of) == len(set(catalog))
    assert len(trie.row_of) == len(catalog)
    for title, row_of in zip(catalog, trie.row_of, strict=True):
        row = trie.find(title)
        assert row is not None
        assert row == row_of
        assert trie.rows[row][trie.rows[row] != PADDING].tolist() == list(title)
        assert trie.title_of[row] == catalog.index(title)


@unhurried
@given(catalogs, st.lists(sequences, max_size=20))
@example([(0, 1, END), (0, 1, 3, END)], [()])
@example([], [(), (0,), (PADDING,)])
def test_nothing_but_whole_titles_is_found(catalog: list[tuple[int, ...]], others: list[tuple[int, ...]]) -> None:
    """Guards the neighbour of a token that is not there, beginnings of titles, and titles with more behind them."""
    trie = Trie(catalog)
    others += [title[:-1] for title in catalog] + [(*title, more) for title in catalog for more in (PADDING, 0, END)]
    for other in {*others} - {*catalog}:
        assert trie.find(other) is None


@unhurried
@given(catalogs, st.randoms(use_true_random=False))
def test_rows_do_not_depend_on_the_order_of_the_catalog(catalog: list[tuple[int, ...]], random) -> None:
    """Guards rows in the order of the catalog, where a node is no range."""
    shuffled = random.sample(catalog, len(catalog))
    assert np.array_equal(Trie(catalog).rows, Trie(shuffled).rows)


def test_a_title_that_begins_as_another_one_ends_where_it_ends() -> None:
    """Guards a short title that hides the longer ones, or that can be left only by going on to one of them."""
    trie = Trie([(7, 8, 9, END), (7, END), (7, 8, END)])
    seven = child(trie, trie.root, 7)
    assert trie.children(seven)[0].tolist() == [END, 8]
    assert not trie.is_leaf(seven)
    ended = child(trie, seven, END)
    assert trie.is_leaf(ended)
    assert trie.children(ended)[0].size == 0
    assert [trie.find(title) for title in ((7, END), (7, 8, END), (7, 8, 9, END))] == [0, 1, 2]
    assert trie.title_of.tolist() == [1, 2, 0]


def test_memory_is_what_the_arrays_take() -> None:
    """Guards a figure for users that leaves arrays out, and a trie that keeps more than it says."""
    rng = np.random.default_rng(0)
    catalog = [(i, *rng.integers(3, 1000, rng.integers(1, 9)).tolist(), END) for i in range(3, 5003)]
    Trie(catalog[:10])
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    trie = Trie(catalog)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert trie.nbytes >= 4 * 10 * 5000  # the rows alone
    assert abs(taken - trie.nbytes) < 5000


@pytest.mark.parametrize("catalog", [[(3, 0, END), (3, END), (0, END), (3, END)], []])
def test_a_saved_trie_is_the_same_when_loaded(tmp_path: Path, catalog: list[tuple[int, ...]]) -> None:
    """Guards an array left out of the file, or read as another one."""
    trie = Trie(catalog)
    trie.save(tmp_path / "trie.npz")
    loaded = Trie.load(tmp_path / "trie.npz")
    for name in ("rows", "title_of", "row_of"):
        assert np.array_equal(getattr(loaded, name), getattr(trie, name))
        assert getattr(loaded, name).dtype == getattr(trie, name).dtype
    assert [loaded.find(title) for title in catalog] == trie.row_of.tolist()
    assert loaded.nbytes == trie.nbytes


def test_a_damaged_file_is_no_trie(tmp_path: Path) -> None:
    """Guards a cache file cut short by a full disk that stops every later run with a trace, or is read in part."""
    path = tmp_path / "trie.npz"
    Trie([(3, 0, END), (3, END)]).save(path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 13):
        path.write_bytes(whole[:size])
        with pytest.raises((ValueError, OSError)):
            Trie.load(path)


def test_an_empty_catalog_has_no_titles() -> None:
    """Guards a catalog without titles that stops the program with a trace."""
    trie = Trie([])
    tokens, bounds = trie.children(trie.root)
    assert (len(tokens), len(bounds), len(trie.rows), len(trie.title_of), len(trie.row_of)) == (0, 1, 0, 0, 0)
    assert not trie.is_leaf(trie.root)
    assert trie.find(()) is None


@pytest.mark.parametrize("catalog", [[()], [(0, END), ()]])
def test_a_title_without_tokens_is_refused(catalog: list[tuple[int, ...]]) -> None:
    """Guards a title that the root itself would be: an answer before the model is asked."""
    with pytest.raises(ValueError, match="empty token sequence"):
        Trie(catalog)
