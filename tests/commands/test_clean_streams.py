"""``llm4dsr clean`` in pipes and on terminals."""

from __future__ import annotations

import gzip
import json
import os
import re
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import IO

import pytest
from command_line import COMMAND, PATIENCE, Call, Outcome, files, preceded_by, run, sequences, write

pty = pytest.importorskip("pty", reason="pipes and terminals of POSIX")

pytestmark = pytest.mark.usefixtures("warm_environment")
# Pytest may itself run where Ctrl-C is ignored, as background jobs of a shell do; a child would inherit that.
HEEDS_INTERRUPTS = preceded_by("import signal; signal.signal(signal.SIGINT, signal.default_int_handler)")


def next_line(stream: IO[bytes]) -> bytes:
    """The next line of a pipe, or what has arrived of it when patience ends."""
    line, deadline = b"", time.monotonic() + PATIENCE
    while not line.endswith(b"\n") and time.monotonic() < deadline:
        if select.select([stream], [], [], 0.1)[0]:
            byte = os.read(stream.fileno(), 1)
            if not byte:
                break
            line += byte
    return line


def test_a_line_comes_out_before_the_next_one_goes_in(engine: list[str]) -> None:
    """Guards: a service that waits for its answer until 64 records, or a full buffer, have gathered."""
    command = [*COMMAND, "clean", "-", "-", *engine]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stderr
        for n in range(3):
            line = json.dumps({"n": n, "items": ["Alien"]}).encode() + b"\n"
            process.stdin.write(line)
            process.stdin.flush()
            assert next_line(process.stdout) == line
            assert process.poll() is None
        process.stdin.close()
        assert process.stdout.read() == b""
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read().decode().splitlines()[-1].startswith("3 records, 3 items")


def test_files_pipes_and_gzip_give_the_same_bytes_each_time(tmp_path: Path, clean: Call, engine: list[str]) -> None:
    """Guards: results that depend on the run, on the kind of file or on hash seeds."""
    source = write(tmp_path / "in.jsonl", [{"items": t} for t in sequences(150, seed=7)])
    target = tmp_path / "out.jsonl"
    options = ["--annotate", "--threshold", "0.6"]
    assert clean(source, target, *options).code == 0
    wanted = target.read_bytes()
    with source.open("rb") as stdin:
        piped = run("clean", "-", "-", "--action", "drop", *options, *engine, stdin=stdin)
    assert (piped.code, piped.out) == (0, wanted)
    packed = tmp_path / "in.jsonl.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    once, again = tmp_path / "once.jsonl.gz", tmp_path / "again.jsonl.gz"
    assert clean(packed, once, *options).code == clean(source, again, *options).code == 0
    assert gzip.decompress(once.read_bytes()) == wanted
    assert once.read_bytes() == again.read_bytes()


def test_a_reader_who_leaves_early_gets_no_complaint(tmp_path: Path, engine: list[str]) -> None:
    """Guards: a traceback after ``llm4dsr clean IN - | head -1``."""
    source = write(tmp_path / "in.jsonl", [{"items": t} for t in sequences(5000, seed=8)])
    command = [*COMMAND, "clean", str(source), "-", "--action", "drop", "--quiet", *engine]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        assert json.loads(next_line(process.stdout))
        process.stdout.close()
        assert process.wait(PATIENCE) == 141
        assert process.stderr.read() == b""


@pytest.mark.parametrize("silent", [False, True], ids=["in a long file", "waiting for a silent pipe"])
def test_an_interrupt_is_one_sentence_and_leaves_the_target(tmp_path: Path, engine: list[str], silent: bool) -> None:
    """Guards: half a result in the target's place, litter beside it, a traceback, or a bare exit code."""
    folder = tmp_path / "results"
    folder.mkdir()
    target, audit = folder / "out.jsonl", folder / "audit.jsonl"
    target.write_bytes(b"before")
    source = "-" if silent else write(tmp_path / "in.jsonl", [{"items": t} for t in sequences(40_000, seed=9)])
    command = [
        *HEEDS_INTERRUPTS,
        "clean",
        str(source),
        str(target),
        "--action",
        "drop",
        "--audit",
        str(audit),
        "--quiet",
        *engine,
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stderr
        deadline = time.monotonic() + PATIENCE
        while not (folder.is_dir() and len(files(folder)) > 2) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        said = process.stderr.read()
        assert said.startswith(b"llm4dsr: interrupted: nothing was written") and said.count(b"\n") == 1
    left = files(folder)
    assert left.pop("out.jsonl") == b"before"
    assert left.keys() == (set() if silent else {"out.jsonl.scores.part", "out.jsonl.scores.part.json"})


def on_a_terminal(arguments: list[str], **environment: str) -> tuple[int, str]:
    """Exit code and standard error of a run whose standard error is a terminal."""
    ours, theirs = pty.openpty()
    variables = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **environment}
    with subprocess.Popen(
        [*COMMAND, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs, env=variables
    ) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # how Linux says that the other side was closed
                piece = b""
            if not piece:
                break
            text += piece
        os.close(ours)
        return process.wait(PATIENCE), text.decode()


COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-9]|9[0-7])(?:;\d+)*m")


