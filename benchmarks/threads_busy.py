"""What the number of threads costs beside busy neighbours: CPU and time of `clean`, as ratios to one thread.

    PYTHONPATH=. python benchmarks/threads_busy.py examples/sequences.jsonl --catalog examples/catalog.jsonl

Neighbours are processes that each keep a core busy. Ways alternate, and the median of all rounds is shown, for a
machine that does other things too.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORES = len(os.sched_getaffinity(0))


def run(words: list[str]) -> tuple[float, float]:
    """CPU seconds and seconds of one run."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-m", "llm4dsr_cli", *words], check=True, cwd=ROOT, stdin=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--catalog", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    said = parser.parse_args()
    words = ["clean", str(said.data.resolve()), os.devnull, "--action", "drop", "--quiet"]
    if said.catalog is not None:
        words += ["--catalog", str(said.catalog.resolve())]
    ways: dict[str, list[str]] = {"--threads 1": ["--threads", "1"], f"--threads {CORES}": ["--threads", str(CORES)]}
    ways["the default"] = []
    run(words)  # the model is merged
    print("| busy neighbours | threads | CPU | time | CPU seconds |\n| ---: | --- | ---: | ---: | ---: |")
    for n in range(CORES + 1):
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(said.rounds):
            for way, options in ways.items():
                neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
                try:
                    found[way].append(run([*words, *options]))
                finally:
                    for neighbour in neighbours:
                        neighbour.kill()
                        neighbour.wait()  # now, so that its CPU time is not counted with a run's
        one_cpu, one_time = (statistics.median(column) for column in zip(*found["--threads 1"], strict=True))
        for way, runs in found.items():
            cpu, seconds = (statistics.median(column) for column in zip(*runs, strict=True))
            print(f"| {n} | {way} | {cpu / one_cpu:.2f} | {seconds / one_time:.2f} | {cpu:.1f} |", flush=True)


if __name__ == "__main__":
    main()
