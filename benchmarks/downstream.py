"""What cleaning does to the recommenders that come after, on several data sets: figures as JSON, and a row for each.

    python benchmarks/downstream.py --domains movie toy --recommenders sasrec gru4rec --state runs --json all.json

Over the code of ``llm4dsr trial``. Toy and movie: recommenders learn from the valid windows, those of a user joined to
one history where they overlap, and rank the last item of train windows whose user is in no valid window and whose last
item is no noise and does not stand before; a fifth of the users is for the early stop, the others report. It is that
way round because the denoiser that ships has learned from the train windows. The other data sets: each user's last two
items are the targets. Every fit is kept in the state folder, so that the benchmark goes on where it was stopped, and
several of them may work on one folder, each with other domains or recommenders. Rows of other methods are edited at the
first share; edits, how many are right, and which items are left, are those of what recommenders learn from.
``validation`` is the change on the validation targets, by which networks stop; the others look at them no more than at
test targets. ``downstream_tables.py`` prints the tables of docs/downstream.md.

Noise labels and original titles are read for measuring, and for the rows that say "labels". ``--noise`` puts noise into
data that have none: a block of another user's items, popular items, or items with a like title.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from downstream_data import Labels, owned, read
from downstream_tables import ASKED, every
from engines import load_cleaning
from numpy.typing import NDArray

from llm4dsr_cli.evaluation.baselines import CoOccurrenceTfidf
from llm4dsr_cli.evaluation.folds import random_folds, score_by_folds
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.gate.gate import Gate
from llm4dsr_cli.gate.survey import Survey
from llm4dsr_cli.scores import probability
from llm4dsr_cli.trial.compare import Draws
from llm4dsr_cli.trial.editing import Edited, Editor, counted_sequences, judging
from llm4dsr_cli.trial.fits import Fits
from llm4dsr_cli.trial.kept import Kept
from llm4dsr_cli.trial.metrics import CHOSEN_BY, METRICS, gains
from llm4dsr_cli.trial.recommenders import NAMES, make_recommender
from llm4dsr_cli.trial.settings import AS_IT_IS, Setting, percent
from llm4dsr_cli.trial.splits import Split

REPOSITORY = Path(__file__).resolve().parent.parent
Way = Callable[[int], Edited]
# Co-occurrence judges each of so many parts of the users by the others.
FOLDS = 5
# Titles are linked from this cosine of their TF-IDF vectors on.
LINKED = 0.1


def kept_of(split: Split, keep: Labels) -> Edited:
    """The split's sequences without the items that are not to be kept."""
    sequences = [items[one] for items, one in zip(split.sequences, keep, strict=True)]
    return Edited(sequences, None, sum(int((~one).sum()) for one, t in zip(keep, split.trains, strict=True) if t))


def co_occurrence(split: Split, share: float) -> Edited:
    """Dropped by co-occurrence and title words: what the model has to beat. Users are judged by counts of others."""
    sequences = owned(split)
    learned = [one for one, trains in zip(sequences, split.trains, strict=True) if trains]
    scorer = CoOccurrenceTfidf([str(title) for title in split.items.titles])
    scores = score_by_folds(scorer, learned, sequences, random_folds((user for user, _ in sequences), FOLDS))
    keep: dict[int, NDArray[np.bool_]] = {}
    for learns in (True, False):
        part = np.flatnonzero(split.trains == learns).tolist()
        anything = Gate(-math.inf, protect_last=0)
        gate = replace(anything, threshold=Survey([scores[i] for i in part], anything).threshold(share))
        keep |= {i: ~gate.decide(scores[i]) for i in part}
    return kept_of(split, [keep[i] for i in range(len(scores))])


def largest_part(split: Split) -> Edited:
    """ConsRec's rule: of each sequence the largest connected part of the graph of like titles stays.

    Titles are alike by their words here, by a language model's embeddings in ConsRec.
    """
    evidence = Evidence.count((user, [str(split.items.titles[i]) for i in one]) for user, one in owned(split))
    vectors = [evidence.title_vector(str(title)) for title in split.items.titles]
    keep = []
    for items in split.sequences:
        part = np.arange(len(items))
        for i in range(len(items)):
            for j in range(i):
                one, other = vectors[items[i]], vectors[items[j]]
                if sum(weight * other.get(word, 0.0) for word, weight in one.items()) > LINKED or items[i] == items[j]:
                    part[part == part[i]] = part[j]
        sizes = np.bincount(part, minlength=len(items) or 1)
        keep.append(part == sizes.argmax())
    return kept_of(split, keep)


