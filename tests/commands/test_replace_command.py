"""``llm4dsr clean --action replace``: what does not belong gives its place to what does."""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import WORDS, Call, files, read, read_edits, run, write
from conftest import write_tiny_adapter
from test_apply_command import write_gate

from llm4dsr_cli import Denoiser, log_odds_of, probability
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.replacing.candidates import Candidates
from llm4dsr_cli.replacing.counts_proposer import CountsProposer
from llm4dsr_cli.replacing.proposals import Gaps
from llm4dsr_cli.replacing.replacer import MARGIN, Replacer
from llm4dsr_cli.scores import shortest_probabilities

pytestmark = pytest.mark.usefixtures("warm_environment")

REPLACE = ["--action", "replace", "--threshold", 0.6]
PARALLEL = ["--parallel-field", "stars", "--parallel-field", "timestamps"]
# The last ten have titles that others have as well.
ROWS = [{"id": n, "title": f"{WORDS[n % 50 % 6]} part {n % 50}", "year": 1950 + n, "kind": [n % 6]} for n in range(60)]
TITLES = [row["title"] for row in ROWS]


def tastes(n: int, seed: int, longest: int = 9) -> list[list[int]]:
    """Rows of users who like one kind, and of what else they have."""
    rng = random.Random(seed)
    return [
        [rng.randrange(8) * 6 + user % 6 if rng.random() < 0.7 else rng.randrange(60) for _ in range(size)]
        for user, size in enumerate(rng.randrange(longest) for _ in range(n))
    ]


def shapes(folder: Path, n: int, seed: int) -> Iterator[tuple[str, list[object], list[dict[str, Any]]]]:
    """Name, options and records of each way to write items down."""
    write(folder / "catalog.jsonl", ROWS)
    lines = [f"{row['id']},{row['title']},{row['year']}" for row in ROWS]
    (folder / "catalog.csv").write_text("\n".join(["id,title,year", *lines]), encoding="utf-8")
    rng = random.Random(seed)
    made = {
        "titles": ([], lambda i: TITLES[i]),
        "objects": ([], lambda i: {"id": i, "title": TITLES[i], "mood": rng.choice(["é", None, 2**70])}),
        "objects without ids": ([], lambda i: {"stars": i, "title": TITLES[i]}),
        "integer ids": (["--catalog", folder / "catalog.csv"], lambda i: i),
        "string ids": (["--catalog", folder / "catalog.jsonl"], str),
        "objects of a catalog": (["--catalog", folder / "catalog.jsonl"], lambda i: {**ROWS[i], "mood": rng.random()}),
        "ids beside titles": (["--titles-field", "names"], lambda i: i),
    }
    for name, (options, item) in made.items():
        records = []
        for user, rows in enumerate(tastes(n, seed)):
            fields = {
                "user_id": user % 20,
                "items": [item(i) for i in rows],
                "stars": [rng.choice([1, 2.5, None, "five"]) for _ in rows],
                "timestamps": [rng.randrange(2**70) for _ in rows],
                "nested": {"b": [1, {"é": "\u2028 \\"}], "a": 1e-300},
                **({"names": [TITLES[i] for i in rows]} if name == "ids beside titles" else {}),
            }
            names = list(fields)
            rng.shuffle(names)
            records.append({name: fields[name] for name in names})
        yield name, options, records


def title_of(item: Any) -> str:
    if isinstance(item, dict):
        return item["title"]
    return TITLES[int(item)] if isinstance(item, int) or item.isdecimal() else item


def by_line(audit: Path) -> dict[int, list[dict[str, Any]]]:
    edits = sorted(read_edits(audit), key=lambda edit: edit["output_line"])
    return {line: list(those) for line, those in itertools.groupby(edits, key=lambda edit: edit["output_line"])}


