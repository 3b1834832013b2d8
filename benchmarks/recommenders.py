"""What a trial's recommenders reach on data as they are, and what a fit costs: the table of docs/trial.md.

    python benchmarks/recommenders.py

Movie's train windows, each a history of its own; the last items of half of the valid windows are ranked among all
items, those of the other half are for the early stop. One seed, one thread; nothing is edited.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from llm4dsr_cli.noise import Indices
from llm4dsr_cli.trial.metrics import gains, ranks
from llm4dsr_cli.trial.recommenders import NAMES, Validation, make_recommender

REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument("--recommenders", nargs="+", default=NAMES)
    said = parser.parse_args()
    folder = said.data / "movie"
    with (folder / "catalog.jsonl").open(encoding="utf-8") as lines:
        place = {item: number for number, item in enumerate(dict.fromkeys(json.loads(line)["id"] for line in lines))}

    def windows(name: str) -> list[Indices]:
        with (folder / name).open(encoding="utf-8") as lines:
            rows = [json.loads(line)["items"] for line in lines]
        return [np.array([place[item] for item in items], dtype=np.int64) for items in rows]

    train, valid = windows("train.jsonl"), windows("valid.jsonl")
    order = np.random.default_rng(0).permutation(len(valid))
    halves = [[valid[i] for i in part] for part in np.array_split(order, 2)]
    histories = [[one[:-1] for one in part] for part in halves]
    targets = [np.array([one[-1] for one in part]) for part in halves]
    validation = Validation(histories[0], targets[0])
    print("| `--recommender` | NDCG@20 | CPU seconds of a fit |\n| --- | ---: | ---: |")
    for name in said.recommenders:
        recommender = make_recommender(name)
        began = time.process_time()
        recommender.fit(train, None, len(place), 0, validation)
        seconds = time.process_time() - began
        found = gains(ranks(recommender, histories[1], targets[1], None), "NDCG@20").mean()
        print(f"| `{name}` | {found:.4f} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
