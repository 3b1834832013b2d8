"""The cache folder and remembered hashes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from llm4dsr_cli.cache import MEMO_ENTRIES, cache_folder, file_sha256
from llm4dsr_cli.errors import ModelError

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
