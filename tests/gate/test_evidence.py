"""Collaborative evidence: counts of other users, with the judged user left out."""

from __future__ import annotations

import copy
import pickle
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm4dsr_cli.gate import counting, pairs
from llm4dsr_cli.gate.counting import LONGEST_HISTORY, user_hash
from llm4dsr_cli.gate.evidence import FEATURES, LONGEST_CONTEXT, Evidence

Data = list[tuple[int, list[str]]]
TITLES = [f"{name} {kind}" for name in ("red", "blue", "big") for kind in ("ball", "book", "boat", "brick")]
sequences = st.lists(st.sampled_from(TITLES), min_size=1, max_size=6)
data_sets = st.lists(st.tuples(st.integers(0, 4), sequences), min_size=1, max_size=12)


def naive_features(data: Data, titles: list[str], user: int | None) -> np.ndarray:
    """Straight from the definition: dictionaries of sets, the user's sequences taken away beforehand."""
    holds: dict[int, set[str]] = {}
    for owner, items in data:
        holds.setdefault(owner, set()).update(items)
    n_titles = len(set().union(*holds.values()))
    with_word = {}
    for title in set().union(*holds.values()):
        for word in title.split():
            with_word[word] = with_word.get(word, 0) + 1
    holds.pop(user, None)
    users = list(holds.values())

    def together(one: str, other: str) -> int:
        return sum(one in items and other in items for items in users)

    def partners(title: str) -> np.ndarray:
        return np.array([together(title, other) * (title != other) for other in TITLES], dtype=float)

    def words(title: str) -> dict[str, float]:
        vector = {word: np.log((1 + n_titles) / (1 + with_word.get(word, 0))) + 1 for word in title.split()}
        length = np.sqrt(sum(value**2 for value in vector.values()))
        return {word: value / length for word, value in vector.items()}

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        length = np.linalg.norm(one) * np.linalg.norm(other)
        return float(one @ other / length) if length else 0.0

    different = list(dict.fromkeys(titles))
    rows, means = [], []
    for title in titles:
        others = [other for other in different if other != title]
        seen = sum(title in items for items in users)
        partnered, shared, alike = [], [], []
        for other in others:
            partnered.append(cosine(partners(title), partners(other)))
            weights = np.array([1 / (1 + sum(partner in items for items in users)) for partner in TITLES]) ** 0.5
            shared.append(cosine(weights * partners(title), weights * partners(other)))
            one, two = words(title), words(other)
            alike.append(sum(one[word] * two.get(word, 0) for word in one))
        means.append([np.mean(column) if others else 0 for column in (partnered, shared)])
        rows.append([np.log1p(seen), seen == 0, means[-1][1], 0, 0, np.mean(alike) if others else 0])
    for place, (title, row) in enumerate(zip(titles, rows, strict=True)):
        for kind in (0, 1):
            best = [mean[kind] for other, mean in zip(titles, means, strict=True) if other != title]
            row[3 + kind] = means[place][kind] - max(best, default=means[place][kind])
    return np.array(rows)


