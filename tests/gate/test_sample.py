"""The sample of users: fair, bounded, and the same for the same data."""

from __future__ import annotations

import random
from collections import Counter

from llm4dsr_cli.gate.sample import UserSample


def drawn(
    data: list[tuple[int, list[str]]], n: int, seed: int = 0, shortest: int = 1
) -> list[tuple[object, list[str]]]:
    sample = UserSample(n, shortest, seed)
    for user, titles in data:
        sample.add(user, titles)
        assert len(sample.sequences) <= n
    return [(user, list(titles)) for user, titles in sample.sequences]


def test_the_order_of_users_does_not_matter_and_each_is_drawn_once() -> None:
    """Guards: a sample of the first users, or with a user twice; one that changes with a shuffled file."""
    data = [(user, [f"{user}"]) for user in range(500)]
    found = drawn(data, 40)
    shuffled = random.Random(0).sample(data, len(data))
    assert drawn(shuffled, 40) == found
    assert len({user for user, _ in found}) == 40
    assert drawn(data, 40, seed=1) != found
    assert len(drawn(data, 1000)) == 500


def test_every_user_and_every_sequence_of_one_has_the_same_chance() -> None:
    """Guards: users with many sequences who are drawn more often, and their first sequence always."""
    data = [(user, [f"{user}", f"{number}"]) for user in range(10) for number in range(1 + 3 * (user % 2))]
    users: Counter[object] = Counter()
    numbers: Counter[str] = Counter()
    for seed in range(400):
        for user, titles in drawn(data, 2, seed):
            users[user] += 1
            if int(str(user)) % 2:
                numbers[titles[1]] += 1
    assert all(40 < users[user] < 130 for user in range(10))  # 80 each
    assert all(60 < numbers[str(number)] < 145 for number in range(4))  # 100 each


def test_short_sequences_are_passed_over() -> None:
    data = [(1, ["a"]), (1, ["a", "b"]), (2, ["a"])]
    assert drawn(data, 5, shortest=2) == [(1, ["a", "b"])]
