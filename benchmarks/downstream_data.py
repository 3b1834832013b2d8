"""What ``downstream.py`` measures on: sequences to learn from, targets, and what is known of their noise."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from replacement import read_rows

from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.sequences import ItemSequence
from llm4dsr_cli.trial.items import Histories, Items, joined
from llm4dsr_cli.trial.splits import Split, Targets, leave_two_out

Labels = list[NDArray[np.bool_]]
# One of so many users of windows is for the early stop.
VALIDATED = 5


def read(
    folder: Path, users: int | None, noise: str | None, rate: float, *, edits_histories: bool, core: int | None = None
) -> tuple[Catalog, Split, Labels, list[Any]]:
    """The catalog and the split of a data set, which of its items are noise, and the items before the noise.

    Where users are drawn, or a core is taken, the catalog has what these hold.
    """
    catalog = Catalog.load(folder / "catalog.jsonl")
    if (folder / "valid.jsonl").is_file():
        if noise is not None or core is not None:
            raise SystemExit(f"{folder.name} has noise and a split of its own: --noise and --core take other data")
        return catalog, *windows(folder, catalog, users, edits_histories=edits_histories)
    path = next(path for path in (folder / "sequences.jsonl", folder / "train.jsonl") if path.is_file())
    rows = read_rows(path)
    if users is not None and users < len(rows):
        rows = [rows[i] for i in np.sort(np.random.default_rng(0).permutation(len(rows))[:users])]
    if core is not None:
        rows = core_of(rows, core)
    if users is not None or core is not None:
        held = {item for row in rows for item in row["items"]}
        catalog = Catalog((id_, title) for id_, title in catalog if id_ in held)
    sequences = [ItemSequence([catalog.title(i) for i in row["items"]], row["user_id"], row["items"]) for row in rows]
    histories = Histories.of(sequences)
    histories.items.add_catalog(catalog)
    split = leave_two_out(histories)
    before = split.sequences
    labels = [np.zeros(len(one), dtype=bool) for one in before]
    if noise is not None:
        split, labels = with_noise(split, noise, rate)
    return catalog, split, labels, before


def core_of(rows: list[dict[str, Any]], k: int) -> list[dict[str, Any]]:
    """The k-core: users and items that are left when all with fewer than k interactions with these are taken out."""
    while True:
        count = Counter(item for row in rows for item in row["items"])
        left = [{**row, "items": [item for item in row["items"] if count[item] >= k]} for row in rows]
        left = [row for row in left if len(row["items"]) >= k]
        if left == rows:
            return rows
        rows = left


def windows(
    folder: Path, catalog: Catalog, users: int | None, *, edits_histories: bool
) -> tuple[Split, Labels, list[Any]]:
    """Valid windows to learn from, and the histories of train windows, whose last items are targets.

    Histories that nobody edits are not scored: they come after an empty sequence.
    """
    items = Items()
    number = {str(id_): items.add(id_, title) for id_, title in catalog}
    by_title = {str(title): items.placed(None, str(title)) for _, title in catalog if title is not None}
    of_user: dict[str, list[list[tuple[int, bool, int]]]] = {}
    sequences: list[NDArray[np.int64]] = []
    owners: list[str] = []
    trains: list[bool] = []
    labels: Labels = []
    before: list[NDArray[np.int64]] = []
    held: dict[int, list[tuple[int, NDArray[np.int64], int]]] = {0: [], 1: []}

    def window(row: dict[str, Any]) -> list[tuple[int, bool, int]]:
        """Each item of a window, whether it is noise, and the item that it stands for."""
        numbers = [number[str(id_)] for id_ in row["items"]]
        truth = zip(numbers, row["noise"], row["original_titles"], strict=True)
        return [(item, bool(noise), by_title.get(str(title), item) if title else item) for item, noise, title in truth]

    def take(user: str, items: list[tuple[int, bool, int]], learns: bool) -> None:
        sequences.append(np.array([item for item, _, _ in items], dtype=np.int64))
        owners.append(user)
        trains.append(learns)
        labels.append(np.array([noise for _, noise, _ in items], dtype=bool))
        before.append(np.array([original for _, _, original in items], dtype=np.int64))

    for row in read_rows(folder / "valid.jsonl")[:users]:
        of_user.setdefault(str(row["user_id"]), []).append(window(row))
    for user, its in of_user.items():
        take(user, joined(its), True)
    # A user's later window holds what an earlier one is asked for.
    rows = [row for row in read_rows(folder / "train.jsonl") if str(row["user_id"]) not in of_user]
    asked = [row for row in rows if not row["noise"][-1] and row["items"][-1] not in row["items"][:-1]][:users]
    users_of = dict.fromkeys(row["user_id"] for row in asked)
    order = np.random.default_rng(0).permutation(list(users_of)).tolist()
    place = {user: int(i % VALIDATED > 0) for i, user in enumerate(order)}
    for row in asked:
        end = -1 if edits_histories else 0
        its_items = window(row)
        take(str(row["user_id"]), its_items[:end], False)
        rest = np.array([item for item, _, _ in its_items], dtype=np.int64)[end:]
        held[place[row["user_id"]]].append((len(sequences) - 1, rest[:-1], int(rest[-1])))
    validation, test = (
        Targets(
            np.array([at for at, _, _ in those]),
            [after for _, after, _ in those],
            np.array([target for _, _, target in those]),
        )
        for those in held.values()
    )
    nothing = np.zeros(len(sequences), dtype=np.int64)
    split = Split(items, sequences, list(owners), np.array(trains), validation, test, nothing, protect_last=1)
    return split, labels, before


def with_noise(split: Split, kind: str, rate: float) -> tuple[Split, Labels]:
    """Items in the place of others: a block of another user's, popular ones, or ones with a like title."""
    rng = np.random.default_rng(1)
    pool = np.concatenate(split.sequences)
    evidence = Evidence.count((user, [str(split.items.titles[i]) for i in one]) for user, one in owned(split))

    @cache
    def like(item: int) -> int:
        vector = evidence.title_vector(str(split.items.titles[item]))
        best, at = -1.0, item
        for other in rng.integers(0, len(split.items), 400).tolist():
            theirs = evidence.title_vector(str(split.items.titles[other]))
            found = sum(weight * theirs.get(word, 0.0) for word, weight in vector.items())
            if other != item and found > best:
                best, at = found, other
        return at

    sequences, labels = [], []
    for items in split.sequences:
        new, label = items.copy(), np.zeros(len(items), dtype=bool)
        n = int(rng.binomial(len(items), rate))
        if kind == "block":
            # As much in all, in the sequences of one user in ten times as many that share an account.
            n = min(len(items) // 2, len(items)) if rng.random() < 2 * rate else 0
            start = int(rng.integers(0, len(items) - n + 1))
            at = np.arange(start, start + n)
            other = split.sequences[int(rng.integers(len(split.sequences)))]
            at = at[: len(other)]
            put = other[: len(at)]
        else:
            at = rng.permutation(len(items))[:n]
            put = rng.choice(pool, n) if kind == "popular" else np.array([like(int(i)) for i in items[at]], dtype=int)
        new[at] = put
        label[at] = new[at] != items[at]
        sequences.append(new)
        labels.append(label)
    return replace(split, sequences=sequences), labels


def owned(split: Split) -> list[tuple[Any, NDArray[np.int64]]]:
    return list(zip(split.users, split.sequences, strict=True))