def naive_counts(
    data: Data, titles: list[str], user: int | None, longest: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Users who have each title, users who have another title beside it, and all titles that are counted.

    Shapes (len(titles),) and (len(titles), n_titles); by a loop over titles and users.
    """
    histories: dict[int, list[str]] = {}
    for owner, items in data:
        for item in items:
            history = histories.setdefault(owner, [])
            if item in history:
                history.remove(item)
            history.append(item)
    holds = {owner: set(history[-longest:]) for owner, history in histories.items()}
    everything = sorted(set().union(*holds.values()))
    holds.pop(user, None)
    popularity = np.array([sum(title in items for items in holds.values()) for title in titles])
    beside = np.zeros((len(titles), len(everything)))
    for row, title in enumerate(titles):
        for column, other in enumerate(everything):
            if other != title:
                beside[row, column] = sum(title in items and other in items for items in holds.values())
    return popularity, beside, everything


def naive_collaborative_features(
    data: Data, titles: list[str], user: int | None, longest: int, lent: dict[str, int] | None = None
) -> np.ndarray:
    """The features but for title words, from the naive counts, in the very arithmetic that they are defined by.

    ``lent`` says who is left out of a title's counts, too.
    """
    different = list(dict.fromkeys(titles))
    popularity, beside, everything = naive_counts(data, different, user, longest)
    for title, lender in (lent or {}).items():
        counts = naive_counts([one for one in data if one[0] == lender], [title], None, longest)
        popularity[different.index(title)] -= counts[0][0]
        columns = [everything.index(other) for other in counts[2]]
        beside[different.index(title), columns] -= counts[1][0]
    they_have, _, _ = naive_counts(data, everything, user, longest)
    means = []
    for products in (beside @ beside.T, (beside * (720_720 // (1 + they_have))) @ beside.T):
        length = np.sqrt(np.diag(products))
        cosines = products / np.maximum(length[:, None] * length, 1e-9)
        means.append((cosines.sum(axis=1) - np.diag(cosines)) / max(1, len(cosines) - 1))
    gaps = [
        [one - max([other for j, other in enumerate(mean) if j != i], default=one) for i, one in enumerate(mean)]
        for mean in means
    ]
    features = np.column_stack([np.log1p(popularity), popularity == 0, means[1], *gaps])
    return features[[different.index(title) for title in titles]]


@pytest.mark.parametrize("kept", [0, 2_000, 10**8])
@pytest.mark.parametrize("seed", range(8))
def test_counts_are_exactly_those_of_a_loop_over_all_pairs(
    monkeypatch: pytest.MonkeyPatch, seed: int, kept: int
) -> None:
    """Guards every way in which a row is made and kept, to the last bit: a pair of a user's second sequence, of an item
    that came again, of one before the last so many, or that the left-out user still has."""
    longest = (5, 20)[seed % 2]
    monkeypatch.setattr(counting, "LONGEST_HISTORY", longest)
    monkeypatch.setattr(pairs, "KEPT_BYTES", kept)
    monkeypatch.setattr(pairs, "_AT_ONCE", 50)
    rng = np.random.default_rng(seed)
    n_items = (12, 60, 300)[seed % 3]
    catalog = [f"item {number}" for number in range(n_items)]

    def drawn(most: int) -> list[str]:
        return [catalog[int(n_items * share**2)] for share in rng.random(rng.integers(1, most))]

    data = [(int(rng.integers(20)), drawn(3 * longest)) for _ in range(40)]
    evidence = Evidence.count(iter(data))
    had = {title for title in catalog if evidence.numbers([title])[0] >= 0}
    for trial in range(12):
        user = None if trial == 0 else int(rng.integers(25))
        titles = [*drawn(15), *(f"never counted {n}" for n in range(rng.integers(3)))]
        if trial % 3 == 1:
            user, own = data[rng.integers(len(data))]
            titles = [*own[:12], *titles]
        found = evidence.features(titles, user)
        np.testing.assert_array_equal(found[:, :5], naive_collaborative_features(data, titles, user, longest))
        users = {user_hash(one): one for one, _ in data}
        holders = {t: evidence.random_holder(int(evidence.numbers([t])[0]), user, rng) for t in set(titles) & had}
        some = {title: holder for title, holder in holders.items() if holder >= 0 and rng.random() < 0.5}
        lent = {title: users[int(evidence.users[holder])] for title, holder in some.items()}
        assert user not in lent.values()
        found = evidence.features(titles, user, [some.get(title, -1) for title in titles])
        wanted = naive_collaborative_features(data, titles, user, longest, lent)
        np.testing.assert_array_equal(found[:, :5], wanted)

        different = list(dict.fromkeys(titles))
        items, mine = evidence.numbers(different), evidence.held_by(user)
        rows, partners = evidence.partner_rows(items, np.isin(items, mine), mine)
        _, beside, everything = naive_counts(data, different, user, longest)
        _, beside_anybody, _ = naive_counts(data, different, None, longest)
        columns = [evidence.numbers(everything).tolist().index(partner) for partner in partners]
        assert sorted(columns) == np.flatnonzero(beside_anybody.any(axis=0)).tolist()
        np.testing.assert_array_equal(rows, beside[:, columns])
        assert rows.sum() == beside.sum()


@pytest.mark.parametrize("n_users", [255, 256, 65_535, 65_536])
def test_pairs_of_very_popular_items_are_counted_to_the_last(n_users: int) -> None:
    """Guards rows that are kept in integers too narrow for them, and histories that are counted in several parts."""
    evidence = Evidence.count((user, ["Alien", "Heat", f"rare {user % 5}"]) for user in range(n_users))
    items = evidence.numbers(["Alien", "Heat"])
    rows, partners = evidence.partner_rows(items, np.zeros(2, dtype=bool), items[:0])
    assert rows.sum(axis=1).tolist() == [2 * n_users, 2 * n_users]
    assert rows[0, partners == items[1]] == rows[1, partners == items[0]] == n_users


def random_data(n_users: int, n_each: int, n_items: int) -> Data:
    rng = np.random.default_rng(0)
    catalog = [f"item {number} of {number % 17}" for number in range(n_items)]
    return [(user, [catalog[i] for i in (n_items * rng.random(n_each) ** 2).astype(int)]) for user in range(n_users)]


def test_four_threads_find_what_one_finds() -> None:
    """Guards scratch arrays that threads share: wrong features, and look-ups beyond an array's end."""
    data = random_data(500, 30, 800)
    asked = [(titles[:20], user) for user, titles in data[:200]]
    alone = Evidence.count(data)
    expected = [alone.features(*one) for one in asked]
    shared = Evidence.count(data)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda one: shared.features(*one), asked))
    finally:
        sys.setswitchinterval(interval)
    np.testing.assert_array_equal(found, expected)


