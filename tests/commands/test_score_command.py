"""``llm4dsr score``: records and their noise probabilities, and runs that stop and go on."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import COMMAND, PATIENCE, Call, call, files, preceded_by, read, run, sequences, write
from conftest import write_tiny_adapter

from llm4dsr_cli import Denoiser
from llm4dsr_cli.cache import file_sha256
from llm4dsr_cli.errors import OptionError, OutputError
from llm4dsr_cli.records.resumable import ResumableFile
from llm4dsr_cli.records.scored_line import original_line
from llm4dsr_cli.scores import log_odds_from

pytestmark = pytest.mark.usefixtures("warm_environment")
HEEDS_INTERRUPTS = preceded_by("import signal; signal.signal(signal.SIGINT, signal.default_int_handler)")


@pytest.fixture
def score(engine: list[str], monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """``score(IN, OUT, ...)`` in this process, with the tiny denoiser, saying only what went wrong."""
    return lambda *arguments: call(monkeypatch, capfdbinary, "score", *engine, "--quiet", *arguments)


def test_each_record_gets_its_denoisers_probabilities(tmp_path: Path, score: Call, tiny_denoiser: Path) -> None:
    """Guards: scores of other records, other digits than clean's, and records that lose their bytes."""
    titles = [*sequences(30), [], ["Alien"]]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [json.dumps({"items": t, "n": n}, separators=(" , ", " : ")) for n, t in enumerate(titles)]
    source.write_text("\r\n".join(lines))
    assert score(source, target).code == 0
    with Denoiser.load(str(tiny_denoiser), threads=1, weights="q8_0") as denoiser:
        scores = denoiser.score(titles)
    results = target.read_bytes().splitlines()
    for line, result, log_odds in zip(lines, results, scores, strict=True):
        assert original_line(result) == line.encode()
        record = json.loads(result)
        assert np.array_equal(log_odds_from(np.array(record["noise_probability"], dtype=float)), log_odds)
        assert record["noise_model"] == file_sha256(tiny_denoiser)[:12]
    assert set(files(tmp_path)) == {"in.jsonl", "out.jsonl"}


def test_score_works_in_pipes_and_with_gzip(tmp_path: Path, score: Call, engine: list[str]) -> None:
    """Guards: a part file for a pipe, and bytes that depend on the kind of output."""
    source = write(tmp_path / "in.jsonl", [{"items": t} for t in sequences(20)])
    target, packed = tmp_path / "out.jsonl", tmp_path / "out.jsonl.gz"
    assert score(source, target).code == score(source, packed).code == 0
    assert gzip.decompress(packed.read_bytes()) == target.read_bytes()
    piped = run("score", "-", "-", "--quiet", *engine, input=source.read_bytes())
    assert (piped.code, piped.out, piped.err) == (0, target.read_bytes(), "")
    assert len(files(tmp_path)) == 3
    for places in ((source, packed), (source, "-"), ("-", target)):
        score(*places, "--resume").failed(2, "--resume", "regular files")