def official(editor: Editor) -> Edited:
    """The official code's rule: of the two most suspicious items of each sequence those above the .6 quantile of all
    such are replaced; in histories, of the most suspicious one those above the .9 quantile."""
    decisions: list[Any] = [None] * len(editor.scored)
    for learns, most, quantile in ((True, 2, 0.6), (False, 1, 0.9)):
        places = np.flatnonzero(editor.split.trains == learns).tolist()
        if not places:
            continue
        scored = [editor.scored[i] for i in places]
        log_odds = editor.cleaning.log_odds(scored)
        nominated = np.concatenate([np.sort(one[~np.isnan(one)])[-most:] for one in log_odds])
        if not len(nominated):  # histories that nobody edits
            for place, decision in zip(places, editor.cleaning.decide(scored), strict=True):
                decisions[place] = decision
            continue
        threshold = float(probability(np.quantile(nominated, quantile)))
        cleaning = editor.cleaning.gated(action="replace", threshold=threshold, max_edits=most)
        for place, decision in zip(places, cleaning.decide(scored), strict=True):
            decisions[place] = decision
    return editor.applied("replace", decisions)


def once(way: Callable[[], Edited]) -> Way:
    """A way that is the same for every seed."""
    kept = cache(way)
    return lambda seed: kept()


def ways(
    split: Split, labels: Labels, before: list[Any], editors: dict[str, Editor], arguments: argparse.Namespace
) -> dict[str, Way]:
    """What is done to the data, by name; random edits by seed."""
    found: dict[str, Way] = {"as it is": lambda seed: Edited(split.sequences)}
    if any(one.any() for one in labels):
        undone = Edited(before, None, sum(int(one.sum()) for one, t in zip(labels, split.trains, strict=True) if t))
        found["all noise dropped (labels)"] = lambda seed: kept_of(split, [~one for one in labels])
        found["all noise undone (labels)"] = lambda seed: undone
    first = arguments.shares[0]
    found[f"co-occurrence + TF-IDF, drop {percent(first)}"] = once(lambda: co_occurrence(split, first))
    found["largest connected part (ConsRec)"] = once(lambda: largest_part(split))
    found["percentiles (official code)"] = once(lambda: official(editors["alone"]))
    for action in arguments.actions:
        for share in arguments.shares:
            setting = Setting(action, share)
            for name, editor in editors.items():
                found[f"{setting.name}, {name}"] = partial(editor.edited, setting)
            found[setting.control.name] = partial(editors["fused"].edited, setting.control)
    return {name: way for name, way in found.items() if not arguments.ways or any(w in name for w in arguments.ways)}


def right(split: Split, labels: Labels, edited: Edited) -> float:
    """The share of dropped items that are noise; NaN where no item was dropped, or other items were put in."""
    dropped, noise = 0, 0
    for i in np.flatnonzero(split.trains).tolist():
        new, place = edited.sequences[i], 0
        for item, is_noise in zip(split.sequences[i].tolist(), labels[i].tolist(), strict=True):
            if place < len(new) and new[place] == item:
                place += 1
            else:
                dropped, noise = dropped + 1, noise + is_noise
    return noise / dropped if dropped else float("nan")


def items_left(split: Split, edited: Edited) -> NDArray[np.integer]:
    """The different items that still stand in what recommenders learn from."""
    return np.unique(np.concatenate([edited.sequences[i] for i in np.flatnonzero(split.trains).tolist()]))


