"""What cleaning does to the recommenders that come after: a table as markdown on standard output.

    python benchmarks/downstream.py --domains movie

Train files are cleaned in several ways, and two simple recommenders are trained on each: EASE on users' joined
histories, and the counts of what followed each item within five steps. They rank the last item of valid windows, where
that item is no noise: NDCG@10, and the difference to the train file as it is with its standard error (paired, by
window). They read the valid windows as they are. Noise labels and original titles are read for measuring, and for the
two rows that say "labels". EASE inverts a matrix of items by items for each row, so that large catalogs take long.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from replacement import Domain, read_domain, read_rows, table

from llm4dsr_cli.evaluation.baselines import Ease, import_or_explain
from llm4dsr_cli.evaluation.folds import joined_by_user
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.gate.gate import Gate
from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.records.json_lines import dumps
from llm4dsr_cli.records.parsing import parse_record
from llm4dsr_cli.records.record import Record
from llm4dsr_cli.records.record_format import RecordFormat
from llm4dsr_cli.replacing.counts_proposer import CountsProposer
from llm4dsr_cli.replacing.proposals import Gaps
from llm4dsr_cli.replacing.replacer import Replacement, Replacer
from llm4dsr_cli.sequences import ItemSequence

REPOSITORY = Path(__file__).resolve().parent.parent
STEPS = 5
Floats = NDArray[np.float64]
Recommender = Callable[[list[int]], Floats]


def train_ease(n_items: int, users: list[Hashable], sequences: list[list[int]]) -> Recommender:
    model = Ease(n_items, 200.0)
    model.fit(joined_by_user(users, sequences))
    return lambda items: model.weights[sorted(set(items))].sum(axis=0)


def train_successors(n_items: int, users: list[Hashable], sequences: list[list[int]]) -> Recommender:
    """Nearer items count for more, popular ones for less."""
    sparse = import_or_explain("scipy.sparse")
    pairs = [
        (one, other, 1 / distance)
        for items in sequences
        for i, one in enumerate(items)
        for distance, other in enumerate(items[i + 1 : i + 1 + STEPS], 1)
    ]
    left, right, weight = zip(*pairs, strict=True)
    after = sparse.csr_matrix((weight, (left, right)), shape=(n_items, n_items))
    after = after.multiply(1 / np.sqrt(np.asarray(after.sum(axis=0)).ravel() + 1)).tocsr()

    def worth(items: list[int]) -> Floats:
        recent = items[-STEPS:]
        decay = sparse.csr_matrix([1 / (len(recent) - i) for i in range(len(recent))])
        return np.asarray((decay @ after[recent]).todense(), dtype=np.float64).ravel()

    return worth


RECOMMENDERS = {"EASE": train_ease, "successors": train_successors}


def gains(recommend: Recommender, held: list[tuple[list[int], int]]) -> Floats:
    """Each held-out window's NDCG@10 of its one relevant item."""
    found = np.zeros(len(held))
    for i, (items, truth) in enumerate(held):
        worth = np.array(recommend(items), dtype=np.float64)
        worth[items] = -np.inf
        place = (worth > worth[truth]).sum() + ((worth == worth[truth]).sum() - 1) / 2
        found[i] = 1 / np.log2(place + 2) if place < 10 else 0.0
    return found


def cleaned(
    domain: Domain, record: Record, flagged: NDArray[np.bool_], new: dict[int, Replacement], fallback: str
) -> list[str]:
    titles = []
    for i, title in enumerate(record.titles):
        if not flagged[i] or (fallback == "keep" and not (i in new and new[i].accepted)):
            titles.append(title)
        elif i in new and new[i].accepted:
            titles.append(domain.candidates.titles[new[i].candidate])
    return titles


def replaced_anywhere(
    domain: Domain, proposer: CountsProposer, user: Hashable, record: Record, places: set[int]
) -> list[str]:
    """Titles with the counts' best in some places, whatever stood there and whatever the denoiser thinks of it."""
    titles = list(record.titles)
    if places:
        others = [title for i, title in enumerate(titles) if i not in places]
        excluded = domain.candidates.numbers(record)
        for proposal in proposer.propose([Gaps(others, len(places), excluded, user)], 1)[0]:
            for place, candidate in zip(sorted(places), proposal.candidates, strict=False):
                titles[place] = domain.candidates.titles[candidate]
    return titles


