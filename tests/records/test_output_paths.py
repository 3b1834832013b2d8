"""Where outputs go: never over an input or each other, and refused before any work where nothing can be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import without_rights

from llm4dsr_cli.errors import OptionError, OutputError
from llm4dsr_cli.records.writer import OutputFile, check_paths

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes, links and mounts of POSIX")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def test_files_that_cannot_be_written_are_refused_before_any_work(tmp_path: Path) -> None:
    """Guards: hours of scoring before the first write fails."""
    with pytest.raises(OutputError) as caught:
        OutputFile(tmp_path / "new folder" / "out")
    assert str(caught.value).endswith(f": its folder is missing: mkdir -p '{tmp_path}/new folder'")
    with pytest.raises(OutputError, match="is a folder: name a file in it"):
        OutputFile(tmp_path)


def test_a_write_protected_file_is_refused() -> None:
    """Guards: os.replace, which asks for the folder's permission only."""

    def check(folder: Path) -> None:
        (folder / "out").touch(mode=0o444)
        with pytest.raises(OutputError, match="is write-protected"):
            OutputFile(folder / "out")

    without_rights(check)


def test_outputs_never_meet_inputs_or_each_other(tmp_path: Path) -> None:
    """Guards: an input overwritten by its own result, under its own name, a link, or a way around."""
    real, link, hard = tmp_path / "in", tmp_path / "link", tmp_path / "hard"
    real.touch()
    link.symlink_to(real)
    hard.hardlink_to(real)
    (tmp_path / "folder").mkdir()
    for other in (real, str(real), link, hard, tmp_path / "folder" / ".." / "in"):
        with pytest.raises(OptionError) as caught:
            check_paths({"INPUT": real}, {"--output": other})
        assert str(caught.value) == f"INPUT and --output are the same file, {other}: give --output another path"
    new = tmp_path / "new"
    dangling = tmp_path / "dangling"
    dangling.symlink_to(new)
    with pytest.raises(OptionError, match=r"^--output and --audit are the same file"):
        check_paths({}, {"--output": new, "--audit": dangling})
    with pytest.raises(OptionError, match=r"^--output and --audit are standard output: give --audit another path"):
        check_paths({}, {"--output": "-", "--audit": "-"})


def test_different_paths_are_accepted(tmp_path: Path) -> None:
    """Guards: `- -` refused, though standard input and output share the name only; a null device refused."""
    check_paths({"INPUT": "-"}, {"--output": "-", "--audit": tmp_path / "audit"})
    check_paths({"INPUT": os.devnull, "--catalog": tmp_path / "c"}, {"--output": os.devnull, "--audit": os.devnull})


def test_new_outputs_are_compared_as_a_disk_without_capitals_would(tmp_path: Path) -> None:
    """Guards: OUT that its own audit overwrites, on a disk that takes out.jsonl and OUT.jsonl for one file."""
    (tmp_path / "folder").mkdir()
    for one, other in (("out.jsonl", "OUT.jsonl"), ("straße", "STRASSE"), ("caf\u00e9", "cafe\u0301")):
        with pytest.raises(OptionError, match=r"^OUT and --audit are the same file"):
            check_paths({}, {"OUT": tmp_path / one, "--audit": tmp_path / other})
        check_paths({}, {"OUT": tmp_path / one, "--audit": tmp_path / "folder" / other})
    # What is there already tells whether it is one file.
    (tmp_path / "there").touch()
    if not (tmp_path / "THERE").exists():
        check_paths({"IN": tmp_path / "there"}, {"OUT": tmp_path / "THERE"})


MOUNTED_TWICE = """
import subprocess, sys
from pathlib import Path
from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.records.writer import check_paths
folder, again = map(Path, sys.argv[1:])
if subprocess.run(["mount", "--bind", folder, again], capture_output=True).returncode:
    sys.exit("no mount")
try:
    check_paths({}, {"OUT": folder / "new", "--audit": again / "new"})
except OptionError as error:
    print(error)
check_paths({}, {"OUT": folder / "new", "--audit": again / "newer"})
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mounts of Linux")
def test_a_folder_that_is_mounted_twice_is_one_folder(tmp_path: Path) -> None:
    """Guards: the same by a bind mount. Where no namespace of mounts is allowed, nothing is to be seen."""
    folder, again = tmp_path / "folder", tmp_path / "again"
    folder.mkdir()
    again.mkdir()
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", MOUNTED_TWICE]
    done = subprocess.run([*command, str(folder), str(again)], capture_output=True, text=True, env=ENVIRONMENT)
    if done.returncode and os.geteuid() == 0:
        command = ["unshare", "--mount", *command[4:]]
        done = subprocess.run([*command, str(folder), str(again)], capture_output=True, text=True, env=ENVIRONMENT)
    if "no mount" not in done.stderr and "unshare" not in done.stderr:
        assert done.stdout.startswith("OUT and --audit are the same file"), done.stderr
        assert done.returncode == 0


@pytest.mark.parametrize(
    ("redirections", "paths"),
    [
        (">> in.jsonl", ["in.jsonl", "-"]),
        ("< in.jsonl", ["-", "in.jsonl"]),
        ("< in.jsonl >> in.jsonl", ["-", "-"]),
        ("< in.jsonl", ["-", "link.jsonl"]),
        (">> audit.jsonl", ["in.jsonl", "-", "--audit", "audit.jsonl"]),
        ("< in.jsonl", ["-", "out.jsonl", "--audit", "hard.jsonl"]),
        ("< in.jsonl", ["/dev/stdin", "in.jsonl"]),
    ],
)
def test_files_that_the_shell_opened_are_compared_too(tmp_path: Path, redirections: str, paths: list[str]) -> None:
    """Guards: ``clean in - >> in``, which reads what it writes until the disk is full; and ``clean - in < in``, which
    replaces the only copy."""
    source = tmp_path / "in.jsonl"
    content = b'{"items": ["Alien", "Heat"]}\n' * 3
    source.write_bytes(content)
    (tmp_path / "link.jsonl").symlink_to(source)
    (tmp_path / "hard.jsonl").hardlink_to(source)
    (tmp_path / "audit.jsonl").touch()
    there = {*tmp_path.iterdir()}
    command = [sys.executable, "-m", "llm4dsr_cli", "clean", *paths, "--action", "drop"]
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$@" {redirections}', "sh", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert b"are the same file" in done.stderr and done.stderr.count(b"\n") == 1
    assert source.read_bytes() == content
    assert {*tmp_path.iterdir()} == there


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that takes no file from anybody")
def test_a_folder_that_takes_no_file_is_told_before_any_work() -> None:
    """Guards: ``calibrate -o`` that finds out after all the scoring."""
    with pytest.raises(OutputError, match=r"^/proc/x\.jsonl: no such file or directory: choose another folder"):
        OutputFile("/proc/x.jsonl")
    outcome = subprocess.run(
        [sys.executable, "-m", "llm4dsr_cli", "calibrate", "/dev/null", "-o", "/proc/x.gate", "--model", "/absent"],
        capture_output=True,
        env=ENVIRONMENT,
    )
    assert outcome.returncode == 1
    assert outcome.stderr.startswith(b"llm4dsr: /proc/x.gate: no such file or directory: choose another folder")
