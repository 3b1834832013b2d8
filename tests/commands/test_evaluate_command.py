"""``llm4dsr evaluate``: figures for people and for machines, from the same measurement as the library's."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from command_line import Call, call, sequences, write

from llm4dsr_cli import (
    Denoiser,
    EvaluationSettings,
    LabelledData,
    LineReader,
    RecordFormat,
    evaluate,
    log_odds_of,
    read_records,
)
from llm4dsr_cli.gate.counting import user_hash
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.gate.fusion import N_FEATURES, Fusion
from llm4dsr_cli.gate.gate_file import GateFile
from llm4dsr_cli.thresholds import ThresholdCurve

pytestmark = pytest.mark.usefixtures("warm_environment")

KEYS = {
    "auroc",
    "average_precision",
    "precision_at_1pct",
    "precision_at_3pct",
    "precision_at_5pct",
    "precision_at_10pct",
    "n_items",
    "n_noise",
    "precision",
    "recall",
    "f1",
    "false_edit_rate",
    "threshold",
    "intervals",
    "by_length",
    "by_popularity",
    "by_repetition",
    "baselines",
    "model",
    "protocol",
}


@pytest.fixture
def measure(engine: list[str], monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """``measure(DATA, ...)``: evaluate in this process, with the tiny denoiser and few draws."""
    options = [*engine, "--quiet", "--bootstrap", 20]  # of an option that is given again, the last counts
    return lambda *arguments: call(monkeypatch, capfdbinary, "evaluate", *options, *arguments)


def rows(n: int = 50, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {"user_id": f"u{k % 20}", "items": titles, "noise": (rng.random(len(titles)) < 0.3).astype(int).tolist()}
        for k, titles in enumerate(sequences(n, seed))
    ]


def test_json_holds_the_librarys_figures(tmp_path: Path, measure: Call, tiny_denoiser: Path) -> None:
    """Guards: a figure under another's name, options that do not arrive, anything but JSON on standard output."""
    source = write(tmp_path / "in.jsonl", rows())
    outcome = measure(source, "--labels-field", "noise", "--threshold", 0.6, "--json", "--seed", 3, "--protect-last", 2)
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    assert set(found) == KEYS
    with Denoiser.load(str(tiny_denoiser), threads=1, weights="q8_0") as denoiser, LineReader.open(str(source)) as file:
        records = [record for batch in read_records(file, 64, RecordFormat(), None) for record in batch]
        data = LabelledData.read(records, "noise")
        options = EvaluationSettings(threshold=log_odds_of(0.6), bootstrap=20, seed=3, protect_last=2)
        expected = orjson.loads(orjson.dumps(evaluate(data, denoiser, options).as_dict()))
    assert found == expected
    assert found["threshold"] == pytest.approx(0.6)
    assert found["by_length"] and found["by_popularity"]
    for part in (found, *found["by_length"], *found["by_popularity"]):
        assert set(part["intervals"]) <= set(part)
    assert found["model"]["name"] == "tiny-denoiser"


def test_labels_may_be_truths(tmp_path: Path, measure: Call) -> None:
    """Guards: labels that `flag_frame` and pandas write refused, and told of as Python's False."""
    records = rows(seed=2)
    options = ["--labels-field", "noise", "--json", "--threshold", 0.6]
    numbers = measure(write(tmp_path / "numbers.jsonl", records), *options)
    truths = [{**row, "noise": [label == 1 for label in row["noise"]]} for row in records]
    found = measure(write(tmp_path / "truths.jsonl", truths), *options)
    assert (found.code, found.out) == (0, numbers.out)
    records[3]["noise"][0] = 2
    measure(write(tmp_path / "wrong.jsonl", records), *options).failed(
        1, "wrong.jsonl:4", "is 2", "1 or true for noise"
    )


def test_what_else_a_record_says_changes_nothing(tmp_path: Path, measure: Call) -> None:
    """Guards: labels that are in the records beside injected noise, or under another name, being read by anything."""
    records = rows(seed=1)
    bare = [{name: row[name] for name in ("user_id", "items")} for row in records]
    source = tmp_path / "in.jsonl"
    for options in (["--inject", "0.2"], ["--labels-field", "truth"]):
        plain = [{**row, "truth": full["noise"]} for row, full in zip(bare, records, strict=True)]
        planted = [{**row, "noise": [1] * len(row["items"]), "label": row["truth"]} for row in plain]
        if options[0] == "--inject":
            plain = bare
        outcomes = [measure(write(source, some), *options, "--json", "--threshold", 0.5) for some in (plain, planted)]
        assert outcomes[0].code == 0
        assert outcomes[0] == outcomes[1]


def test_injection_is_the_default_and_can_be_repeated(tmp_path: Path, measure: Call) -> None:
    """Guards: another default than the documented 0.1 and 0, and figures that change from run to run."""
    source = write(tmp_path / "in.jsonl", rows(seed=2))
    first, again, said, other = (
        json.loads(measure(source, "--json", "--threshold", 0.5, *more).out)
        for more in ([], [], ["--inject", 0.1, "--seed", 0], ["--seed", 1])
    )
    assert first == again == said
    assert other["auroc"] != first["auroc"]
    assert first["protocol"]["inject"] == 0.1
    assert first["n_noise"] / first["n_items"] == pytest.approx(0.1, abs=0.06)


