"""``llm4dsr apply``: what ``clean`` does, from kept scores."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Call, call, files, preceded_by, read, read_edits, run, sequences, write
from conftest import write_tiny_adapter

from llm4dsr_cli import Denoiser
from llm4dsr_cli.cache import file_sha256
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.gate.fusion import N_FEATURES, Fusion
from llm4dsr_cli.gate.gate_file import GateFile
from llm4dsr_cli.records.scored_line import scored_line
from llm4dsr_cli.scores import canonical
from llm4dsr_cli.thresholds import ThresholdCurve

pytestmark = pytest.mark.usefixtures("warm_environment")


@pytest.fixture
def llm4dsr(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """``llm4dsr("apply", ...)`` in this process."""
    return lambda *arguments: call(monkeypatch, capfdbinary, *arguments)


def write_gate(path: Path, model: Path, records: list[dict[str, Any]], sha256: str | None = None) -> Path:
    """A gate file with counts of these records, whose fused scores differ from the denoiser's own."""
    rng = np.random.default_rng(5)
    n = N_FEATURES
    GateFile(
        model_name="tiny-denoiser",
        model_sha256=sha256 or file_sha256(model),
        alone=ThresholdCurve.fit(rng.standard_normal(2000)),
        fused=ThresholdCurve.fit(rng.standard_normal(2000)),
        fusion=Fusion(-0.2, np.resize([0.5, -0.4, 0.2, -0.8, -0.3, 0.6], N_FEATURES), np.zeros(n), np.ones(n)),
        evidence=Evidence.count((record["user"], record["items"]) for record in records),
        calibration_users=np.empty(0, dtype=np.uint64),
        summary={},
    ).save(path)
    return path


def records_of(titles: list[list[str]]) -> list[dict[str, Any]]:
    return [{"user": n % 7 or None, "items": t, "ratings": [*range(len(t))], "x": "é"} for n, t in enumerate(titles)]


@pytest.fixture
def workplace(tmp_path: Path, tiny_denoiser: Path, engine: list[str], llm4dsr: Call) -> Path:
    """Folders ``raw`` and ``scored``, each with an ``in.jsonl`` and the same gate file.

    Of the same name, since the audit names records by it.
    """
    for name in ("raw", "scored"):
        (tmp_path / name).mkdir()
    records = records_of([*sequences(70, seed=1), [], ["Alien"]])
    source = tmp_path / "raw" / "in.jsonl"
    source.write_text("".join(json.dumps(record, separators=(" ,", ": ")) + "\n" for record in records))
    write_gate(tmp_path / "raw" / "my.gate", tiny_denoiser, records)
    shutil.copy(tmp_path / "raw" / "my.gate", tmp_path / "scored")
    assert llm4dsr("score", source, tmp_path / "scored" / "in.jsonl", *engine).code == 0
    return tmp_path


BOTH = ["--parallel-field", "ratings"]


def test_apply_after_score_is_clean(workplace: Path, engine: list[str], llm4dsr: Call, tiny_denoiser: Path) -> None:
    """Guards: kept scores that are judged otherwise than fresh ones, in any way that an option could bring about."""
    plain = [
        [*BOTH],
        ["--threshold", 0.55, "--annotate", *BOTH],
        ["--action", "mark", "--annotate", "--threshold", 0.5],
        ["--false-edit-rate", 0.3, "--max-edits", 0.3, "--protect-last", 2, *BOTH],
        ["--threshold", 0, "--protect-last", 0, "--max-edits", 2],
    ]
    gated = [
        ["--gate", "my.gate", "--user-field", "user", "--false-edit-rate", 0.2, "--annotate"],
        ["--gate", "my.gate", "--threshold", 0.6, "--action", "mark"],
        ["--gate", "my.gate", "--no-fusion", "--false-edit-rate", 0.2, "--annotate", "--max-edits", 1],
    ]
    seen = set()
    for options in [*plain, *gated]:
        results = []
        for name, command in (
            ("raw", ["clean", "--action", "drop", *engine, *([] if "--gate" in options else ["--no-fusion"])]),
            ("scored", ["apply", "--model", tiny_denoiser]),
        ):
            os.chdir(workplace / name)
            common = ["in.jsonl", "out.jsonl", "--audit", "audit.jsonl", "--report", "report.json", "--quiet"]
            outcome = llm4dsr(*command, *common, *options)
            assert outcome.code == 0, outcome.err
            report = json.loads(Path("report.json").read_bytes())
            del report["seconds"], report["model"]
            results.append((Path("out.jsonl").read_bytes(), Path("audit.jsonl").read_bytes(), report))
        assert results[0] == results[1], options
        assert results[0][2]["counts"]["edited_items"] > 0
        seen.add(results[0][:2])
    assert len(seen) == len(plain) + len(gated)


