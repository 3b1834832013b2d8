"""The tables of docs/downstream.md and the README's, of what ``downstream.py`` kept: markdown on standard output.

    python benchmarks/downstream_tables.py
    python benchmarks/downstream_tables.py runs.json --all

``--all`` prints every row of the file instead. The denoiser and the counts judge together where nothing else is said.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from replacement import table

from llm4dsr_cli.trial.metrics import CHOSEN_BY

RESULTS = Path(__file__).resolve().parent / "results" / "downstream.json"
Row = dict[str, Any]
# What a row is, beside what was done to the data.
ASKED = ("domain", "noise", "rate", "users", "core", "recommender")
DATA = ("movie", "toy", "office", "clothing", "games", "film")
RECOMMENDERS = {
    "ease": "EASE",
    "neighbours": "V-SKNN",
    "sasrec": "SASRec",
    "gru4rec": "GRU4Rec",
    "bert4rec": "BERT4Rec",
}
AS_IT_IS = "as it is"
LABELS = ("all noise dropped (labels)", "all noise undone (labels)")
COUNTED = "co-occurrence + TF-IDF, drop 5%"
SHARES = ("5%", "10%")


def data_of(row: Row) -> str:
    """The data set of a row, and what was made of it."""
    made = [row["domain"]]
    made += [f"{row['users']:,} users"] if row["users"] else []
    made += [f"{row['core']}-core"] if row["core"] else []
    made += [f"{row['rate']:.0%} {row['noise']} noise"] if row["noise"] else []
    return ", ".join(made)


def change(estimate: dict[str, Any] | None) -> str:
    """A relative change with its interval, bold where that leaves out 0."""
    if estimate is None:
        return ""
    low, high = estimate["interval"]
    text = f"{estimate['value']:+.1%} ({low:+.1%} to {high:+.1%})"
    return f"**{text}**" if low > 0 or high < 0 else text


def plain(estimate: dict[str, Any] | None) -> str:
    """The same without the interval."""
    return "" if estimate is None else re.sub(r" \(.*\)", "", change(estimate))


def right(row: Row | None) -> str:
    return "" if row is None or row["right"] is None else f"{row['right']:.0%}"


class Figures:
    """The rows of a file, those of the same data and recommender together."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in sorted(rows, key=lambda row: (DATA.index(row["domain"]), [*RECOMMENDERS].index(row["recommender"]))):
            self.groups.setdefault(tuple(row[name] for name in ASKED), []).append(row)

    def table(self, heads: list[str], cells: Any) -> None:
        """A line for each group of which ``cells``, called with the group's rows, knows more than nothing."""
        lines = []
        for rows in self.groups.values():
            found = cells(rows)
            if any(found):
                lines.append([data_of(rows[0]), RECOMMENDERS[rows[0]["recommender"]], *found])
        table(["data", "recommender", *heads], lines)


def found(rows: list[Row], way: str, histories: str = "cleaned") -> Row | None:
    return next((row for row in rows if row["way"] == way and row["histories"] == histories), None)


def changed(rows: list[Row], way: str, histories: str = "cleaned", by: str = "relative") -> str:
    row = found(rows, way, histories)
    return "" if row is None else change(row["figures"][CHOSEN_BY][by])


def of_defaults(rows: list[Row]) -> list[str]:
    """Cells of what the denoiser and the counts drop."""
    ways = [f"drop {share}, fused" for share in SHARES]
    shown = [changed(rows, way, by=by) for way in ways for by in ("relative", "over_random")]
    shown.append(changed(rows, COUNTED))
    as_it_is = found(rows, AS_IT_IS)
    if as_it_is is None or not any(shown):
        return []
    return [f"{as_it_is['figures'][CHOSEN_BY]['value']:.4f}", *shown]


# They learn without a look at validation targets.
UNSTOPPED = ("ease", "neighbours")
DOSES = ("5%", "10%", "20%", "30%", "50%")
JUDGES = {
    "the denoiser and the counts": "drop {}, fused",
    "co-occurrence + TF-IDF": "co-occurrence + TF-IDF, drop {}",
    "nobody: at random": "random drop {}",
}


def doses(figures: Figures, histories: str) -> list[list[str]]:
    """What each share of the items that is dropped does, whoever says which."""
    lines = []
    for rows in figures.groups.values():
        for judge, way in JUDGES.items():
            known = [found(rows, way.format(dose), histories) for dose in DOSES]
            if known[2:] != [None] * 3:
                shown = ["" if row is None else plain(row["figures"][CHOSEN_BY]["relative"]) for row in known]
                lines.append([data_of(rows[0]), RECOMMENDERS[rows[0]["recommender"]], judge, *shown])
    return lines


