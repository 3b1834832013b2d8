"""Training data: noise and its labels, users kept apart, and windows that depend on their number alone."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("transformers")

from toy_training import two_clusters

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.finetune.data import Domain, Sampler, split_users
from llm4dsr_cli.finetune.mixed_noise import MixedNoise, mixed
from llm4dsr_cli.finetune.settings import Settings
from llm4dsr_cli.noise import inject_noise

# A busy machine is no bug.
unhurried = hypothesis_settings(deadline=None, max_examples=50)


@unhurried
@given(st.integers(1, 40), st.integers(0, 200), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(0, 2**32))
def test_labels_say_which_items_were_replaced(n_items: int, more: int, rate: float, seed: int) -> None:
    """Guards labels that lie, noise that was in the window before, a changed input, and noise that repeats otherwise
    than the window's own items do: an item that stands twice would be known to belong by that alone."""
    n_titles = 2 * n_items + more
    rng = np.random.default_rng(seed)
    window = rng.integers(0, n_titles, n_items)
    before = window.copy()
    noisy, labels = inject_noise(window, n_titles, rate, rng)
    assert np.array_equal(window, before)
    assert np.array_equal(labels, (noisy != window).astype(np.int8))
    injected = noisy[labels == 1].tolist()
    assert not {*injected} & {*window.tolist()}
    same_before = window[:, None] == window
    assert np.array_equal(noisy[:, None] == noisy, same_before)
    assert (labels[:, None] == labels)[same_before].all()
    assert all(0 <= title < n_titles for title in injected)
    assert rate > 0 or not labels.any()
    assert rate < 1 or labels.all()


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_noise_is_as_frequent_as_asked_and_uniform(rate: float) -> None:
    """Guards exactly one noise item in each window, places that are favoured, and titles never drawn."""
    rng = np.random.default_rng(0)
    draws = 4000
    labels = np.empty((draws, 10))
    drawn = np.zeros(40)
    for i in range(draws):
        noisy, labels[i] = inject_noise(np.arange(10), 40, rate, rng)
        np.add.at(drawn, noisy[labels[i] == 1], 1)
    assert labels.mean() == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / labels.size))
    assert np.abs(labels.mean(axis=0) - rate).max() < 5 * np.sqrt(rate * (1 - rate) / draws)
    assert (labels.sum(axis=1) == 0).mean() == pytest.approx((1 - rate) ** 10, abs=0.03)
    share = drawn[10:] / drawn.sum()
    assert drawn[:10].sum() == 0
    assert np.abs(share * 30 - 1).max() < 0.3


def test_too_few_titles_are_refused() -> None:
    """Guards a search for fresh noise that never ends."""
    with pytest.raises(ValueError, match="too few"):
        inject_noise(np.arange(10), 19, 0.5, np.random.default_rng(0))


@unhurried
@given(st.integers(0, 1000), st.sampled_from([0.1, 0.3]), st.sampled_from([0.1, 0.3]))
def test_no_user_is_in_two_parts(seed: int, validation: float, calibration: float) -> None:
    """Guards a user's taste learned in training and met again in calibration: a gate that promises too much. A user
    of two domains counts as one."""
    rng = np.random.default_rng(seed)
    domains = [
        Domain("a", ["x"] * 9, [np.arange(3)] * 300, [*rng.integers(0, 120, 300).tolist()]),
        Domain("b", ["y"] * 9, [np.arange(4)] * 200, [*rng.integers(0, 120, 200).tolist()]),
    ]
    split = split_users(domains, validation=validation, calibration=calibration, test=0.1)
    parts = [split.train, split.validation, split.calibration, split.test]
    users = [{user for domain in part for user in domain.users} for part in parts]
    assert sum(map(len, users)) == len(set().union(*users))
    for number, domain in enumerate(domains):
        assert sum(len(part[number].sequences) for part in parts) == len(domain.sequences)
    # Another share of test users takes them from training alone: what was held out before still is.
    again = split_users(domains, validation=validation, calibration=calibration, test=0.2)
    for name in ("validation", "calibration"):
        assert [d.users for d in getattr(again, name)] == [d.users for d in getattr(split, name)]
    assert {*again.test[0].users} > {*split.test[0].users}


def test_one_user_under_several_types_of_id_is_on_one_side() -> None:
    """Guards a user who trains as 7 and tests as "7", as two exports write it."""
    users = [form(number) for number in range(60) for form in (int, str, float)]
    domain = Domain("d", ["a", "b", "c"], [np.arange(3)] * len(users), users)
    split = split_users([domain], validation=0.2, calibration=0.2, test=0.2)
    for part in (split.train, split.validation, split.calibration, split.test):
        names = [str(int(user)) for user in part[0].users]  # type: ignore[call-overload]
        assert all(names.count(name) == 3 for name in names)


