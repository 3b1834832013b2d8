"""What the overlap of windows is worth on sequences longer than a window: markdown on standard output.

    python benchmarks/window_overlap.py --scores scores/

Sequences of more than one window, a tenth of whose items was replaced, are read in windows that begin so many items
after each other; each item is judged by the window that sees most around it. "Read" is how many items the windows hold
for each item of the sequences. AUROC / average precision / precision of the most suspicious 5% of the denoiser alone,
and with counts (prior weights and none of a sample's, the user left out); "others" is the share of the most suspicious
5%, fused, that is another than with windows that overlap by half. Labels are read for measuring alone.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from default_fusion import cell, figures, read_file
from engines import load_denoiser
from gate import REPOSITORY
from numpy.typing import NDArray
from windows_in_vain import score

from llm4dsr_cli.gate.calibration import ScoredItems, scored_items
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.gate.fusion import LEAST_DEVIATION, PRIOR_WEIGHTS
from llm4dsr_cli.windows import Window

Floats = NDArray[np.float64]
SHARE = 0.05
LONGEST = 200


def windows_every(n_items: int, size: int, step: int) -> list[Window]:
    """Windows of ``size`` items that begin ``step`` items after each other, the last one at the end."""
    starts = [*range(0, n_items - size, step), n_items - size]
    windows, judged = [], 0
    for i, start in enumerate(starts):
        until = n_items if i + 1 == len(starts) else (starts[i + 1] + start + size + 1) // 2
        windows.append(Window(start, start + size, judged, until))
        judged = until
    return windows


def fused(items: ScoredItems) -> Floats:
    deviation = np.maximum(items.features.std(axis=0), LEAST_DEVIATION)
    found: Floats = (items.features - items.features.mean(axis=0)) / deviation @ PRIOR_WEIGHTS
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument("--domains", nargs="+", default=["film", "games", "office"])
    parser.add_argument("--items", type=int, default=5_000, help="judge some so many items of a domain")
    parser.add_argument("--steps", nargs="+", type=int, default=[10, 13, 15, 17, 20])
    parser.add_argument("--scores", type=Path, required=True, help="folder that keeps the denoiser's scores")
    arguments = parser.parse_args()
    print("| data | items | step | windows | read | denoiser alone | with counts | others |")
    print("| --- | ---: | ---: | ---: | ---: | --- | --- | ---: |")
    with load_denoiser(threads=1) as denoiser:
        size = denoiser.metadata.max_window
        for name in arguments.domains:
            file = read_file(arguments.data / name, 10**9, LONGEST)
            long = [one for one in file.judged if len(one.titles) > size]
            order = np.random.default_rng(1).permutation(len(long))
            enough = int(np.searchsorted(np.cumsum([len(long[i].titles) for i in order]), arguments.items)) + 1
            judged = [long[i] for i in order[:enough]]
            evidence = Evidence.count(file.data)
            n_items = sum(len(one.titles) for one in judged)
            top: NDArray[np.int64] | None = None
            for step in arguments.steps:
                windows = [(one, w) for one in judged for w in windows_every(len(one.titles), size, step)]
                found = score(denoiser, [one.titles[w.start : w.end] for one, w in windows], arguments.scores)
                parts: dict[int, list[NDArray[np.float32]]] = {id(one): [] for one in judged}
                for (one, w), log_odds in zip(windows, found, strict=True):
                    parts[id(one)].append(log_odds[w.judge_from - w.start : w.judge_to - w.start])
                items = scored_items(judged, [np.concatenate(parts[id(one)]) for one in judged], evidence, 1)
                scores = fused(items)
                chosen = np.argsort(-scores, kind="stable")[: int(SHARE * n_items)]
                top = chosen if top is None else top
                others = len(np.setdiff1d(top, chosen)) / len(top)
                print(
                    f"| {name} | {n_items:,} | {step} | {len(windows)} | {size * len(windows) / n_items:.2f} | "
                    f"{cell(figures(items.features[:, 0], items.labels))} | {cell(figures(scores, items.labels))} | "
                    f"{others:.1%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
