"""What a trial's recommenders reach on data as they are, and what a fit costs: the table of docs/trial.md.

    python benchmarks/recommenders.py

Movie's histories and targets as ``downstream.py`` has them; one seed, one thread; nothing is edited.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from downstream_data import read

from llm4dsr_cli.trial.editing import Edited
from llm4dsr_cli.trial.fits import Fits
from llm4dsr_cli.trial.kept import Kept
from llm4dsr_cli.trial.metrics import CHOSEN_BY, gains
from llm4dsr_cli.trial.recommenders import NAMES, make_recommender

REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument("--domain", default="movie")
    parser.add_argument("--recommenders", nargs="+", default=NAMES)
    said = parser.parse_args()
    _, split, _, _ = read(said.data / said.domain, None, None, 0.0, edits_histories=True)
    fits = Fits(split, Kept(None))
    print(f"| `--recommender` | {CHOSEN_BY} | CPU seconds of a fit |\n| --- | ---: | ---: |")
    for name in said.recommenders:
        began = time.process_time()
        found = fits.fit(make_recommender(name), Edited(split.sequences), 0)
        seconds = time.process_time() - began
        print(f"| `{name}` | {gains(found.test, CHOSEN_BY).mean():.4f} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
