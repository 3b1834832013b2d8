"""Detection on domains with injected noise, by denoisers that saw them in training or not: a markdown table.

    python benchmarks/left_out.py --domains office --denoisers shipped=llm4dsr-smollm2-135m.gguf other=stage1.gguf

Judged are windows of the users that ``llm4dsr finetune`` holds out for its test: neither training, nor validation, nor
calibration saw them, whichever of the denoisers it was. Baselines count the domain's training users, as a denoiser that
knows the domain could. The last item of each window is left out. ``--noise`` says which titles stand in the place of
others: any (uniform), popular ones, or ones of the item's own kind (near).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from engines import load_denoiser
from trial_data import read_domain

from llm4dsr_cli.finetune.comparison import baseline_scores, compare
from llm4dsr_cli.finetune.data import split_users
from llm4dsr_cli.finetune.mixed_noise import MixedNoise
from llm4dsr_cli.finetune.run import DRAWS, TEST_STREAM, held_out
from llm4dsr_cli.finetune.settings import Settings

REPOSITORY = Path(__file__).resolve().parent.parent
SHARES = {"popular": {"popular": 1.0, "near": 0.0}, "near": {"popular": 0.0, "near": 1.0}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument("--domains", nargs="+", default=["movie", "toy", "office", "clothing", "games"])
    parser.add_argument("--denoisers", nargs="+", default=[], metavar="NAME=FILE", help="adapters, each with a name")
    parser.add_argument("--windows", type=int, default=500, help="of each domain")
    parser.add_argument("--noise", choices=["uniform", *SHARES], default="uniform")
    arguments = parser.parse_args()

    domains = [read_domain(arguments.data / name) for name in arguments.domains]
    settings = Settings()
    split = split_users(domains, validation=settings.validation, calibration=settings.calibration, test=settings.test)
    n = arguments.windows * len(domains)
    draw = (
        [MixedNoise(domain, **SHARES[arguments.noise]) for domain in split.train] if arguments.noise in SHARES else None
    )
    windows = held_out(split.test, settings, n, draws=DRAWS, stream=TEST_STREAM, noise=draw)
    scores = {}
    for named in arguments.denoisers:
        name, _, path = named.rpartition("=")
        print(f"{name} ...", file=sys.stderr, flush=True)
        with load_denoiser(path) as denoiser:
            scores[name or path] = denoiser.score(window.titles for window in windows)
    counted = baseline_scores(split.train, windows, say=lambda line: print(line, file=sys.stderr))
    print("| data | scorer | AUROC | AP | P@1% | P@3% | items |\n| --- | --- |" + " ---: |" * 5)
    for line in compare(split.train, windows, {**scores, **counted}):
        q = line.quality
        figures = (q.auroc, q.average_precision, q.precision_at_1pct, q.precision_at_3pct)
        print(f"| {line.domain} | {line.scorer} | " + " | ".join(f"{f:.3f}" for f in figures) + f" | {q.n_items:,} |")


if __name__ == "__main__":
    main()
