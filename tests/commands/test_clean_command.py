"""``llm4dsr clean``: records in, edited records out."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import PATIENCE, WORDS, Call, read, read_edits, sequences, write

from llm4dsr_cli import Denoiser, log_odds_of, probability
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.metadata import DenoiserMetadata
from llm4dsr_cli.scores import shortest_probabilities

pytestmark = pytest.mark.usefixtures("warm_environment")


def log_odds_by_library(titles: list[list[str]], model: Path) -> list[np.ndarray]:
    with Denoiser.load(str(model), threads=1, weights="q8_0") as denoiser:
        return list(denoiser.score(titles))


def expected_edits(log_odds: np.ndarray, threshold: float, protect_last: int = 1, most: int | None = None) -> set[int]:
    """The gate again, in other words: the most suspicious of the items above the threshold."""
    free = range(len(log_odds) - protect_last)
    flagged = sorted((i for i in free if log_odds[i] > threshold), key=lambda i: -log_odds[i])
    return set(flagged[: min(len(log_odds) - 1, len(flagged) if most is None else most)])


def test_drop_takes_what_the_gate_flags_out_of_all_parallel_lists(
    tmp_path: Path, clean: Call, tiny_denoiser: Path
) -> None:
    """Guards: ratings that slide against their items, fields lost or reordered, lines rewritten for nothing."""
    titles = sequences(40)
    records = [
        {
            "user": n,
            "ratings": [i / 2 for i in range(len(t))],
            "items": t,
            "note": "a b",
            "timestamps": [*range(len(t))],
        }
        for n, t in enumerate(titles)
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    # Unusual but valid spacing and escapes: only a line that was left alone still has them.
    lines = [json.dumps(record, separators=(" , ", ":  ")) for record in records]
    source.write_text("\n".join(lines) + "\n")
    outcome = clean(
        source, target, "--threshold", "0.6", "--parallel-field", "ratings", "--parallel-field", "timestamps"
    )
    assert (outcome.code, outcome.out) == (0, b"")
    scores = log_odds_by_library(titles, tiny_denoiser)
    edits = [expected_edits(s, log_odds_of(0.6)) for s in scores]
    assert 10 < sum(bool(edit) for edit in edits) < 40
    results = target.read_text().splitlines()
    assert len(results) == len(records)
    for record, line, result, dropped in zip(records, lines, results, edits, strict=True):
        if not dropped:
            assert result == line
            continue
        kept = [i for i in range(len(record["items"])) if i not in dropped]
        wanted = {
            name: [value[i] for i in kept] if isinstance(value, list) else value for name, value in record.items()
        }
        assert list(json.loads(result).items()) == list(wanted.items())
    total = sum(map(len, edits))
    assert f"dropped {total} items" in outcome.err


def test_mark_leaves_everything_and_flags_what_drop_would_take(
    tmp_path: Path, clean: Call, tiny_denoiser: Path
) -> None:
    """Guards: flags of another gate than drop's, flags not parallel to the items, items lost under mark."""
    titles = sequences(30, seed=1)
    records = [{"items": t, "user": n} for n, t in enumerate(titles)]
    source, target = write(tmp_path / "in.jsonl", records), tmp_path / "out.jsonl"
    assert clean(source, target, "--action", "mark", "--annotate", "--threshold", "0.6").code == 0
    for record, result, scores in zip(records, read(target), log_odds_by_library(titles, tiny_denoiser), strict=True):
        assert list(result) == ["items", "user", "noise_probability", "noise_flag"]
        assert {name: result[name] for name in record} == record
        flagged = expected_edits(scores, log_odds_of(0.6))
        assert result["noise_flag"] == [int(i in flagged) for i in range(len(scores))]
        assert result["noise_probability"] == shortest_probabilities(scores).tolist()


def test_annotations_run_parallel_to_the_items_of_the_output(tmp_path: Path, clean: Call, tiny_denoiser: Path) -> None:
    """Guards: probabilities of dropped items kept, which would shift all that follow."""
    titles = sequences(30, seed=2)
    source, target = write(tmp_path / "in.jsonl", [{"items": t} for t in titles]), tmp_path / "out.jsonl"
    assert clean(source, target, "--annotate", "--threshold", "0.6").code == 0
    dropped_any = False
    for sequence, result, scores in zip(titles, read(target), log_odds_by_library(titles, tiny_denoiser), strict=True):
        dropped = expected_edits(scores, log_odds_of(0.6))
        dropped_any |= bool(dropped)
        kept = [i for i in range(len(sequence)) if i not in dropped]
        assert result["items"] == [sequence[i] for i in kept]
        assert result["noise_probability"] == shortest_probabilities(scores[kept]).tolist()
    assert dropped_any


