"""What each feature of the fusion is worth: markdown on standard output.

    python benchmarks/fusion_features.py --scores scores/

Noise is put into sequences as ``benchmarks/gate.py`` does it, whose kept scores are used again. A fusion of some of the
features is fitted on half of the users and judged on the other half; means of ten splits. "Found" is the share of the
noise above the threshold that edits 1% of the judged items that belong. Labels of the data are never read.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from engines import load_denoiser
from gate import REPOSITORY, halves, read_domain, score

from llm4dsr_cli.evaluation.metrics import detection_quality
from llm4dsr_cli.gate.calibration import CalibrationSettings, noisy_sequences, scored_items
from llm4dsr_cli.gate.evidence import FEATURES, Evidence
from llm4dsr_cli.gate.fusion import Fusion

SPLITS = 10
NAMES = ("log-odds", *FEATURES)


def choices() -> dict[str, list[int]]:
    """Columns of ``fusion_features`` by what to call the choice."""
    everything = list(range(len(NAMES)))
    return {
        "all": everything,
        **{f"without {name}": [i for i in everything if i != dropped] for dropped, name in enumerate(NAMES) if dropped},
        "counts alone": everything[1:],
        **{f"{name} alone": [i] for i, name in enumerate(NAMES)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument("--domains", nargs="+", default=["toy", "movie", "office", "clothing"])
    parser.add_argument("--users", type=int, default=1_500, help="judge at most so many users a domain")
    parser.add_argument("--scores", type=Path, help="folder that keeps the denoiser's scores between runs")
    arguments = parser.parse_args()
    cells: dict[str, list[str]] = {name: [] for name in choices()}
    with load_denoiser() as denoiser:
        for domain_name in arguments.domains:
            print(f"{domain_name} ...", file=sys.stderr, flush=True)
            domain = read_domain(arguments.data / domain_name)
            evidence, settings = Evidence.count(domain.counted), CalibrationSettings(sequences=arguments.users)
            sequences = noisy_sequences(domain.judged, domain.titles, evidence, settings)
            scores = score(denoiser, [sequence.titles for sequence in sequences], arguments.scores)
            items = scored_items(sequences, scores, evidence, 1)
            for name, columns in choices().items():
                rows = []
                for split in range(SPLITS):
                    fits = halves(len(sequences), split)[items.user]
                    fusion = Fusion.fit(items.features[fits][:, columns], items.labels[fits])
                    log_odds, labels = fusion.log_odds(items.features[~fits][:, columns]), items.labels[~fits]
                    quality = detection_quality(log_odds, labels)
                    found = (log_odds[labels == 1] > np.quantile(log_odds[labels == 0], 0.99)).mean()
                    rows.append([quality.auroc, quality.average_precision, quality.precision_at_1pct, found])
                auroc, precision, at_1pct, found = np.mean(rows, axis=0)
                cells[name].append(f"{auroc:.3f} / {precision:.3f} / {at_1pct:.3f} / {found:.1%}")
    print("AUROC / AP / P@1% / found\n\n| features | " + " | ".join(arguments.domains) + " |")
    print("| --- |" + " --- |" * len(arguments.domains))
    for name, row in cells.items():
        print(f"| {name} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