@pytest.fixture(autouse=True)
def back_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests may change the folder; the next one starts where this one did."""
    monkeypatch.chdir(tmp_path)


def test_fusion_uses_the_gate_and_leaves_the_user_out(workplace: Path, llm4dsr: Call, tiny_denoiser: Path) -> None:
    """Guards: a gate file that is loaded and ignored, and sequences that vouch for themselves."""
    source, target, path = workplace / "scored" / "in.jsonl", workplace / "out.jsonl", workplace / "raw" / "my.gate"
    gate = GateFile.load(path)
    records = read(workplace / "raw" / "in.jsonl")
    with Denoiser.load(str(tiny_denoiser), threads=1, weights="q8_0") as denoiser:
        # Batches as clean makes them.
        scores = [s for i in (0, 64) for s in denoiser.score(record["items"] for record in records[i : i + 64])]
    fields = {"user": lambda record: record["user"], "no-such-field": lambda record: None}
    found = []
    for field, user in fields.items():
        options = ["--gate", path, "--user-field", field, "--threshold", 0.6, "--protect-last", 0, "--action", "mark"]
        assert llm4dsr("apply", source, target, *options).code == 0
        flags = [record["noise_flag"] for record in read(target)]
        for record, log_odds, marked in zip(records, scores, flags, strict=True):
            fused = gate.fuse(record["items"], user(record), log_odds)
            wanted = fused > math.log(0.6 / 0.4)
            if not wanted.all():
                assert marked == wanted.astype(int).tolist()
        found.append(flags)
    assert found[0] != found[1]


def kept(path: Path, scores: list[list[float]], sha256: str = "a" * 64) -> Path:
    """A scored file of titles that are all different."""
    from llm4dsr_cli.records.parsing import parse_record
    from llm4dsr_cli.records.record_format import RecordFormat

    lines = []
    for n, log_odds in enumerate(scores):
        line = json.dumps({"n": n, "items": [f"{n} {i}" for i in range(len(log_odds))]}).encode()
        record = parse_record(line, "", RecordFormat(), None)
        lines.append(scored_line(record, canonical(np.array(log_odds)), sha256) + b"\n")
    path.write_bytes(b"".join(lines))
    return path


def different_scores(n: int, seed: int, longest: int = 8) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest, n)
    flat = rng.permutation(np.arange(lengths.sum())) / 1000 - 1
    return [part.tolist() for part in np.split(flat, np.cumsum(lengths)[:-1])]


@pytest.mark.parametrize("share", [0.001, 0.02, 0.29, 0.5])
@pytest.mark.parametrize("protect_last", [0, 1])
def test_a_budget_is_spent_on_the_most_suspicious(
    tmp_path: Path, llm4dsr: Call, share: float, protect_last: int
) -> None:
    """Guards: one edit too many or too few, protected items that eat the budget, and edits of lesser suspects."""
    scores = different_scores(100, seed=3)
    source, target, audit = kept(tmp_path / "in.jsonl", scores), tmp_path / "out.jsonl", tmp_path / "audit.jsonl"
    options = ["--edit", share, "--protect-last", protect_last, "--audit", audit]
    assert llm4dsr("apply", source, target, *options).code == 0
    n_items = sum(map(len, scores))
    edited = {(edit["output_line"] - 1, edit["position"]) for edit in read_edits(audit)}
    assert len(edited) == math.floor(share * n_items + 1e-9)
    free = [
        (score, n, i)
        for n, log_odds in enumerate(scores)
        for i, score in enumerate(log_odds)
        if i < len(log_odds) - protect_last and (protect_last or score > min(log_odds))
    ]
    assert edited == {(n, i) for _, n, i in sorted(free, reverse=True)[: len(edited)]}


def test_a_budget_is_never_exceeded(tmp_path: Path, llm4dsr: Call) -> None:
    """Guards: ties that double the edits, --max-edits that is forgotten, and budgets that nothing can use up."""
    target, audit = tmp_path / "out.jsonl", tmp_path / "audit.jsonl"
    source = kept(tmp_path / "in.jsonl", different_scores(60, seed=4))
    for options, most in ((["--max-edits", 1], 1), (["--max-edits", 0], 0), ([], 7)):
        assert llm4dsr("apply", source, target, "--edit", 0.5, "--audit", audit, *options).code == 0
        edits = [edit["output_line"] for edit in read_edits(audit)]
        assert max(map(edits.count, edits), default=0) <= most
        assert bool(edits) == bool(most)


def test_apply_loads_no_model(tmp_path: Path, tiny_denoiser: Path) -> None:
    """Guards: a command that is meant to be quick, and to work where llama.cpp does not, and loads it all the same."""
    source = kept(tmp_path / "in.jsonl", different_scores(10, seed=5), file_sha256(tiny_denoiser))
    gate = write_gate(tmp_path / "my.gate", tiny_denoiser, [{"user": 1, "items": ["0 0", "0 1"]}])
    absent = preceded_by("import sys\nfor name in ('llama_cpp', 'torch'): sys.modules[name] = None")
    for options in (["--gate", gate], ["--model", tiny_denoiser], ["--edit", 0.1]):
        outcome = run("apply", source, tmp_path / "out.jsonl", *options, "--annotate", program=absent)
        assert outcome.code == 0, outcome.err


def test_scores_of_another_denoiser_are_refused(tmp_path: Path, tiny_denoiser: Path, llm4dsr: Call) -> None:
    """Guards: a calibration used for scores that it says nothing about, and a remedy that has no effect."""
    target = tmp_path / "out.jsonl"
    source = kept(tmp_path / "in.jsonl", [[0.1, 0.2], [0.3]], file_sha256(tiny_denoiser))
    other = kept(tmp_path / "other.jsonl", [[0.1, 0.2], [0.3]], "b" * 64)
    gate = write_gate(tmp_path / "my.gate", tiny_denoiser, [])
    assert llm4dsr("apply", source, target, "--model", tiny_denoiser).code == 0
    assert llm4dsr("apply", source, target, "--gate", gate).code == 0
    assert llm4dsr("apply", other, target, "--threshold", 0.5).code == 0
    assert llm4dsr("apply", other, target, "--edit", 0.5).code == 0
    target.unlink()
    both = tmp_path / "both.jsonl"
    both.write_bytes(source.read_bytes() + other.read_bytes())
    for path, line, options, remedy in (
        (other, 1, ["--model", tiny_denoiser], "--model"),
        (other, 1, ["--gate", gate], "give the gate file of the one"),
        (both, 3, ["--threshold", 0.5], "score all records again"),
        (both, 3, ["--edit", 0.5], "score all records again"),
    ):
        llm4dsr("apply", path, target, "--quiet", *options).failed(1, f"{path}:{line}: ", "b" * 12, remedy)
    assert not target.exists()


def test_clean_refuses_a_gate_of_another_denoiser(tmp_path: Path, tiny_denoiser: Path, clean: Call) -> None:
    """Guards: the same, where the scores are fresh."""
    source = write(tmp_path / "in.jsonl", [{"items": ["Alien"]}])
    gate = write_gate(tmp_path / "my.gate", tiny_denoiser, [], "b" * 64)
    clean(source, tmp_path / "out.jsonl", "--gate", gate, "--quiet").failed(1, "--gate", "calibrated for", "--model")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--edit", 0.1, "--threshold", 0.5], ["--threshold and --edit"]),
        (["--edit", 0.1, "--false-edit-rate", 0.5], ["--false-edit-rate and --edit"]),
        (["--edit", 0], ["--edit is 0"]),
        (["--edit", 1.5], ["--edit is 1.5"]),
        (["--edit", "nan"], ["--edit is nan"]),
        (["--no-fusion"], ["--no-fusion", "--gate"]),
        (["--action", "replace"], ["--action replace"]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_options_that_make_no_sense_are_refused(
    tmp_path: Path, llm4dsr: Call, options: list[object], words: list[str]
) -> None:
    """Guards: an option that is ignored, or a traceback for it."""
    source = kept(tmp_path / "in.jsonl", [[0.1, 0.2]])
    llm4dsr("apply", source, tmp_path / "out.jsonl", *options).failed(2, *words)
    assert set(files(tmp_path)) == {"in.jsonl"}


@pytest.mark.skipif(sys.platform == "win32", reason="FIFOs of POSIX")
def test_a_budget_needs_a_file(tmp_path: Path, llm4dsr: Call) -> None:
    """Guards: a first pass that leaves nothing for the second, and a result that is empty."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for source in ("-", fifo):
        llm4dsr("apply", source, tmp_path / "out.jsonl", "--edit", 0.1).failed(2, "--edit", "give a file")
    llm4dsr("apply", tmp_path / "missing", tmp_path / "out.jsonl", "--edit", 0.1).failed(1, "no such file")


