"""Damaged and hostile files by the thousand: how many are refused, work, or bring something down.

    PYTHONPATH=. python benchmarks/reliability_files.py --n 3000 --seed 1

Each file is a tiny denoiser's adapter, a merged denoiser, a base model, a gate, a wheel, or what the cache holds. Half
of them are changed where the format says something, and half at random. Commands are run on each. It takes the ``dev``
extra. The table is that of docs/reliability.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from hostile_files import KINDS, OUTCOMES, campaign, originals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=3000, help="files of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    arguments = parser.parse_args()
    print("| kind | tried | " + " | ".join(OUTCOMES) + " |")
    print("| --- |" + " ---: |" * (1 + len(OUTCOMES)))
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        originals(Path(folder))
        for kind in arguments.kinds:
            table = campaign(kind, arguments.n, arguments.seed, Path(folder))
            counts = " | ".join(str(table.counts[outcome]) for outcome in OUTCOMES)
            print(f"| {kind} | {table.tried} | {counts} |", flush=True)
            failures += table.failures
    print("", *failures, sep="\n")


if __name__ == "__main__":
    main()
