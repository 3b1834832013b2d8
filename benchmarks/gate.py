"""Whether the gate keeps its word: the tables of docs/gate.md, as markdown on standard output.

    python benchmarks/gate.py --domains toy movie office clothing --scores scores/

Each domain's sequences are those of users that the denoiser was not trained on: valid windows of users who are not in
the train file (toy, movie), and the users of the train file that ``llm4dsr finetune`` holds out (the others). Noise
(10%) goes into one sequence a user, which is scored once. Then, 20 times, a random half of the users calibrates, and
the other half is measured: nothing of a measured user decided weights or thresholds. Counts are of the whole domain,
each judged user left out, as ``llm4dsr calibrate`` does it.

A second table, of the domains with labels, measures what it costs that real data are noisy before any noise is put in:
gates as above, used on the windows as they are, against gates whose calibration knew which items truly belong.
Labels are read for measuring, and for that comparison alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from engines import load_denoiser
from numpy.typing import NDArray

from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.evaluation.metrics import detection_quality
from llm4dsr_cli.finetune.data import Domain as TrainingDomain
from llm4dsr_cli.finetune.data import split_users
from llm4dsr_cli.finetune.settings import Settings
from llm4dsr_cli.gate.calibration import (
    STATED_RATES,
    CalibrationSettings,
    NoisySequence,
    ScoredItems,
    fit_gate,
    noisy_sequences,
    rate_bound,
    scored_items,
)
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.records.catalog import Catalog

REPOSITORY = Path(__file__).resolve().parent.parent
SPLITS = 20


@dataclass(frozen=True)
class Domain:
    """All (user, titles) pairs that are counted; those that may be judged, with noise labels where there are any."""

    titles: list[str]
    counted: list[tuple[Hashable, list[str]]]
    judged: list[tuple[Hashable, list[str]]]
    noise: list[list[int]] | None


def read_domain(folder: Path) -> Domain:
    catalog = Catalog.load(folder / "catalog.jsonl")

    def rows(name: str) -> list[dict[str, Any]]:
        with (folder / name).open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def pairs(found: list[dict[str, Any]]) -> list[tuple[Hashable, list[str]]]:
        return [(row["user_id"], [catalog.title(item) or "" for item in row["items"]]) for row in found]

    titles = [title for _, title in catalog if title is not None]
    if (folder / "valid.jsonl").is_file():
        train, valid = rows("train.jsonl"), rows("valid.jsonl")
        seen = {row["user_id"] for row in train}
        unseen = [row for row in valid if row["user_id"] not in seen]
        return Domain(titles, pairs(train + valid), pairs(unseen), [row["noise"] for row in unseen])
    train = rows("train.jsonl" if (folder / "train.jsonl").is_file() else "sequences.jsonl")
    everything = pairs(train)
    split = split_users(
        [TrainingDomain.build(folder.name, titles, everything)],
        validation=Settings.validation,
        calibration=Settings.calibration,
        test=Settings.test,
    )
    trained = set(split.train[0].users)
    held_out = [(user, items[-20:]) for user, items in everything if user not in trained and len(items) > 2]
    return Domain(titles, everything, held_out, None)


def score(denoiser: Denoiser, sequences: list[list[str]], kept: Path | None) -> list[NDArray[np.float32]]:
    """The denoiser's log-odds; kept in a file, so that a second run takes seconds."""
    key = hashlib.sha256("\n".join("\t".join(titles) for titles in sequences).encode()).hexdigest()[:16]
    file = None if kept is None else kept / f"{denoiser.sha256[:12]}-{key}.npz"
    if file is not None and file.is_file():
        with np.load(file) as arrays:
            flat = arrays["scores"]
    else:
        flat = np.concatenate(denoiser.score(sequences))
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(file, scores=flat)
    return np.split(flat, np.cumsum([len(titles) for titles in sequences])[:-1])


def halves(n_users: int, split: int) -> NDArray[np.bool_]:
    """True for the users who calibrate."""
    return np.random.default_rng([split, 17]).permutation(n_users) < n_users // 2