def test_too_few_users_to_split_are_refused() -> None:
    """Guards an empty calibration found after hours of training."""
    with pytest.raises(OptionError, match="toy: 2 users are too few"):
        split_users([two_clusters(n_users=2)], validation=0.05, calibration=0.1, test=0.05)


def parts_of(domain: Domain) -> list[list[str]]:
    """The users of validation, calibration, test and training, at the default shares."""
    shares = {name: getattr(Settings, name) for name in ("validation", "calibration", "test")}
    split = split_users([domain], **shares)
    return [part[0].users for part in (split.validation, split.calibration, split.test, split.train)]


def uniform(name: str) -> float:
    return int.from_bytes(hashlib.blake2b(f"0/{name}".encode(), digest_size=8).digest(), "big") / 2**64


@unhurried
@given(st.sampled_from([4, 30, 50, 60]), st.randoms(use_true_random=False))
def test_any_users_can_be_split_whatever_they_are_called(n_users: int, random: Random) -> None:
    """Guards training refused to a quarter of all sets of 50 users for the luck of their names' hashes, and users who
    change sides for no reason: only as many move as there are empty parts, and from parts that keep others."""
    names = [f"{random.choice('AaUu')}{number}" for number in random.sample(range(10**9), n_users)]
    domain = Domain("d", ["a", "b", "c"], [np.arange(3)] * n_users, list(names))
    parts = parts_of(domain)
    assert all(parts)
    assert sorted(name for part in parts for name in part) == sorted(names)
    order = list(range(n_users))
    random.shuffle(order)
    assert [set(part) for part in parts_of(replace(domain, users=[names[i] for i in order]))] == [*map(set, parts)]
    # By the hashes alone.
    by_hash: list[set[str]] = [set(), set(), set(), set()]
    for name in names:
        by_hash[np.searchsorted([0.05, 0.1, 0.15], uniform(name), side="right")].add(name)
    moved = sum(len(set(part) - alone) for part, alone in zip(parts, by_hash, strict=True))
    assert moved == sum(not alone for alone in by_hash)
    edges, draw = [0.0, 0.05, 0.1, 0.15, 1.0], {name: uniform(name) for name in names}
    if moved == 1:
        ((number, newcomer),) = [(n, name) for n in range(4) for name in set(parts[n]) - by_hash[n]]
        distance = {name: max(edges[number] - draw[name], draw[name] - edges[number + 1]) for name in names}
        assert distance[newcomer] == min(distance[name] for alone in by_hash if len(alone) > 1 for name in alone)


@unhurried
@given(st.integers(0, 10**6), st.integers(5, 40), st.integers(5, 40))
def test_a_user_who_is_moved_is_moved_in_all_domains(seed: int, n_first: int, n_second: int) -> None:
    """Guards a user who is moved into the validation of one domain, and learned from in another."""
    rng = np.random.default_rng(seed)
    users = [[int(user) for user in rng.choice(60, n, replace=False)] for n in (n_first, n_second)]
    domains = [Domain(name, ["a"], [np.arange(1)] * len(mine), mine) for name, mine in zip("ab", users, strict=True)]
    try:
        split = split_users(domains, validation=0.05, calibration=0.05, test=0.05)
    except OptionError:  # the few whom a domain could spare are all that another has
        assume(False)
    parts = [split.train, split.validation, split.calibration, split.test]
    of_part = [{user for domain in part for user in domain.users} for part in parts]
    assert sum(map(len, of_part)) == len(set().union(*users))
    assert all(domain.users for part in parts for domain in part)


def test_a_drawn_window_depends_on_its_number_alone() -> None:
    """Guards windows that a resumed run draws differently, and a sequence seen twice in an epoch."""
    domain = two_clusters()
    make = lambda seed=0: Sampler([domain], max_window=5, rates=(0.1, 0.3), shorten=0.5, seed=seed)  # noqa: E731
    sampler = make()
    forward = [sampler.draw(number) for number in range(150)]
    backward = make()
    for number in reversed(range(150)):
        window = backward.draw(number)
        assert window.titles == forward[number].titles
        assert np.array_equal(window.labels, forward[number].labels)
    assert [w.titles for w in make(1).windows(20)] != [w.titles for w in forward[:20]]
    assert {len(window.titles) for window in forward} == {3, 4, 5}
    assert [w.titles for w in forward[:60]] != [w.titles for w in forward[60:120]]  # fresh noise each epoch


def unequal_domains() -> list[Domain]:
    """Domains of 4 and 30 sequences, with titles and users of their own."""
    return [
        Domain(name, [f"{name}{i}" for i in range(40)], [np.arange(i % 9, i % 9 + 5) for i in range(n)], list(range(n)))
        for name, n in (("few", 4), ("many", 30))
    ]