def test_bad_lines_and_scored_ones_are_told_or_skipped(tmp_path: Path, score: Call) -> None:
    """Guards: a field written twice, and --on-error skip that leaves lines out without a word."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    good, twice = b'{"items": ["Alien"]}\n', b'{"items": ["Alien"], "noise_model": 1}\n'
    source.write_bytes(good + twice + b"no record\n" + good)
    score(source, target).failed(1, f"{source}:2: ", '"noise_model" already')
    assert set(files(tmp_path)) == {"in.jsonl"}, "nothing was scored, nothing is kept"
    outcome = score(source, target, "--on-error", "skip")
    assert outcome.code == 3 and "skipped 2 lines" in outcome.err
    assert [original_line(line + b"\n") for line in target.read_bytes().splitlines()] == [good, good]
    assert (tmp_path / "out.jsonl.rejects.jsonl").read_bytes() == twice + b"no record\n"
    score(source, "-", "--on-error", "skip").failed(2, "--rejects")
    score(source, source).failed(2, "IN and OUT")


def test_what_a_failed_run_did_is_kept_and_never_done_twice(
    tmp_path: Path, score: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: hours lost to one bad line; a resumed run that scores again, leaves out or repeats records, or whose
    batches (and with them last digits) differ from those of a run that was not stopped; litter after success."""
    records = [{"items": t, "n": n} for n, t in enumerate(sequences(150, seed=2))]
    source, target = write(tmp_path / "in.jsonl", records), tmp_path / "out.jsonl"
    lines = source.read_bytes().splitlines(keepends=True)
    # Bad lines in the second and the last batch: batches of records are not batches of lines.
    source.write_bytes(b"".join([*lines[:70], b"bad\n", b"\n", *lines[70:140], b"worse\n", *lines[140:]]))
    part, state = tmp_path / "out.jsonl.part", tmp_path / "out.jsonl.part.json"
    skip = ["--on-error", "skip", "--rejects", tmp_path / "rejects"]
    assert score(source, target, *skip).code == 3
    wanted, rejected = target.read_bytes(), (tmp_path / "rejects").read_bytes()
    assert not part.exists() and not state.exists()
    target.unlink()

    score(source, target).failed(1, f"{source}:71: ")
    assert part.read_bytes() == b"".join(wanted.splitlines(keepends=True)[:64])
    score(source, target).failed(2, str(part), "go on with", "rm ")
    assert not target.exists()

    scored: list[int] = []
    whole = Denoiser.score

    def counted(self: Denoiser, sequences: object) -> object:
        result = whole(self, sequences)  # type: ignore[arg-type]
        scored.append(len(result))
        return result

    monkeypatch.setattr(Denoiser, "score", counted)
    begun = state.read_bytes()
    ends = np.cumsum([len(line) for line in wanted.splitlines(keepends=True)])
    # Bytes that a kill may have left: none, half a line, whole lines, whole batches (64, 63 and 23 records), all,
    # lines that the disk never got, and more than the whole result.
    cuts = [0, 5, int(ends[10]), int(ends[63]), int(ends[63]) + 9, int(ends[126]), int(ends[140]), len(wanted)]
    lefts = [(wanted[:cut], wanted[:cut].count(b"\n")) for cut in cuts]
    lefts += [(wanted[: ends[69]] + bytes(len(wanted)) + b"\n", 70), (wanted + b"more\n", 150)]
    for left, good in lefts:
        part.write_bytes(left)
        state.write_bytes(begun)
        scored.clear()
        assert score(source, target, "--resume", *skip).code == 3
        assert target.read_bytes() == wanted
        assert (tmp_path / "rejects").read_bytes() == rejected
        assert set(files(tmp_path)) == {"in.jsonl", "out.jsonl", "rejects"}
        assert sum(scored) == sum(n for n, end in ((64, 64), (63, 127), (23, 150)) if good < end)
        target.unlink()
    assert score(source, target, "--resume", *skip).code == 3, "with nothing to go on from, it begins"
    assert target.read_bytes() == wanted


