"""How well noise is found: the detection table of the README, as markdown on standard output.

    python benchmarks/detection.py --domains toy movie --by-popularity --json detection.json

Judged are valid windows of users who are not in the train file, so that neither the denoiser nor a baseline has seen
anything of them; every item but the last of each window, which is the recommender's target and is protected (it still
serves as context). Noise labels are read for measuring only.

Every baseline stands in two rows. "past": it counts the train file alone, all that the denoiser has seen. "past and
present": it counts the train file and the valid windows of other users, two folds of users in turn, which is what a
person who cleans a whole data set at once has.
EASE counts each user's windows as one joined history, which is how it was published and does better; the others count
windows. The denoiser is judged alone, without counts. Its training data is its card's to state.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.errors import Llm4dsrError
from llm4dsr_cli.evaluation.baselines import CoOccurrenceTfidf, Ease, NoiseScorer, Popularity
from llm4dsr_cli.evaluation.folds import random_folds, score_by_folds
from llm4dsr_cli.evaluation.metrics import auroc, detection_quality
from llm4dsr_cli.evaluation.strata import quintiles

REPOSITORY = Path(__file__).resolve().parent.parent
Scores = list[NDArray[Any]]


@dataclass(frozen=True)
class Window:
    """One window: its user, item indices 0..n_items-1, and labels (1 = noise) of the same length."""

    user: Any
    items: list[int]
    noise: list[int]


@dataclass(frozen=True)
class Domain:
    """One data set: title by item index, train windows, and the valid windows that are judged."""

    titles: list[str]
    train: list[Window]
    valid: list[Window]


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def read_domain(folder: Path) -> Domain:
    catalog = read_jsonl(folder / "catalog.jsonl")
    index = {item["id"]: place for place, item in enumerate(catalog)}

    def windows(name: str) -> list[Window]:
        rows = read_jsonl(folder / name)
        return [Window(row["user_id"], [index[item] for item in row["items"]], row["noise"]) for row in rows]

    return Domain([item["title"] for item in catalog], windows("train.jsonl"), windows("valid.jsonl"))


def score_baseline(
    build: Callable[[], NoiseScorer], join: bool, domain: Domain, judged: list[int], train_only: bool
) -> Scores:
    """One array for each judged window, from counts that hold no window of its user."""
    here = [(domain.valid[place].user, domain.valid[place].items) for place in judged]
    counted = [(window.user, window.items) for window in domain.train + ([] if train_only else domain.valid)]
    # Users in train are in no fold: they are not judged.
    return score_by_folds(build(), counted, here, random_folds(user for user, _ in here), join=join)


def score_with_denoiser(reference: str, domain: Domain, judged: list[int]) -> Scores:
    """Noise log-odds of the denoiser alone, one array for each judged window."""
    from engines import load_denoiser

    denoiser = load_denoiser(reference)
    return denoiser.score([[domain.titles[item] for item in domain.valid[place].items] for place in judged])


def measured(per_window: Sequence[Sequence[Any] | NDArray[Any]]) -> NDArray[Any]:
    """All items but the last of each window, in one array of shape (n_measured,)."""
    return np.concatenate([np.asarray(window)[:-1] for window in per_window])


def popularity_quintiles(domain: Domain, judged: list[int]) -> tuple[NDArray[Any], list[str]]:
    """Quintile 0..4 of each measured item by the train windows that hold it, and the counts each one spans."""
    counts = np.zeros(len(domain.titles), int)
    for window in domain.train:
        counts[list(set(window.items))] += 1
    of_item = counts[measured([domain.valid[place].items for place in judged])]
    quintile = quintiles(of_item)
    spans = [of_item[quintile == part] for part in range(5)]
    return quintile, [f"{span.min()}-{span.max()}" if len(span) else "none" for span in spans]


def judged_windows(domain: Domain, limit: int | None) -> list[int]:
    """Places of the valid windows of users who are not in the train file; at most ``limit`` of them, evenly spaced."""
    seen = {window.user for window in domain.train}
    unseen = [place for place, window in enumerate(domain.valid) if window.user not in seen]
    n_judged = min(limit or len(unseen), len(unseen))
    return [unseen[i] for i in np.linspace(0, len(unseen) - 1, n_judged).astype(int)]


def evaluate(name: str, domain: Domain, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each scorer: its name, its quality, and its AUROC within each popularity quintile."""
    n_items = len(domain.titles)
    judged = judged_windows(domain, arguments.limit)
    labels = measured([domain.valid[place].noise for place in judged])
    quintile, spans = popularity_quintiles(domain, judged)

    scorers: dict[str, Callable[[], Scores]] = {}

    def add_baseline(scorer: str, build: Callable[[], NoiseScorer], *, join: bool = False) -> None:
        for counted, train_only in (("past", True), ("past and present", False)):
            scorers[f"{scorer}, {counted}"] = partial(score_baseline, build, join, domain, judged, train_only)

    if "baselines" in arguments.scorers:
        add_baseline("popularity", lambda: Popularity(n_items))
        add_baseline("co-occurrence + TF-IDF", lambda: CoOccurrenceTfidf(domain.titles))
        add_baseline("EASE", lambda: Ease(n_items), join=True)
    if "denoiser" in arguments.scorers and arguments.denoiser:
        scorers["denoiser alone"] = partial(score_with_denoiser, arguments.denoiser, domain, judged)
    rows = []
    for scorer, run in scorers.items():
        print(f"{name}: {scorer} ...", file=sys.stderr, flush=True)
        try:
            scores = measured(run())
        except (ImportError, Llm4dsrError) as error:
            print(f"{name}: {scorer} is left out: {error}", file=sys.stderr)
            continue
        within = [auroc(scores[quintile == part], labels[quintile == part]) for part in range(5)]
        quality = asdict(detection_quality(scores, labels))
        rows.append({"domain": name, "scorer": scorer, **quality, "auroc_by_popularity": within, "train_counts": spans})
    return rows


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for cells in (header, ["---"] * 2 + ["---:"] * (len(header) - 2), *rows):
        print("| " + " | ".join(cells) + " |")


