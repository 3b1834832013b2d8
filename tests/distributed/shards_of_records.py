"""Folders of shards for tests, and what they become."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from command_line import write

GROUPS, PER_GROUP = 4, 15


def tasteful(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Users who each like one group of items, with an item of another group among the first ones.

    Every ninth record is of the user before; ratings run parallel to the items, tags do not.
    """
    rng = random.Random(seed)
    records = []
    for user in range(n):
        titles = [f"group {user % GROUPS} thing {item}" for item in rng.sample(range(PER_GROUP), 7)]
        odd = rng.randrange(6)
        titles[odd] = f"group {(user + 1 + rng.randrange(GROUPS - 1)) % GROUPS} thing {rng.randrange(PER_GROUP)}"
        ratings = [round(rng.random(), 3) for _ in titles]
        tags = ["a"] * rng.randint(0, 9)
        user_id = user - 1 if user % 9 == 8 else user
        records.append({"user_id": user_id, "items": titles, "ratings": ratings, "tags": tags, "odd": odd})
    return records


def write_shards(folder: Path, records: Sequence[Any], size: int) -> Path:
    """A folder with so many records a file, in the order of the files' names."""
    folder.mkdir()
    for number, start in enumerate(range(0, len(records), size)):
        write(folder / f"part-{number:03}.jsonl", list(records[start : start + size]))
    return folder


def together(folder: Path) -> bytes:
    """All shards of a folder, one after the other."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("part-*")))
