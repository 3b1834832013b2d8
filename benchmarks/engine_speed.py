"""llama.cpp beside torch: windows a second of a denoiser on this machine, and how far scores lie apart, as markdown.

    python benchmarks/engine_speed.py --domain toy --windows 256

Needs the extra ``finetune``. Each engine scores the windows once before it is timed.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
from trial_data import read_domain

from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.model.loading import ENGINES

REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument("--domain", default="toy")
    parser.add_argument("--windows", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    domain = read_domain(arguments.data / arguments.domain)
    windows = [[domain.titles[i] for i in one] for one in domain.sequences[: arguments.windows]]
    scores: dict[str, np.ndarray] = {}
    print("| engine | threads | windows/s |\n| --- | ---: | ---: |")
    for threads in arguments.threads:
        for engine in ENGINES:
            with Denoiser.load(engine=engine, threads=threads) as denoiser:
                scores[engine] = np.concatenate(denoiser.score(windows))
                seconds = []
                for _ in range(arguments.rounds):
                    began = time.perf_counter()
                    denoiser.score(windows)
                    seconds.append(time.perf_counter() - began)
            print(f"| {engine} | {threads} | {len(windows) / float(np.median(seconds)):.1f} |", flush=True)
    one, other = scores.values()
    apart = np.abs(one - other)
    flagged = [set(np.argsort(-each)[: len(one) // 20].tolist()) for each in (one, other)]
    print(
        f"\nlog-odds lie {apart.mean():.3f} apart on average, {np.quantile(apart, 0.99):.3f} at the .99 quantile; "
        f"of the 5% most suspicious items {1 - len(flagged[0] & flagged[1]) / len(flagged[0]):.1%} are others"
    )


if __name__ == "__main__":
    main()
