"""Whether a file's counts help whatever its noise is like: markdown on standard output.

    python benchmarks/noise_source.py

A file is the sequences of some users. Its noise is: the labelled one (toy, movie, from any item of the store); or a
tenth of its items replaced by any item of the catalog ("uniform"), by an item as often as all users of the data set
have it ("popular"), or by any item that the file has ("of the file"). It is judged by a stand-in for the denoiser,
whose log-odds lie 1.3 deviations higher for noise, and by that fused with the file's counts, as `clean` fits them, with
titles from the catalog and with those of the file alone. AUROC / average precision / precision of the most suspicious
5%, the last item of each sequence left out; then what the survey says of that precision where a tenth of the data is
noise.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli import Catalog, Cleaning, ItemSequence, detection_quality
from llm4dsr_cli.cleaning.counted import Counted
from llm4dsr_cli.cleaning.settings import CleaningSettings
from llm4dsr_cli.noise import inject_noise
from llm4dsr_cli.scores import Scores

REPOSITORY = Path(__file__).resolve().parent.parent
FILES = [
    ("toy", 300, "labelled"),
    ("movie", 300, "labelled"),
    ("toy", 10**6, "labelled"),
    ("movie", 10**6, "labelled"),
    ("games", 1_000, "uniform"),
    ("games", 1_000, "popular"),
    ("clothing", 2_000, "uniform"),
    ("clothing", 2_000, "popular"),
    ("clothing", 2_000, "of the file"),
    ("office", 10**6, "uniform"),
    ("office", 10**6, "popular"),
]
RATE = 0.1
EDITED = 0.05
LONGEST = 40


@dataclass(frozen=True)
class File:
    """Titles and labels (1 = noise) of each user's sequence, and the data set's catalog."""

    titles: list[list[str]]
    labels: list[NDArray[np.int8]]
    catalog: list[tuple[Any, str]]


class StandIn:
    """Knows noise from the rest as well as a denoiser does: what a user's file does not hold as belonging is noise."""

    name, sha256 = "stand-in", "0" * 64

    def __init__(self, file: File) -> None:
        self._belongs = [
            {title for title, label in zip(titles, labels, strict=True) if not label}
            for titles, labels in zip(file.titles, file.labels, strict=True)
        ]
        self._holders: dict[str, list[int]] = {}
        for user, titles in enumerate(file.titles):
            for title in titles:
                self._holders.setdefault(title, []).append(user)

    def score(self, sequences: Iterable[Sequence[str]]) -> list[Scores]:
        return [self._scores(list(titles)) for titles in sequences]

    def _scores(self, titles: list[str]) -> Scores:
        holders = np.bincount([user for title in titles for user in self._holders.get(title, ())])
        user = int(holders.argmax())  # whose the sequence is, noise put in or not
        noise = np.array([title not in self._belongs[user] for title in titles])
        drawn = np.random.default_rng([user, len(titles)]).normal(size=len(titles))
        return (-2 + 1.3 * noise + drawn).astype(np.float32)

    def threshold(self, false_edit_rate: float) -> float:
        return 0.0

    def description(self) -> dict[str, Any]:
        return {}


def read(folder: Path, n: int, kind: str) -> File:
    catalog = [(id_, title) for id_, title in Catalog.load(folder / "catalog.jsonl") if title is not None]
    title_of = dict(catalog)
    labelled = kind == "labelled"
    names = ("valid.jsonl",) if labelled else ("train.jsonl", "sequences.jsonl")
    source = next(path for path in (folder / name for name in names) if path.is_file())
    with source.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    rng = np.random.default_rng(0)
    users: dict[Any, Any] = {}
    for place in rng.permutation(len(rows)).tolist():  # a window of each user
        row = rows[place]
        if labelled or sum(item in title_of for item in row["items"]) >= 4:
            users.setdefault(row["user_id"], row)
    chosen = [*users.values()][:n]
    if labelled:
        titles = [[title_of[item] for item in row["items"]] for row in chosen]
        return File(titles, [np.array(row["noise"], dtype=np.int8) for row in chosen], catalog)
    number = {title: at for at, title in enumerate(dict.fromkeys(title for _, title in catalog))}
    every_title = [*number]
    had = [number[title_of[item]] for row in rows for item in row["items"] if item in title_of]
    windows = [[number[title_of[item]] for item in row["items"] if item in title_of][-LONGEST:] for row in chosen]
    of_file = sorted({item for window in windows for item in window})
    pools = {"uniform": [*number.values()], "popular": had, "of the file": of_file}
    draw = _from(pools[kind])
    noisy = [inject_noise(np.array(window), len(number), RATE, rng, draw) for window in windows]
    titles = [[every_title[item] for item in items] for items, _ in noisy]
    return File(titles, [labels for _, labels in noisy], catalog)


def _from(pool: list[int]) -> Callable[[int, np.random.Generator], int]:
    return lambda item, rng: pool[int(rng.integers(len(pool)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    said = parser.parse_args()
    print("| data | users | noise | without counts | titles of the catalog | said | titles of the file | said |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for name, n, kind in FILES:
        file = read(said.data / name, n, kind)
        labels = np.concatenate([row[:-1] for row in file.labels])
        alone = Cleaning(StandIn(file), CleaningSettings(edit=EDITED))
        scored = [*alone.score([ItemSequence(titles, user) for user, titles in enumerate(file.titles)])]
        cells = []
        for catalog in (Catalog(file.catalog), None):
            counted = Counted.of(scored, with_items=catalog is None)
            fused = Cleaning(alone.scorer, alone.settings, catalog=catalog, counted=counted).fitted()
            right = fused.survey(scored).outlook(EDITED).right or {}
            cells += [figures(fused, scored, labels), f"{right[RATE]:.2f}"]
        print(
            f"| {name} | {len(scored):,} | {kind} | {figures(alone, scored, labels)} | {' | '.join(cells)} |",
            flush=True,
        )


def figures(cleaning: Cleaning, scored: list[ItemSequence], labels: NDArray[np.int8]) -> str:
    found = detection_quality(np.concatenate([row[:-1] for row in cleaning.log_odds(scored)]), labels)
    return f"{found.auroc:.3f} / {found.average_precision:.3f} / {found.precision_at_5pct:.2f}"


if __name__ == "__main__":
    main()
