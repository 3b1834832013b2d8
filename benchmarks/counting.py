"""What counting takes as data grow, and what the counts take to use: a markdown table on standard output.

    python benchmarks/counting.py

The interactions are made up: 27,000 items whose popularity falls with the square of their rank, as steep as MovieLens
20M's (a tenth of the items have 86% of the interactions), and no taste, so that any two popular items meet and pairs
are as many as can be. They are made a thousand users at a time, so that the data themselves take no memory, and the
seconds that making them takes are left out. Each size runs in a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from llm4dsr_cli.gate.evidence import Evidence

N_ITEMS = 27_000
# Rank at which popularity has fallen to a quarter; the items before it have half of the interactions.
HALF = 400
SERVED = 20_000
LENGTH = 20


@dataclass
class Log:
    """Made-up users and their items' titles, the same in every run.

    Attributes:
        spread: of the logarithm of what a user's items are beyond 20; 0 makes all histories equally long.
        served: a user and their last titles, of users spread over the log; filled by iterating.
        seconds: CPU time that making them took.
    """

    n_users: int
    mean_length: int
    spread: float
    served: list[tuple[int, list[str]]] = field(default_factory=list)
    interactions: int = 0
    seconds: float = 0.0

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        rng = np.random.default_rng(0)
        titles = made_up_titles(rng)
        every = max(1, self.n_users // SERVED)
        for first in range(0, self.n_users, 1_000):
            began = time.process_time()
            beyond = rng.lognormal(-(self.spread**2) / 2, self.spread, min(1_000, self.n_users - first))
            lengths = (20 + (self.mean_length - 20) * beyond).astype(np.int64)
            share = rng.random(lengths.sum()) * (N_ITEMS / (N_ITEMS + HALF))
            ranks = (HALF * share / (1 - share)).astype(np.int64).tolist()
            ends = np.cumsum(lengths).tolist()
            histories = [
                [titles[rank] for rank in ranks[end - length : end]]
                for end, length in zip(ends, lengths.tolist(), strict=True)
            ]
            self.interactions += len(ranks)
            self.seconds += time.process_time() - began
            for user, history in enumerate(histories, first):
                if user % every == 0 and len(self.served) < SERVED:
                    self.served.append((user, history[-LENGTH:]))
                yield user, history


def made_up_titles(rng: np.random.Generator) -> list[str]:
    """Different titles of one to four words and a year, shape (N_ITEMS,)."""
    words = [f"word{number}" for number in range(8_000)]
    lengths = rng.integers(1, 5, N_ITEMS)
    chosen = (len(words) * rng.random((N_ITEMS, 4)) ** 3).astype(np.int64)
    return [
        " ".join([*(words[word] for word in row[:length]), f"no{number}", f"({1950 + number % 70})"])
        for number, (row, length) in enumerate(zip(chosen.tolist(), lengths.tolist(), strict=True))
    ]


SIZES = {"0.5M": (8_000, 60, 0.0), "2M": (14_000, 143, 1.38), "20M": (140_000, 143, 1.38)}


def measure(size: str) -> str:
    log = Log(*SIZES[size])
    began = time.process_time()
    evidence = Evidence.count(log)
    counted = time.process_time() - began - log.seconds
    began = time.process_time()
    evidence.features(*reversed(log.served[0]))
    first = time.process_time() - began
    began = time.process_time()
    for user, titles in log.served:
        evidence.features(titles, user)
    served = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    per_thousand = served / len(log.served) * 1_000
    return (
        f"| {log.interactions:,} | {log.n_users:,} | {counted:.1f} | {first:.2f} | {per_thousand:.2f} | "
        f"{counted + first + served:.1f} | {peak:,.0f} MB |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, help="this size alone, in this process")
    arguments = parser.parse_args()
    if arguments.size:
        print(measure(arguments.size))
        return
    print(f"Sequences of {LENGTH} items of {SERVED:,} users (of all users, where they are fewer), each left out.\n")
    print(
        "| interactions | users | counting, CPU s | first sequence, CPU s | 1,000 sequences, CPU s | "
        "all, CPU s | peak memory |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for size in SIZES:
        subprocess.run([sys.executable, __file__, "--size", size], check=True)


if __name__ == "__main__":
    main()
