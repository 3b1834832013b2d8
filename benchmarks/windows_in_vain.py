"""How many windows need not be read, because counts alone say that no item of theirs is edited: markdown.

    python benchmarks/windows_in_vain.py --scores scores/

A file is cleaned with `--edit SHARE`: counts weighed against the denoiser on 250 sequences with noise put in, as
`clean` does it. All counts are known before a window is read; a bound on the denoiser's log-odds then bounds what an
item can come to. Windows are read in the order of their largest bound, until the share's last edit is above the bound
of all that are left (the threshold algorithm of Fagin, Lotem and Naor, 2003). Last items are protected, and make no
window worth reading. Bounds on the denoiser's log-odds, all from the sample:

- largest, quantiles: one number for all items;
- given counts: what a line through the counts' features expects, and a quantile of what is left over.

"With an edit" is the share of windows that hold one: no order of reading could do with less. "Changed" is the share of
the edits that are others than with all windows read. "Whoever knew" is the share of windows to read, in the order of
the expected number of edits, for so many changed edits, where somebody knew when to stop. Labels are read for
measuring alone, for the share of the edits that is right.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from default_fusion import LONGEST, read_file
from gate import REPOSITORY
from numpy.typing import NDArray

from llm4dsr_cli.gate.calibration import CalibrationSettings, NoisySequence, noisy_sequences, scored_items
from llm4dsr_cli.gate.cross_fitting import cross_fitted_gate
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.gate.fusion import Fusion, fusion_features
from llm4dsr_cli.gate.gate_file import GateFile
from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.scores import Scores
from llm4dsr_cli.windows import overlapping_windows

Floats = NDArray[np.float64]

SHARES = (0.01, 0.05, 0.1)
CHANGED = (0.001, 0.01, 0.05)
SAMPLED = 250
CHUNK = 100  # sequences whose scores are kept in one file
_OF_THE_DENOISER = 1  # so many of the features come from its log-odds


@dataclass(frozen=True)
class Items:
    """Items that could be edited: features, (n_items, n_features), labels (1 = noise), and which window judges each."""

    features: Floats
    labels: NDArray[np.int8]
    window: NDArray[np.int64]
    n_windows: int
    n_items: int  # protected ones, too


Bound = Callable[
    [Floats], Floats
]  # the largest log-odds of items by their counts, (n_items, len(FEATURES)) -> (n_items,)


def score(denoiser: Denoiser, sequences: Sequence[list[str]], kept: Path) -> list[Scores]:
    """The denoiser's log-odds, kept as they come."""
    kept.mkdir(parents=True, exist_ok=True)
    scores: list[Scores] = []
    for start in range(0, len(sequences), CHUNK):
        chunk = sequences[start : start + CHUNK]
        key = hashlib.sha256("\n".join("\t".join(titles) for titles in chunk).encode()).hexdigest()[:16]
        file = kept / f"{denoiser.sha256[:12]}-{key}.npz"
        if not file.is_file():
            np.savez(file, scores=np.concatenate(denoiser.score(chunk)))
        with np.load(file) as arrays:
            scores += np.split(arrays["scores"], np.cumsum([len(titles) for titles in chunk])[:-1])
    return scores


def items_of(judged: Sequence[NoisySequence], scores: Sequence[Scores], evidence: Evidence, max_window: int) -> Items:
    features, labels, windows, n_windows = [], [], [], 0
    for sequence, log_odds in zip(judged, scores, strict=True):
        found = fusion_features(log_odds, evidence.features(sequence.titles, sequence.user))
        window = np.empty(len(found), dtype=np.int64)
        for one in overlapping_windows(len(found), max_window):
            window[one.judge_from : one.judge_to] = n_windows
            n_windows += 1
        features.append(found[:-1])
        labels.append(sequence.labels[:-1])
        windows.append(window[:-1])
    n_items = sum(map(len, scores))
    return Items(np.concatenate(features), np.concatenate(labels), np.concatenate(windows), n_windows, n_items)


def line_through(sample: Floats) -> tuple[Floats, Floats]:
    """Weights by which counts expect the denoiser's log-odds, the constant first, and what each item has beyond."""
    counts = sample[:, _OF_THE_DENOISER:]
    design = np.column_stack([np.ones(len(counts)), counts])
    weights = np.linalg.lstsq(design, sample[:, 0], rcond=None)[0].astype(np.float64)
    beyond: Floats = sample[:, 0] - design @ weights
    return weights, beyond