@pytest.mark.parametrize("fallback", ["drop", "keep"])
def test_the_audit_is_enough_to_undo_a_run_and_the_rest_stays(tmp_path: Path, clean: Call, fallback: str) -> None:
    """Guards: an edit that cannot be taken back, timestamps that slide or change, a line rewritten for nothing, an item
    of another kind than the record's, one that was there already, and a title that is not the item's."""
    source, target, audit = (tmp_path / name for name in ("in.jsonl", "out.jsonl", "audit.jsonl"))
    for name, options, records in shapes(tmp_path, 50, seed=1):
        lines = [json.dumps(record, separators=(" , ", ":  ")).encode() for record in records]
        source.write_bytes(b"\n".join(lines))
        outcome = clean(source, target, *REPLACE, *PARALLEL, *options, "--fallback", fallback, "--audit", audit)
        assert (outcome.code, outcome.out) == (0, b""), (name, outcome.err)
        edits, replaced = by_line(audit), 0
        results = target.read_bytes().splitlines()
        assert len(results) == len(lines)
        for number, (before, after) in enumerate(zip(lines, results, strict=True), 1):
            if number not in edits:
                assert after == before
                continue
            record, rebuilt = json.loads(before), json.loads(after)
            put = []
            for edit in edits[number]:
                position, old, new = edit["position"], edit["from"], edit["to"]
                assert edit["record"] == f"{source}:{number}"
                assert edit["noise_probability"] > edit["threshold"] == 0.6
                if edit["action"] == "drop":
                    assert new is None and fallback == "drop"
                    rebuilt["items"].insert(position, old)
                    for field, value in edit["parallel"].items():
                        rebuilt[field].insert(position, value)
                    continue
                about = edit["replacement"]
                assert set(about) == {"title", "noise_probability", "proposer", "counts_score"}
                assert rebuilt["items"][position] == new != old and type(new) is type(old)
                assert title_of(new) == about["title"]
                if isinstance(new, dict):
                    assert list(new) == list(old) and [*map(type, new.values())] == [*map(type, old.values())]
                    assert [new.get(field) for field in ("mood", "stars")] == [old.get("mood"), old.get("stars")]
                    assert "id" not in new or TITLES[new["id"]] == new["title"]
                    assert "year" not in new or {**ROWS[new["id"]], "mood": new["mood"]} == new
                rebuilt["items"][position] = old
                for field, value in edit["parallel"].items():
                    assert rebuilt[field][position] == (about["title"] if field == "names" else value)
                    rebuilt[field][position] = value
                put.append(about["title"])
            assert len({*put, *map(title_of, record["items"])}) == len(put) + len({*map(title_of, record["items"])})
            assert json.dumps(rebuilt) == json.dumps(record), name
            replaced += len(put)
        assert replaced > 10, name


def sequences_of(sequences: list[list[str]], users: int = 20) -> list[dict[str, Any]]:
    return [{"user": n % users, "items": titles} for n, titles in enumerate(sequences)]


def test_a_fallback_is_for_what_found_no_better(tmp_path: Path, clean: Call) -> None:
    """Guards: fallbacks mixed up, a kept item in the audit of edits, a replacement that depends on the fallback."""
    source = write(tmp_path / "in.jsonl", sequences_of([[TITLES[i] for i in rows] for rows in tastes(60, seed=3)]))
    results, audits = {}, {}
    for fallback in ("drop", "keep", None):
        target, audit, report = (tmp_path / f"{name}-{fallback}" for name in ("out", "audit", "report"))
        options = ["--fallback", fallback] if fallback else []
        outcome = clean(source, target, *REPLACE, *options, "--audit", audit, "--report", report)
        assert outcome.code == 0
        results[fallback], audits[fallback], told = read(target), read_edits(audit), json.loads(report.read_bytes())
        counts = told["counts"]
        n = {action: sum(e["action"] == action for e in audits[fallback]) for action in ("replace", "drop")}
        assert (counts["replaced_items"], counts["edited_items"]) == (n["replace"], n["replace"] + n["drop"])
        assert counts["edited_records"] == len(by_line(audit))
        assert f"replaced {n['replace']} and dropped {n['drop']} items" in outcome.err
        about = {"action": "replace", "proposer": "counts", "fallback": fallback or "drop"}
        assert {name: told[name] for name in about} == about
    assert (results[None], audits[None]) == (results["drop"], audits["drop"])
    refused = [edit for edit in audits["drop"] if "refused" in edit]
    assert len(refused) > 10
    assert all(edit["action"] == "drop" and edit["to"] is None and "replacement" not in edit for edit in refused)
    once = ("sequence", "undo")  # told with a record's first edit, which is another where some are not made
    kept, replaced = [
        [{name: edit[name] for name in edit.keys() - once} for edit in edits]
        for edits in (audits["keep"], [edit for edit in audits["drop"] if edit["action"] == "replace"])
    ]
    assert kept == replaced != []
    dropped = {(edit["output_line"], edit["position"]) for edit in audits["drop"] if edit["action"] == "drop"}
    for line, (one, other) in enumerate(zip(results["drop"], results["keep"], strict=True), 1):
        assert one["items"] == [item for i, item in enumerate(other["items"]) if (line, i) not in dropped]