def renumbered(items: ScoredItems, users: NDArray[np.bool_]) -> tuple[ScoredItems, list[int]]:
    """The items of some users, who are numbered anew from 0, and their old numbers."""
    chosen = items.of(users[items.user])
    old = np.flatnonzero(users)
    return replace(chosen, user=np.searchsorted(old, chosen.user)), old.tolist()


def mean(rows: list[dict[str, float]], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))


def measure_rates(items: ScoredItems, evidence: Evidence, n_users: int, rate: float) -> list[dict[str, float]]:
    """A row for each split: what was measured on users that calibration never saw."""
    rows = []
    for split in range(SPLITS):
        half = halves(n_users, split)
        to_fit, numbers = renumbered(items, half)
        gate = fit_gate(
            to_fit,
            evidence,
            users=numbers,
            model_name="",
            model_sha256="",
            settings=CalibrationSettings(seed=split),
        )
        new = items.of(~half[items.user])
        belongs = new.labels == 0
        fused, alone = gate.fusion.log_odds(new.features), new.features[:, 0]
        # The bound for what is found on these new items, by what the calibration knew when it was made.
        third = np.random.default_rng([split, 1]).permutation(len(numbers)) < len(numbers) / 3
        cut = to_fit.of(~third[to_fit.user])
        kept = cut.labels == 0
        cut_scores = gate.fusion.log_odds(cut.features)[kept]
        bound = rate_bound(rate, cut_scores, cut.user[kept], n_new=int(belongs.sum()))
        edited = fused > gate.threshold(rate)
        edited_alone = alone > gate.threshold(rate, fusion=False)
        found = float(edited[belongs].mean())
        rows.append(
            {
                "rate": found,
                "within": float(found <= bound),
                "rate_alone": float(edited_alone[belongs].mean()),
                "recall": float(edited[~belongs].mean()),
                "recall_alone": float(edited_alone[~belongs].mean()),
                "precision": float((~belongs[edited]).mean()) if edited.any() else float("nan"),
            }
        )
    return rows


def measure_labelled(
    injected: ScoredItems, real: ScoredItems, evidence: Evidence, n_users: int, rate: float
) -> list[dict[str, float]]:
    """Gates of noisy calibrations on labelled windows as they are, and of calibrations that knew the labels."""
    rows = []
    for split in range(SPLITS):
        half = halves(n_users, split)
        new = real.of(~half[real.user])
        belongs = new.labels == 0
        row: dict[str, float] = {}
        for name, source in (("noisy", injected), ("known", real)):
            to_fit, numbers = renumbered(source, half)
            gate = fit_gate(
                to_fit,
                evidence,
                users=numbers,
                model_name="",
                model_sha256="",
                settings=CalibrationSettings(seed=split),
            )
            fused = gate.fusion.log_odds(new.features)
            edited = fused > gate.threshold(rate)
            row[f"rate_{name}"] = float(edited[belongs].mean())
            row[f"recall_{name}"] = float(edited[~belongs].mean())
            quality = detection_quality(fused, new.labels)
            row |= {f"{figure}_{name}": getattr(quality, figure) for figure in FIGURES}
        quality = detection_quality(new.features[:, 0], new.labels)
        row |= {f"{figure}_alone": getattr(quality, figure) for figure in FIGURES}
        rows.append(row)
    return rows


FIGURES = ("auroc", "average_precision", "precision_at_1pct", "precision_at_3pct")


def unless_refused(measure: Callable[..., list[dict[str, float]]], *given: Any) -> list[dict[str, float]]:
    """The rows, or none where the users are too few for the gate to promise so low a rate."""
    try:
        return measure(*given)
    except ModelError:
        return []