def measure(domain: str, folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    edits_histories = "cleaned" in arguments.histories
    catalog, split, labels, before = read(
        folder,
        arguments.users,
        arguments.noise,
        arguments.rate,
        edits_histories=edits_histories,
        core=arguments.core,
    )
    kept = Kept(arguments.state and arguments.state / domain)
    number = {user: place for place, user in enumerate(dict.fromkeys(split.users))}
    users = np.array([number[user] for user in split.users])
    draws = Draws(users[split.test.sequence], arguments.seeds)
    of_validation = Draws(users[split.validation.sequence], arguments.seeds)
    rows = []
    editors = {}
    loading = {"catalog": catalog, "counted": counted_sequences(split), "threads": arguments.threads}
    with load_cleaning(arguments.denoiser, action="replace", edit=0.5, protect_last=0, **loading) as loaded:
        alone, key = judging(loaded.gated(fusion=False), split, kept)
        editors["alone"] = Editor(split, alone, kept, judge=key)
        fused, key = judging(loaded, split, kept)
        editors["fused"] = Editor(split, fused, kept, judge=key)
        has_noise = any(one.any() for one in labels)
        means: dict[tuple[str, str, str, str], Any] = {}
        validated: dict[tuple[str, str, str], Any] = {}
        for name, way in ways(split, labels, before, editors, arguments).items():
            edits = way(0)
            still_there = items_left(split, edits)
            for recommender in arguments.recommenders:
                for cleaned in arguments.histories if name != AS_IT_IS.name else arguments.histories[:1]:
                    fits = Fits(split, kept, clean_histories=cleaned == "cleaned")
                    model = make_recommender(recommender)
                    made = [fits.fit(model, way(seed), seed) for seed in range(arguments.seeds)]
                    ranks = np.stack([one.test for one in made])
                    for metric in METRICS:
                        means[name, recommender, cleaned, metric] = draws.means(gains(ranks, metric))
                    validated[name, recommender, cleaned] = of_validation.means(
                        gains(np.stack([one.validation for one in made]), CHOSEN_BY)
                    )
                    rows.append(
                        {
                            "domain": domain,
                            "noise": arguments.noise,
                            "rate": arguments.rate if arguments.noise else None,
                            "users": arguments.users,
                            "core": arguments.core,
                            "way": name,
                            "histories": cleaned,
                            "recommender": recommender,
                            "seeds": arguments.seeds,
                            "targets": len(split.test),
                            "edits": edits.edits,
                            "right": right(split, labels, edits) if has_noise and "drop" in name else None,
                            "items_left": len(still_there),
                            "targets_left": float(np.isin(split.test.target, still_there).mean()),
                        }
                    )
                    print(name, recommender, f"{means[name, recommender, cleaned, CHOSEN_BY][0]:.4f}", file=sys.stderr)
    as_it_is = arguments.histories[0]
    for row in rows:
        name, recommender, cleaned = row["way"], row["recommender"], row["histories"]
        own = CONTROLLED.match(name)
        control = "" if own is None else f"random {own[1]}"
        untouched = validated[AS_IT_IS.name, recommender, as_it_is]
        row["validation"] = relative(of_validation, validated[name, recommender, cleaned], untouched, untouched)
        row["figures"] = {}
        for metric in METRICS:
            was, now = means[AS_IT_IS.name, recommender, as_it_is, metric], means[name, recommender, cleaned, metric]
            random = means.get((control, recommender, cleaned, metric))
            row["figures"][metric] = {
                "value": float(now[0]),
                "relative": relative(draws, now, was, was),
                "over_random": None if random is None else relative(draws, now, random, was),
            }
    return rows


def relative(draws: Draws, now: Any, before: Any, base: Any) -> dict[str, Any]:
    """A difference of means as a share of the third, with its interval."""
    share = np.divide(now - before, base, where=base > 0, out=np.full_like(base, np.nan))
    return draws.estimate(share).as_dict()


NAMED_BY = (*ASKED, "way", "histories")
# A row of our own, whose control is the same setting at random.
CONTROLLED = re.compile(r"^((?:drop|replace|weigh) [\d.]+%), \w+$")


def named(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows in the order of their names; of those of the same name the last."""
    found = {tuple(str(row[name]) for name in NAMED_BY): row for row in rows}
    return [found[name] for name in sorted(found)]


def keep(path: Path | None, rows: list[dict[str, Any]]) -> None:
    if path is not None:
        rows = json.loads(json.dumps(rows), parse_float=lambda digits: round(float(digits), 5))
        path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument("--domains", nargs="*", default=["movie"], help="none: only take in what --add has")
    parser.add_argument("--denoiser", help="GGUF file; default: the one that ships")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--recommenders", nargs="+", default=["ease", "neighbours"], choices=NAMES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.1])
    parser.add_argument("--actions", nargs="+", default=["drop", "replace"], choices=["drop", "replace", "weigh"])
    parser.add_argument("--histories", nargs="+", default=["cleaned", "as-is"], choices=["cleaned", "as-is"])
    parser.add_argument("--ways", nargs="+", help="only the rows whose names hold one of these texts; with 'as it is'")
    parser.add_argument("--users", type=int, help="take only so many users, or windows")
    parser.add_argument("--core", type=int, metavar="K", help="take the K-core of users and items")
    parser.add_argument("--noise", choices=["block", "popular", "like"], help="put such noise into the data")
    parser.add_argument("--rate", type=float, default=0.1, help="share of the items that --noise replaces")
    parser.add_argument("--state", type=Path, help="folder where every fit is kept, for a run that goes on")
    parser.add_argument("--json", type=Path, help="all figures; what stands there already stays")
    parser.add_argument("--add", type=Path, nargs="+", default=[], metavar="JSON", help="take in what these have")
    arguments = parser.parse_args()
    if arguments.ways:
        arguments.ways.append(AS_IT_IS.name)
    kept = [] if arguments.json is None or not arguments.json.is_file() else [arguments.json]
    rows: list[dict[str, Any]] = []
    for path in [*kept, *arguments.add]:
        rows = named([*rows, *json.loads(path.read_text(encoding="utf-8"))])
    for domain in arguments.domains:
        folder = arguments.data / domain
        if not (folder / "catalog.jsonl").is_file():
            print(f"{domain}: skipped, there is no {folder / 'catalog.jsonl'}; see --data")
            continue
        rows = named([*rows, *measure(domain, folder, arguments)])
        keep(arguments.json, rows)
    keep(arguments.json, rows)
    every(rows)


if __name__ == "__main__":
    main()
