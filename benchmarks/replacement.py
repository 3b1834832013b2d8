"""What replacements are worth: the tables of docs/replacement.md, as markdown on standard output.

    python benchmarks/replacement.py --domains toy movie office --tables hits gate cost

hits: how often the item that stood there before is among the first 1, 5 and 10 that a proposer names for the place of a
noisy one. Toy and movie: truly noisy items of valid windows of users who are not in the train file
(``original_titles``). Office: noise injected into windows of users whom ``llm4dsr finetune`` holds out. All proposers
see the same window, its other noise in it; those that count have counted the train file and the other judged users of
another fold than the window's.
gate: the same places through the second gate. Accepted; of these, the noise probability before and after, and the
TF-IDF similarity to the rest of the window, of the noise, of what replaced it, and of what stood there before.
cost: seconds of replacing 5% of all items at random, against those of scoring the windows once.
trie: memory and time of a trie of so many random titles.
Labels and original titles are read for measuring only.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.evaluation.baselines import Ease, import_or_explain
from llm4dsr_cli.evaluation.folds import joined_by_user, random_folds
from llm4dsr_cli.finetune.data import Domain as TrainingDomain
from llm4dsr_cli.finetune.data import split_users
from llm4dsr_cli.finetune.settings import Settings
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.json_lines import dumps
from llm4dsr_cli.records.parsing import parse_record
from llm4dsr_cli.records.record import Record
from llm4dsr_cli.records.record_format import RecordFormat
from llm4dsr_cli.replacing.candidates import Candidates
from llm4dsr_cli.replacing.counts_proposer import CountsProposer
from llm4dsr_cli.replacing.generate.suggester import GeneratingProposer, Suggester
from llm4dsr_cli.replacing.proposals import Gaps, Proposer
from llm4dsr_cli.replacing.replacer import Replacer
from llm4dsr_cli.scores import probability
from llm4dsr_cli.sequences import ItemSequence
from llm4dsr_cli.titles import clean_title

REPOSITORY = Path(__file__).resolve().parent.parent
TOP = 10
RATE = 0.01
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A noisy item: its window, its position, and the candidate that stood there before."""

    record: Record
    user: Hashable
    position: int
    truth: int

    @property
    def sequence(self) -> ItemSequence:
        return ItemSequence(self.record.titles, self.user, self.record.ids)


@dataclass(frozen=True)
class Domain:
    """One data set: candidates, (user, titles) pairs of the train file and of the judged windows, and the cases."""

    name: str
    catalog: Catalog
    candidates: Candidates
    index: dict[str, int]
    train: list[tuple[Hashable, list[str]]]
    judged: list[tuple[Hashable, list[str]]]
    cases: list[Case]

    def number(self, title: str | None) -> int | None:
        return self.index.get(clean_title(title or ""))

    def items(self, titles: list[str]) -> list[int]:
        return [number for title in titles if (number := self.number(title)) is not None]