def test_lines_without_scores_are_told_or_skipped(tmp_path: Path, llm4dsr: Call) -> None:
    """Guards: a raw file given by mistake, and --on-error skip that a budget's first pass does not heed."""
    source, target = kept(tmp_path / "in.jsonl", different_scores(20, seed=6)), tmp_path / "out.jsonl"
    raw = b'{"items": ["Alien"]}\n'
    source.write_bytes(raw + source.read_bytes())
    for options in (["--threshold", 0.5], ["--edit", 0.1]):
        llm4dsr("apply", source, target, *options).failed(1, f"{source}:1: ", "run `llm4dsr score` first")
        assert not target.exists()
        assert llm4dsr("apply", source, target, *options, "--on-error", "skip").code == 3
        assert (tmp_path / "out.jsonl.rejects.jsonl").read_bytes() == raw
        assert len(read(target)) == 20
        target.unlink()


@pytest.mark.parametrize("kind", ["numbers", "objects", "floats"])
def test_ids_that_are_scored_need_no_titles(tmp_path: Path, llm4dsr: Call, kind: str) -> None:
    """Guards: a catalog that was asked for where titles do not matter any more, of numbers and not of strings."""
    spelled = {"numbers": int, "objects": lambda i: {"id": i}, "floats": lambda i: i + 0.5}[kind]
    scored, target = tmp_path / "scored.jsonl", tmp_path / "out.jsonl"
    end = {"noise_probability": [0.1, 0.9, None, 0.2], "noise_model": "0123456789ab"}
    write(scored, [{"items": [*map(spelled, range(4))], **end}])
    assert llm4dsr("apply", scored, target, "--threshold", 0.5).code == 0
    assert read(target)[0]["items"] == [spelled(0), spelled(2), spelled(3)]


