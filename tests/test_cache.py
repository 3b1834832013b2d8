"""The cache folder: where it is, and what stays in it."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from llm4dsr_cli.cache import KEPT, RECENT_S, cache_folder, cached_files, file_sha256, mark_used, tidy
from llm4dsr_cli.errors import Llm4dsrError, ModelError

HOUR = 3600.0


def put(path: Path, hours_ago: float) -> Path:
    """A file that was last used, or written to, so many hours ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    then = time.time() - hours_ago * HOUR
    os.utime(path, (then, then))
    return path


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_cache_folder_is_the_environments_or_the_users(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards an empty variable taken for the working folder, and an unexpanded tilde."""
    assert cache_folder() == own_cache
    monkeypatch.setenv("LLM4DSR_CACHE", "~/x")
    assert cache_folder() == Path.home() / "x"
    monkeypatch.setenv("LLM4DSR_CACHE", "")
    assert cache_folder().is_absolute()
    assert "llm4dsr" in cache_folder().parts


@pytest.mark.parametrize("kind", sorted(KEPT))
def test_the_files_used_last_stay(own_cache: Path, kind: str) -> None:
    """Guards merged models of 200 MB that stay for ever, and the newest ones removed for the oldest."""
    for hours in range(2, 2 + KEPT[kind] + 3):
        put(own_cache / kind / f"{hours}", hours)
    mark_used(own_cache / kind / f"{KEPT[kind] + 4}")  # the oldest
    tidy(kind)
    assert left(own_cache / kind) == {f"{KEPT[kind] + 4}", *(f"{hours}" for hours in range(2, KEPT[kind] + 1))}


def test_what_may_be_in_use_stays(own_cache: Path) -> None:
    """Guards a file removed between another process's finding it and its opening it, and one in use here."""
    folder = own_cache / "runtime"
    n = KEPT["runtime"]
    put(folder / "in use", 99)
    for number in range(n + 2):
        put(folder / f"recent {number}", 0.5)
    put(folder / "old", 5)
    tidy("runtime", spared=[folder / "in use"])
    assert left(folder) == {"in use", *(f"recent {number}" for number in range(n + 2))}


def test_what_a_killed_run_left_half_written_goes(own_cache: Path) -> None:
    """Guards half a merged model of each run that was killed, kept for ever under a name that nothing finds again; and
    one that another process is still writing, removed under its hands."""
    folder = own_cache / "runtime"
    put(folder / ".model.0123.tmp.gguf", RECENT_S / HOUR + 0.1)
    put(folder / ".model.4567.tmp.gguf", 0.1)
    put(folder / "model.gguf", 30)
    tidy("runtime")
    assert left(folder) == {".model.4567.tmp.gguf", "model.gguf"}


def test_a_cache_that_is_not_there_is_empty(own_cache: Path) -> None:
    """Guards a traceback on the first use."""
    assert cached_files("runtime") == []
    tidy("runtime")
    assert left(own_cache) == set()


def test_a_hash_is_that_of_what_the_file_holds_now(tmp_path: Path, own_cache: Path) -> None:
    """Guards a hash remembered for a file that changed and kept its size and time; and a user's paths in the cache."""
    path = tmp_path / "x"
    for content in (b"one", b"two"):
        path.write_bytes(content)
        os.utime(path, (10**9, 10**9))
        assert file_sha256(path) == file_sha256(str(path)) == hashlib.sha256(content).hexdigest()
    assert left(own_cache) == set()


@pytest.mark.parametrize("name", ["none", "."])
def test_a_file_that_cannot_be_hashed_is_one_sentence(tmp_path: Path, name: str) -> None:
    """Guards tracebacks for missing files and folders, and "model" said of a user's own records."""
    with pytest.raises(ModelError, match="cannot be read"):
        file_sha256(tmp_path / name)
    with pytest.raises(Llm4dsrError, match="cannot be read") as caught:
        file_sha256(tmp_path / name, Llm4dsrError)
    assert type(caught.value) is Llm4dsrError