def shapes(rng: random.Random, n: int) -> Iterator[tuple[str, list[str], list[dict[str, Any]]]]:
    """Name, options and records of each way to write items down."""

    def titles(size: int) -> list[str]:
        return [f"{rng.choice(WORDS)} {rng.randrange(1000)}" for _ in range(size)]

    def record(items: list[Any], **more: list[Any]) -> dict[str, Any]:
        size = len(items)
        fields = {
            "items": items,
            "ratings": [rng.choice([1, 2.5, None, "five"]) for _ in range(size)],
            "timestamps": [rng.randrange(2**70) for _ in range(size)],
            "user_id": rng.choice([7, "7", None, 2**63, 2**80, -1.5, True]),
            "nested": {"b": [1, {"é": '\u2028 \\ " \n'}], "a": 1e-300},
            **more,
        }
        names = list(fields)
        rng.shuffle(names)
        return {name: fields[name] for name in names}

    def size() -> int:
        return rng.choice([0, 1, 2, 3, 5, 8, 13])

    yield "titles", [], [record(titles(size())) for _ in range(n)]
    objects = [
        [{"id": rng.choice([i, str(i), None]), "title": title, "genre": [1, None]} for i, title in enumerate(titles(k))]
        for k in (size() for _ in range(n))
    ]
    yield "objects", [], [record(items) for items in objects]
    bare = [[{"title": title} for title in titles(size())] for _ in range(n)]
    yield "objects without ids", [], [record(items) for items in bare]
    ids = [[rng.randrange(50) for _ in range(size())] for _ in range(n)]
    yield "integer ids", ["--catalog"], [record(items) for items in ids]
    texts = [[str(i) for i in items] for items in ids]
    yield "string ids", ["--catalog"], [record(items) for items in texts]
    mixed = [[{"id": i} if i % 2 else {"id": str(i), "title": "own title"} for i in items] for items in ids]
    yield "objects with ids", ["--catalog"], [record(items) for items in mixed]
    beside = [record(items, item_titles=titles(len(items))) for items in ids]
    yield "ids beside titles", ["--titles-field", "item_titles"], beside


def test_the_audit_is_enough_to_undo_a_run(tmp_path: Path, clean: Call) -> None:
    """Guards: an edit that cannot be taken back: ids of another type, parallel values lost, positions off."""
    rng = random.Random(3)
    catalog = write(tmp_path / "catalog.jsonl", [{"id": i, "title": f"{rng.choice(WORDS)} {i}"} for i in range(50)])
    source, target, audit = (tmp_path / name for name in ("in.jsonl", "out.jsonl", "audit.jsonl"))
    for name, options, records in shapes(rng, 60):
        write(source, records)
        outcome = clean(
            source, target, "--audit", audit, "--threshold", "0.5", "--protect-last", "0",
            "--parallel-field", "ratings", "--parallel-field", "timestamps",
            *([*options, catalog] if options == ["--catalog"] else options),
        )  # fmt: skip
        assert outcome.code == 0, (name, outcome.err)
        edits: dict[int, list[dict[str, Any]]] = {}
        for edit in read_edits(audit):
            edits.setdefault(edit["output_line"], []).append(edit)
        assert 10 < len(edits) < len(records), name
        pairs = zip(source.read_bytes().splitlines(), target.read_bytes().splitlines(), strict=True)
        for number, (before, after) in enumerate(pairs, 1):
            rebuilt = json.loads(after)
            for edit in sorted(edits.get(number, []), key=lambda edit: edit["position"]):
                assert edit["record"] == f"{source}:{number}"
                assert edit["noise_probability"] > edit["threshold"] == 0.5
                rebuilt["items"].insert(edit["position"], edit["from"])
                for field, value in edit["parallel"].items():
                    rebuilt[field].insert(edit["position"], value)
            # As text, since 1 == 1.0 == True and objects compare whatever their order.
            assert json.dumps(rebuilt) == json.dumps(json.loads(before)), name
            if number not in edits:
                assert after == before