def test_apply_asks_for_what_score_was_told(tmp_path: Path, llm4dsr: Call, engine: list[str]) -> None:
    """Guards: the newest item, a recommender's target, dropped by an ``apply`` that takes it for the oldest."""
    source = write(tmp_path / "in.jsonl", [{"items": titles} for titles in sequences(5, seed=3)])
    scored, target = tmp_path / "scored.jsonl", tmp_path / "out.jsonl"
    assert llm4dsr("score", source, scored, "--newest-first", *engine).code == 0
    refused = llm4dsr("apply", scored, target, "--threshold", 0)
    refused.failed(1, f"{scored}:1: was scored newest-first", "--newest-first, as to `llm4dsr score`")
    assert llm4dsr("apply", scored, target, "--threshold", 0, "--newest-first").code == 0
    assert [one["items"] for one in read(target)] == [one["items"][:1] for one in read(source)]


def test_apply_works_in_pipes(tmp_path: Path) -> None:
    """Guards: scores that can only be gated from a file."""
    source = kept(tmp_path / "in.jsonl", [[3.0, -3.0, 0.1]])
    outcome = run("apply", "-", "-", "--threshold", 0.9, "--quiet", input=source.read_bytes())
    assert (outcome.code, outcome.err) == (0, "")
    assert json.loads(outcome.out)["items"] == ["0 1", "0 2"]


def test_a_model_that_did_not_score_the_records_is_refused_whatever_sets_the_threshold(
    workplace: Path, tiny_base: Path, tiny_denoiser: Path, llm4dsr: Call
) -> None:
    """Guards: --model that is ignored beside --threshold, --budget or a gate, even when there is no such file."""
    os.chdir(workplace / "scored")
    other = workplace / "other.gguf"
    write_tiny_adapter(other, tiny_base, seed=9)
    gated = ["--gate", "my.gate", "--user-field", "user"]
    for ways in (["--threshold", 0.5], ["--edit", 0.1], [*gated, "--threshold", 0.5], ["--false-edit-rate", 0.2]):
        llm4dsr("apply", "in.jsonl", "out.jsonl", *ways, "--model", "missing.gguf").failed(1, "missing.gguf")
        llm4dsr("apply", "in.jsonl", "out.jsonl", *ways, "--model", other).failed(1, "denoiser")
        assert not Path("out.jsonl").exists()
        outcome = llm4dsr("apply", "in.jsonl", "out.jsonl", *ways, "--model", tiny_denoiser, "--quiet")
        assert outcome.code == 0, outcome.err
        Path("out.jsonl").unlink()