def test_memory_is_a_small_multiple_of_the_data() -> None:
    """Guards a table of all pairs: here there are ten million, and the data are of 100,000 items."""
    data = random_data(1_000, 100, 20_000)
    evidence = Evidence.count(data)
    tracemalloc.start()
    for user, titles in data[:20]:
        evidence.features(titles[:20], user)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_rows_that_are_kept_stay_within_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a cache that grows to the table of all pairs while a stream is cleaned."""
    held = []
    for bound in (100_000, 10_000_000):
        monkeypatch.setattr(pairs, "KEPT_BYTES", bound)
        evidence = Evidence.count(random_data(600, 50, 1_500))
        everything = np.arange(evidence.n_titles)
        table = pairs.PairCounts(evidence.starts, evidence.held, evidence.popularity)
        tracemalloc.start()
        for items in np.array_split(everything, 50):
            table.rows(items)
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    # Beside its bytes a row has two headers of arrays.
    assert held[0] < 100_000 + 400 * 1_500 < held[1]


def test_a_user_without_end_takes_little_memory() -> None:
    """Guards histories that are cut only when all is read."""
    titles = [f"item {number}" for number in range(1_000)]
    # Hashed before: the bounded cache of hashes is the process's, and grows in steps of megabytes.
    Evidence.count([("one", titles)])
    tracemalloc.start()
    evidence = Evidence.count(("one", titles[start : start + 50]) for start in [*range(0, 950, 50)] * 500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(evidence.held) == LONGEST_HISTORY
    assert peak < 1_500_000


def test_a_copy_leaves_behind_what_was_made_from_the_counts() -> None:
    """Guards workers that are sent all rows ever asked for, or cannot be sent counts that were used."""
    data = random_data(200, 30, 300)
    evidence = Evidence.count(data)
    before = pickle.dumps(evidence)
    features = evidence.features(data[0][1], 0)
    assert pickle.dumps(evidence) == before
    for other in (pickle.loads(before), copy.deepcopy(evidence)):
        np.testing.assert_array_equal(other.features(data[0][1], 0), features)


@given(data_sets, sequences, st.integers(-1, 5))
def test_features_are_those_of_the_definition_with_the_user_taken_away(
    data: Data, titles: list[str], user: int
) -> None:
    """Guards the sparse arithmetic: a pair miscounted, or a left-out user's pair that is still there."""
    found = Evidence.count(data).features(titles, user if user >= 0 else None)
    np.testing.assert_allclose(found, naive_features(data, titles, user if user >= 0 else None), atol=1e-9)


