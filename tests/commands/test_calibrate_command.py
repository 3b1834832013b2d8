"""``llm4dsr calibrate``: sequences in, a gate file out, which ``clean`` uses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Call, call, read, sequences, write

from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.gate.gate_file import EVIDENCE, GateFile

pytestmark = pytest.mark.usefixtures("warm_environment")


@pytest.fixture
def calibrate(engine: list[str], monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    return lambda *arguments: call(monkeypatch, capfdbinary, "calibrate", *engine, *arguments)


def user_records(n: int, seed: int = 0) -> list[dict[str, Any]]:
    return [{"user_id": user, "items": titles} for user, titles in enumerate(sequences(n, seed, longest=7))]


def same(one: Path, other: Path) -> bool:
    """Whether two gates judge alike."""
    a, b = GateFile.load(one), GateFile.load(other)
    return (
        a.summary == b.summary
        and np.array_equal(a.fusion.weights, b.fusion.weights)
        and all(np.array_equal(getattr(a.evidence, name), getattr(b.evidence, name)) for name in EVIDENCE)
    )


def test_clean_edits_what_the_gates_fused_scores_say(tmp_path: Path, calibrate: Call, clean: Call) -> None:
    """Guards a gate that is read and not used, users that are not left out, and thresholds of the wrong scores."""
    records = user_records(120)
    source, gate_path = write(tmp_path / "in.jsonl", records), tmp_path / "my.gate"
    outcome = calibrate(source, "--output", gate_path)
    assert outcome.code == 0, outcome.err
    gate = GateFile.load(gate_path)
    common = ("--false-edit-rate", "0.1", "--action", "mark")
    assert clean(source, tmp_path / "out.jsonl", "--gate", gate_path, *common).code == 0
    assert clean(source, tmp_path / "alone.jsonl", "--gate", gate_path, "--no-fusion", *common, "--annotate").code == 0
    n_flags = 0
    for record, fused, alone in zip(records, read(tmp_path / "out.jsonl"), read(tmp_path / "alone.jsonl"), strict=True):
        chance = np.array(alone["noise_probability"])
        log_odds = np.round(np.log(chance) - np.log1p(-chance), 3).astype(np.float32)
        for row, scores, cut in (
            (fused, gate.fuse(record["items"], record["user_id"], log_odds), gate.threshold(0.1)),
            (alone, log_odds, gate.threshold(0.1, fusion=False)),
        ):
            expected = (scores > cut).astype(int)
            expected[-1:] = 0
            assert row["noise_flag"] == expected.tolist() or expected.sum() == len(expected)
            n_flags += expected.sum()
    assert n_flags > 20


def test_fields_that_hold_the_truth_change_nothing(tmp_path: Path, calibrate: Call) -> None:
    """Guards the planted oracle: labels in the data must reach neither weights nor thresholds."""
    records = user_records(60)
    rng = np.random.default_rng(0)
    labelled = [
        {**record, "noise": rng.integers(0, 2, len(record["items"])).tolist(), "oracle": record["items"][::-1]}
        for record in records
    ]
    for name, rows in (("plain", records), ("labelled", labelled)):
        outcome = calibrate(write(tmp_path / f"{name}.jsonl", rows), "--output", tmp_path / name, "--quiet")
        assert outcome.code == 0, outcome.err
    assert same(tmp_path / "plain", tmp_path / "labelled")


def test_json_is_what_the_file_says(tmp_path: Path, calibrate: Call) -> None:
    """Guards a machine that reads other figures than the gate uses."""
    source = write(tmp_path / "in.jsonl", user_records(80))
    outcome = calibrate(source, "--output", tmp_path / "my.gate", "--json", "--seed", "3", "--noise-rate", "0.2")
    assert outcome.code == 0, outcome.err
    summary = json.loads(outcome.out)
    gate = GateFile.load(tmp_path / "my.gate")
    assert summary == gate.summary
    assert summary["settings"]["seed"] == 3
    row = summary["alone"]["rates"][-1]
    chance = 1 / (1 + np.exp(-gate.threshold(row["false_edit_rate"], fusion=False)))
    assert row["threshold"] == pytest.approx(chance)
    assert row["at_most"] > row["false_edit_rate"]


def test_records_without_a_user_are_told_of(tmp_path: Path, calibrate: Call) -> None:
    """Guards windows of one user that vouch for each other because nobody said whose they are."""
    source = write(tmp_path / "in.jsonl", [{"items": record["items"]} for record in user_records(60)])
    outcome = calibrate(source, "--output", tmp_path / "my.gate")
    assert outcome.code == 0
    assert "--user-field" in outcome.err


def test_a_gate_for_another_denoiser_is_refused(tmp_path: Path, calibrate: Call, clean: Call) -> None:
    """Guards thresholds of one model on the scores of another."""
    source, gate = write(tmp_path / "in.jsonl", user_records(60)), tmp_path / "my.gate"
    assert calibrate(source, "--output", gate).code == 0
    arrays = dict(np.load(gate))
    about = json.loads(arrays["about"].tobytes())
    about["model_sha256"] = "0" * 64
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with gate.open("wb") as file:
        np.savez(file, **arrays)
    clean(source, tmp_path / "out.jsonl", "--gate", gate, "--quiet").failed(1, "--gate", "--model")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_rate_that_only_a_small_gate_would_edit_by_is_told_of(tmp_path: Path, calibrate: Call, clean: Call) -> None:
    """Guards: a half of all items dropped without a word, by a gate of a few users that promises no less than .35."""
    source, gate = write(tmp_path / "in.jsonl", user_records(40)), tmp_path / "my.gate"
    calibrate(source, "--output", gate, "--noise-rate", "0.99").failed(2, "noise-rate", "at most 0.5")
    assert calibrate(source, "--output", gate).code == 0
    lowest = GateFile.load(gate).fused.promised(0.01)
    assert lowest > 0.01
    outcome = clean(source, tmp_path / "out.jsonl", "--gate", gate)
    assert outcome.code == 0 and f"{lowest:.3g} is the lowest that the gate promises" in outcome.err
    for option in (["--edit", "2%"], ["--false-edit-rate", "0.2"], ["--threshold", "0.5"]):
        outcome = clean(source, tmp_path / "out.jsonl", "--gate", gate, *option)
        assert outcome.code == 0 and "lowest" not in outcome.err, option


def test_too_few_users_are_one_sentence_and_leave_no_file(tmp_path: Path, calibrate: Call) -> None:
    """Guards a gate from next to nothing."""
    source = write(tmp_path / "in.jsonl", user_records(8))
    calibrate(source, "--output", tmp_path / "my.gate", "--quiet").failed(2, "too few", "--user-field")
    assert not (tmp_path / "my.gate").exists()


def test_clean_knows_from_the_gate_whose_sequence_a_record_is(tmp_path: Path, calibrate: Call, clean: Call) -> None:
    """Guards leave-one-out that is off without a word: a record whose user is not found vouches for itself."""
    records = [{"who": record["user_id"], "items": record["items"]} for record in user_records(120)]
    source, gate, out = write(tmp_path / "in.jsonl", records), tmp_path / "my.gate", tmp_path / "out.jsonl"
    assert calibrate(source, "--output", gate, "--user-field", "who").code == 0
    common = ("--gate", gate, "--false-edit-rate", "0.1", "--action", "mark", "--annotate")
    assert "who" not in clean(source, out, *common).err
    found = read(out)
    assert clean(source, out, *common, "--user-field", "who").code == 0
    assert read(out) == found
    # Ids written as text are the same users.
    texts = write(tmp_path / "texts.jsonl", [{**record, "who": str(record["who"])} for record in records])
    assert clean(texts, out, *common).code == 0
    assert [row["noise_probability"] for row in read(out)] == [row["noise_probability"] for row in found]
    renamed = write(tmp_path / "renamed.jsonl", [{"items": record["items"]} for record in records])
    assert "--user-field" in clean(renamed, out, *common).err
    assert read(out) != found
    assert "--protect-last 1" in clean(source, out, *common, "--protect-last", "0").err


def test_bad_lines_are_left_out_when_asked(tmp_path: Path, calibrate: Call) -> None:
    """Guards data with one broken line that cannot be calibrated on at all, and a line left out without a word."""
    records = user_records(60)
    source = write(tmp_path / "good.jsonl", records)
    broken = write(tmp_path / "broken.jsonl", records)
    broken.write_bytes(b"{broken\n" + broken.read_bytes())
    calibrate(broken, "--output", tmp_path / "none").failed(1, "broken.jsonl:1", "JSON")
    assert calibrate(source, "--output", tmp_path / "good", "--quiet").code == 0
    outcome = calibrate(broken, "--output", tmp_path / "skipped", "--quiet", "--on-error", "skip")
    assert outcome.code == 3
    assert "broken.jsonl:1" in outcome.err
    assert "skipped 1 lines" in outcome.err
    assert same(tmp_path / "good", tmp_path / "skipped")
    calibrate(source, "--output", tmp_path / "none", "--on-error", "pass").failed(2, "--on-error pass", "skip")


def test_a_gate_file_that_is_damaged_anywhere_is_told(tmp_path: Path) -> None:
    """Guards a traceback from the decompression, which has an error of its own."""
    path = tmp_path / "my.gate"
    with path.open("wb") as file:
        np.savez_compressed(file, about=np.arange(5_000))
    whole = path.read_bytes()
    for place in range(100, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with pytest.raises(ModelError, match="no whole gate file"):
            GateFile.load(path)


@pytest.mark.parametrize("output", ["-", os.devnull])
def test_a_gate_goes_to_a_file(calibrate: Call, tmp_path: Path, output: str) -> None:
    """Guards: a file called "-", or minutes of scoring for a gate that cannot be put where it should go."""
    source = write(tmp_path / "in.jsonl", [{"items": ["Heat"]}])
    calibrate(source, "--output", output).failed(2, "--output", "name one")