def bounds(sample: Floats) -> dict[str, Bound]:
    """Bounds on the denoiser's log-odds, from the features of a sample."""
    log_odds = sample[:, 0]
    weights, left = line_through(sample)

    def constant(value: float) -> Bound:
        return lambda found: np.full(len(found), value)

    def line(value: float) -> Bound:
        return lambda found: np.column_stack([np.ones(len(found)), found]) @ weights + value

    return {
        "largest": constant(float(log_odds.max())),
        ".999": constant(float(np.quantile(log_odds, 0.999))),
        ".99": constant(float(np.quantile(log_odds, 0.99))),
        ".95": constant(float(np.quantile(log_odds, 0.95))),
        "given counts, largest": line(float(left.max())),
        "given counts, .999": line(float(np.quantile(left, 0.999))),
        "given counts, .99": line(float(np.quantile(left, 0.99))),
        "given counts, .95": line(float(np.quantile(left, 0.95))),
    }


def reading(items: Items, fused: Floats, highest: Floats, share: float) -> tuple[float, float, float, float]:
    """Share of the windows that are read until nothing above the threshold can be left, and share of edits changed.

    Then the share of the edits that is right, with all windows read and with these.

    Args:
        highest: what the fused log-odds of each item are bound by, shape (n_items,).
    """
    edits = int(share * items.n_items)
    of_window = np.full(items.n_windows, -np.inf)
    np.maximum.at(of_window, items.window, highest)
    order = np.argsort(-of_window, kind="stable")
    rank = np.empty(items.n_windows, dtype=np.int64)
    rank[order] = np.arange(items.n_windows)
    item_rank = rank[items.window]

    def enough(n_read: int) -> bool:
        if n_read == items.n_windows:
            return True
        read = fused[item_rank < n_read]
        return len(read) >= edits and np.partition(read, -edits)[-edits] >= of_window[order[n_read]]

    low, high = 0, items.n_windows  # the more is read, the higher is the threshold, and the lower what is left
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    best = np.argsort(-fused, kind="stable")[:edits]
    read = np.flatnonzero(item_rank < low)
    found = read[np.argsort(-fused[read], kind="stable")[:edits]]
    changed = len(np.setdiff1d(best, found)) / edits
    return low / items.n_windows, changed, float(items.labels[best].mean()), float(items.labels[found].mean())


def least_reading(items: Items, fused: Floats, worth: Floats, share: float, changed: float) -> float:
    """Share of the windows to read in this order so that no more of the edits change; whoever stops there knows all.

    Args:
        worth: of each window, shape (n_windows,); the largest is read first.
        changed: share of the edits.
    """
    edits = int(share * items.n_items)
    rank = np.empty(items.n_windows, dtype=np.int64)
    rank[np.argsort(-worth, kind="stable")] = np.arange(items.n_windows)
    of_edits = np.sort(rank[items.window[np.argsort(-fused, kind="stable")[:edits]]])
    return float(of_edits[edits - 1 - int(changed * edits)] + 1) / items.n_windows


def expected_edits(items: Items, fusion: Fusion, sample: Floats, threshold: float) -> Floats:
    """Of each window, shape (n_windows,), how many items lie above a threshold by what counts say of them.

    The denoiser's log-odds are taken to be what a line through the counts expects, and what is left over in the sample.
    """
    counts = items.features[:, _OF_THE_DENOISER:]
    weights, left = line_through(sample)
    expected = np.column_stack([np.ones(len(counts)), counts]) @ weights
    width = 0.3 * left.std()  # so that beyond the sample's largest there is a chance, too
    smooth = np.sort(left[:, None] + width * np.linspace(-3, 3, 13)).ravel()
    density = np.exp(-(np.linspace(-3, 3, 13) ** 2) / 2)
    values = (left[:, None] + width * np.linspace(-3, 3, 13)).ravel()
    order = np.argsort(values)
    smooth, mass = values[order], np.tile(density / density.sum(), len(left))[order]
    above = 1 - np.concatenate([[0], np.cumsum(mass)]) / len(left)
    grid = np.linspace(-20, 20, 401)
    base = fused_by(fusion, fusion_features(np.zeros(len(counts)), counts))
    rise = fused_by(fusion, fusion_features(grid, np.repeat(counts[:1], len(grid), axis=0))) - base[0]
    needed = grid[np.minimum(np.searchsorted(np.maximum.accumulate(rise), threshold - base), len(grid) - 1)]
    chance = np.maximum(above[np.searchsorted(smooth, needed - expected)], 0)
    found: Floats = np.bincount(items.window, weights=chance, minlength=items.n_windows).astype(np.float64)
    return found


