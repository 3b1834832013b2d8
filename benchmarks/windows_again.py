"""How much of what a run reads stands again, and need not be read again: markdown on standard output. Reads no model.

    python benchmarks/windows_again.py

Each file is taken as it is, and with a record for each prefix of three items and more of its first 300 histories, as
data for recommenders are often written. "Read" is how many items the windows hold for each item of the records; "once"
is the same where a window that stands again in the run is not read again, by the rule of `model/known_windows.py`.
"Sample" is the share of the items of 250 sequences with noise put in, which weigh the counts, that stand in windows
without any noise, which are the file's own.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from llm4dsr_cli.noise import inject_noise
from llm4dsr_cli.windows import overlapping_windows

REPOSITORY = Path(__file__).resolve().parents[1]
FILES = (
    "toy/valid",
    "movie/valid",
    "office/train",
    "clothing/train",
    "games/sequences",
    "steam/sequences",
    "film/sequences",
)
WINDOW = 20
HISTORIES = 300
SAMPLED = 250


def windows(items: list[int]) -> list[tuple[tuple[int, ...], set[int]]]:
    """Of each window its items, and the places in it that it judges."""
    return [
        (tuple(items[one.start : one.end]), set(range(one.judge_from - one.start, one.judge_to - one.start)))
        for one in overlapping_windows(len(items), WINDOW)
    ]


def read(sequences: Iterable[list[int]]) -> tuple[float, float]:
    """Items read for each item of the sequences: in every window, and in those that are not known."""
    n_items = every = once = 0
    known: dict[tuple[int, ...], set[int]] = {}
    for items in sequences:
        n_items += len(items)
        for window, judged in windows(items):
            every += len(window)
            before = known.setdefault(window, set())
            once += 0 if judged <= before else len(window)
            before |= judged
    return every / n_items, once / n_items


def without_noise(sequences: list[list[int]], n_titles: int) -> float:
    rng = np.random.default_rng(0)
    clean = every = 0
    for number in rng.permutation(len(sequences))[:SAMPLED].tolist():
        items = np.array(sequences[number])
        noisy, _ = inject_noise(items, n_titles, 0.1, rng)
        own = {window for window, _ in windows(items.tolist())}
        for window, _ in windows(noisy.tolist()):
            every += len(window)
            clean += len(window) if window in own else 0
    return clean / every


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    arguments = parser.parse_args()
    print("| file | read | once | prefixes: read | once | sample |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in FILES:
        rows = [
            json.loads(line) for line in (arguments.data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        number: dict[object, int] = {}
        sequences = [[number.setdefault(item, len(number)) for item in row["items"]] for row in rows]
        prefixes = [items[:n] for items in sequences[:HISTORIES] for n in range(3, len(items) + 1)]
        cells = [f"{found:.2f}" for found in (*read(sequences), *read(prefixes))]
        short = [items for items in sequences if 3 <= len(items) < len(number) // 2]
        print(f"| {name} | {' | '.join(cells)} | {without_noise(short, len(number)):.0%} |", flush=True)


if __name__ == "__main__":
    main()
