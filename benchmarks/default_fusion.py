"""How `clean` of a file should weigh the denoiser against the file's own counts: markdown on standard output.

    python benchmarks/default_fusion.py --scores scores/

A file is a domain's valid windows with their noise as they are (toy, movie), or all of a domain's sequences, of whose
items a tenth was replaced (the others). Its items are judged in four ways, each user left out of the counts:

- alone: the denoiser;
- shipped: a fusion fitted on the other domains, its features standardized by the file's own items;
- sample of n: a fusion fitted on n of the file's sequences with noise put in, which takes n more sequences to score;
- both of n: the same, its weights drawn towards the shipped ones instead of 0.

Means of ten samples. Labels are read for measuring alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gate import REPOSITORY, score
from numpy.typing import NDArray

from llm4dsr_cli.evaluation.metrics import detection_quality
from llm4dsr_cli.gate.calibration import CalibrationSettings, NoisySequence, ScoredItems, noisy_sequences, scored_items
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.gate.fusion import Fusion
from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.noise import inject_noise
from llm4dsr_cli.records.catalog import Catalog

SAMPLES = (30, 60, 120, 250)
REPEATS = 10
LABELLED = ("toy", "movie")
FILES = {"office": "train.jsonl", "clothing": "train.jsonl", "games": "sequences.jsonl"}
LONGEST = 12


@dataclass(frozen=True)
class File:
    """All (user, titles) pairs of a file, and those whose items are judged, with labels."""

    titles: list[str]
    data: list[tuple[Hashable, list[str]]]
    judged: list[NoisySequence]


def read_file(folder: Path, n: int) -> File:
    catalog = [(item, title) for item, title in Catalog.load(folder / "catalog.jsonl") if title is not None]
    place = {item: number for number, (item, _) in enumerate(catalog)}
    titles = [title for _, title in catalog]
    rng = np.random.default_rng(5)
    name = "valid.jsonl" if folder.name in LABELLED else FILES.get(folder.name, "sequences.jsonl")
    sequences: list[NoisySequence] = []
    with (folder / name).open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            kept = [at for at, item in enumerate(row["items"]) if item in place]
            if len(kept) < 3:
                continue
            items = np.array([place[row["items"][at]] for at in kept])
            labels = np.array(row["noise"], dtype=np.int8)[kept] if folder.name in LABELLED else None
            if labels is None:
                target = items[-1]
                items, labels = inject_noise(items, len(titles), 0.1, rng)
                items[-1], labels[-1] = target, 0
            sequences.append(NoisySequence(row["user_id"], [titles[i] for i in items], labels))
    chosen = rng.permutation(len(sequences))[:n]
    judged = [sequences[i] for i in sorted(chosen.tolist())]
    judged = [NoisySequence(one.user, one.titles[-LONGEST:], one.labels[-LONGEST:]) for one in judged]
    return File(titles, [(one.user, one.titles) for one in sequences], judged)


def standardized(items: ScoredItems, of: ScoredItems) -> NDArray[np.float64]:
    return (items.features - of.features.mean(axis=0)) / np.maximum(of.features.std(axis=0), 1e-9)


def fit(features: NDArray[np.float64], labels: NDArray[np.integer], prior: NDArray[np.float64] | None, ridge: float):
    """Weights of standardized features, bias first, drawn towards ``prior``."""
    design = np.column_stack([np.ones(len(features)), features])
    penalty = np.diag([1e-6, *([ridge] * features.shape[1])])
    centre = np.zeros(design.shape[1]) if prior is None else np.concatenate([[0], prior[1:]])
    weights = centre.copy()
    weights[0] = -2
    for _ in range(50):
        chance = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (labels - chance) - penalty @ (weights - centre)
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + penalty
        step = np.linalg.solve(curvature, gradient)
        weights += step
        if np.abs(step).max() < 1e-9:
            break
    return weights


def figures(log_odds: NDArray[np.floating], labels: NDArray[np.integer]) -> list[float]:
    quality = detection_quality(log_odds.astype(np.float32), labels)
    order = np.argsort(-log_odds, kind="stable")[: len(labels) // 20]
    return [quality.auroc, quality.average_precision, float(labels[order].mean())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument(
        "--domains", nargs="+", default=["toy", "movie", "office", "clothing", "games", "steam", "film"]
    )
    parser.add_argument("--judged", type=int, default=400, help="judge so many sequences of a file")
    parser.add_argument("--scores", type=Path, help="folder that keeps the denoiser's scores between runs")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    judged: dict[str, ScoredItems] = {}
    samples: dict[str, ScoredItems] = {}
    with Denoiser.load(threads=arguments.threads) as denoiser:
        for name in arguments.domains:
            print(f"{name} ...", file=sys.stderr, flush=True)
            file = read_file(arguments.data / name, arguments.judged)
            evidence = Evidence.count(file.data)
            scores = score(denoiser, [one.titles for one in file.judged], arguments.scores)
            judged[name] = scored_items(file.judged, scores, evidence, 1)
            short = [(user, titles[-LONGEST:]) for user, titles in file.data]
            noisy = noisy_sequences(short, file.titles, CalibrationSettings(sequences=max(SAMPLES)))
            scores = score(denoiser, [one.titles for one in noisy], arguments.scores)
            samples[name] = scored_items(noisy, scores, evidence, 1)
    if arguments.scores:
        np.savez(
            arguments.scores / "features.npz",
            **{f"{n}_{k}_{f}": getattr(v, f) for k, d in (("judged", judged), ("sample", samples)) for n, v in d.items() for f in ("features", "labels", "user")},
        )


if __name__ == "__main__":
    main()
