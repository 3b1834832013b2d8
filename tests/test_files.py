"""Files that appear whole or not at all, and locks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import without_rights

from llm4dsr_cli.errors import OutputError
from llm4dsr_cli.files import atomic_path
from llm4dsr_cli.locks import lock
from llm4dsr_cli.records.writer import OutputFile

# As long as Linux and macOS allow: 255 bytes.
LONGEST_NAMES = [
    "a" * 255,
    "a" * 249 + ".jsonl",
    "é" * 124 + "x.jsonl",
    "七人の侍" * 20 + "七人の.jsonl",
    "🎬" * 63 + ".gz",
    "a." + "b" * 253,
    "." + "c" * 254,
]


def test_a_block_that_succeeds_replaces_the_target_and_leaves_nothing_else(tmp_path: Path) -> None:
    """Guards left-over temporary files, a lost suffix (numpy appends one), and content seen too early."""
    target = tmp_path / "out.npz"
    target.write_text("old")
    with atomic_path(target) as temp:
        assert (temp.parent, temp.suffix) == (tmp_path, ".npz")
        temp.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, SystemExit, ValueError, BrokenPipeError])
def test_a_block_that_fails_leaves_the_old_target_and_nothing_else(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    """Guards half-written targets after Ctrl-C, and errors that change their kind on the way out."""
    target = tmp_path / "out"
    target.write_text("old")
    with pytest.raises(failure), atomic_path(target) as temp:
        temp.write_text("half")
        raise failure
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_two_writers_of_one_target_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Guards a fixed temporary name, which two processes would write into at once."""
    target = tmp_path / "out"
    with atomic_path(target) as first, atomic_path(target) as second:
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full for a real ENOSPC")
def test_a_full_disk_is_an_output_error_in_one_sentence(tmp_path: Path) -> None:
    """Guards a traceback when the disk fills up, and a target lost to it."""
    target = tmp_path / "out"
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(OutputError) as caught,
        atomic_path(target),
    ):
        full.write(b"x")
    reason = os.strerror(errno.ENOSPC)
    wanted = (
        f"{target}: {reason[:1].lower()}{reason[1:]}: free some space or choose another folder; nothing was changed"
    )
    assert str(caught.value) == wanted
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    """Guards a traceback for a mistyped folder."""
    with (
        pytest.raises(OutputError, match=r"out: its folder is missing: mkdir -p .*/no$"),
        atomic_path(tmp_path / "no/out"),
    ):
        pass


def test_an_error_about_another_file_is_not_blamed_on_the_target(tmp_path: Path) -> None:
    """Guards "cannot write out" for an input that is missing."""
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "out"):
        (tmp_path / "input").read_text()


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and links")
def test_permissions_and_links_are_kept(tmp_path: Path) -> None:
    """Guards results only their owner can read (mkstemp's 0600), and links replaced by files."""
    fresh, private, link = tmp_path / "fresh", tmp_path / "private", tmp_path / "link"
    private.write_text("old")
    private.chmod(0o640)
    link.symlink_to(private)
    usual = tmp_path / "usual"
    usual.touch()
    for target in (fresh, link):
        with atomic_path(target) as temp:
            temp.write_text("new")
    assert fresh.stat().st_mode == usual.stat().st_mode
    assert private.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()
    assert private.read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a special file")
def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    """Guards `--output /dev/null`, run by root, replacing the device by a file (a pipe stands in for it here)."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for target, words in ((tmp_path, "is a folder"), (pipe, "not a regular file")):
        with pytest.raises(OutputError, match=words), atomic_path(target):
            pass
    assert pipe.is_fifo()


def test_a_read_only_target_is_not_replaced() -> None:
    """Guards a file that its owner protected: replacing it needs no permission on the file itself."""

    def check(folder: Path) -> None:
        target = folder / "out"
        target.write_text("old")
        target.chmod(0o444)
        with pytest.raises(OutputError, match="is write-protected"), atomic_path(target):
            pass
        assert target.read_text() == "old"

    without_rights(check)


@pytest.mark.skipif(os.name == "nt", reason="Windows counts otherwise")
@pytest.mark.parametrize("name", LONGEST_NAMES, ids=range(len(LONGEST_NAMES)))
def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path: Path, name: str) -> None:
    """Guards a temporary name made of the target's and more: names of 235 bytes and more were refused, with "File name
    too long", though they could be written. Characters of several bytes must not be counted as one."""
    assert len(os.fsencode(name)) <= 255
    target = tmp_path / name
    for content in ("new", "newer"):
        with atomic_path(target) as temp:
            assert temp.suffix == (target.suffix if 0 < len(target.suffix) < 10 else ".tmp")
            temp.write_text(content)
        assert target.read_text() == content
    with OutputFile(target) as output:
        output.write(b"line")
    assert target.stat().st_size > 0
    assert [*tmp_path.iterdir()] == [target]


@pytest.mark.skipif(os.name == "nt", reason="Windows counts otherwise")
def test_a_name_too_long_is_one_sentence(tmp_path: Path) -> None:
    """Guards "choose another folder" for a name that is too long in each of them."""
    target = tmp_path / ("é" * 128)
    with pytest.raises(OutputError) as caught, atomic_path(target):
        pass
    assert str(caught.value) == f"{target}: its name is too long for this file system: choose a shorter name"
    with pytest.raises(OutputError, match="its name is too long"):
        OutputFile(target)


HOLD = """
import sys
from pathlib import Path
from llm4dsr_cli.locks import lock
with Path(sys.argv[1]).open("r+b") as file:
    print(lock(file), flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_one_process_s_for_as_long_as_the_file_is_open(tmp_path: Path) -> None:
    """Guards a lock that others do not see, one that outlives its process, and content that a lock changes."""
    path = tmp_path / "x"
    path.write_bytes(b"content")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"True"
        with path.open("r+b") as file:
            assert not lock(file)
        process.kill()
    with path.open("r+b") as file, path.open("r+b") as other:
        assert lock(file)
        assert not lock(other)
        assert file.read() == b"content"