def test_noise_comes_from_the_catalog_where_there_is_one(tmp_path: Path, measure: Call) -> None:
    """Guards: noise from the few titles of DATA, which it need not even have enough of."""
    source = write(tmp_path / "in.jsonl", [{"user_id": n, "items": [1, 2, 3]} for n in range(20)])
    catalog = write(tmp_path / "catalog.jsonl", [{"id": n, "title": f"Title {n}"} for n in range(100)])
    outcome = measure(source, "--catalog", catalog, "--inject", 0.5, "--json", "--protect-last", 0)
    found = json.loads(outcome.out)
    assert found["n_items"] == 60 and 15 < found["n_noise"] < 45
    small = write(tmp_path / "small.jsonl", [{"id": n, "title": f"Title {n}"} for n in range(1, 4)])
    measure(source, "--catalog", small).failed(1, "in.jsonl:1", "3 different titles are too few")


def test_tables_are_plain_text_off_the_terminal(tmp_path: Path, measure: Call) -> None:
    """Guards: colours and rules in a pipe, lines that are cut, and figures other than the JSON's."""
    pytest.importorskip("sklearn")
    source = write(tmp_path / "in.jsonl", rows(seed=3))
    options = [source, "--labels-field", "noise", "--threshold", 0.5, "--baselines"]
    outcome = measure(*options)
    found = json.loads(measure(*options, "--json").out)
    assert (outcome.code, outcome.err) == (0, "")
    text = outcome.out.decode()
    assert text.isascii() and "\x1b" not in text and text.endswith("\n")
    assert max(map(len, text.splitlines())) <= 80
    for name, title in (("auroc", "AUROC"), ("average_precision", "average precision"), ("recall", "recall")):
        low, high = found["intervals"][name]
        assert f"{title} {found[name]:.3f} {low:.3f} to {high:.3f}" in " ".join(text.split())
    for name, baseline in found["baselines"].items():
        assert f"{name} {baseline['auroc']:.3f} {baseline['average_precision']:.3f}" in " ".join(text.split())
    assert set(found["baselines"]) == {"popularity", "co-occurrence + TF-IDF", "EASE"}
    assert f"{found['n_items']} items judged, {found['n_noise']} of them noise" in text


def test_what_is_undefined_is_null(tmp_path: Path, measure: Call) -> None:
    """Guards: NaN in JSON, which most readers refuse, and a crash where no item is noise."""
    records = [{**row, "noise": [0] * len(row["items"])} for row in rows(20)]
    source = write(tmp_path / "in.jsonl", records)
    outcome = measure(source, "--labels-field", "noise", "--json")
    assert outcome.code == 0 and "none of the judged items is noise" in outcome.err
    found = json.loads(outcome.out, parse_constant=pytest.fail)
    assert found["auroc"] is found["recall"] is found["average_precision"] is None
    assert found["intervals"]["auroc"] == [None, None]
    assert measure(source, "--labels-field", "noise", "--bootstrap", 0).code == 0


def test_records_without_users_are_told_of_once(tmp_path: Path, measure: Call) -> None:
    """Guards: intervals over records, silently, for a field that has another name."""
    records = [{"uid": row["user_id"], **{k: v for k, v in row.items() if k != "user_id"}} for row in rows(30)]
    source = write(tmp_path / "in.jsonl", records)
    outcome = measure(source, "--labels-field", "noise", "--json")
    assert outcome.err.count("\n") == 1 and '30 records have no "user_id"' in outcome.err
    by_user = measure(source, "--labels-field", "noise", "--json", "--user-field", "uid")
    assert by_user.err == ""
    one, other = json.loads(outcome.out), json.loads(by_user.out)
    assert one["auroc"] == other["auroc"] and one["intervals"] != other["intervals"]
    assert (one["protocol"]["n_users"], other["protocol"]["n_users"]) == (
        sum(len(record["items"]) > 1 for record in records),
        len({record["uid"] for record in records if len(record["items"]) > 1}),
    )