def test_a_terminal_sees_progress(tmp_path: Path, engine: list[str]) -> None:
    """Guards: minutes of silence; and escape codes for people who asked for none."""
    source = write(tmp_path / "in.jsonl", [{"items": t} for t in sequences(300, seed=10)])
    arguments = ["clean", str(source), str(tmp_path / "out.jsonl"), "--action", "drop", *engine]
    code, text = on_a_terminal(arguments)
    assert code == 0
    assert re.search(r"[\d,]+ records, \d+/s", text)
    assert re.search(r"\d:\d\d left", text)
    assert COLOUR.search(text)
    for options, environment in ((["--no-color"], {}), ([], {"NO_COLOR": "1"}), ([], {"TERM": "dumb"})):
        code, text = on_a_terminal([*arguments, *options], **environment)
        assert code == 0 and not COLOUR.search(text)
    assert on_a_terminal([*arguments, "--quiet"]) == (0, "")


def test_a_log_file_sees_no_progress(tmp_path: Path, clean: Call, clean_quietly: Call) -> None:
    """Guards: escape codes and hundreds of bars in a log."""
    records = [{"user_id": user, "items": titles} for user, titles in enumerate(sequences(200, seed=11))]
    source = write(tmp_path / "in.jsonl", records)
    assert clean(source, tmp_path / "out.jsonl").code == 0
    outcome = clean(source, tmp_path / "out.jsonl")
    assert not re.search(r"\x1b|\r|records, \d+/s", outcome.err)
    assert re.fullmatch(r"200 records, [\d,]+ items: dropped .+ s", outcome.err.splitlines()[-1])
    assert clean_quietly(source, tmp_path / "out.jsonl") == Outcome(0, b"", "")


def test_the_first_use_says_that_it_merges_and_the_second_does_not(
    tmp_path: Path, tiny_denoiser: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: a silent wait, a merge at every start, and variables of the environment that are not read."""
    monkeypatch.setenv("LLM4DSR_CACHE", str(own_cache))
    monkeypatch.setenv("LLM4DSR_MODEL", str(tiny_denoiser))
    monkeypatch.setenv("LLM4DSR_THREADS", "1")
    source = write(tmp_path / "in.jsonl", [{"items": ["Alien", "Heat"]}])
    first, second = run("clean", source, "-", "--action", "drop"), run("clean", source, "-", "--action", "drop")
    assert first.code == second.code == 0
    assert "first use of tiny-denoiser" in first.err
    assert "first use" not in second.err and "weights" not in second.err
    assert first.out == second.out
    assert len([*(own_cache / "runtime").iterdir()]) == 1
    (merged,) = (own_cache / "runtime").iterdir()
    assert run("clean", source, "-", "--action", "drop", "--model", merged).out == first.out


def test_a_termination_leaves_the_target_and_nothing_beside_it(tmp_path: Path, engine: list[str]) -> None:
    """Guards: a hidden .part file for each job that a scheduler ends."""
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "out.jsonl").write_bytes(b"before")
    command = [*COMMAND, "clean", "-", str(folder / "out.jsonl"), "--action", "drop", "--quiet", *engine]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr
        deadline = time.monotonic() + PATIENCE
        while len(files(folder)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(files(folder)) == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 143
        assert process.stderr.read() == b"llm4dsr: interrupted: nothing was written\n"
    assert files(folder) == {"out.jsonl": b"before"}


@pytest.mark.parametrize("command", ["clean", "score"])
def test_output_goes_to_what_the_shell_puts_in_its_place(tmp_path: Path, engine: list[str], command: str) -> None:
    """Guards: ``llm4dsr clean IN >(gzip > OUT.gz)``, whose /dev/fd/63 leads to no name that could be opened."""
    source = write(tmp_path / "in.jsonl", [{"items": t} for t in sequences(20, seed=11)])
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        done = run(command, source, f"/dev/fd/{writing}", *engine, pass_fds=[writing])
        os.close(writing)
        assert done.code == 0, done.err
        assert len(pipe.read().splitlines()) == 20