def test_domains_take_turns_and_noise_is_of_the_windows_own(seed: int = 3) -> None:
    """Guards a large domain that crowds out a small one, noise that its alphabet gives away, and users mixed up."""
    domains = unequal_domains()
    windows = list(Sampler(domains, max_window=5, rates=(0.5,), shorten=0, seed=seed).windows(60))
    assert [window.domain for window in windows] == [0, 1] * 30
    for window in windows:
        name = domains[window.domain].name
        assert all(title.startswith(name) for title in window.titles)
        kept = [title for title, label in zip(window.titles, window.labels, strict=True) if not label]
        sequence = domains[window.domain].sequences[domains[window.domain].users.index(window.user)]
        assert {*kept} <= {f"{name}{i}" for i in sequence}


@pytest.mark.parametrize("draws", [1, 3])
def test_where_draws_are_limited_no_sequence_is_drawn_more_often(draws: int) -> None:
    """Guards a calibration on the few sequences of a small domain again and again, which promises too much."""
    domains = unequal_domains()
    sampler = Sampler(domains, max_window=5, rates=(0.1,), shorten=0, seed=0)
    times = Counter((window.domain, window.user) for window in sampler.windows(1000, draws))
    assert times == {(number, user): draws for number, domain in enumerate(domains) for user in domain.users}
    few = Counter(window.domain for window in sampler.windows(20, draws))
    assert few == {0: min(10, 4 * draws), 1: 10}


def test_the_sampler_labels_items_that_are_not_in_their_place() -> None:
    """Guards windows cut from one sequence and labelled by another; titles that belong keep their order."""
    domain = two_clusters()
    clean = {"".join(domain.titles[i] for i in sequence) for sequence in domain.sequences}
    sampler = Sampler([domain], max_window=5, rates=(0.3,), shorten=0, seed=0)
    for window in sampler.windows(60):
        kept = [title for title, label in zip(window.titles, window.labels, strict=True) if not label]
        assert any(all(title in line for title in kept) for line in clean)
    untouched = Sampler([domain], max_window=5, rates=(1e-12,), shorten=0, seed=0)
    assert all(any("".join(w.titles) in line for line in clean) for w in untouched.windows(60))


@unhurried
@given(st.integers(0, 1000), st.integers(0, 1000), st.sampled_from([0.0, 0.5]))
def test_a_lesson_is_a_window_without_noise_and_depends_on_its_number_alone(
    seed: int, number: int, shorten: float
) -> None:
    """Guards noise taught as what belongs, items lost or doubled, and lessons that a resumed run draws differently."""
    make = lambda: Sampler([two_clusters()], max_window=6, rates=(0.0,), shorten=shorten, seed=seed)  # noqa: E731
    sampler = make()
    lesson = sampler.draw_titles(number)
    assert sorted(lesson) == sorted(make().draw(number).titles)
    sampler.draw_titles(number + 100)
    assert sampler.draw_titles(number) == lesson


def test_a_lesson_moves_some_items_to_the_end_in_any_order_and_leaves_the_others_in_theirs() -> None:
    """Guards lessons in continuing a sequence, where suggestions are for its middle, and in a shuffled one."""
    sampler = Sampler([two_clusters()], max_window=8, rates=(0.0,), shorten=0, seed=0)
    in_order, rising = [], []
    for number in range(600):
        window = sampler.draw(number).titles
        places = [window.index(title) for title in sampler.draw_titles(number)]
        falls = [i for i in range(1, len(places)) if places[i] < places[i - 1]]
        in_order.append((falls[0] if falls else len(places)) / len(places))
        rising.append(places[-1] > places[-2])
    # 70% stay, and some of the moved happen to stand in order behind them; 0.3 in order would be a shuffle.
    assert 0.68 < np.mean(in_order) < 0.78
    assert 0.1 < np.mean(np.array(in_order) == 1) < 0.3
    assert 0.4 < np.mean(rising) < 0.6


def test_a_lesson_asks_for_no_title_that_stands_before_it() -> None:
    """Guards a suggester that learns to name what the sequence holds, which is never suggested for it."""
    sequences = [(f"u{n}", [*"abcd", "abcd"[n % 4], "e", "abcd"[n % 3]]) for n in range(20)]
    sampler = Sampler(
        [Domain.build("again", list("abcdefghijklmn"), sequences)], max_window=7, rates=(0.0,), shorten=0, seed=0
    )
    for number in range(100):
        assert sorted(sampler.draw_titles(number)) == sorted(set(sampler.draw(number).titles))