def test_a_gate_file_sets_the_threshold_and_leaves_its_users_out(
    tmp_path: Path, measure: Call, tiny_denoiser: Path
) -> None:
    """Guards: a gate that is loaded and not used, users that it knows measured, and silence about them."""
    from hashlib import sha256

    records = rows(60, seed=4)
    source, path = write(tmp_path / "in.jsonl", records), tmp_path / "my.gate"
    rng = np.random.default_rng(0)
    gate = GateFile(
        model_name="tiny-denoiser",
        model_sha256=sha256(tiny_denoiser.read_bytes()).hexdigest(),
        alone=ThresholdCurve.fit(rng.standard_normal(500)),
        fused=ThresholdCurve.fit(rng.standard_normal(500) - 2),
        fusion=Fusion(
            -1.0, np.resize([0.5, -1.0, 0.4, -0.3, 0.2, 0.1], N_FEATURES), np.zeros(N_FEATURES), np.ones(N_FEATURES)
        ),
        evidence=Evidence.count([(row["user_id"], row["items"]) for row in records]),
        calibration_users=np.array(sorted(user_hash(f"u{k}") for k in range(5)), dtype=np.uint64),
        summary={},
    )
    gate.save(path)
    options = [source, "--labels-field", "noise", "--gate", path, "--false-edit-rate", 0.05, "--json"]
    fused, alone = measure(*options), measure(*options, "--no-fusion")
    for outcome, calibration in ((fused, gate.fused), (alone, gate.alone)):
        assert "5 users are left out" in outcome.err
        found = json.loads(outcome.out)
        assert found["protocol"]["threshold_log_odds"] == pytest.approx(calibration.threshold(0.05))
        measured = [row for row in records if int(row["user_id"][1:]) >= 5]
        assert found["n_items"] == sum(len(row["items"]) - 1 for row in measured)
    assert json.loads(fused.out)["auroc"] != json.loads(alone.out)["auroc"]
    path.write_bytes(b"no gate")
    measure(*options).failed(1, "my.gate", "no whole gate file", "llm4dsr calibrate")


def test_a_plot_is_drawn_beside_the_tables(tmp_path: Path, measure: Call) -> None:
    """Guards: a plot in place of figures, or one that is refused only after minutes of scoring."""
    pytest.importorskip("matplotlib")
    source = write(tmp_path / "in.jsonl", rows(20))
    outcome = measure(source, "--labels-field", "noise", "--plot", tmp_path / "a.png")
    assert outcome.code == 0 and b"AUROC" in outcome.out
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    measure(source, "--plot", tmp_path / "a.gif").failed(2, "--plot", ".png, .svg, .pdf")
    measure(source, "--plot", tmp_path / "missing" / "a.png").failed(1, "folder is missing")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--labels-field", "noise", "--inject", "0.1"], ["--labels-field and --inject"]),
        (["--threshold", "0.5", "--false-edit-rate", "0.1"], ["--threshold and --false-edit-rate"]),
        (["--no-fusion"], ["--gate"]),
        (["--inject", "10"], ["noise rate of 10"]),
        (["--seed", "-1"], ["--seed is -1"]),
        (["--limit", "0"], ["--limit is 0"]),
        (["--bootstrap", "-5"], ["--bootstrap is -5"]),
        (["--protect-last", "-1"], ["--protect-last is -1"]),
        (["--threshold", "5"], ["--threshold is 5"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_options_that_make_no_sense_are_usage_errors(
    tmp_path: Path, measure: Call, options: list[str], words: list[str]
) -> None:
    """Guards: exit code 1, a traceback, or a silent choice between two that contradict each other."""
    measure(write(tmp_path / "in.jsonl", rows(5)), *options).failed(2, *words)


def test_data_that_cannot_be_measured_is_one_sentence(tmp_path: Path, measure: Call) -> None:
    """Guards: tracebacks for empty, unlabelled or one-class data."""
    source = tmp_path / "in.jsonl"
    measure(write(source, [])).failed(1, "no records")
    measure(tmp_path / "missing.jsonl").failed(1, "missing.jsonl", "no such file")
    measure(write(source, [{"items": ["a", "b"]}]), "--labels-field", "noise").failed(1, "in.jsonl:1", '"noise"')
    wrong = [*rows(3), {"items": ["a", "b"], "noise": [0]}]
    measure(write(source, wrong), "--labels-field", "noise").failed(1, "in.jsonl:4", "1 entries for 2 items")


@pytest.mark.parametrize(
    ("module", "options", "extra"),
    [("matplotlib.figure", ["--plot", "a.png"], "plot"), ("sklearn", ["--baselines"], "benchmark")],
)
def test_a_missing_extra_names_its_pip_command(
    tmp_path: Path, measure: Call, monkeypatch: pytest.MonkeyPatch, module: str, options: list[str], extra: str
) -> None:
    """Guards: an ImportError, and one that shows only when all is scored."""
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    # No such data: it is not even read.
    measure("missing.jsonl", *options).failed(1, f"pip install 'llm4dsr-cli[{extra}]'")


def test_lines_without_labels_are_left_out_when_asked(tmp_path: Path, measure: Call) -> None:
    """Guards --on-error skip that minds the items and not the labels, and figures of other lines than were kept."""
    good, labels = rows(), ["--labels-field", "noise", "--json"]
    bad = [{**good[0], "noise": [2]}, {"items": ["Heat", "Up"]}]
    mixed = write(tmp_path / "mixed.jsonl", [bad[0], *good[:20], bad[1], *good[20:]])
    measure(mixed, *labels).failed(1, "mixed.jsonl:1", '"noise"')
    outcome = measure(mixed, *labels, "--on-error", "skip")
    assert outcome.code == 3
    assert "mixed.jsonl:22" in outcome.err
    assert "skipped 2 lines" in outcome.err
    assert outcome.out == measure(write(tmp_path / "good.jsonl", good), *labels).out