# Ways of which it is told what they leave.
LEAVING = (
    AS_IT_IS,
    *(f"drop {dose}, fused" for dose in ("10%", "30%", "50%")),
    *("co-occurrence + TF-IDF, drop 30%", "random drop 30%"),
)


def left(figures: Figures) -> list[list[str]]:
    """What is left of the items; and the change on validation targets, of recommenders that do not stop by them."""
    by_data: dict[str, dict[tuple[str, str], Row]] = {}
    for rows in figures.groups.values():
        for row in rows:
            if (
                row["noise"] is None
                and "items_left" in row
                and row["histories"] == ("cleaned" if row["way"] == AS_IT_IS else "as-is")
            ):
                by_data.setdefault(data_of(row), {})[row["way"], row["recommender"]] = row
    lines = []
    for data, known in by_data.items():
        for way in LEAVING:
            those = [known.get((way, name)) for name in UNSTOPPED]
            there = [one for one in those if one is not None]
            if there:
                row = there[0]
                second = [None if one is None or way == AS_IT_IS else one["validation"] for one in those]
                lines.append([data, way, f"{row['items_left']:,}", f"{row['targets_left']:.0%}", *map(change, second)])
    return lines


def of_labels(rows: list[Row]) -> list[str]:
    return [changed(rows, way) for way in LABELS]


def of_judges(rows: list[Row]) -> list[str]:
    """How often edits are right; what the denoiser alone brings."""
    shares = [right(found(rows, way)) for way in ("drop 5%, fused", "drop 5%, alone", COUNTED, "random drop 5%")]
    return [*shares, *(changed(rows, f"drop {share}, alone") for share in SHARES)]


def of_noise(rows: list[Row]) -> list[str]:
    """Cells of data that noise was put into: what its labels would bring, and who finds it; histories as they are."""
    if rows[0]["noise"] is None:
        return []
    ways = [*LABELS, *(f"drop {share}, fused" for share in SHARES), COUNTED, "random drop 5%"]
    shown = [changed(rows, way, "as-is") for way in ways]
    return [*shown, *(right(found(rows, way, "as-is")) for way in ("drop 5%, fused", COUNTED))]


def mean(rows: list[Row], by: str) -> dict[str, Any] | None:
    """The mean change of several data sets, with an interval as of independent normals; None where one lacks it."""
    known = [one for row in rows if (one := row["figures"][CHOSEN_BY][by]) is not None]
    if len(known) < len(rows):
        return None
    value = float(np.mean([one["value"] for one in known]))
    widths = [(one["interval"][1] - one["interval"][0]) / 2 for one in known]
    half = float(np.sqrt(np.sum(np.square(widths)))) / len(known)
    return {"value": value, "interval": (value - half, value + half)}


def means(rows: Iterable[Row]) -> list[list[str]]:
    """Each way's mean change over the data sets without noise of ours."""
    by_way: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["noise"] is None and row["way"] != AS_IT_IS:
            by_way.setdefault((row["recommender"], row["way"], row["histories"]), []).append(row)
    return [
        [
            *(RECOMMENDERS[recommender], way, histories, ", ".join(row["domain"] for row in those)),
            *(change(mean(those, by)) for by in ("relative", "over_random")),
        ]
        for (recommender, way, histories), those in by_way.items()
        if len(those) > 2
    ]


