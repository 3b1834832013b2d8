"""Whether a small file's own counts help or harm: markdown on standard output.

    python benchmarks/small_files.py

A file is some random users' valid windows of movie or toy, with their noise as it is. It is judged as `clean` judges a
file: the denoiser, fused with the file's counts where a sample with noise put in says that they help. Average precision
and precision of the most suspicious 5%, the last item of each window left out; means over files. Labels are for
measuring alone.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli import Catalog, Cleaning, ItemSequence, detection_quality
from llm4dsr_cli.cleaning.counted import Counted

REPOSITORY = Path(__file__).resolve().parent.parent


def quality(scores: list[NDArray[np.float32]], labels: list[list[int]]) -> list[float]:
    flat = np.concatenate([row[:-1] for row in scores])
    found = detection_quality(flat, np.concatenate([row[:-1] for row in labels]))
    return [found.average_precision, found.precision_at_5pct]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument("--users", type=int, nargs="+", default=[30, 60, 120, 300])
    parser.add_argument("--files", type=int, default=3, help="so many files of each size")
    parser.add_argument("--threads", type=int)
    said = parser.parse_args()
    print("| data | users | alone: AP / P@5% | as `clean` judges | fused |\n| --- | ---: | ---: | ---: | ---: |")
    with Cleaning.load(threshold=0.5, threads=said.threads) as loaded:
        for name in ("movie", "toy"):
            catalog = Catalog.load(said.data / name / "catalog.jsonl")
            with (said.data / name / "valid.jsonl").open(encoding="utf-8") as lines:
                rows = [json.loads(line) for line in lines]
            users = list(dict.fromkeys(row["user_id"] for row in rows))
            for n in said.users:
                results, fused = [], 0
                for seed in range(said.files):
                    chosen = {users[i] for i in np.random.default_rng(seed).permutation(len(users))[:n]}
                    mine = [row for row in rows if row["user_id"] in chosen]
                    sequences = [
                        ItemSequence([catalog.title(item) for item in row["items"]], row["user_id"]) for row in mine
                    ]
                    labels = [row["noise"] for row in mine]
                    cleaning = Cleaning(loaded.scorer, loaded.settings, catalog=catalog, counted=Counted.of(sequences))
                    scored = list(cleaning.score(sequences))
                    fitted = cleaning.fitted()
                    fused += fitted.fuses
                    results.append([quality(one.log_odds(scored), labels) for one in (cleaning, fitted)])
                alone, judged = np.mean(results, axis=0)
                cells = [f"{found[0]:.3f} / {found[1]:.3f}" for found in (alone, judged)]
                print(f"| {name} | {n} | {cells[0]} | {cells[1]} | {fused} of {said.files} |", flush=True)


if __name__ == "__main__":
    main()
