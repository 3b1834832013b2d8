"""How `clean` of a file should weigh the denoiser against the file's own counts: markdown on standard output.

    python benchmarks/default_fusion.py --scores scores/

A file is a domain's valid windows with their noise as they are (toy, movie), or all of a domain's sequences, of whose
items a tenth was replaced (the others). Its items are judged in four ways, each user left out of the counts:

- alone: the denoiser;
- prior: weights fitted on the other domains, which weigh the same, on features standardized by each domain's own items;
- sample of n: weights fitted on n of the file's sequences with noise put in, which takes n more sequences to score;
- drawn of n: the same, drawn to the prior (`gate/fusion.py`, PRIOR_RIDGE) instead of 0.

AUROC / average precision / precision of the most suspicious 5%; means of six samples. At the end stand the weights and
the deviations of all domains together, which `gate/fusion.py` has as PRIOR_WEIGHTS and LEAST_DEVIATION (a quarter).
Labels are read for measuring alone.
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
from engines import load_denoiser
from gate import REPOSITORY, score
from numpy.typing import NDArray

from llm4dsr_cli.evaluation.metrics import detection_quality
from llm4dsr_cli.gate.calibration import CalibrationSettings, NoisySequence, ScoredItems, noisy_sequences, scored_items
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.gate.fusion import LEAST_DEVIATION, Fusion
from llm4dsr_cli.noise import inject_noise
from llm4dsr_cli.records.catalog import Catalog

SAMPLES = (30, 60, 120, 250)
REPEATS = 6
OF_A_DOMAIN = 2_000  # items; so that a large domain is no more than a small one
LABELLED = ("toy", "movie")
FILES = {"office": "train.jsonl", "clothing": "train.jsonl", "games": "sequences.jsonl"}
LONGEST = 12


@dataclass(frozen=True)
class File:
    """All (user, titles) pairs of a file, and those whose items are judged, with labels."""

    titles: list[str]
    data: list[tuple[Hashable, list[str]]]
    judged: list[NoisySequence]


def read_file(folder: Path, n: int, longest: int | None = LONGEST) -> File:
    """A domain's file, and n of its sequences, of which the last ``longest`` items are judged; None judges all."""
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
    judged = [NoisySequence(one.user, one.titles[-(longest or 0) :], one.labels[-(longest or 0) :]) for one in judged]
    return File(titles, [(one.user, one.titles) for one in sequences], judged)


def standardized(items: ScoredItems) -> NDArray[np.float64]:
    deviation = np.maximum(items.features.std(axis=0), LEAST_DEVIATION)
    found: NDArray[np.float64] = (items.features - items.features.mean(axis=0)) / deviation
    return found


def prior_of(samples: list[ScoredItems]) -> NDArray[np.float64]:
    """Weights of standardized features, fitted on several domains."""
    features, labels = [], []
    for items in samples:
        chosen = np.random.default_rng(0).permutation(len(items.labels))[:OF_A_DOMAIN]
        features.append(standardized(items)[chosen])
        labels.append(items.labels[chosen])
    fusion = Fusion.fit(np.concatenate(features), np.concatenate(labels))
    return fusion.weights / fusion.deviation


def figures(log_odds: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    quality = detection_quality(log_odds, labels)
    return np.array([quality.auroc, quality.average_precision, quality.precision_at_5pct])


def cell(found: NDArray[np.float64]) -> str:
    return " / ".join(f"{value:.3f}" for value in found)


def fitted(sample: ScoredItems, judged: ScoredItems, n: int, prior: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Figures of fusions that were fitted on n users of a sample; means over several such n."""
    found = []
    for repeat in range(REPEATS):
        users = np.random.default_rng(repeat).permutation(int(sample.user.max()) + 1)[:n]
        part = sample.of(np.isin(sample.user, users))
        fusion = Fusion.fit(part.features, part.labels, prior)
        found.append(figures(fusion.log_odds(judged.features), judged.labels))
    mean: NDArray[np.float64] = np.mean(found, axis=0)
    return mean


def tables(judged: dict[str, ScoredItems], samples: dict[str, ScoredItems]) -> None:
    ways = ["alone", "prior", *(f"{way} of {n}" for n in SAMPLES for way in ("sample", "drawn"))]
    print("| data | " + " | ".join(ways) + " |\n| --- |" + " --- |" * len(ways))
    for name, items in judged.items():
        prior = prior_of([other for domain, other in samples.items() if domain != name])
        cells = [figures(items.features[:, 0], items.labels), figures(standardized(items) @ prior, items.labels)]
        for n in SAMPLES:
            cells += [fitted(samples[name], items, n, centre) for centre in (None, prior)]
        print(f"| {name} | " + " | ".join(map(cell, cells)) + " |")
    deviations = np.mean([items.features.std(axis=0) for items in samples.values()], axis=0)
    print(f"\nweights {np.round(prior_of([*samples.values()]), 3).tolist()}")
    print(f"deviations {np.round(deviations, 3).tolist()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument(
        "--domains", nargs="+", default=["movie", "toy", "office", "steam", "games", "film", "clothing"]
    )
    parser.add_argument("--judged", type=int, default=400, help="judge so many sequences of a file")
    parser.add_argument("--scores", type=Path, help="folder that keeps the denoiser's scores between runs")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    judged: dict[str, ScoredItems] = {}
    samples: dict[str, ScoredItems] = {}
    with load_denoiser(threads=arguments.threads) as denoiser:
        for name in arguments.domains:
            print(f"{name} ...", file=sys.stderr, flush=True)
            file = read_file(arguments.data / name, arguments.judged)
            evidence = Evidence.count(file.data)
            scores = score(denoiser, [one.titles for one in file.judged], arguments.scores)
            judged[name] = scored_items(file.judged, scores, evidence, 1)
            short = [(user, titles[-LONGEST:]) for user, titles in file.data]
            noisy = noisy_sequences(short, file.titles, evidence, CalibrationSettings(sequences=max(SAMPLES)))
            scores = score(denoiser, [one.titles for one in noisy], arguments.scores)
            samples[name] = scored_items(noisy, scores, evidence, 1)
    tables(judged, samples)


if __name__ == "__main__":
    main()
