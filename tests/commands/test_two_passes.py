"""``llm4dsr clean`` of a file: score once, keep the scores, say what edits would do, then do just that."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, Call, call, files, read, read_edits, run, sequences, write

from llm4dsr_cli.commands import cleaned_file

pytestmark = pytest.mark.usefixtures("warm_environment")
GROUPS, PER_GROUP = 4, 15


def tasteful(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Users who each like one group of items, with an item of another group among the first ones."""
    import random

    rng = random.Random(seed)
    records = []
    for user in range(n):
        items = rng.sample(range(PER_GROUP), 7)
        titles = [f"group {user % GROUPS} thing {item}" for item in items]
        odd = rng.randrange(6)
        titles[odd] = f"group {(user + 1 + rng.randrange(GROUPS - 1)) % GROUPS} thing {rng.randrange(PER_GROUP)}"
        records.append({"user_id": user, "items": titles, "odd": odd})
    return records


@pytest.fixture
def llm4dsr(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """``llm4dsr(...)`` in this process."""
    return lambda *arguments: call(monkeypatch, capfdbinary, *arguments)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in.jsonl", tasteful(160))


def test_without_options_the_counts_of_the_file_judge_beside_the_denoiser(
    tmp_path: Path, source: Path, clean: Call
) -> None:
    """Guards: counts that are not used, or with the wrong sign; a user's own counts that vouch for the user's noise."""
    rights = []
    for options in ([], ["--no-fusion"]):
        target, audit, report = tmp_path / "out.jsonl", tmp_path / "audit.jsonl", tmp_path / "report.json"
        outcome = clean(source, target, "--audit", audit, "--report", report, *options)
        assert outcome.code == 0, outcome.err
        edits, odd = read_edits(audit), [record["odd"] for record in read(source)]
        assert len(edits) == 0.05 * 160 * 7
        gate = json.loads(report.read_bytes())["gate"]
        assert (gate["edit"], gate["fusion"]) == (0.05, not options)
        rights.append(sum(odd[edit["output_line"] - 1] == edit["position"] for edit in edits))
    fused, alone = rights
    assert fused > 0.9 * 56 > alone  # the tiny denoiser knows nothing


def test_with_few_users_the_denoiser_judges_alone_and_says_so(tmp_path: Path, clean: Call) -> None:
    """Guards: weights that were fitted on next to nothing, counts of few users that did harm, and a traceback."""
    for n in (0, 1, 29, 80):
        source = write(tmp_path / f"{n}.jsonl", tasteful(n))
        report = tmp_path / "report.json"
        outcome = clean(source, tmp_path / "out.jsonl", "--report", report)
        assert outcome.code == 0, outcome.err
        assert re.search(r"the denoiser judges alone: .*\d+ (users|titles) .*are too few", outcome.err)
        assert json.loads(report.read_bytes())["gate"]["fusion"] is False


def test_a_threshold_and_a_rate_are_of_the_same_judges_as_a_share(tmp_path: Path, source: Path, clean: Call) -> None:
    """Guards: counts that judge for --edit alone; the threshold that a run names, given to the next one, edited others.

    A rate that the sample is too small to promise is kept by the denoiser alone, by its own calibration."""
    target, audit, report = tmp_path / "out.jsonl", tmp_path / "audit.jsonl", tmp_path / "report.json"

    def run(*options: Any) -> tuple[list[tuple[int, int]], dict[str, Any]]:
        outcome = clean(source, target, "--audit", audit, "--report", report, *options)
        assert outcome.code == 0, outcome.err
        told = json.loads(report.read_bytes())
        return [(edit["output_line"], edit["position"]) for edit in read_edits(audit)], told["gate"]

    shared, gate = run("--edit", "5%")
    assert gate["fusion"]
    found, told = run("--threshold", gate["threshold"] - 1e-4)
    assert told["fusion"]
    assert set(found) >= set(shared)
    assert len(found) <= 1.1 * len(shared)
    kept, told = run("--false-edit-rate", "0.02")
    assert told["fusion"]
    odd = [record["odd"] for record in read(source)]
    right = sum(odd[line - 1] == position for line, position in kept)
    assert right > 5
    assert len(kept) - right <= min(right, 0.02 * 160 * 7)
    assert not run("--false-edit-rate", "0.001")[1]["fusion"]
    assert not run("--threshold", "0.5", "--no-fusion")[1]["fusion"]


def test_of_a_few_edits_a_sequence_nothing_is_promised(source: Path, clean: Call) -> None:
    """Guards: "3% of the edits are right", where 93% were: one edit a sequence is the most suspicious item of it."""
    for options, told in (([], True), (["--max-edits", "1"], False)):
        outcome = clean(source, "--dry-run", *options)
        assert ("judge together" in outcome.err, outcome.code) == (True, 0)
        assert ("of the data is noise" in outcome.err, "items that --edit would edit" in outcome.err) == (
            told,
            not told,
        )


def test_records_that_name_nobody_are_told_of_where_counts_judge(tmp_path: Path, clean: Call) -> None:
    """Guards: "counts of 160 users" of a few users' windows, which vouch for each other's noise, without a word."""
    records = [{("user" if key == "user_id" else key): value for key, value in one.items()} for one in tasteful(160)]
    source = write(tmp_path / "in.jsonl", records)
    told = clean(source, "--dry-run")
    assert (told.code, 'have no "user_id"' in told.err, "--user-field" in told.err) == (0, True, True), told.err
    for options in (["--user-field", "user"], ["--no-fusion"]):
        assert "user-field" not in clean(source, "--dry-run", *options).err


def test_what_is_announced_is_done(tmp_path: Path, source: Path, clean: Call) -> None:
    """Guards: a table of another gate than the one that edits."""
    announced = {}
    for share in ("1%", "2%", "5%", "10%"):
        outcome = clean(source, tmp_path / "out.jsonl", "--edit", share, "--audit", tmp_path / "audit.jsonl")
        table = dict(re.findall(r"^ +(\d+%) +([\d,]+)(?: +\d+%){3}$", outcome.err, re.MULTILINE))
        assert len(table) == 4
        announced[share] = (int(table[share]), len(read_edits(tmp_path / "audit.jsonl")))
    assert all(said == done for said, done in announced.values())
    assert max(map(len, outcome.err.splitlines())) <= 120
    # Each example is an item that was edited, and stands among its neighbours.
    edited = {edit["title"] for edit in read_edits(tmp_path / "audit.jsonl")}
    shown = re.findall(r"^  \d\.\d{3} (.+)\n +(.*\[\*\].*)$", outcome.err, re.MULTILINE)
    assert len(shown) == 10
    assert {title for title, _ in shown} <= edited
    by_titles = [record["items"] for record in read(source)]
    for title, around in shown:
        parts = [title if part == "[*]" else part for part in around.split(" | ")]
        assert any(" | ".join(parts) in " | ".join(titles) for titles in by_titles)


def test_a_dry_run_says_the_same_and_writes_nothing(tmp_path: Path, source: Path, clean: Call) -> None:
    """Guards: an output, an audit or a report of a run that was only to look; scores left behind unasked."""
    before = files(tmp_path)
    looked = clean(source, "--dry-run")
    assert (looked.code, looked.out) == (0, b"")
    assert files(tmp_path) == before
    done = clean(source, tmp_path / "out.jsonl")
    assert [line for line in done.err.splitlines() if line in looked.err] == done.err.splitlines()[:-1]


def test_a_run_that_was_stopped_goes_on_and_ends_the_same(tmp_path: Path, source: Path, clean: Call) -> None:
    """Guards: all scores lost by Ctrl-C; a resumed run with scores of other records or none; what stays behind."""
    with source.open("a") as file:
        file.write('not a record\n{"items": [], "user_id": 7}\n{"items": ["group 0 thing 0", null]}\n')
    target, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.scores.part"
    options = ["--on-error", "skip", "--audit", tmp_path / "audit.jsonl"]
    assert clean(source, target, *options).code == 3
    whole = files(tmp_path)
    assert set(whole) == {"in.jsonl", "out.jsonl", "audit.jsonl", "out.jsonl.rejects.jsonl"}
    assert clean(source, target, "--dry-run", *options).code == 3
    scores = part.read_bytes().splitlines(keepends=True)
    assert len(scores) == 162
    for kept in (0, 1, 100, 162):
        for name in ("out.jsonl", "audit.jsonl", "out.jsonl.rejects.jsonl"):
            (tmp_path / name).unlink(missing_ok=True)
        state = part.with_name("out.jsonl.scores.part.json")
        saved = state.read_bytes()
        part.write_bytes(b"".join(scores[:kept]) + (b"[0.1" if kept < 162 else b""))
        if kept:
            clean(source, target, "--quiet", *options).failed(2, "out.jsonl.scores.part", "--resume")
        outcome = clean(source, target, "--resume", *options)
        assert outcome.code == 3, outcome.err
        assert files(tmp_path) == whole
        part.write_bytes(b"".join(scores))
        state.write_bytes(saved)
    with source.open("a") as file:
        file.write('{"items": ["new"]}\n')
    clean(source, target, "--resume", "--quiet", *options).failed(2, "IN changed")


def test_a_compressed_output_is_resumed_too(tmp_path: Path, source: Path, clean: Call) -> None:
    """Guards: scores lost by Ctrl-C without a word, where OUT is out.jsonl.gz."""
    target, part = tmp_path / "out.jsonl.gz", tmp_path / "out.jsonl.gz.scores.part"
    assert clean(source, tmp_path / "whole.jsonl").code == 0
    assert clean(source, target, "--dry-run").code == 0
    assert len(part.read_bytes().splitlines()) == 160
    clean(source, target, "--quiet").failed(2, "out.jsonl.gz.scores.part", "--resume")
    assert clean(source, target, "--resume").code == 0
    assert gzip.decompress(target.read_bytes()) == (tmp_path / "whole.jsonl").read_bytes()
    assert not part.exists()


@pytest.mark.parametrize(
    ("options", "field"), [(["--action", "mark"], "noise_flag"), (["--annotate"], "noise_probability")]
)
@pytest.mark.parametrize("name", ["in.jsonl", "in.csv"])
def test_a_field_that_is_there_already_shows_before_anything_is_scored(
    tmp_path: Path, clean_quietly: Call, options: list[str], field: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: hours of scores for a run that could not be written, and whose input has to be changed."""
    source = tmp_path / name
    records = [{"user_id": i, "items": titles} for i, titles in enumerate(sequences(40, seed=3))]
    if name == "in.jsonl":
        write(source, [*records, {"items": ["Heat", "Up"], field: 1}])
    else:
        rows = [f"{one['user_id']},{i},{title},0" for one in records for i, title in enumerate(one["items"])]
        source.write_text("\n".join([f"user_id,item_id,title,{field}", *rows]) + "\n")
    monkeypatch.setattr(cleaned_file, "WORTH_KEEPING", 0.0)
    for more in ([], ["--threshold", 0]):
        clean_quietly(source, tmp_path / f"out{source.suffix}", *options, *more).failed(
            1 + (name == "in.csv"), field, "already"
        )
    assert set(files(tmp_path)) == {name}


def test_an_input_that_cannot_be_resumed_is_cleaned_the_same(tmp_path: Path, source: Path, engine: list[str]) -> None:
    """Guards: standard input that is a file and taken for a pipe; output to standard output or compressed."""
    program = [*COMMAND, "clean", *engine, "--quiet"]
    by_name = run("in.jsonl", "-", program=program, cwd=tmp_path)
    assert by_name.code == 0, by_name.err
    with source.open("rb") as stdin:
        redirected = run("-", "-", program=program, cwd=tmp_path, stdin=stdin)
    assert redirected.out == by_name.out != source.read_bytes()
    assert redirected.code == 0
    refused = run("in.jsonl", "-", "--resume", program=program, cwd=tmp_path)
    refused.failed(2, "--resume", "regular files")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--edit", "5%"], ["--edit", "give a file"]),
        (["--dry-run"], ["--dry-run", "give a file"]),
        (["--resume"], ["--resume", "give a file"]),
        (["--no-fusion"], ["--no-fusion", "--gate"]),
        (["--action", "replace"], ["--catalog", "a file"]),
    ],
)
def test_what_takes_two_passes_is_refused_for_a_pipe(
    tmp_path: Path, llm4dsr: Call, options: list[str], words: list[str]
) -> None:
    """Guards: a first pass that leaves nothing for the second."""
    llm4dsr("clean", "-", tmp_path / "out.jsonl", *options).failed(2, *words)
    assert files(tmp_path) == {}


def test_shares_are_read_as_people_write_them(tmp_path: Path, llm4dsr: Call) -> None:
    """Guards: 5 that is taken for 500%, and a traceback."""
    source = write(tmp_path / "in.jsonl", [{"items": titles} for titles in sequences(3)])
    for text, words in (("5", "--edit is 5"), ("x%", "give one such as 5%"), ("-1%", "--edit is -0.01"), ("%", "5%")):
        llm4dsr("clean", source, tmp_path / "out.jsonl", f"--edit={text}").failed(2, words)
    llm4dsr("clean", source).failed(2, "OUT", "--help")


def test_records_that_were_annotated_before_are_cleaned(tmp_path: Path, clean: Call) -> None:
    """Guards: kept scores that clash with a field of the records."""
    titles = sequences(40, seed=3)
    plain = write(tmp_path / "plain.jsonl", [{"items": those} for those in titles])
    noted = write(tmp_path / "noted.jsonl", [{"items": those, "noise_probability": 7} for those in titles])
    for source in (plain, noted):
        assert clean(source, tmp_path / f"{source.name}.out", "--edit", "20%").code == 0
    kept = [[record["items"] for record in read(tmp_path / f"{name}.jsonl.out")] for name in ("plain", "noted")]
    assert kept[0] == kept[1] != titles


def test_an_error_keeps_scores_that_took_long_and_no_others(
    tmp_path: Path, source: Path, clean_quietly: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: hours of scores lost for a full disk; and a file to think about for every slip."""
    options = ["--threshold", 0, "--audit", "/dev/full"]
    clean_quietly(source, tmp_path / "out.jsonl", *options).failed(1, "/dev/full")
    assert set(files(tmp_path)) == {"in.jsonl"}
    monkeypatch.setattr(cleaned_file, "WORTH_KEEPING", 0.0)
    outcome = clean_quietly(source, tmp_path / "out.jsonl", *options)
    assert outcome.code == 1
    assert len((tmp_path / "out.jsonl.scores.part").read_bytes().splitlines()) == 160
    assert clean_quietly(source, tmp_path / "out.jsonl", "--action", "drop", "--resume").code == 0
    assert set(files(tmp_path)) == {"in.jsonl", "out.jsonl"}