def halves(rows: Iterable[Row]) -> list[list[str]]:
    """What the best share of one half of the data sets brings the other half, over all ways to halve them."""
    known: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in rows:
        for dose in DOSES:
            if row["noise"] is None and row["way"] == f"drop {dose}, fused":
                of_data = known.setdefault((row["recommender"], row["histories"]), {})
                of_data.setdefault(data_of(row), {})[dose] = row["figures"][CHOSEN_BY]["relative"]["value"]
    lines = []
    for (recommender, histories), tried in known.items():
        by_data = [{"none": 0.0, **found} for found in tried.values() if len(found) == len(DOSES)]
        if len(by_data) < 4:
            continue
        chosen: Counter[str] = Counter()
        brought = []
        for half in combinations(range(len(by_data)), len(by_data) // 2):
            gains = {dose: sum(by_data[i][dose] for i in half) for dose in by_data[0]}
            best = max(gains, key=lambda dose: gains[dose])
            chosen[best] += 1
            brought.append(float(np.mean([one[best] for i, one in enumerate(by_data) if i not in half])))
        always = [f"{np.mean([one[dose] for one in by_data]):+.1%}" for dose in DOSES]
        shares = ", ".join(f"{dose} ({chosen[dose]})" for dose in by_data[0] if chosen[dose])
        below = f"{sum(gain < 0 for gain in brought)} of {len(brought)}"
        lines.append([RECOMMENDERS[recommender], histories, shares, f"{np.mean(brought):+.1%}", below, *always])
    return lines


# Recommender, histories and share of a column of the README's table.
SHOWN = [(name, "as-is", share) for name in ("ease", "neighbours") for share in ("5%", "10%", "30%")]
SHOWN += [("sasrec", "cleaned", share) for share in ("10%", "30%")]


def short(rows: Iterable[Row]) -> None:
    """The README's table: a line for each data set; what the denoiser and the counts drop."""
    of_data: dict[str, dict[tuple[str, str, str], Row]] = {}
    for row in rows:
        for name, histories, share in SHOWN:
            if row["noise"] is None and (row["recommender"], row["histories"], row["way"]) == (
                name,
                histories,
                f"drop {share}, fused",
            ):
                of_data.setdefault(data_of(row), {})[name, histories, share] = row
    lines = []
    for data, known in of_data.items():
        found = [known[column]["figures"][CHOSEN_BY]["relative"] if column in known else None for column in SHOWN]
        lines.append([data, *map(plain, found)])
    table(["data", *(f"{RECOMMENDERS[name]}, {share}" for name, _, share in SHOWN)], lines, texts=1)


def every(rows: Iterable[Row]) -> None:
    heads = ["data", "recommender", "training data", "histories", "seeds", "edits", "right", "NDCG@20"]
    lines = []
    for row in rows:
        of = row["figures"][CHOSEN_BY]
        figures = [f"{of['value']:.4f}", change(of["relative"]), change(of["over_random"])]
        named_by = [row[name] for name in ("recommender", "way", "histories")]
        lines.append([data_of(row), *named_by, f"{row['seeds']}", f"{row['edits']:,}", right(row), *figures])
    table([*heads, "change (95% interval)", "over random"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=RESULTS, help="JSON of downstream.py")
    parser.add_argument("--all", action="store_true", help="every row")
    said = parser.parse_args()
    rows = json.loads(said.file.read_text(encoding="utf-8"))
    if said.all:
        every(rows)
        return
    figures = Figures(rows)
    print("The README's\n")
    short(row for rows in figures.groups.values() for row in rows)
    heads = ["as it is: NDCG@20", "5% dropped", "over random", "10% dropped", "over random", "5% by co-occurrence"]
    print("What a recommender learns from and the histories that it is asked with are cleaned\n")
    figures.table(heads, of_defaults)
    for histories, said_so in (
        ("as-is", "What it learns from alone"),
        ("cleaned", "And the histories that it is asked with"),
    ):
        print(f"How much to drop. {said_so}\n")
        table(["data", "recommender", "who says which", *DOSES], doses(figures, histories), texts=3)
    print("What noise costs, by its labels\n")
    figures.table(["all noise dropped", "all noise undone"], of_labels)
    print("Noise that was put in, histories as they are\n")
    heads = ["all noise dropped", "all noise undone", "5% dropped", "10% dropped", "5% by co-occurrence"]
    figures.table([*heads, "5% at random", "right: denoiser and counts", "co-occurrence"], of_noise)
    print("How often 5% are right, and what the denoiser alone brings\n")
    heads = ["right: denoiser and counts", "denoiser", "co-occurrence", "random"]
    heads += ["5% dropped, denoiser", "10% dropped, denoiser"]
    figures.table(heads, of_judges)
    print("What is left, and the change on validation targets, histories as they are\n")
    heads = ["data", "training data", "different items", "targets among them"]
    table([*heads, *(f"{RECOMMENDERS[name]}: validation" for name in UNSTOPPED)], left(figures), texts=2)
    print("Chosen on one half of the data sets, and what that brings the other half; and what a share brings all\n")
    heads = ["recommender", "histories", "chosen (times)", "the other half", "below 0", *DOSES]
    table(heads, halves(row for rows in figures.groups.values() for row in rows), texts=3)
    print("Means over three data sets and more\n")
    heads = ["recommender", "training data", "histories", "data sets", "mean change", "over random"]
    table(heads, means(row for rows in figures.groups.values() for row in rows))


if __name__ == "__main__":
    main()