@pytest.mark.parametrize("with_catalog", [True, False])
def test_the_best_by_counts_is_judged_in_place_and_stays_if_it_belongs(
    tmp_path: Path, clean: Call, tiny_denoiser: Path, with_catalog: bool
) -> None:
    """Guards: noise that the user's own sequences bring back, or that takes the place of noise; gaps that are filled
    and judged one by one; a second item of a title proposed; an annotation that still tells of the old item."""
    rows = tastes(64, seed=2, longest=7)
    records = [{"who": n % 15, "items": [{"id": i, "title": TITLES[i]} for i in mine]} for n, mine in enumerate(rows)]
    source, target, audit = write(tmp_path / "in.jsonl", records), tmp_path / "out", tmp_path / "audit"
    options = [*REPLACE, "--user-field", "who", "--audit", audit, "--annotate"]
    options += ["--catalog", write(tmp_path / "catalog.jsonl", ROWS)] if with_catalog else []
    assert clean(source, target, *options).code == 0
    edits = {line: {edit["position"]: edit for edit in those} for line, those in by_line(audit).items()}

    candidates = Candidates()
    for i in range(60) if with_catalog else itertools.chain(*rows):
        candidates.add(TITLES[i], i)
    sequences = [[TITLES[i] for i in mine] for mine in rows]
    proposer = CountsProposer(Evidence.count((n % 15, titles) for n, titles in enumerate(sequences)), candidates)
    tried = []
    for line, mine in edits.items():
        titles = sequences[line - 1]
        others = [title for position, title in enumerate(titles) if position not in mine]
        own = frozenset(number for number, title in enumerate(candidates.titles) if title in titles)
        gaps = Gaps(others, len(mine), own, (line - 1) % 15)
        tried += [(line, proposal) for proposal in proposer.propose([gaps], Replacer.n_proposals)[0]]
    altered = []
    for line, proposal in tried:
        put = dict(zip(edits[line], proposal.candidates, strict=False))
        titles = enumerate(sequences[line - 1])
        altered.append([candidates.titles[put[p]] if p in put else title for p, title in titles])
    with Denoiser.load(str(tiny_denoiser), threads=1, weights="q8_0") as denoiser:
        # Batches as clean makes them: scores depend a little on those.
        before, after = denoiser.score(sequences), denoiser.score(altered)
    best: dict[int, tuple[float, list[tuple[int, float]], np.ndarray]] = {}
    for (line, proposal), odds in zip(tried, after, strict=True):
        total = float(odds[[*edits[line]]].sum())
        if line not in best or total < best[line][0]:
            best[line] = total, list(zip(proposal.candidates, proposal.scores, strict=True)), odds

    outcomes = []
    for line, (old, record) in enumerate(zip(before, read(target), strict=True), 1):
        shown, dropped = shortest_probabilities(old), []
        _, proposed, odds = best.get(line, (0, [], old))
        for (position, edit), these in itertools.zip_longest(edits.get(line, {}).items(), proposed):
            accepted = False
            if these:
                number, score = these
                accepted = odds[position] <= min(log_odds_of(0.6), old[position] - MARGIN)
                outcomes.append(accepted)
                shown[position] = round(float(probability(odds[position])), 5)
                about = {"title": candidates.titles[number], "noise_probability": shown[position]}
                about |= {"proposer": "counts", "counts_score": round(score, 4)}
                assert edit["replacement" if accepted else "refused"] == about
            to = {"id": candidates.ids[number], "title": candidates.titles[number]} if accepted else None
            assert edit["to"] == to
            dropped += [] if accepted else [position]
        np.testing.assert_allclose(record["noise_probability"], np.delete(shown, dropped), atol=3e-4)
    assert min(outcomes.count(True), outcomes.count(False)) > 10