def evaluate(name: str, domain: Domain, denoiser: Denoiser, arguments: argparse.Namespace) -> dict[str, Any]:
    settings = CalibrationSettings(sequences=arguments.users)
    evidence = Evidence.count(domain.counted)
    sequences = noisy_sequences(domain.judged, domain.titles, evidence, settings)
    print(f"{name}: scoring {len(sequences):,} sequences with noise ...", file=sys.stderr, flush=True)
    log_odds = score(denoiser, [sequence.titles for sequence in sequences], arguments.scores)
    injected = scored_items(sequences, log_odds, evidence, 1)
    n_users = len(sequences)
    result: dict[str, Any] = {"users": n_users, "items": len(injected.labels)}
    result["rates"] = {rate: unless_refused(measure_rates, injected, evidence, n_users, rate) for rate in STATED_RATES}
    if domain.noise is None:
        return result
    numbers = {sequence.user: number for number, sequence in enumerate(sequences)}
    by_user: dict[Hashable, NoisySequence] = {}
    for (user, titles), noise in zip(domain.judged, domain.noise, strict=True):
        if user in numbers:
            by_user.setdefault(user, NoisySequence(user, titles, np.array(noise, dtype=np.int8)))
    as_they_are = [by_user[sequence.user] for sequence in sequences]
    print(f"{name}: scoring {n_users:,} sequences as they are ...", file=sys.stderr, flush=True)
    log_odds = score(denoiser, [sequence.titles for sequence in as_they_are], arguments.scores)
    real = scored_items(as_they_are, log_odds, evidence, 1)
    result["labelled"] = {
        rate: unless_refused(measure_labelled, injected, real, evidence, n_users, rate) for rate in STATED_RATES
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument("--domains", nargs="+", default=["toy", "movie", "office", "clothing"])
    parser.add_argument("--denoiser", help="name or GGUF file; default: the one that ships")
    parser.add_argument("--users", type=int, default=2_000, help="judge at most so many users a domain")
    parser.add_argument("--scores", type=Path, help="folder that keeps the denoiser's scores between runs")
    arguments = parser.parse_args()
    results = {}
    with load_denoiser(arguments.denoiser) as denoiser:
        for name in arguments.domains:
            if not (arguments.data / name).is_dir():
                print(f"{name}: skipped, there is no {arguments.data / name}; see --data", file=sys.stderr)
                continue
            results[name] = evaluate(name, read_domain(arguments.data / name), denoiser, arguments)

    print(f"Means over {SPLITS} splits by user, one half calibrates, the other is measured.\n")
    print("| data | users | stated rate | measured | largest | within the 95% bound | noise found | model alone |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, result in results.items():
        for rate, rows in result["rates"].items():
            if not rows:
                print(f"| {name} | {result['users']:,} | {rate} | refused: too few users | | | | |")
                continue
            print(
                f"| {name} | {result['users']:,} | {rate} | {mean(rows, 'rate'):.4f} | "
                f"{max(row['rate'] for row in rows):.4f} | {sum(row['within'] for row in rows):.0f} of {SPLITS} | "
                f"{mean(rows, 'recall'):.1%} | {mean(rows, 'recall_alone'):.1%} |"
            )
    labelled = {name: result["labelled"] for name, result in results.items() if "labelled" in result}
    if not labelled:
        return
    print("\nOn the labelled windows as they are: calibrated on noisy data, and with the labels known.\n")
    print("| data | stated rate | rate, noisy | rate, known | found, noisy | found, known |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, by_rate in labelled.items():
        for rate, rows in by_rate.items():
            if not rows:
                continue
            print(
                f"| {name} | {rate} | {mean(rows, 'rate_noisy'):.4f} | {mean(rows, 'rate_known'):.4f} | "
                f"{mean(rows, 'recall_noisy'):.1%} | {mean(rows, 'recall_known'):.1%} |"
            )
    print("\nDetection quality on the labelled windows as they are.\n")
    print("| data | scorer | AUROC | AP | P@1% | P@3% |\n| --- | --- | ---: | ---: | ---: | ---: |")
    for name, by_rate in labelled.items():
        rows = list(by_rate.values())[-1]
        for scorer, key in (("model alone", "alone"), ("fused", "noisy")):
            print(f"| {name} | {scorer} | " + " | ".join(f"{mean(rows, f'{f}_{key}'):.3f}" for f in FIGURES) + " |")


if __name__ == "__main__":
    main()