def print_quality(rows: Sequence[dict[str, Any]]) -> None:
    figures = ("auroc", "average_precision", "precision_at_1pct", "precision_at_3pct")
    print_table(
        ["data", "scorer", "AUROC", "AP", "P@1%", "P@3%", "items", "noise"],
        [
            [row["domain"], row["scorer"]]
            + [f"{row[figure]:.3f}" for figure in figures]
            + [f"{row['n_items']:,}", f"{row['n_noise'] / row['n_items']:.1%}"]
            for row in rows
        ],
    )


def print_by_popularity(rows: Sequence[dict[str, Any]]) -> None:
    print("\nAUROC among items of like popularity, least popular fifth first (train windows that hold the item):\n")
    for domain in dict.fromkeys(row["domain"] for row in rows):
        of_domain = [row for row in rows if row["domain"] == domain]
        print_table(
            ["data", "scorer", *of_domain[0]["train_counts"]],
            [[domain, row["scorer"], *(f"{part:.3f}" for part in row["auroc_by_popularity"])] for row in of_domain],
        )
        print()


def shipped_denoiser() -> str | None:
    """The adapter in the repository's ``models`` folder, if there is one."""
    return next((str(path) for path in sorted((REPOSITORY / "models").glob("*.gguf"))), None)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument("--domains", nargs="+", default=["toy", "movie"])
    parser.add_argument("--denoiser", default=shipped_denoiser(), help="GGUF file; default: the one that ships")
    parser.add_argument("--limit", type=int, help="judge only this many valid windows, evenly spaced")
    parser.add_argument("--scorers", nargs="+", default=["baselines", "denoiser"], help="what to run of the two")
    parser.add_argument("--by-popularity", action="store_true", help="AUROC within popularity quintiles, too")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    rows = []
    for name in arguments.domains:
        folder = arguments.data / name
        if not (folder / "valid.jsonl").is_file():
            print(f"{name}: skipped, there is no {folder / 'valid.jsonl'}; see --data", file=sys.stderr)
            continue
        rows += evaluate(name, read_domain(folder), arguments)
    if not rows:
        return
    print_quality(rows)
    if arguments.by_popularity:
        print_by_popularity(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
