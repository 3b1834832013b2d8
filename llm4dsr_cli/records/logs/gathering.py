"""Gathering: interactions in any order to the sequences of users, oldest first; out of core where they need it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

from llm4dsr_cli.console import Advance, untold

_TOLD_EVERY = 100_000  # interactions
_CACHE = 256_000  # KB that SQLite holds before it writes to its file


class Interaction(NamedTuple):
    """One row of a log.

    Attributes:
        row: its number in the file, from 0.
        user, item: as text.
        time: seconds or whatever the log counts, larger = later; the same for all where a log has no times.
        title: of the item, None where the log has none.
        more: what else of the row is wanted, as JSON.
    """

    row: int
    user: str
    item: str
    time: float
    title: str | None = None
    more: str | None = None


class Sequence(NamedTuple):
    """The interactions of one user, oldest first; those of the same time in the order of the file."""

    user: str
    interactions: list[Interaction]


def gathered(interactions: Callable[[], Iterable[Interaction]], advance: Advance = untold) -> Iterator[Sequence]:
    """The sequence of each user, in the order in which users first appear.

    Where each user's interactions stand together, as most logs have them, one user at a time is held. Else SQLite sorts
    them in a file of its own, which grows with the log while memory does not.

    Args:
        interactions: reads them; called again where users turn out to be scattered.
        advance: told how far it is.
    """
    if _is_scattered(interactions()):
        yield from _sorted(interactions(), advance)
    else:
        yield from _runs(interactions(), advance)


def _is_scattered(interactions: Iterable[Interaction]) -> bool:
    seen: set[str] = set()
    user: str | None = None
    for interaction in interactions:
        if interaction.user != user:
            user = interaction.user
            if user in seen:
                return True
            seen.add(user)
    return False


def _runs(interactions: Iterable[Interaction], advance: Advance) -> Iterator[Sequence]:
    held: list[Interaction] = []
    for number, interaction in enumerate(interactions):
        if held and held[0].user != interaction.user:
            yield Sequence(held[0].user, _by_time(held))
            held = []
        held.append(interaction)
        if number % _TOLD_EVERY == 0:
            advance(f"gathered {number:,} interactions", None)
    if held:
        yield Sequence(held[0].user, _by_time(held))


def _by_time(interactions: list[Interaction]) -> list[Interaction]:
    return sorted(interactions, key=lambda one: one.time)  # stable


def _sorted(interactions: Iterable[Interaction], advance: Advance) -> Iterator[Sequence]:
    numbers: dict[str, int] = {}
    # A nameless database is a file of SQLite's own, which is gone with the connection.
    with closing(sqlite3.connect("", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = OFF")
        database.execute(f"PRAGMA cache_size = -{_CACHE}")
        database.execute(
            "CREATE TABLE log (row INTEGER PRIMARY KEY, user INTEGER, item TEXT, time REAL, title TEXT, more TEXT)"
        )

        def rows() -> Iterator[tuple[int, int, str, float, str | None, str | None]]:
            for number, (row, user, item, time, title, more) in enumerate(interactions):
                yield row, numbers.setdefault(user, len(numbers)), item, time, title, more
                if number % _TOLD_EVERY == 0:
                    advance(f"read {number:,} interactions", None)

        database.execute("BEGIN")
        database.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)", rows())
        database.execute("COMMIT")
        names = list(numbers)
        numbers.clear()
        held: list[Interaction] = []
        before = -1
        for number, (row, user, item, time, title, more) in enumerate(
            database.execute("SELECT row, user, item, time, title, more FROM log ORDER BY user, time, row")
        ):
            if user != before and held:
                yield Sequence(held[0].user, held)
                held = []
            before = user
            held.append(Interaction(row, names[user], item, time, title, more))
            if number % _TOLD_EVERY == 0:
                advance(f"gathered {number:,} interactions", None)
        if held:
            yield Sequence(held[0].user, held)
