"""Parts: what killed runs leave is removed by later ones, and nothing else is."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import COMMAND, PATIENCE, files, run, sequences, write

from llm4dsr_cli import parts
from llm4dsr_cli.files import AtomicFile, atomic_path
from llm4dsr_cli.records.writer import OutputFile

TWO_HOURS = 7200

WRITE = """
import sys, time
from llm4dsr_cli.files import atomic_path
with atomic_path(sys.argv[1]) as part:
    part.write_bytes(b"half")
    print(part, flush=True)
    time.sleep(1000)
"""


@contextmanager
def writer(target: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that has begun to write a file, and its part."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(
        [sys.executable, "-c", WRITE, str(target)], stdout=subprocess.PIPE, encoding="utf-8", env=environment
    ) as process:
        try:
            assert process.stdout
            yield process, Path(process.stdout.readline().rstrip("\n"))
        finally:
            process.kill()


def age(path: Path) -> None:
    then = time.time() - TWO_HOURS
    os.utime(path, (then, then))


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "with [brackets] and 七人の侍.jsonl", "out"])
def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path, name: str) -> None:
    """Guards: a hidden file with the user's data for every kill, for ever."""
    target = tmp_path / name
    with writer(target) as (process, part):
        process.kill()
        process.wait(PATIENCE)
    assert [*tmp_path.iterdir()] == [part]
    with OutputFile(target) as output:
        output.write(b"new")
    assert {*tmp_path.iterdir()} == {part, target}  # it may be a moment old: of a run that has not locked it yet
    age(part)
    with OutputFile(target) as output:
        output.write(b"newer")
    assert [*tmp_path.iterdir()] == [target]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_part_in_use_stays_however_old(tmp_path: Path) -> None:
    """Guards: a run that was stopped for a night and finds that another one has removed what it writes."""
    target = tmp_path / "out.jsonl"
    with writer(target) as (process, part):
        process.send_signal(signal.SIGSTOP)
        age(part)
        with atomic_path(target) as ours:
            ours.write_bytes(b"new")
        assert part.read_bytes() == b"half"
        process.send_signal(signal.SIGCONT)
    age(part)
    with atomic_path(target) as ours:
        ours.write_bytes(b"new")
    assert [*tmp_path.iterdir()] == [target]


def test_only_files_that_are_named_as_parts_of_this_target_go(tmp_path: Path) -> None:
    """Guards: a user's own hidden files, folders, links and other targets' parts."""
    target = tmp_path / "out.jsonl"
    token = "0123456789abcdef"
    stays = [
        ".out.tmp.jsonl",
        f".out.{token}.jsonl",
        f".out.{token}.tmp",
        f".other.{token}.tmp.jsonl",
        f"out.{token}.tmp.jsonl",
        f".out.{token[:8]}.tmp.jsonl",
        f".out.{token.upper()}.tmp.jsonl",
        "out.jsonl.part",
    ]
    for name in stays:
        (tmp_path / name).touch()
        age(tmp_path / name)
    (tmp_path / f".out.{token[::-1]}.tmp.jsonl").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    age(elsewhere)
    (tmp_path / f".out.{'0' * 16}.tmp.jsonl").symlink_to(elsewhere)
    there = {*tmp_path.iterdir()}
    left = tmp_path / f".out.{'1' * 16}.tmp.jsonl"
    left.touch()
    age(left)
    with atomic_path(target):
        pass
    assert {*tmp_path.iterdir()} == there | {target}


def test_a_process_that_ends_at_once_takes_its_parts_along(tmp_path: Path) -> None:
    """Guards: parts that stay after a second Ctrl-C, and finished files that go."""
    finished, begun, kept = (AtomicFile(tmp_path / name) for name in ("finished", "begun", "kept"))
    for file in (finished, begun, kept):
        file.create()
        file.path.write_bytes(b"content")
    finished.put_in_place()
    kept_path = kept.keep()
    parts.remove_all()
    assert {*tmp_path.iterdir()} == {tmp_path / "finished", kept_path}
    begun.discard()


def test_no_later_run_removes_what_is_kept(tmp_path: Path) -> None:
    """Guards: a finished audit, kept because it could not take its place, that the next run sweeps away."""
    target = tmp_path / "audit.jsonl"
    file = AtomicFile(target)
    file.create()
    kept = file.keep()
    assert kept.suffix == ".jsonl" and not kept.name.startswith(".")
    age(kept)
    with atomic_path(target):
        pass
    assert {*tmp_path.iterdir()} == {kept, target}


def test_a_folder_that_cannot_be_read_stops_nothing(tmp_path: Path) -> None:
    parts.sweep(tmp_path / "absent", re.compile(".*"))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.usefixtures("warm_environment")
def test_a_killed_clean_leaves_nothing_for_long(tmp_path: Path, engine: list[str]) -> None:
    """Guards: four parts for each kill of a run with audit, report and rejects."""
    folder = tmp_path / "results"
    folder.mkdir()
    outputs = [folder / "out.jsonl", "--audit", folder / "audit.jsonl", "--report", folder / "report.json"]
    options = [*outputs, "--on-error", "skip", "--action", "drop", "--quiet", *engine]
    with subprocess.Popen([*COMMAND, "clean", "-", *map(str, options)], stdin=subprocess.PIPE) as process:
        deadline = time.monotonic() + PATIENCE
        while len(files(folder)) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    assert len(files(folder)) == 4
    for path in folder.iterdir():
        age(path)
    source = write(tmp_path / "in.jsonl", [{"items": titles} for titles in sequences(3)])
    assert run("clean", source, *options).code == 0
    assert files(folder).keys() == {"out.jsonl", "audit.jsonl", "report.json", "out.jsonl.rejects.jsonl"}
