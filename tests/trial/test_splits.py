"""Splits: which items are targets, and how a user's records become one history."""

from __future__ import annotations

import numpy as np
import pytest

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.sequences import ItemSequence
from llm4dsr_cli.trial.items import MIN_OVERLAP, Histories, joined
from llm4dsr_cli.trial.splits import FEWEST_TARGETS, Targets, by_time, leave_two_out


def history(*windows: str) -> str:
    """One user's windows of one-letter items, joined."""
    found = Histories.of([ItemSequence(list(window), user="u") for window in windows])
    assert len(found.sequences) == 1
    return "".join(str(found.items.titles[i]) for i in found.sequences[0])


@pytest.mark.parametrize(
    ("windows", "joined"),
    [
        (["abcde", "bcdef", "cdefg"], "abcdefg"),
        (["cdefg", "abcde", "bcdef"], "abcdefg"),  # not in order
        (["abcde", "xyz"], "abcdexyz"),  # two sessions
        (["abcde", "cd"], "abcde"),  # one within another
        (["abcabc"], "abcabc"),  # items that come again stay
        (["abab", "abac"], "ababac"),
        (["abc", "cde"], "abccde"),  # one item in common is no overlap
        (["uvw", "abcd", "cdef", "xyz"], "uvwabcdefxyz"),
    ],
)
def test_overlapping_windows_of_a_user_are_one_history(windows: list[str], joined: str) -> None:
    """Guards targets that another window of the same user shows, and histories out of order."""
    assert history(*windows) == joined


def test_a_users_records_come_in_order_of_time() -> None:
    """Guards sessions in the order of the file, of which the last is not the last."""
    windows = [ItemSequence(list("def"), user="u"), ItemSequence(list("abc"), user="u")]
    found = Histories.of(windows, [20.0, 10.0])
    assert "".join(str(found.items.titles[i]) for i in found.sequences[0]) == "abcdef"
    assert found.times is None


@pytest.mark.parametrize(
    ("sessions", "joined"),
    [
        ((["milk", "bread", "eggs", "tea"], ["soap", "rice"], ["bread", "eggs"]), 8),  # bought again
        ((["milk", "tea"],) * 3, 6),
        ((["milk", "tea"], ["milk", "tea", "rice"], ["milk", "tea", "rice", "soap"]), 4),  # beginnings of one history
        ((["milk", "tea", "rice"], ["tea", "rice", "soap"]), 4),  # windows of one history
    ],
)
def test_what_a_user_buys_again_later_is_bought_again(sessions: tuple[list[str], ...], joined: int) -> None:
    """Guards: a basket like an earlier one that is left out, and another item as the newest one."""
    found = Histories.of([ItemSequence(one, user="u") for one in sessions], [1.0, 2.0, 3.0][: len(sessions)])
    assert len(found.sequences[0]) == joined
    assert found.items.titles[found.sequences[0][-1]] == sessions[-1][-1]


def test_sequences_of_nobody_are_not_joined() -> None:
    """Guards all nameless records as one user."""
    found = Histories.of([ItemSequence(list("abc")), ItemSequence(list("abc"))])
    assert len(found.sequences) == 2


def test_items_are_told_apart_by_id_and_else_by_title() -> None:
    """Guards two items of one title that become one, and an item without a title that is lost."""
    sequence = ItemSequence(["Alien", "Alien", None, "Alien"], "u", [1, 2, 3, None])
    found = Histories.of([sequence])
    assert found.sequences[0].tolist() == [0, 1, 2, 0]
    assert found.items.placed(None, "  alien") == 0 or found.items.placed(None, "Alien") == 0


def test_a_catalogs_items_are_those_of_the_data() -> None:
    """Guards an item that is two: one that users have, and one that replaces others."""
    catalog = [(1, "Alien"), (2, "Heat"), (3, None), (4, "Up")]
    by_id = Histories.of([ItemSequence(["Alien", "Heat"], "u", [1, 2])]).items
    by_id.add_catalog(catalog)
    assert len(by_id) == 3
    by_title = Histories.of([ItemSequence(["Alien", "Heat"], "u")]).items
    by_title.add_catalog(catalog)
    assert len(by_title) == 3
    assert by_title.placed(1, "Alien") == 0
    assert by_title.placed(4, "Up") == by_id.placed(4, "Up") == 2


def test_the_last_two_items_are_targets_and_in_no_sequence() -> None:
    """Guards a target that may be edited or learned from, and short histories that are lost."""
    sequences = [ItemSequence([f"{u} {i}" for i in range(3 + u % 4)], user=u) for u in range(FEWEST_TARGETS)]
    split = leave_two_out(Histories.of([*sequences, ItemSequence(["a", "b"], user="short")]))
    assert len(split.sequences) == FEWEST_TARGETS + 1
    assert len(split.validation) == len(split.test) == FEWEST_TARGETS
    before = split.validation.histories(split.sequences)
    after = split.test.histories(split.sequences)
    for one, learned, valid, seen, test, known in zip(
        sequences, split.sequences, split.validation.target, before, split.test.target, after, strict=False
    ):
        named = lambda items: [split.items.titles[i] for i in items]  # noqa: E731
        assert named(learned) == list(one.titles[:-2]) == named(seen)
        assert named([valid]) == [one.titles[-2]]
        assert named([test]) == [one.titles[-1]]
        assert named(known) == list(one.titles[:-1])
    assert split.n_items == split.n_editable + 2 * FEWEST_TARGETS == sum(len(one.titles) for one in sequences) + 2