def with_an_edit(items: Items, fused: Floats, share: float) -> float:
    edits = int(share * items.n_items)
    return len(np.unique(items.window[np.argsort(-fused, kind="stable")[:edits]])) / items.n_windows


def fused_by(fusion: Fusion, features: Floats) -> Floats:
    return fusion.log_odds(features).astype(np.float64)


def highest_by(fusion: Fusion, features: Floats, bound: Bound) -> Floats:
    """The most that each item can come to."""
    counts = features[:, _OF_THE_DENOISER:]
    return fused_by(fusion, fusion_features(bound(counts), counts))


def prepare(
    folder: Path, denoiser: Denoiser, n: int, kept: Path, longest: int | None
) -> tuple[Items, GateFile, Floats, bool]:
    """Of a domain: items of n sequences, the gate that `clean` would make, its sample's features, and if it fuses."""
    file = read_file(folder, n, longest)
    evidence = Evidence.count(file.data)
    short = [(user, titles[-LONGEST:]) for user, titles in file.data]
    settings = CalibrationSettings(sequences=SAMPLED)
    noisy = noisy_sequences(short, file.titles, evidence, settings)
    sample = scored_items(noisy, score(denoiser, [one.titles for one in noisy], kept), evidence, 1)
    gate, helps = cross_fitted_gate(
        sample,
        evidence,
        users=[one.user for one in noisy],
        model_name=denoiser.name,
        model_sha256=denoiser.sha256,
        settings=settings,
    )
    scores = score(denoiser, [one.titles for one in file.judged], kept)
    items = items_of(file.judged, scores, evidence, denoiser.metadata.max_window)
    return items, gate, sample.features, helps


def slope(fusion: Fusion) -> str:
    return f"fused log-odds rise by {fusion.weights[0] / fusion.deviation[0]:.2f} for each of the denoiser's"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument("--domains", nargs="+", default=["movie", "toy", "office", "steam"])
    parser.add_argument("--judged", type=int, default=800, help="so many sequences of a file")
    parser.add_argument("--longest", type=int, default=LONGEST, help="of each sequence the last items, so many")
    parser.add_argument("--scores", type=Path, required=True, help="folder that keeps the denoiser's scores")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    print("| data | edit | windows | with an edit | bound | read | edits changed | right: all read / these |")
    print("| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |")
    with Denoiser.load(threads=arguments.threads) as denoiser:
        for name in arguments.domains:
            print(f"{name} ...", file=sys.stderr, flush=True)
            items, gate, sample, helps = prepare(
                arguments.data / name, denoiser, arguments.judged, arguments.scores, arguments.longest
            )
            print(f"{name}: fuses {helps}; {slope(gate.fusion)}", file=sys.stderr)
            fused = fused_by(gate.fusion, items.features)
            for share in SHARES:
                edits = int(share * items.n_items)
                expected = expected_edits(items, gate.fusion, sample, float(np.partition(fused, -edits)[-edits]))
                knew = [least_reading(items, fused, expected, share, changed) for changed in CHANGED]
                told = ", ".join(f"{some:.1%}: {read:.0%}" for some, read in zip(CHANGED, knew, strict=True))
                print(f"{name} {share:.0%}, whoever knew: {told}", file=sys.stderr)
                needed = with_an_edit(items, fused, share)
                for label, bound in bounds(sample).items():
                    highest = highest_by(gate.fusion, items.features, bound)
                    read, changed, right, still = reading(items, fused, highest, share)
                    print(
                        f"| {name} | {share:.0%} | {items.n_windows} | {needed:.1%} | {label} | {read:.1%} | "
                        f"{changed:.2%} | {right:.1%} / {still:.1%} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