def test_no_item_vouches_for_itself() -> None:
    """Guards self-vouching: items that only their own user has must look as if nobody had them."""
    mine = ["red ball", "blue boat", "green bell"]
    evidence = Evidence.count([(1, mine), (2, ["big book", "big brick"]), (2, ["big book", "big boat"])])
    assert evidence.features(mine, 1)[:, :5].tolist() == [[0, 1, 0, 0, 0]] * 3
    assert (evidence.features(mine, None)[:, [0, 2]] > 0).all()


def test_a_users_overlapping_windows_count_once() -> None:
    """Guards noise that vouches for itself by standing in several windows of one user."""
    once = Evidence.count([(1, ["red ball", "blue boat", "big book"])])
    windows = Evidence.count([(1, ["red ball", "blue boat"]), (1, ["blue boat", "big book"]), (1, ["red ball"])])
    np.testing.assert_array_equal(once.held, windows.held)
    np.testing.assert_array_equal(once.starts, windows.starts)


def test_neither_spacing_of_titles_nor_the_type_of_a_users_id_matters() -> None:
    """Guards counts that miss an item for a stray blank, or a user whose id another export wrote as text."""
    evidence = Evidence.count([(5, ["red  ball", "blue boat"]), (6, ["red ball\n"])])
    assert len(evidence.items) == 2
    assert evidence.features(["red ball"], 7)[0, 0] == pytest.approx(np.log(3))
    for user in (5, "5", 5.0, np.int64(5), np.float32(5)):
        assert evidence.features(["red ball"], user)[0, 0] == pytest.approx(np.log(2))


def test_a_very_long_sequence_takes_time_in_proportion_and_short_ones_are_judged_whole() -> None:
    """Guards a stream that one account with thousands of items brings to a halt, and windows that lose items."""
    titles = [f"item {number} of {number % 7}" for number in range(2_000)]
    evidence = Evidence.count((user, titles[user : user + 20]) for user in range(300))
    began = time.process_time()
    features = evidence.features(titles, None)
    assert time.process_time() - began < 20
    assert features.shape == (2_000, len(FEATURES))
    assert features[:100, 0].all()
    first = evidence.features(titles[:LONGEST_CONTEXT], None)
    np.testing.assert_array_equal(features[:10], first[:10])


def test_of_a_long_history_the_last_items_are_counted() -> None:
    """Guards the square growth of pairs, and a cap that keeps the oldest items."""
    evidence = Evidence.count([(1, [f"item {number}" for number in range(3 * LONGEST_HISTORY)])])
    assert len(evidence.items) == LONGEST_HISTORY
    assert evidence.features([f"item {3 * LONGEST_HISTORY - 1}"])[0, 0] > 0
    assert evidence.features(["item 0"])[0, 0] == 0


@pytest.mark.parametrize("data", [[], [(1, [])]])
def test_nothing_counted_says_nothing(data: Data) -> None:
    """Guards look-ups in empty arrays."""
    features = Evidence.count(data).features(["red ball", "blue boat"], 1)
    assert features.shape == (2, len(FEATURES))
    assert features[:, 1].all() and not np.delete(features, 1, axis=1).any()


def test_a_word_of_every_title_never_counts_against_likeness() -> None:
    """Guards a negative weight: of long histories more titles are seen than are counted, and the word is in all."""
    evidence = Evidence.count([(1, [f"the thing{number}" for number in range(30 * LONGEST_HISTORY)])])
    vector = evidence.title_vector("the thing5")
    assert all(weight > 0 for weight in vector.values()) and min(vector.values()) < max(vector.values())


def test_a_title_is_the_same_item_however_it_is_written() -> None:
    """Guards: a gate that knows none of the items of the same data in capitals, without a word."""
    data = [(user, ["Alien", "The Thing", "Ｈｅａｔ"]) for user in range(4)]
    evidence = Evidence.count(data)
    assert (evidence.numbers(["ALIEN", " the  thing", "Heat", "Up"]) >= 0).tolist() == [True, True, True, False]
    assert Evidence.count([*data, ("other", ["aLiEn"])]).n_titles == evidence.n_titles == 3
    np.testing.assert_array_equal(
        evidence.features(["Alien", "The Thing"], 1), evidence.features(["alien", "THE THING"], 1)
    )