@pytest.mark.parametrize(
    ("edited", "known"),
    [
        ([1, 2, 3], [1, 2, 3]),  # nothing
        ([1, 3], [1, 3]),
        ([1, 2], [1, 2, 3]),  # the newest one was dropped
        ([], [3]),
        ([1, 2, 9], [1, 2, 3]),  # or replaced
        ([1, 9], [1, 3]),  # or replaced, and another one dropped
    ],
)
def test_the_newest_item_of_a_history_stays(edited: list[int], known: list[int]) -> None:
    """Guards: a validation target's history that ends otherwise than a test target's, by which a trial chose too
    small a share; `clean` never edits the newest item."""
    nothing, one = np.zeros(0, dtype=np.int64), np.array([7])
    targets = Targets(np.array([0, 0]), [nothing, one], np.array([5, 5]))
    whole = [np.array([1, 2, 3])]
    replaced = [0] if 9 in edited else []
    ends, goes_on = targets.edited_histories(whole, [np.array(edited, dtype=np.int64)], replaced)
    assert ends.tolist() == known
    assert goes_on.tolist() == [*edited, 7]


def test_too_few_users_are_one_sentence() -> None:
    """Guards an interval from next to nothing."""
    with pytest.raises(OptionError, match="too few"):
        leave_two_out(Histories.of([ItemSequence(list("abcd"), user=1)]))


def test_a_split_by_time_shows_nothing_of_the_future() -> None:
    """Guards items after the moment that recommenders learn from, and histories with them."""
    rng = np.random.default_rng(0)
    sequences, times = [], []
    for user in range(300):
        n = int(rng.integers(3, 12))
        sequences.append(ItemSequence([f"item {i}" for i in rng.integers(0, 50, n)], user=user))
        times.append(np.sort(rng.uniform(80 if user % 9 == 0 else 0, 100, n)).tolist())  # some come late
    histories = Histories.of(sequences, times)
    split = by_time(histories)
    assert histories.times is not None
    first, second = np.quantile(np.concatenate(histories.times), (0.8, 0.9))
    for number, learned in enumerate(split.sequences):
        assert len(learned) == (histories.times[number] <= first).sum()
    for targets, moment, end in ((split.validation, first, second), (split.test, second, np.inf)):
        for number, known, target in zip(
            targets.sequence, targets.histories(split.sequences), targets.target, strict=True
        ):
            clock, items = histories.times[number], histories.sequences[number]
            place = int(np.flatnonzero(clock > moment)[0])
            assert clock[place] <= end
            assert target == items[place]
            np.testing.assert_array_equal(known, items[:place])
        late = [n for n, clock in enumerate(histories.times) if (clock <= moment).any() and (clock > moment).any()]
        assert set(targets.sequence.tolist()) == {
            n for n in late if (histories.times[n] <= end).sum() > (histories.times[n] <= moment).sum()
        }
    with pytest.raises(OptionError, match="no times"):
        by_time(Histories.of(sequences))


@pytest.mark.parametrize(
    ("windows", "history"),
    [
        (["ABC", "ABC", "XAB"], "XABC"),  # it ended in a traceback
        (["AB", "CD", "ABE"], "ABECD"),  # and this put the newest window last
        (["CD", "XY", "BCDE"], "BCDEXY"),
        (["AB", "CD", "EF"], "ABCDEF"),
        (["AB", "YZ", "BCD", "ABCD"], "ABCDYZ"),
    ],
)
def test_a_window_that_holds_an_earlier_one_stands_where_that_stood(windows: list[str], history: str) -> None:
    """Guards: what is joined to a piece that it holds whole goes to the end, and with it the targets; a traceback."""
    minimum = 2
    assert minimum == MIN_OVERLAP
    sequences = [ItemSequence([*window], user="u") for window in windows]
    found = Histories.of(sequences)
    assert "".join(str(found.items.titles[i]) for i in found.sequences[0]) == history
    assert sorted(set(joined([[*window] for window in windows], sessions=True))) == sorted(history)


def test_of_many_users_without_targets_some_with_targets_are_drawn() -> None:
    """Guards: a time budget under which a trial has too few targets, and has them too few whenever it goes on."""
    long = [ItemSequence([f"{u} {i}" for i in range(4)], user=u) for u in range(40)]
    short = [ItemSequence([f"{u} {i}" for i in range(2)], user=u) for u in range(40, 2_000)]
    split = leave_two_out(Histories.of([*short, *long])).with_users(10 * FEWEST_TARGETS, seed=1)
    assert len(split.sequences) == 10 * FEWEST_TARGETS
    assert len(split.test) == len(split.validation) == 40


def test_some_users_have_their_own_targets() -> None:
    """Guards targets of one user after the history of another, where time allows only some."""
    sequences = [ItemSequence([f"{u} {i}" for i in range(3 + u % 4)], user=u) for u in range(60)]
    split = leave_two_out(Histories.of(sequences)).with_users(FEWEST_TARGETS + 5, seed=1)
    assert len(split.test) == FEWEST_TARGETS + 5
    for known, target in zip(split.test.histories(split.sequences), split.test.target, strict=True):
        owners = {str(split.items.titles[i]).split()[0] for i in [*known, target]}
        assert len(owners) == 1