def test_pipes_are_read_once(tmp_path: Path, clean_quietly: Call, engine: list[str], tiny_denoiser: Path) -> None:
    """Guards: a first pass that leaves nothing for the second, and a gate's counts that are not enough for a pipe."""
    records = sequences_of([[TITLES[i] for i in rows] for rows in tastes(30, seed=5)])
    source, target = write(tmp_path / "in.jsonl", records), tmp_path / "out.jsonl"
    catalog = ["--catalog", write(tmp_path / "catalog.jsonl", ROWS)]
    gate = ["--gate", write_gate(tmp_path / "my.gate", tiny_denoiser, records)]
    ids = [{"user": n % 20, "items": rows} for n, rows in enumerate(tastes(30, seed=5))]
    before = files(tmp_path)
    for options, words in (
        ([], ["without a catalog", "give --catalog, or a file"]),
        (gate, ["without a catalog", "give --catalog, or a file"]),
        (["--proposer", "generate"], ["without a catalog", "give --catalog, or a file"]),
        (catalog, ["--proposer counts", "--gate", "--proposer generate"]),
        ([*catalog, "--proposer", "counts"], ["--proposer counts", "--gate", "--proposer generate"]),
    ):
        outcome = run("clean", "-", target, *REPLACE, *options, *engine, input=source.read_bytes())
        outcome.failed(2, "a pipe can be read once", *words)
        assert files(tmp_path) == before
    write(source, ids)
    assert clean_quietly(source, target, *REPLACE, *catalog, *gate).code == 0
    outcome = run("clean", "-", "-", *REPLACE, *catalog, *gate, *engine, "--quiet", input=source.read_bytes())
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == target.read_bytes() != source.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="FIFOs of POSIX")
def test_a_named_pipe_is_a_pipe_and_a_missing_file_is_missing(
    tmp_path: Path, clean_quietly: Call, engine: list[str]
) -> None:
    """Guards: a command that waits for ever for a pipe's second reading, and a missing file called a pipe."""
    os.mkfifo(tmp_path / "fifo")
    outcome = run("clean", tmp_path / "fifo", tmp_path / "out", *REPLACE, *engine)
    outcome.failed(2, "a pipe can be read once", "--catalog")
    clean_quietly(tmp_path / "none", tmp_path / "out", *REPLACE).failed(1, "no such file")
    clean_quietly(tmp_path, tmp_path / "out", *REPLACE).failed(1, "is a folder")


def test_both_passes_skip_what_is_no_record(tmp_path: Path, clean_quietly: Call) -> None:
    """Guards: a first pass that stops where the second one skips, lines skipped twice, and a file without records."""
    records = sequences_of([[TITLES[i] for i in rows] for rows in tastes(20, seed=6)])
    source, target = write(tmp_path / "in.jsonl", records), tmp_path / "out.jsonl"
    assert clean_quietly(source, target, *REPLACE).code == 0
    wanted = target.read_bytes()
    source.write_bytes(b"no record\n" + source.read_bytes())
    clean_quietly(source, tmp_path / "new", *REPLACE).failed(1, f"{source}:1: not JSON")
    assert not (tmp_path / "new").exists()
    outcome = clean_quietly(source, target, *REPLACE, "--on-error", "skip", "--rejects", tmp_path / "rejects")
    assert (outcome.code, target.read_bytes()) == (3, wanted)
    assert (tmp_path / "rejects").read_bytes() == b"no record\n"
    source.write_bytes(b"")
    assert clean_quietly(source, target, *REPLACE).code == 0
    assert target.read_bytes() == b""


