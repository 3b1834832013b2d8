"""How fast sequences are scored, by weight type and size of the micro-batch: markdown on standard output.

    python benchmarks/scoring_speed.py --repeat 5

Scores the example sequences; rates are medians over repeated runs, the settings taken in turn, so that a machine's
changing speed touches all of them alike. The last column is the largest change of a noise probability against the
first row.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from llm4dsr_cli.model import denoiser as denoiser_module
from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.scores import probability

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def example_titles() -> list[list[str]]:
    catalog = {
        item["id"]: item["title"] for item in map(json.loads, (EXAMPLES / "catalog.jsonl").read_text().splitlines())
    }
    records = map(json.loads, (EXAMPLES / "sequences.jsonl").read_text().splitlines())
    return [[catalog[item] for item in record["items"]] for record in records]


def load(weights: str, batch_tokens: int, model: str | None) -> Denoiser:
    denoiser_module.BATCH_TOKENS = batch_tokens
    return Denoiser.load(model, weights=weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="denoiser; default: the one that ships")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    sequences = example_titles()
    n_items = sum(map(len, sequences))
    settings = [("bf16", 512), ("bf16", 256), ("bf16", 1024), ("q8_0", 512), ("q4_0", 512)]
    denoisers = {setting: load(*setting, arguments.model) for setting in settings}
    seconds: dict[tuple[str, int], list[float]] = {setting: [] for setting in settings}
    scores = {}
    for _ in range(arguments.repeat + 1):
        for setting, denoiser in denoisers.items():
            began = time.perf_counter()
            scores[setting] = probability(np.concatenate(denoiser.score(sequences)))
            seconds[setting].append(time.perf_counter() - began)
    print(f"{len(sequences)} sequences, {n_items} items\n")
    print("| weights | batch tokens | sequences/s | items/s | largest change of a probability |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for setting in settings:
        median = float(np.median(seconds[setting][1:]))  # the first run warms up
        change = np.abs(scores[setting] - scores[settings[0]]).max()
        rates = f"{len(sequences) / median:.1f} | {n_items / median:.0f}"
        print(f"| {setting[0]} | {setting[1]} | {rates} | {change:.3f} |")


if __name__ == "__main__":
    main()