def ways(
    domain: Domain, rows: list[dict[str, Any]], records: list[Record], denoiser: Denoiser, rates: list[float]
) -> dict[str, list[list[str]]]:
    """The train file's titles, cleaned in each way."""
    everything = list(zip(rows, records, strict=True))
    result = {
        "as it is": [record.titles for record in records],
        "all noise dropped (labels)": [
            [title for title, noise in zip(record.titles, row["noise"], strict=True) if not noise]
            for row, record in everything
        ],
        "all noise undone (labels)": [
            [before or title for before, title in zip(row["original_titles"], record.titles, strict=True)]
            for row, record in everything
        ],
    }
    judged = [ItemSequence(record.titles, row["user_id"], record.ids) for row, record in everything]
    evidence = Evidence.count((row["user_id"], record.titles) for row, record in everything)
    counting = CountsProposer(evidence, domain.candidates)
    replacer = Replacer(counting, domain.candidates, denoiser.metadata.max_window)
    log_odds = denoiser.score(record.titles for record in records)
    places = [(n, i) for n, record in enumerate(records) for i in range(len(record.titles) - 1)]
    for rate in rates:
        gate = Gate(denoiser.metadata.threshold(rate))
        flags = [gate.decide(odds) for odds in log_odds]
        total = sum(int(flagged.sum()) for flagged in flags)
        drawn = np.random.default_rng(0).permutation(len(places))[:total]
        at_random = {places[place] for place in drawn.tolist()}
        name = f"rate {rate:g} ({total / sum(len(r.titles) for r in records):.1%} of the items)"
        result[f"{name}: as many dropped at random"] = [
            [title for i, title in enumerate(record.titles) if (n, i) not in at_random]
            for n, record in enumerate(records)
        ]
        result[f"{name}: as many replaced at random"] = [
            replaced_anywhere(domain, counting, row["user_id"], record, {i for m, i in at_random if m == n})
            for n, (row, record) in enumerate(everything)
        ]
        result[f"{name}: dropped"] = [
            cleaned(domain, record, flagged, {}, "drop") for record, flagged in zip(records, flags, strict=True)
        ]
        new = replacer.replace(
            judged, log_odds, flags, gate.threshold, lambda those: denoiser.score(r.titles for r in those)
        )
        for fallback in ("drop", "keep"):
            result[f"{name}: replaced, else {'dropped' if fallback == 'drop' else 'kept'}"] = [
                cleaned(domain, *each, fallback) for each in zip(records, flags, new, strict=True)
            ]
    return result


def measure(domain: Domain, folder: Path, denoiser: Denoiser, arguments: argparse.Namespace) -> list[list[str]]:
    rows = read_rows(folder / "train.jsonl")[: arguments.train_windows]
    records = [
        parse_record(
            dumps({"user_id": row["user_id"], "items": row["items"]}), folder.name, RecordFormat(), domain.catalog
        )
        for row in rows
    ]
    held = []
    for row in read_rows(folder / "valid.jsonl"):
        items = domain.items([domain.catalog.title(item) or "" for item in row["items"]])
        if not row["noise"][-1] and items[-1] not in items[:-1]:
            held.append((items[:-1], items[-1]))
    users = [row["user_id"] for row in rows]
    lines = []
    first: dict[str, Floats] = {}
    for name, sequences in ways(domain, rows, records, denoiser, arguments.rates).items():
        line = [domain.name, name]
        for model in arguments.recommenders:
            train = RECOMMENDERS[model]
            found = gains(train(len(domain.candidates), users, [domain.items(titles) for titles in sequences]), held)
            difference = found - first.setdefault(model, found)
            error = difference.std() / np.sqrt(len(found))
            line += [f"{found.mean():.4f}", f"{difference.mean():+.4f} ({error:.4f})"]
        lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument("--domains", nargs="+", default=["movie"])
    parser.add_argument("--denoiser", help="GGUF file; default: the one that ships")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.01, 0.05])
    parser.add_argument("--recommenders", nargs="+", default=list(RECOMMENDERS), choices=list(RECOMMENDERS))
    parser.add_argument("--train-windows", type=int, help="clean only so many of a train file")
    arguments = parser.parse_args()
    lines = []
    with Denoiser.load(arguments.denoiser) as denoiser:
        for folder in (arguments.data / name for name in arguments.domains):
            if not (folder / "valid.jsonl").is_file():
                print(f"{folder.name}: skipped, there is no {folder / 'valid.jsonl'}; see --data")
                continue
            lines += measure(read_domain(folder, 0), folder, denoiser, arguments)
    table(["data", "train file", *(cell for name in arguments.recommenders for cell in (name, "difference"))], lines)


if __name__ == "__main__":
    main()
