"""What the constants of proposals by counts are worth: markdown on standard output, a row for each variant.

    python benchmarks/proposer_constants.py --domains movie toy office clothing

An item of a train file's sequence is left out, its last excepted, and ranked among the whole catalog beside the others;
the sequence's user is left out of the counts. Mean reciprocal rank, and how often it is among the first ten. Test and
valid files and noise labels are never opened.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from replacement import read_rows, table

from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.replacing import counts_proposer
from llm4dsr_cli.replacing.candidates import Candidates
from llm4dsr_cli.replacing.counts_proposer import CountsProposer
from llm4dsr_cli.titles import clean_title

REPOSITORY = Path(__file__).resolve().parent.parent
NAMES = ("SHRINKAGE", "DISCOUNT", "TITLE_WEIGHT")
CHOSEN = tuple(getattr(counts_proposer, name) for name in NAMES)
VARIANTS = [
    CHOSEN,
    *((shrinkage, *CHOSEN[1:]) for shrinkage in (2.0, 5.0, 20.0)),
    *((CHOSEN[0], discount, CHOSEN[2]) for discount in (0.0, 0.5)),
    *((*CHOSEN[:2], weight) for weight in (0.0, 0.03, 0.2, 0.4)),
    (*CHOSEN[:2], 1e6),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument("--domains", nargs="+", default=["movie", "toy", "office", "clothing"])
    parser.add_argument("--cases", type=int, default=500)
    arguments = parser.parse_args()
    cells: dict[tuple[float, ...], list[str]] = {variant: [] for variant in VARIANTS}
    for name in arguments.domains:
        catalog = Catalog.load(arguments.data / name / "catalog.jsonl")
        candidates = Candidates.from_catalog(catalog)
        index = {clean_title(title): number for number, title in enumerate(candidates.titles)}
        rows = read_rows(arguments.data / name / "train.jsonl")
        sequences = [(row["user_id"], [catalog.title(item) or "" for item in row["items"]]) for row in rows]
        proposer = CountsProposer(Evidence.count(sequences), candidates)
        rng = np.random.default_rng(0)
        drawn = rng.permutation(len(sequences))[: arguments.cases].tolist()
        ranks: dict[tuple[float, ...], list[int]] = {variant: [] for variant in VARIANTS}
        for user, titles in (sequences[i] for i in drawn):
            place = int(rng.integers(max(1, len(titles[-20:]) - 1)))
            truth = titles[-20:][place]
            others = [title for title in titles[-20:] if title != truth]
            for variant in VARIANTS if others else ():
                for constant, value in zip(NAMES, variant, strict=True):
                    setattr(counts_proposer, constant, value)
                worth = proposer.worth(others, user)
                worth[[index[clean_title(title)] for title in others]] = -np.inf
                ranks[variant].append(int((worth > worth[index[clean_title(truth)]]).sum()))
        for variant, found in ranks.items():
            rank = np.array(found)
            cells[variant].append(f"{np.mean(1 / (1 + rank)):.4f} / {np.mean(rank < 10):.1%}")
    table(
        ["shrinkage", "discount", "title weight", *(f"{name}: MRR / hit@10" for name in arguments.domains)],
        [[*(f"{value:g}" for value in variant), *cells[variant]] for variant in VARIANTS],
        0,
    )


if __name__ == "__main__":
    main()
