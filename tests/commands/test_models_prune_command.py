"""``llm4dsr models prune``: what the cache holds, and room for something else."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from command_line import Call, call, clean_environment, write

HOURS = 3600


@pytest.fixture
def prune(own_cache: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """``prune(...)`` in this process."""
    clean_environment(monkeypatch)
    return lambda *arguments: call(monkeypatch, capfdbinary, "models", "prune", *arguments)


def put(path: Path, megabytes: float, hours_ago: float) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.truncate(int(megabytes * 1e6))
    then = time.time() - hours_ago * HOURS
    os.utime(path, (then, then))


@pytest.fixture
def full(own_cache: Path) -> Path:
    put(own_cache / "runtime" / "new-q8_0.gguf", 3, 0)
    put(own_cache / "runtime" / "old-q8_0.gguf", 4, 50)
    put(own_cache / "runtime" / ".killed-bf16.gguf", 5, 2)
    put(own_cache / "runtime" / ".being-written.tmp.gguf", 6, 0.1)
    put(own_cache / "tries" / "0123.npz", 7, 1)
    put(own_cache / "base" / "smollm2.gguf", 8, 99)
    put(own_cache / "base" / ".smollm2.89ab.tmp.gguf", 9, 99)
    return own_cache


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_it_frees_all_that_can_be_made_again_and_nothing_else(full: Path, prune: Call) -> None:
    """Guards base models removed, which takes a network to undo, and a merge that another process is at."""
    outcome = prune()
    assert outcome.code == 0
    assert left(full) == {"smollm2.gguf", ".being-written.tmp.gguf"}
    assert outcome.err == "freed 28.0 MB\n"
    lines = {line.rsplit("/", 1)[1].strip(): line for line in outcome.out.decode().splitlines()[1:]}
    assert {name: ("removed" in line, "kept" in line) for name, line in lines.items()} == {
        "new-q8_0.gguf": (True, False),
        "old-q8_0.gguf": (True, False),
        ".killed-bf16.gguf": (True, False),
        ".being-written.tmp.gguf": (False, True),
        "0123.npz": (True, False),
        ".smollm2.89ab.tmp.gguf": (True, False),
    }
    assert "merged model " in lines["old-q8_0.gguf"] and "4.0 MB" in lines["old-q8_0.gguf"]
    assert time.strftime("%Y-%m-%d %H", time.localtime(time.time() - 50 * HOURS)) in lines["old-q8_0.gguf"]
    assert "trie " in lines["0123.npz"] and "unfinished" in lines[".killed-bf16.gguf"]


def test_a_dry_run_shows_and_leaves_everything(full: Path, prune: Call) -> None:
    """Guards a look that costs minutes of merging."""
    before = left(full)
    outcome = prune("--dry-run", "--keep", 1)
    assert (outcome.code, outcome.err) == (0, "would free 18.0 MB\n")
    assert left(full) == before
    assert outcome.out.decode().count("would go") == 3


def test_those_used_last_can_be_kept(full: Path, prune: Call) -> None:
    """Guards the oldest kept in place of the newest."""
    assert prune("--keep", 1).code == 0
    assert left(full) == {"new-q8_0.gguf", "0123.npz", "smollm2.gguf", ".being-written.tmp.gguf"}
    outcome = prune("--keep", -1)
    assert (outcome.code, outcome.out) == (2, b"")


def test_an_empty_cache_is_no_error(own_cache: Path, prune: Call) -> None:
    """Guards a traceback before the first use, and a folder made only to look into it."""
    outcome = prune()
    assert (outcome.code, outcome.out, outcome.err) == (0, b"", "freed 0.0 MB\n")
    assert prune("--quiet").err == ""
    assert not [*own_cache.iterdir()]


def test_what_was_freed_is_made_again(
    tmp_path: Path,
    tiny_denoiser: Path,
    prune: Call,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    """Guards a denoiser that is of no use after its merged model is gone."""
    source = write(tmp_path / "in.jsonl", [{"items": ["Alien", "Heat"]}])
    arguments = ["score", source, "-", "--model", tiny_denoiser, "--weights", "q8_0", "--threads", 1]
    first = call(monkeypatch, capfdbinary, *arguments)
    assert "merging" in first.err
    assert prune().err != "freed 0.0 MB\n"
    again = call(monkeypatch, capfdbinary, *arguments)
    assert "merging" in again.err
    assert again.out == first.out