def read_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def read_domain(folder: Path, limit: int) -> Domain:
    catalog = Catalog.load(folder / "catalog.jsonl", keep_fields=True)
    candidates = Candidates.from_catalog(catalog)
    index = {clean_title(title): number for number, title in enumerate(candidates.titles)}
    train = read_rows(folder / "train.jsonl")

    def titles_of(row: dict[str, Any]) -> list[str]:
        return [catalog.title(item) or "" for item in row["items"]]

    def record_of(row: dict[str, Any]) -> Record:
        line = dumps({"user_id": row["user_id"], "items": row["items"]})
        return parse_record(line, folder.name, RecordFormat(), catalog)

    rng = np.random.default_rng(0)
    cases: list[Case] = []
    if (folder / "valid.jsonl").is_file():
        seen = {row["user_id"] for row in train}
        rows = [row for row in read_rows(folder / "valid.jsonl") if row["user_id"] not in seen]
        for i in rng.permutation(len(rows)).tolist():
            row = rows[i]
            for position, (noise, before) in enumerate(zip(row["noise"], row["original_titles"], strict=True)):
                truth = index.get(clean_title(before)) if noise and before is not None else None
                if truth is not None and position < len(row["items"]) - 1:
                    cases.append(Case(record_of(row), row["user_id"], position, truth))
    else:
        everything = [(row["user_id"], titles_of(row)) for row in train]
        split = split_users(
            [TrainingDomain.build(folder.name, candidates.titles, everything)],
            validation=Settings.validation,
            calibration=Settings.calibration,
            test=Settings.test,
        )
        trained = set(split.train[0].users)
        rows = [row for row in train if row["user_id"] not in trained and len(row["items"]) > 2]
        train = [row for row in train if row["user_id"] in trained]
        for i in rng.permutation(len(rows)).tolist():
            items = rows[i]["items"][-20:]
            position = int(rng.integers(len(items) - 1))
            truth = index.get(clean_title(catalog.title(items[position]) or ""))
            noisy = {**rows[i], "items": list(items)}
            noisy["items"][position] = catalog.ids[int(rng.integers(len(catalog)))]
            assert truth is not None
            cases.append(Case(record_of(noisy), rows[i]["user_id"], position, truth))
    judged = [(row["user_id"], titles_of(row)) for row in rows]
    return Domain(
        folder.name, catalog, candidates, index, [(r["user_id"], titles_of(r)) for r in train], judged, cases[:limit]
    )


def counted_for(domain: Domain, fold: int, folds: dict[Hashable, int]) -> list[tuple[Hashable, list[str]]]:
    return domain.train + [(user, titles) for user, titles in domain.judged if folds[user] != fold]


def gaps_of(domain: Domain, case: Case) -> Gaps:
    others = [title for i, title in enumerate(case.record.titles) if i != case.position]
    return Gaps(others, 1, frozenset(domain.items(case.record.titles)) - {case.truth})


def rank(worth: Floats, gaps: Gaps, truth: int) -> float:
    """Candidates that are worth more than the true one; of ties, half."""
    worth = worth.copy()
    worth[list(gaps.excluded)] = -np.inf
    return float((worth > worth[truth]).sum() + ((worth == worth[truth]).sum() - 1) / 2)


