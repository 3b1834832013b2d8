"""What a repetition does to the judgement of an item: prints the table of docs/experiments.md.

In each window one item, noise or not, is put in a second time at a random place before the last item. The scores of
that item are compared when its title is read as often as it stands, and when it is read once, at the first or at the
last place.

    python benchmarks/repeats.py --windows 500
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli import Catalog, Denoiser, probability
from llm4dsr_cli.evaluation.metrics import auroc

REPOSITORY = Path(__file__).resolve().parents[1]


def read_windows(folder: Path, limit: int) -> list[tuple[list[str], list[int]]]:
    """Titles and labels of windows without repetitions, evenly spaced."""
    catalog = Catalog.load(folder / "catalog.jsonl")
    rows = [json.loads(line) for line in (folder / "valid.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if len(set(row["items"])) == len(row["items"]) > 3]
    chosen = [rows[place] for place in np.linspace(0, len(rows) - 1, min(limit, len(rows))).astype(int)]
    return [([catalog.title(item) or "" for item in row["items"]], row["noise"]) for row in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument("--domain", default="toy")
    parser.add_argument("--windows", type=int, default=500)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    alone, twice, last, places, labels = [], [], [], [], []
    for titles, noise in read_windows(arguments.data / arguments.domain, arguments.windows):
        place, second = sorted(rng.choice(len(titles) - 1, 2, replace=False).tolist())
        alone.append(titles)
        twice.append([*titles[:second], titles[place], *titles[second:]])
        # The first of the two taken out: the last one is what is left.
        last.append([*titles[:place], *titles[place + 1 : second], titles[place], *titles[second:]])
        places.append((place, second - 1))
        labels.append(noise[place])

    with Denoiser.load(threads=1) as denoiser:
        once = denoiser.score(alone), denoiser.score(last)
        # As before titles were read once: every title of a window for itself.
        denoiser._prompter.different = lambda titles: (list(titles), np.arange(len(titles)))  # type: ignore[method-assign]
        repeated = denoiser.score(twice)
    first_place, last_place = zip(*places, strict=True)
    found = {
        "as often as they stand": [scores[place] for scores, place in zip(repeated, first_place, strict=True)],
        "once, at the first place": [scores[place] for scores, place in zip(once[0], first_place, strict=True)],
        "once, at the last place": [scores[place] for scores, place in zip(once[1], last_place, strict=True)],
    }
    print(f"{arguments.domain}: {len(labels)} windows, {sum(labels)} of the repeated items are noise\n")
    print(
        "| titles are read | AUROC | mean noise probability of noise | of what belongs |\n| --- | ---: | ---: | ---: |"
    )
    noisy: NDArray[np.bool_] = np.array(labels) == 1
    for name, log_odds in found.items():
        scores = np.array(log_odds)
        chance = probability(scores)
        quality = auroc(scores, np.array(labels))
        print(f"| {name} | {quality:.3f} | {chance[noisy].mean():.3f} | {chance[~noisy].mean():.3f} |")


if __name__ == "__main__":
    main()