def test_a_run_goes_on_only_with_what_it_was_begun_with(
    tmp_path: Path, score: Call, tiny_base: Path, engine: list[str]
) -> None:
    """Guards: one file with scores of two models, of two inputs, or of other items."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    catalog = write(tmp_path / "catalog.jsonl", [{"id": i, "title": f"title {i}"} for i in range(9)])
    records = [{"items": [n % 9, 3], "others": [1]} for n in range(70)]
    write(source, [*records, "bad"])
    options = [source, target, "--catalog", catalog]
    assert score(*options).code == 1
    before = files(tmp_path)
    other = write_tiny_adapter(tmp_path / "other.gguf", tiny_base, seed=7)
    score(*options, "--resume", "--model", other).failed(2, "--model changed", "rm ")
    score(*options, "--resume", "--items-field", "others").failed(2, "--items-field changed")
    score(*options, "--resume", "--weights", "bf16").failed(2, "--base or --weights changed")
    if find_spec("torch") and find_spec("transformers"):
        score(*options, "--resume", "--weights", "q8_0", "--engine", "torch").failed(2, "--engine changed")
    content = catalog.read_bytes()
    catalog.write_bytes(content.replace(b"title 3", b"title x"))
    score(*options, "--resume").failed(2, "--catalog changed", "give the same again")
    catalog.write_bytes(content)
    content = source.read_bytes()
    source.write_bytes(content.replace(b"bad", b"fad"))
    score(*options, "--resume").failed(2, "IN changed")
    source.write_bytes(content)
    (tmp_path / "out.jsonl.part.json").write_bytes(b"{")
    score(*options, "--resume").failed(2, "nothing tells how", "rm ")
    (tmp_path / "out.jsonl.part.json").write_bytes(before["out.jsonl.part.json"])
    other.unlink()
    assert files(tmp_path) == before
    assert score(*options, "--resume", "--on-error", "skip").code == 3
    assert len(read(target)) == 70


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on(tmp_path: Path, score: Call, engine: list[str], how: signal.Signals) -> None:
    """Guards: scores that were still in a buffer, a part that the interrupt removed, or half a result in OUT's place;
    and an interrupt that does not say what is kept."""
    source = write(tmp_path / "in.jsonl", [{"items": t} for t in sequences(1500, seed=3)])
    target, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    arguments = ["score", str(source), str(target), "--quiet", *engine]
    with subprocess.Popen([*HEEDS_INTERRUPTS, *arguments], stderr=subprocess.PIPE) as process:
        assert process.stderr
        deadline = time.monotonic() + PATIENCE
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, how)
        process.wait(PATIENCE)
        told = process.stderr.read().decode()
    assert set(files(tmp_path)) == {"in.jsonl", "out.jsonl.part", "out.jsonl.part.json"}
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert told.startswith("llm4dsr: interrupted: ") and told.count("\n") == 1
        assert f"scored records are kept in {part}" in told and "--resume" in told
    left = part.read_bytes()
    assert score(source, target, "--resume").code == 0
    assert set(files(tmp_path)) == {"in.jsonl", "out.jsonl"}
    assert target.read_bytes().startswith(left[: left.rfind(b"\n") + 1])
    again = tmp_path / "again.jsonl"
    assert score(source, again).code == 0
    assert again.read_bytes() == target.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_resumed_run_reads_windows_once_where_the_stopped_one_would_have(tmp_path: Path, score: Call) -> None:
    """Guards: records that stand again read again after a stop, which moves the last digits of those beside them."""
    once = [*sequences(50, seed=4), [title for one in sequences(12, seed=5) for title in one]]
    titles = [*once, *(one for pair in zip(sequences(51, seed=6), reversed(once), strict=True) for one in pair)]
    source, target = write(tmp_path / "in.jsonl", [{"items": t} for t in titles]), tmp_path / "out.jsonl"
    assert score(source, target).code == 0
    wanted = target.read_bytes()
    lines = wanted.splitlines(keepends=True)
    assert lines[:51] == lines[:51:-2]
    with source.open("ab") as file:
        file.write(b"bad\n")
    target.unlink()
    score(source, target).failed(1, f"{source}:154: ")
    part = tmp_path / "out.jsonl.part"
    assert part.read_bytes() == b"".join(lines[:128])
    part.write_bytes(b"".join(lines[:70]))
    score(source, target, "--resume", "--on-error", "skip")
    assert target.read_bytes() == wanted


@pytest.mark.parametrize("second", [[], ["--resume"]])
@pytest.mark.parametrize("first", [[], ["--resume"]])
def test_of_two_runs_at_once_the_second_is_refused(
    tmp_path: Path, score: Call, engine: list[str], first: list[str], second: list[str]
) -> None:
    """Guards: two runs that write into one part, of which the first ended with exit code 0 and a file with NULs; and
    a run that is told to remove the part of one that is still at work."""
    source = write(tmp_path / "in.jsonl", [{"items": t} for t in sequences(700, seed=4)])
    target, part, wanted = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part", tmp_path / "wanted.jsonl"
    command = ["score", source, target, "--quiet", *engine]
    assert score(source, wanted).code == 0
    if first:  # something to go on with
        lines = source.read_bytes().splitlines(keepends=True)
        source.write_bytes(b"".join([*lines[:100], b"bad\n"]))
        assert score(source, target).code == 1
        source.write_bytes(b"".join(lines))
        state = tmp_path / "out.jsonl.part.json"
        state.write_text(json.dumps(json.loads(state.read_text()) | {"IN": file_sha256(source)}))
    begun = part.stat().st_size if first else 0
    with subprocess.Popen([*COMMAND, *map(str, command), *first]) as process:
        deadline = time.monotonic() + PATIENCE
        while not (part.exists() and part.stat().st_size > begun) and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGSTOP)
        try:
            assert part.exists(), "the first run was too fast to be stopped"
            run(*command, *second).failed(1, f"{target}: another run is writing it: wait until it ends")
        finally:
            os.kill(process.pid, signal.SIGCONT)
        assert process.wait(PATIENCE) == 0
    assert target.read_bytes() == wanted.read_bytes()
    assert set(files(tmp_path)) == {"in.jsonl", "out.jsonl", "wanted.jsonl"}
    assert score(source, target).code == 0, "the lock ends with the run"


def test_of_two_runs_that_begin_at_once_one_is_refused(tmp_path: Path, score: Call, engine: list[str]) -> None:
    """Guards: a check that both pass before either of them has made its part."""
    source = write(tmp_path / "in.jsonl", [{"items": t} for t in sequences(100, seed=5)])
    target, wanted = tmp_path / "out.jsonl", tmp_path / "wanted.jsonl"
    assert score(source, wanted).code == 0
    first, second = (ResumableFile(target, {"IN": None}, resume=True) for _ in range(2))
    with first:
        with pytest.raises(OutputError, match="another run is writing it"), second:
            pass
        first.write(b"a")
        score(source, target).failed(1, "another run is writing it")
    assert target.read_bytes() == b"a\n"
    with pytest.raises(OptionError, match="is there from a run that did not end"), late(target) as output:
        output.write(b"b")
    assert (tmp_path / "out.jsonl.part").read_bytes() == b"c\n"


@contextlib.contextmanager
def late(target: Path) -> Iterator[ResumableFile]:
    """A run that was made before, and is begun after, another one that did not end."""
    output = ResumableFile(target, {"IN": None})
    with contextlib.suppress(KeyboardInterrupt), ResumableFile(target, {"IN": None}) as other:
        other.write(b"c")
        raise KeyboardInterrupt
    with output:
        yield output


@pytest.mark.parametrize("change", ["append", "replace", "remove", "cut"])
def test_a_part_that_something_else_changed_is_not_put_in_place(tmp_path: Path, change: str) -> None:
    """Guards: NULs or foreign lines in the result, with exit code 0, where locks are not known or not asked for."""
    target, part = tmp_path / "out", tmp_path / "out.part"
    output = ResumableFile(target, {"IN": None})
    with pytest.raises(OutputError, match=r"out\.part: something else wrote to it or removed it"), output:
        output.write(b"first")
        output.flush()
        if change == "append":
            with part.open("ab") as file:
                file.write(b"more\n")
        elif change == "cut":
            os.truncate(part, 0)
        else:
            part.unlink()
            if change == "replace":
                part.write_bytes(b"first\nlast\n")
        output.write(b"last")
    assert not target.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows counts otherwise")
def test_names_too_long_for_the_files_beside_out_are_refused_at_once(tmp_path: Path, score: Call, clean: Call) -> None:
    """Guards: "File name too long" after the model was loaded, without a word of which file or what to do."""
    source = write(tmp_path / "in.jsonl", [{"items": ["Alien"]}])
    for length, beside in ((251, ".part"), (248, ".part.json")):
        target = tmp_path / ("x" * length)
        score(source, target).failed(1, f"{target}{beside}: its name is too long for this file system", "shorter name")
    clean(source, target, "--on-error", "skip", "--quiet").failed(1, f"{target}.rejects.jsonl: its name is too long")
    assert set(files(tmp_path)) == {"in.jsonl"}
    target = tmp_path / ("é" * 122)
    assert score(source, target).code == 0
    assert target.is_file()


def test_what_is_flushed_outlives_the_process(tmp_path: Path) -> None:
    """Guards: scores of small batches that wait in a buffer, which a kill would take along."""
    with ResumableFile(tmp_path / "out", {"IN": None}) as output:
        output.write(b"a")
        output.flush()
        assert (tmp_path / "out.part").read_bytes() == b"a\n"
    assert files(tmp_path) == {"out": b"a\n"}


def test_cut_titles_are_told_and_reported(
    tmp_path: Path, engine: list[str], clean: Call, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any
) -> None:
    """Guards: titles of another script, of which the model reads six characters, judged without a word."""
    long, short = [f"{n} of the very long titles" for n in range(4)], [f"short {n}" for n in range(6)]
    cut = write(tmp_path / "cut.jsonl", [{"items": long}, {"items": short}, {"items": long}])
    whole = write(tmp_path / "whole.jsonl", [{"items": short}])
    report = tmp_path / "report.json"
    told = (
        "4 of 10 titles (40%) are cut to the 16 tokens that this denoiser reads, some 16 characters, and may look alike"
    )
    for source, said in ((cut, True), (whole, False)):
        scored = call(monkeypatch, capfdbinary, "score", *engine, source, tmp_path / "out.jsonl")
        assert (scored.code, told in scored.err) == (0, said)
        assert ("are cut" in scored.err) == said
        cleaned = clean(source, tmp_path / "out.jsonl", "--threshold", 0.9, "--report", report)
        assert (cleaned.code, told in cleaned.err) == (0, said)
        titles = json.loads(report.read_bytes())["model"]["titles"]
        n = 10 if said else 6
        assert titles == {"read": n, "cut": n - 6, "share_cut": (n - 6) / n, "max_tokens": 16}
