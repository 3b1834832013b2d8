"""The cache folder, remembered hashes, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from llm4dsr_cli.cache import MEMO_ENTRIES, cache_folder, file_sha256
from llm4dsr_cli.errors import ModelError, OutputError
from llm4dsr_cli.files import atomic_path

HOUR_NS = 3_600_000_000_000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LLM4DSR_CACHE", str(folder))
    return folder


def aged_file(path: Path, content: bytes) -> str:
    """Write a file that was last changed an hour ago; returns its true hash."""
    path.write_bytes(content)
    then = time.time_ns() - HOUR_NS
    os.utime(path, ns=(then, then))
    return hashlib.sha256(content).hexdigest()


def test_the_cache_folder_is_the_environments_or_the_users(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards an empty variable taken for the working folder, and an unexpanded tilde."""
    assert cache_folder() == cache
    monkeypatch.setenv("LLM4DSR_CACHE", "~/x")
    assert cache_folder() == Path.home() / "x"
    monkeypatch.setenv("LLM4DSR_CACHE", "")
    assert cache_folder().is_absolute()
    assert "llm4dsr" in cache_folder().parts


def test_a_hash_is_remembered_until_the_file_changes(tmp_path: Path, cache: Path) -> None:
    """Guards hashing 100 MB at each start: a hash planted in the memo is returned, so the file was not read."""
    path = tmp_path / "x"
    true_hash = aged_file(path, b"one")
    assert file_sha256(path) == true_hash
    memo_file = cache / "sha256.json"
    memo = json.loads(memo_file.read_text())
    planted = "f" * 64
    memo[str(path)][-1] = planted
    memo_file.write_text(json.dumps(memo))
    assert file_sha256(path) == planted
    assert file_sha256(path, memo=False) == true_hash


@pytest.mark.parametrize("change", ["size", "mtime", "inode"])
def test_a_changed_file_is_hashed_again(tmp_path: Path, change: str) -> None:
    """Guards a stale hash: each of size, mtime and inode alone must be enough."""
    path = tmp_path / "x"
    aged_file(path, b"one")
    file_sha256(path)
    kept = path.stat()
    if change == "inode":
        other = tmp_path / "y"
        other.write_bytes(b"two")
        os.utime(other, ns=(kept.st_mtime_ns, kept.st_mtime_ns))
        other.replace(path)
    else:
        path.write_bytes(b"two" if change == "mtime" else b"three")
        mtime = kept.st_mtime_ns + (1000 if change == "mtime" else 0)
        os.utime(path, ns=(mtime, mtime))
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_changed_a_moment_ago_is_not_remembered(tmp_path: Path) -> None:
    """Guards a file rewritten within one tick of the clock, whose size, mtime and inode all stay."""
    path = tmp_path / "x"
    path.write_bytes(b"one")
    now = path.stat().st_mtime_ns
    file_sha256(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(now, now))
    assert file_sha256(path) == hashlib.sha256(b"two").hexdigest()


@pytest.mark.parametrize("damage", ["", "{", "[]", "3", '{"PATH": 3}', '{"PATH": [1]}', '{"PATH": [STATE, 7]}', "\x00"])
def test_a_damaged_memo_is_harmless(tmp_path: Path, cache: Path, damage: str) -> None:
    """Guards a crash, or a wrong hash, after the memo was cut short or written by another version."""
    path = tmp_path / "x"
    true_hash = aged_file(path, b"one")
    stat = path.stat()
    state = f"{stat.st_size}, {stat.st_mtime_ns}, {stat.st_ino}"
    cache.mkdir()
    (cache / "sha256.json").write_text(damage.replace("PATH", str(path)).replace("STATE", state))
    assert file_sha256(path) == true_hash
    assert json.loads((cache / "sha256.json").read_text())[str(path)][-1] == true_hash


def test_an_unwritable_cache_folder_does_not_stop_hashing(tmp_path: Path, cache: Path) -> None:
    """Guards read-only homes of containers; a file where the folder should be stops even root."""
    cache.write_text("in the way")
    true_hash = aged_file(tmp_path / "x", b"one")
    assert file_sha256(tmp_path / "x") == true_hash


def test_the_memo_stays_small(tmp_path: Path, cache: Path) -> None:
    """Guards a memo that grows with every temporary file ever hashed, and one that forgets the newest."""
    cache.mkdir()
    old = {f"/gone/{i}": [1, 1, 1, "a" * 64] for i in range(3 * MEMO_ENTRIES)}
    (cache / "sha256.json").write_text(json.dumps(old))
    aged_file(tmp_path / "x", b"one")
    file_sha256(tmp_path / "x")
    memo = json.loads((cache / "sha256.json").read_text())
    assert len(memo) == MEMO_ENTRIES
    assert str(tmp_path / "x") in memo


@pytest.mark.parametrize("name", ["none", "."])
def test_a_file_that_cannot_be_hashed_is_a_model_error(tmp_path: Path, name: str) -> None:
    """Guards tracebacks for missing files and folders."""
    with pytest.raises(ModelError, match="cannot be read"):
        file_sha256(tmp_path / name)


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
    assert str(caught.value) == f"{target}: cannot be written: {os.strerror(errno.ENOSPC)}: free some space"
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    """Guards a traceback for a mistyped folder."""
    with pytest.raises(OutputError, match=r"out: cannot be written: No such file"), atomic_path(tmp_path / "no/out"):
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
    for target in (tmp_path, pipe):
        with pytest.raises(OutputError, match="not a regular file"), atomic_path(target):
            pass
    assert pipe.is_fifo()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write what is read-only")
def test_a_read_only_target_is_not_replaced(tmp_path: Path) -> None:
    """Guards a file that its owner protected: replacing it needs no permission on the file itself."""
    target = tmp_path / "out"
    target.write_text("old")
    target.chmod(0o444)
    with pytest.raises(OutputError, match="is read-only"), atomic_path(target):
        pass
    assert target.read_text() == "old"