def test_a_domain_counts_equal_titles_as_one_item_and_leaves_out_short_sequences() -> None:
    """Guards noise that is the very title it replaces, under another id or with other white space."""
    domain = Domain.build("d", ["A", "B", " A"], [("u", ["A", "B\n", "C"]), ("v", ["A", "B"]), ("w", ["A"] * 3)])
    assert domain.titles == ["A", "B", "C"]
    assert [s.tolist() for s in domain.sequences] == [[0, 1, 2], [0, 0, 0]]
    assert domain.users == ["u", "w"]


def kinds_of_titles() -> Domain:
    """Six kinds of 20 titles whose words tell them apart; users have some titles of a kind often, and some never."""
    titles = [f"kind{kind} thing{kind} number{kind}x{i}" for kind in range(6) for i in range(20)]
    sequences = [np.array([20 * kind + i for i in (0, 1, 2 + user % 10)]) for user in range(60) for kind in (user % 6,)]
    return Domain("kinds", titles, sequences, list(range(60)))


@pytest.mark.parametrize(
    ("shares", "popular", "near"),
    [((0.0, 0.0), (0, 0.25), (0.1, 0.25)), ((1.0, 0.0), (0.6, 1), (0.1, 0.25)), ((0.0, 1.0), (0, 1), (0.95, 1))],
)
def test_mixed_noise_is_of_the_kinds_that_its_shares_say(
    shares: tuple[float, float], popular: tuple[float, float], near: tuple[float, float]
) -> None:
    """Guards kinds of noise that are all one, and "near" titles that have nothing to do with the item."""
    domain = kinds_of_titles()
    draw = MixedNoise(domain, popular=shares[0], near=shares[1])
    rng = np.random.default_rng(0)
    items = rng.integers(0, 120, 400)
    drawn = np.array([draw(int(item), rng) for item in items])
    assert popular[0] <= np.mean(drawn % 20 < 2) <= popular[1]
    assert near[0] <= np.mean(drawn // 20 == items // 20) <= near[1]


def test_windows_with_mixed_noise_depend_on_their_number_and_hold_no_title_twice() -> None:
    """Guards a resumed run that draws other windows, and an item put where it stands already, or in its own place."""
    domain = kinds_of_titles()
    make = lambda: Sampler([domain], max_window=5, rates=(0.5,), shorten=0, seed=0, noise=[MixedNoise(domain)])  # noqa: E731
    forward = [make().draw(number) for number in range(100)]
    again = make()
    for number in reversed(range(100)):
        assert again.draw(number).titles == forward[number].titles
    assert all(len(set(window.titles)) == len(window.titles) for window in forward)
    own = {user: {domain.titles[i] for i in items} for user, items in zip(domain.users, domain.sequences, strict=True)}
    assert all(
        (title not in own[window.user]) or not label
        for window in forward
        for title, label in zip(window.titles, window.labels, strict=True)
    )


def test_noise_whose_draws_are_all_in_the_window_becomes_uniform() -> None:
    """Guards a run that hangs where the popular titles are those of the window."""
    window = np.arange(5)
    noisy, labels = inject_noise(window, 40, 1.0, np.random.default_rng(0), lambda item, rng: 0)
    assert labels.all() and not np.isin(noisy, window).any()


def test_mixed_noise_takes_titles_without_words() -> None:
    """Guards a catalog of one-letter titles, which have no words to be near by."""
    domain = two_clusters()
    blank = Domain("blank", [*"abcdefghij", *domain.titles], [np.arange(5), np.arange(5, 10)], [0, 1])
    draw, rng = MixedNoise(blank, popular=0.0, near=1.0), np.random.default_rng(0)
    assert {draw(item, rng) for item in range(10) for _ in range(20)} <= set(range(10))


def test_foreign_titles_are_noise_in_other_domains_and_never_more_than_their_share() -> None:
    """Guards titles of another domain drawn as a domain's own, sequences whose numbers mean other titles, and a domain
    whose own titles count as foreign."""
    ours, theirs = kinds_of_titles(), two_clusters()
    shared = replace(theirs, titles=[*theirs.titles, ours.titles[0]])
    domains, noise = mixed([ours, shared])
    assert domains[0].titles[: len(ours.titles)] == ours.titles
    assert set(domains[0].titles[len(ours.titles) :]) == set(theirs.titles)
    assert all(len(set(domain.titles)) == len(domain.titles) for domain in domains)
    rng = np.random.default_rng(0)
    foreign = [noise[0](int(rng.integers(120)), rng) >= len(ours.titles) for _ in range(2000)]
    assert 0.07 < np.mean(foreign) < 0.13
    alone, noise = mixed([ours])
    assert alone[0].titles == ours.titles
    assert all(noise[0](int(rng.integers(120)), rng) < 120 for _ in range(300))
