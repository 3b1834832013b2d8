"""What the denoiser is most sure of, right and wrong, and what it misses: the source of the card's cases.

    python benchmarks/cases.py --domains toy movie --limit 1500 --n 15

The same windows as in detection.py, and the denoiser alone. An item and a user are told once, with the item's noise
probability and the window's other titles; "missed" are the least suspicious of the items that were put in at random.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from detection import Domain, judged_windows, read_domain, score_with_denoiser, shipped_denoiser

from llm4dsr_cli.scores import probability

REPOSITORY = Path(__file__).resolve().parent.parent
LONGEST_TITLE = 60


def short(title: str) -> str:
    return title if len(title) <= LONGEST_TITLE else title[: LONGEST_TITLE - 1] + "…"


def print_cases(heading: str, domain: Domain, judged: list[int], order: list[tuple[int, int, float]], n: int) -> None:
    """The first ``n`` of (place among the judged, position, log-odds) with different items and users."""
    print(f"\n### {heading}\n")
    told: set[object] = set()
    for at, position, log_odds in order:
        window = domain.valid[judged[at]]
        item = window.items[position]
        if len(told) < 2 * n and not {("user", window.user), ("item", item)} & told:
            told |= {("user", window.user), ("item", item)}
            others = "; ".join(short(domain.titles[i]) for i in window.items if i != item)
            print(f"- {short(domain.titles[item])} ({probability(np.array(log_odds)):.2f}) | {others}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument("--domains", nargs="+", default=["toy", "movie"])
    parser.add_argument("--denoiser", default=shipped_denoiser(), help="GGUF file; default: the one that ships")
    parser.add_argument("--limit", type=int, default=1500, help="judge only this many valid windows, evenly spaced")
    parser.add_argument("--n", type=int, default=15)
    arguments = parser.parse_args()
    for name in arguments.domains:
        domain = read_domain(arguments.data / name)
        judged = judged_windows(domain, arguments.limit)
        scores = score_with_denoiser(arguments.denoiser, domain, judged)
        items = [
            (at, position, float(log_odds))
            for at, row in enumerate(scores)
            for position, log_odds in enumerate(row[:-1])
        ]
        items.sort(key=lambda case: -case[2])
        noise = [case for case in items if domain.valid[judged[case[0]]].noise[case[1]]]
        belongs = [case for case in items if not domain.valid[judged[case[0]]].noise[case[1]]]
        print(f"\n## {name}")
        print_cases("Found", domain, judged, noise, arguments.n)
        print_cases("Found by mistake", domain, judged, belongs, arguments.n)
        print_cases("Missed", domain, judged, noise[::-1], arguments.n)


if __name__ == "__main__":
    main()
