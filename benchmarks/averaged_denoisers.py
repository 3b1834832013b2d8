"""Means of two denoisers' weights, of which one went on from the other, on held-out windows: a markdown table.

    python benchmarks/averaged_denoisers.py third.gguf run.gguf --shares 0 0.5 0.75 1
    python benchmarks/averaged_denoisers.py third.gguf run.gguf --shares 0.75 --output llm4dsr-smollm2-135m.gguf

Windows are of the users that ``llm4dsr finetune`` holds out for its test; 10% of their items are drawn at random, and
the last of each is left out. With ``--output``, the mean of the one share that is given is written, with the suggester
of the first file and thresholds set on the users that are held out for that. (Wortsman et al., arXiv 2203.05482.)
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from engines import load_denoiser
from trial_data import read_domain

from llm4dsr_cli.evaluation.metrics import detection_quality
from llm4dsr_cli.finetune.adapter import Adapter, read_adapters, write_adapters
from llm4dsr_cli.finetune.comparison import judged
from llm4dsr_cli.finetune.data import split_users
from llm4dsr_cli.finetune.run import DRAWS, TEST_STREAM, belonging, held_out
from llm4dsr_cli.finetune.settings import Settings
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.metadata import DenoiserMetadata
from llm4dsr_cli.thresholds import ThresholdCurve

REPOSITORY = Path(__file__).resolve().parent.parent


def mean(first: Adapter, second: Adapter, share: float) -> Adapter:
    """Low-rank factors between two adapters', ``share`` of the way to the second."""
    if first.alpha != second.alpha or {*first.tensors} != {*second.tensors}:
        raise SystemExit("the two adapt different weights, or by another scale: neither went on from the other")
    return Adapter(
        {name: (1 - share) * first.tensors[name] + share * tensor for name, tensor in second.tensors.items()},
        second.alpha,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("first", type=Path, help="the denoiser that a training began with")
    parser.add_argument("second", type=Path, help="the one that it made")
    parser.add_argument("--shares", type=float, nargs="+", default=[0, 0.5, 0.75, 1], help="of the second")
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument(
        "--domains", nargs="+", default=["movie", "toy", "office", "clothing", "games", "steam", "film"]
    )
    parser.add_argument("--windows", type=int, default=150, help="of each domain")
    parser.add_argument("--output", type=Path, help="write the mean here; takes one share")
    arguments = parser.parse_args()
    if arguments.output is not None and len(arguments.shares) > 1:
        parser.error("--output takes one share")

    first, suggester = read_adapters(arguments.first)
    second, _ = read_adapters(arguments.second)
    metadata = DenoiserMetadata.read(open_gguf(arguments.second), arguments.second)
    settings = Settings()
    domains = [read_domain(arguments.data / name) for name in arguments.domains]
    split = split_users(domains, validation=settings.validation, calibration=settings.calibration, test=settings.test)
    windows = held_out(split.test, settings, arguments.windows * len(domains), draws=DRAWS, stream=TEST_STREAM)
    print("| share | " + " | ".join(arguments.domains) + " |\n| ---: |" + " --- |" * len(domains))
    for share in arguments.shares:
        detector = mean(first, second, share)
        training = {**metadata.training, "averaged": {"share of the run": share, "share of the start": 1 - share}}
        with TemporaryDirectory() as folder:
            path = Path(folder, "mean.gguf")
            write_adapters(path, replace(metadata, training=training, calibration=None), detector, suggester)
            with load_denoiser(path) as denoiser:
                scores = denoiser.score(window.titles for window in windows)
                cells = []
                for number in range(len(domains)):
                    here = [i for i, window in enumerate(windows) if window.domain == number]
                    q = detection_quality(*judged([scores[i] for i in here], [windows[i] for i in here]))
                    cells.append(f"{q.auroc:.3f} / {q.average_precision:.3f} / {q.precision_at_5pct:.3f}")
                print(f"| {share:g} | " + " | ".join(cells) + " |", flush=True)
                if arguments.output is None:
                    continue
                calibration = held_out(split.calibration, settings, settings.calibration_windows, draws=1, stream=2)
                thresholds = ThresholdCurve.fit(
                    *belonging(denoiser.score(window.titles for window in calibration), calibration)
                )
        done = replace(metadata, training=training, calibration=thresholds)
        write_adapters(arguments.output, done, detector, suggester)


if __name__ == "__main__":
    main()