def test_what_suggests_titles_proposes_them_and_another_denoiser_says_so(
    tmp_path: Path, clean_quietly: Call, tiny_base: Path
) -> None:
    """Guards: counts in the place of what was asked for, a traceback where nothing can be asked or proposed."""
    source = write(tmp_path / "in.jsonl", sequences_of([[TITLES[i] for i in rows] for rows in tastes(20, seed=7)]))
    generate = [*REPLACE, "--proposer", "generate", "--audit", tmp_path / "audit"]
    clean_quietly(source, tmp_path / "out", *generate).failed(
        1, "suggests no titles: use ", " counts, or train it with"
    )
    generate += ["--model", write_tiny_adapter(tmp_path / "both.gguf", tiny_base, suggests=True)]
    assert clean_quietly(source, tmp_path / "out", *generate).code == 0
    proposed = [edit.get("replacement", edit.get("refused")) for edit in read_edits(tmp_path / "audit")]
    assert all(about["proposer"] == "generate" and about["log_probability"] < 0 for about in proposed if about)
    assert len({about["title"] for about in proposed if about} & {*TITLES}) > 3
    for records in ([], [{"items": ["Alien", "Heat"]}]):
        source = write(tmp_path / "in.jsonl", records)
        assert clean_quietly(source, tmp_path / "out", *generate, "--fallback", "keep").code == 0
        assert read(tmp_path / "out") == records


def test_dropping_is_the_default_of_a_file_and_of_a_pipe(
    tmp_path: Path, engine: list[str], tiny_denoiser: Path
) -> None:
    """Guards: an action that depends on how the input comes; and ``clean - OUT < IN`` called a pipe, though it can be
    read twice."""
    rows = tastes(40, seed=6)
    source = write(tmp_path / "in.jsonl", [{"user": n % 20, "items": mine} for n, mine in enumerate(rows)])
    catalog = ["--catalog", write(tmp_path / "catalog.jsonl", ROWS), "--threshold", "0.6", *engine]
    titles = [{"user": n % 20, "items": [TITLES[i] for i in mine]} for n, mine in enumerate(rows)]
    gate = ["--gate", write_gate(tmp_path / "my.gate", tiny_denoiser, titles)]
    given = source.read_bytes()
    file, pipe = run("clean", source, "-", *catalog), run("clean", "-", "-", *catalog, input=given)
    assert file.out == pipe.out == run("clean", source, "-", *catalog, "--action", "drop").out
    replaced = run("clean", source, "-", *catalog, "--action", "replace").out
    assert replaced not in (file.out, given)
    with source.open("rb") as redirected:
        assert run("clean", "-", "-", *catalog, "--action", "replace", stdin=redirected).out == replaced
    fused = [*catalog, *gate, "--action", "replace"]
    assert run("clean", "-", "-", *fused, input=given).out == run("clean", source, "-", *fused).out


def test_ids_of_another_name_are_replaced_with_their_titles(tmp_path: Path, clean: Call) -> None:
    """Guards: a record whose new title stands beside the old item's id, without a word."""
    rows = [{"asin": f"B{n}", "name": title} for n, title in enumerate(TITLES[:50])]
    write(tmp_path / "catalog.jsonl", rows)
    records = [
        {"user_id": user, "items": [{**rows[i % 50], "stars": user} for i in taste]}
        for user, taste in enumerate(tastes(30, seed=3))
    ]
    source, target = write(tmp_path / "in.jsonl", records), tmp_path / "out.jsonl"
    names = ["--item-id-field", "asin", "--item-title-field", "name"]
    known = ["--catalog", tmp_path / "catalog.jsonl"]
    for options in (names, [*names, *known], [], known):
        outcome = clean(source, target, *REPLACE, *options)
        assert outcome.code == 0, outcome.err
        assert "--item-id-field" not in outcome.err
        replaced = 0
        for before, after in zip(records, read(target), strict=True):
            for item in after["items"]:
                assert {name: item[name] for name in ("asin", "name")} in rows
                replaced += item not in before["items"]
        assert replaced > 10
    rows = [{"number": row["asin"], "label": row["name"]} for row in rows]
    write(tmp_path / "catalog.jsonl", rows)
    write(
        source,
        [{"user_id": u, "items": [{**rows[i % 50], "stars": u} for i in t]} for u, t in enumerate(tastes(30, 3))],
    )
    assert "--item-id-field" in clean(source, target, *REPLACE, "--item-title-field", "label").err
    outcome = clean(source, target, *REPLACE, "--item-title-field", "label", "--catalog", tmp_path / "catalog.jsonl")
    outcome.failed(1, "catalog.jsonl:1", '"id" is missing', "--item-id-field")