def test_a_gate_that_is_looser_edits_more(tmp_path: Path, clean: Call) -> None:
    """Guards: a threshold or rate that is read upside down."""
    source = write(tmp_path / "in.jsonl", [{"items": t} for t in sequences(40, seed=4)])

    def edited(*options: object) -> set[tuple[int, int]]:
        audit = tmp_path / "audit.jsonl"
        assert clean(source, tmp_path / "out.jsonl", "--audit", audit, *options).code == 0
        return {(edit["output_line"], edit["position"]) for edit in read_edits(audit)}

    by_threshold = [edited("--threshold", p) for p in (1, 0.95, 0.7, 0.3)]
    by_rate = [edited("--false-edit-rate", rate) for rate in (0.001, 0.05, 0.4)]
    for edits in (by_threshold, by_rate):
        for strict, loose in itertools.pairwise(edits):
            assert strict < loose
    assert by_threshold[0] == set()
    assert edited() == edited("--edit", "5%")
    for one, other in itertools.pairwise(("1%", "0.05", "40%")):
        assert edited("--edit", one) < edited("--edit", other)


def test_the_false_edit_rate_is_the_denoisers_calibrated_threshold(
    tmp_path: Path, clean: Call, tiny_denoiser: Path
) -> None:
    """Guards: a rate used as a threshold, or a calibration that is not the file's own."""
    source, report = write(tmp_path / "in.jsonl", [{"items": ["a", "b"]}]), tmp_path / "report.json"
    assert clean(source, tmp_path / "out.jsonl", "--report", report, "--false-edit-rate", "0.05").code == 0
    gate = json.loads(report.read_bytes())["gate"]
    calibration = DenoiserMetadata.read(open_gguf(tiny_denoiser), tiny_denoiser).calibration
    assert calibration is not None
    assert gate["threshold"] == pytest.approx(probability(np.array(calibration.threshold(0.05))))
    assert gate["false_edit_rate"] == 0.05


def test_limits_of_the_gate_hold(tmp_path: Path, clean: Call, tiny_denoiser: Path) -> None:
    """Guards: the recommender's target edited, more edits than allowed, or others than the most suspicious."""
    titles = sequences(40, seed=5)
    source, audit = write(tmp_path / "in.jsonl", [{"items": t} for t in titles]), tmp_path / "audit.jsonl"
    scores = log_odds_by_library(titles, tiny_denoiser)
    for options, protected, most in [
        (["--protect-last", 0], 0, lambda n: n),
        (["--protect-last", 3], 3, lambda n: n),
        (["--max-edits", 1], 1, lambda n: 1),
        (["--max-edits", 0.3, "--protect-last", 2], 2, lambda n: int(0.3 * n)),
        (["--max-edits", 0], 1, lambda n: 0),
    ]:
        assert clean(source, tmp_path / "out.jsonl", "--audit", audit, "--threshold", 0.4, *options).code == 0
        found = {(edit["output_line"] - 1, edit["position"]) for edit in read_edits(audit)}
        wanted = {
            (n, i) for n, s in enumerate(scores) for i in expected_edits(s, log_odds_of(0.4), protected, most(len(s)))
        }
        assert found == wanted, options
        assert bool(found) == (options != ["--max-edits", 0])


def test_a_report_tells_what_was_done_and_by_what(tmp_path: Path, clean: Call, tiny_denoiser: Path) -> None:
    """Guards: a report that does not let a run be repeated, or counts that contradict the output."""
    from hashlib import sha256
    from importlib.metadata import version

    titles = sequences(20, seed=6)
    source = write(tmp_path / "in.jsonl", [{"items": t} for t in titles])
    target, audit, report = tmp_path / "out.jsonl", tmp_path / "audit.jsonl", tmp_path / "report.json"
    with source.open("a") as file:
        file.write("not a record\n")
    options = ["--threshold", 0.6, "--max-edits", 2, "--audit", audit, "--report", report, "--on-error", "skip"]
    assert clean(source, target, *options).code == 3
    found = json.loads(report.read_bytes())
    before, after = sum(map(len, titles)), sum(len(record["items"]) for record in read(target))
    assert found["counts"] == {
        "records": 20,
        "items": before,
        "edited_records": len({edit["output_line"] for edit in read_edits(audit)}),
        "edited_items": before - after,
        "replaced_items": 0,
        "skipped": 1,
        "unread": 0,
        "unjudged_items": 0,
    }
    assert before > after
    gate = found["gate"]
    assert gate.pop("threshold") == pytest.approx(0.6)
    limits = {"max_edits": 2, "protect_last": 1}
    assert gate == {
        "false_edit_rate": None,
        "edit": None,
        **limits,
        "file": None,
        "fusion": False,
        "items_counted": None,
    }
    assert found["action"] == "drop"
    assert found["model"]["name"] == "tiny-denoiser"
    assert found["model"]["sha256"] == sha256(tiny_denoiser.read_bytes()).hexdigest()
    assert found["versions"] == {name: version(name) for name in ("llm4dsr-cli", "llama-cpp-python")}
    assert 0 < found["seconds"] < PATIENCE