def title_embeddings(suggester: Suggester, titles: list[str]) -> Floats:
    """Mean of the base model's token embeddings of each title, of length 1."""
    tensor = next(t for t in open_gguf(suggester.runtime).tensors if t.name == "token_embd.weight")
    gguf = import_or_explain("gguf")
    table = gguf.dequantize(tensor.data, tensor.tensor_type)
    rows = np.array([table[suggester.tokens(title)].mean(axis=0) for title in titles], dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def table(header: list[str], rows: list[list[str]], texts: int = 2) -> None:
    for cells in (header, ["---"] * texts + ["---:"] * (len(header) - texts), *rows):
        print("| " + " | ".join(cells) + " |", flush=True)
    print(flush=True)


def hits(domain: Domain, suggester: Suggester) -> list[list[str]]:
    """Rows of hit rates, one a proposer."""
    n = len(domain.candidates)
    ranks: dict[str, list[float]] = {}
    folds = random_folds(user for user, _ in domain.judged)
    vectors = title_embeddings(suggester, domain.candidates.titles)
    for fold in (0, 1):
        counted = counted_for(domain, fold, folds)
        counts = CountsProposer(Evidence.count(counted), domain.candidates)
        joined = joined_by_user([user for user, _ in counted], [domain.items(titles) for _, titles in counted])
        popularity = np.bincount(np.concatenate([np.unique(items) for items in joined]), minlength=n).astype(float)
        ease = Ease(n)
        ease.fit(joined)
        for case in (case for case in domain.cases if folds[case.user] == fold):
            gaps = gaps_of(domain, case)
            here = sorted(set(domain.items(list(gaps.titles))))
            for name, worth in (
                ("popularity", popularity),
                ("EASE", ease.weights[here].sum(axis=0)),
                ("nearest title embedding", vectors @ vectors[here].sum(axis=0)),
                ("counts", counts.worth(gaps.titles)),
            ):
                ranks.setdefault(name, []).append(rank(worth, gaps, case.truth))
    generating = GeneratingProposer(suggester, domain.candidates)
    for case, proposals in zip(
        domain.cases, generating.propose([gaps_of(domain, case) for case in domain.cases], TOP), strict=True
    ):
        named = [proposal.candidates[0] for proposal in proposals]
        ranks.setdefault("generate", []).append(named.index(case.truth) if case.truth in named else np.inf)
    return [
        [domain.name, name, *(f"{np.mean(np.array(found) < top):.1%}" for top in (1, 5, TOP)), f"{len(found):,}"]
        for name, found in ranks.items()
    ]


def similarities(domain: Domain, case: Case, candidate: int, vectors: Any) -> list[float]:
    """Mean TF-IDF cosine with the rest of the window: of the noise, of a candidate in its place, of the true item."""
    rest = domain.items([title for i, title in enumerate(case.record.titles) if i != case.position])
    noise = domain.items([case.record.titles[case.position]])[0]
    return [float((vectors[item] @ vectors[rest].T).mean()) for item in (noise, candidate, case.truth)]


def through_gate(domain: Domain, suggester: Suggester, denoiser: Denoiser) -> list[list[str]]:
    """Rows of what the second gate lets through, one for each proposer and number of proposals that are tried."""
    vectorizer = import_or_explain("sklearn.feature_extraction.text").TfidfVectorizer()
    vectors = vectorizer.fit_transform(domain.candidates.titles)
    evidence = Evidence.count(domain.train + domain.judged)
    counting = CountsProposer(evidence, domain.candidates)
    generating = GeneratingProposer(suggester, domain.candidates)
    proposers: list[tuple[Proposer, int]] = [(counting, 1), (counting, 2), (counting, 4), (generating, 2)]
    records = [case.sequence for case in domain.cases]
    log_odds = denoiser.score(record.titles for record in records)
    flags = [np.arange(len(case.record.titles)) == case.position for case in domain.cases]
    rows = []
    for proposer, n in proposers:
        replacer = Replacer(proposer, domain.candidates, denoiser.metadata.max_window, n)
        threshold = denoiser.metadata.threshold(RATE)
        found = replacer.replace(
            records, log_odds, flags, threshold, lambda those: denoiser.score(r.titles for r in those)
        )
        there = [
            (case, float(odds[case.position]), f[case.position])
            for case, odds, f in zip(domain.cases, log_odds, found, strict=True)
            if f
        ]
        hit = np.mean([r.candidate == case.truth for case, _, r in there])
        kept = [(case, odds, r) for case, odds, r in there if r.accepted]
        similar = np.mean([similarities(domain, case, r.candidate, vectors) for case, _, r in kept], axis=0)
        before = probability(np.array([odds for _, odds, _ in kept])).mean()
        after = probability(np.array([r.log_odds for *_, r in kept])).mean()
        figures = [f"{before:.2f}", f"{after:.2f}", *(f"{x:.3f}" for x in similar)]
        rows.append([domain.name, proposer.name, str(n), f"{hit:.1%}", f"{len(kept) / len(records):.1%}", *figures])
    return rows


def cost(domain: Domain, suggester: Suggester, denoiser: Denoiser, n_windows: int, repeat: int) -> list[list[str]]:
    """Rows of the seconds that replacing takes, against one scoring."""
    rng = np.random.default_rng(0)
    records = [case.sequence for case in domain.cases[:n_windows]]
    flags = [rng.random(len(record.titles)) < 0.05 for record in records]
    for flagged in flags:
        flagged[-1] = False
    n_flagged = sum(int(flagged.sum()) for flagged in flags)
    never = [np.full(len(record.titles), np.inf, dtype=np.float32) for record in records]
    counting = CountsProposer(Evidence.count(domain.train + domain.judged), domain.candidates)
    generating = GeneratingProposer(suggester, domain.candidates)
    ways = {f"counts, {n} tried": (counting, n) for n in (1, 2)} | {
        f"generate, {n} tried": (generating, n) for n in (1, 2)
    }
    seconds: dict[str, list[float]] = {"scoring": [], **{name: [] for name in ways}}

    def score(those: list[ItemSequence]) -> Any:
        return denoiser.score(record.titles for record in those)

    for _ in range(repeat):
        began = time.perf_counter()
        for at in range(0, len(records), 64):
            score(records[at : at + 64])
        seconds["scoring"].append(time.perf_counter() - began)
        for name, (proposer, n) in ways.items():
            replacer = Replacer(proposer, domain.candidates, denoiser.metadata.max_window, n)
            began = time.perf_counter()
            for at in range(0, len(records), 64):
                part = slice(at, at + 64)
                replacer.replace(records[part], never[part], flags[part], 0.0, score)
            seconds[name].append(time.perf_counter() - began)
    scoring = np.array(seconds.pop("scoring"))
    return [
        [
            domain.name,
            name,
            f"{np.median(taken) / n_flagged * 1000:.0f} ms",
            f"{np.median(np.array(taken) / scoring):.2f}",
        ]
        for name, taken in seconds.items()
    ]


def trie(suggester: Suggester, n_titles: int) -> list[list[str]]:
    """One row: time and memory of a trie of random titles of 2 to 12 words."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(2, 9))) for _ in range(20_000)]
    lengths = rng.integers(2, 13, n_titles)
    titles = [" ".join(words[i] for i in rng.zipf(1.3, n) % len(words)) for n in lengths]
    os.environ["LLM4DSR_CACHE"] = os.environ.get("LLM4DSR_TRIE_CACHE", str(REPOSITORY / "runs" / "trie-cache"))
    began = time.perf_counter()
    made = suggester.trie(titles)
    built = time.perf_counter() - began
    began = time.perf_counter()
    suggester.trie(titles)
    read = time.perf_counter() - began
    return [[f"{n_titles:,}", f"{len(made.rows):,}", f"{made.nbytes / 1e6:.0f} MB", f"{built:.0f} s", f"{read:.1f} s"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument("--domains", nargs="+", default=["toy", "movie", "office"])
    parser.add_argument("--tables", nargs="+", default=["hits", "gate", "cost", "trie"])
    parser.add_argument("--denoiser", help="GGUF file; default: the one that ships")
    parser.add_argument("--cases", type=int, default=500, help="noisy items of each domain")
    parser.add_argument("--windows", type=int, default=256, help="windows whose replacement is timed")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--titles", type=int, default=1_000_000, help="of the trie")
    arguments = parser.parse_args()

    tables = {
        "hits": ["data", "proposer", "hit@1", "hit@5", "hit@10", "items"],
        "gate": ["data", "proposer", "tried", "hit@1", "accepted", "p before", "p after"]
        + [f"similarity: {what}" for what in ("noise", "replacement", "true item")],
        "cost": ["data", "way", "a flagged item", "against scoring"],
    }
    folders = [arguments.data / name for name in arguments.domains]
    there = [folder for folder in folders if (folder / "train.jsonl").is_file()]
    for folder in folders:
        if folder not in there:
            print(f"{folder.name}: skipped, there is no {folder / 'train.jsonl'}; see --data")
    with Denoiser.load(arguments.denoiser) as denoiser, Suggester.load(arguments.denoiser) as suggester:
        domains = {folder: read_domain(folder, arguments.cases) for folder in there}
        for name, header in tables.items():
            if name not in arguments.tables:
                continue
            rows: list[list[str]] = []
            for domain in domains.values():
                if name == "hits":
                    rows += hits(domain, suggester)
                elif name == "gate":
                    rows += through_gate(domain, suggester, denoiser)
                else:
                    rows += cost(domain, suggester, denoiser, arguments.windows, arguments.repeat)
            table(header, rows)
        if "trie" in arguments.tables:
            table(["titles", "rows", "memory", "made in", "read in"], trie(suggester, arguments.titles), 0)


if __name__ == "__main__":
    main()
