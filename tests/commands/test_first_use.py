"""First uses of one denoiser, side by side, and caches that cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import COMMAND, PATIENCE, Call, call, run, sequences, without_rights, write

from llm4dsr_cli.cache import cache_folder, cache_subfolder
from llm4dsr_cli.errors import OptionError, OutputError
from llm4dsr_cli.model.registry import Registry


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in.jsonl", [{"items": titles} for titles in sequences(40)])


def begin(source: Path, target: Path, denoiser: Path) -> subprocess.Popen[str]:
    words = ["clean", str(source), str(target), "--action", "drop", "--annotate", "--model", str(denoiser)]
    return subprocess.Popen([*COMMAND, *words, "--threads", "1"], stderr=subprocess.PIPE, text=True)


def merging(cache: Path) -> bool:
    return any((cache / "runtime").glob(".*.lock"))


def wait_for_merging(cache: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not merging(cache) and time.monotonic() < deadline:
        time.sleep(0.01)


def test_the_first_to_finish_chooses_for_all(
    tmp_path: Path, source: Path, tiny_denoiser: Path, own_cache: Path
) -> None:
    """Guards: processes of one job that choose different weight types and give different outputs."""
    targets = [tmp_path / f"out{n}.jsonl" for n in range(4)]
    processes = [begin(source, targets[0], tiny_denoiser)]
    wait_for_merging(own_cache)
    processes += [begin(source, target, tiny_denoiser) for target in targets[1:]]
    said = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    assert len({target.read_bytes() for target in targets}) == 1
    assert len([*(own_cache / "runtime").iterdir()]) == 1
    assert ["first use of tiny-denoiser" in text for text in said] == [True, False, False, False]


def test_a_run_goes_on_where_the_one_it_waited_for_was_killed(
    tmp_path: Path, source: Path, tiny_denoiser: Path, own_cache: Path
) -> None:
    """Guards: waiting for ever for a process that is gone."""
    with begin(source, tmp_path / "out", tiny_denoiser) as first:
        wait_for_merging(own_cache)
        first.kill()
    assert merging(own_cache)
    with begin(source, tmp_path / "out", tiny_denoiser) as second:
        said = second.communicate(timeout=PATIENCE)[1]
    assert second.returncode == 0
    assert "waiting" not in said and "first use of tiny-denoiser" in said
    assert not merging(own_cache)


REMEDY = "set LLM4DSR_CACHE to a folder that can be read and written"
posix = pytest.mark.skipif(sys.platform == "win32", reason="folders of POSIX")


@posix
@pytest.mark.parametrize(
    "folder", ["~nobody-of-that-name/x", "/dev/null/x", "/proc/x", "FILE", "/" + "x" * 300, "LOOP"]
)
def test_an_odd_cache_folder_is_one_sentence_with_a_cure(
    tmp_path: Path, source: Path, tiny_denoiser: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """Guards: tracebacks, and "give a path that can be used" where no path was given."""
    (tmp_path / "FILE").touch()
    (tmp_path / "LOOP").symlink_to("LOOP")
    monkeypatch.setenv("LLM4DSR_CACHE", str(tmp_path / folder) if folder in ("FILE", "LOOP") else folder)
    outcome = run("clean", source, tmp_path / "out", "--action", "drop", "--quiet", "--model", tiny_denoiser)
    outcome.failed(2 if folder.startswith("~") else 1, REMEDY)


@posix
def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: a traceback, or a folder named ~, where a container runs as some number that is no user's."""
    for name in ("LLM4DSR_CACHE", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(OptionError, match=f"^there is no home folder: {REMEDY}"):
        cache_folder()
    monkeypatch.setenv("LLM4DSR_CACHE", "~/x")
    with pytest.raises(OptionError, match=r"^there is no home folder for LLM4DSR_CACHE=~/x: "):
        cache_folder()


@posix
def test_a_cache_that_may_not_be_written_is_told_with_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(folder: Path) -> None:
        cache = folder / "cache"
        monkeypatch.setenv("LLM4DSR_CACHE", str(cache))
        for name in ("runtime", "base"):
            (cache / name).mkdir(parents=True, exist_ok=True)
        (cache / "runtime").chmod(0o555)
        with pytest.raises(OutputError, match=f"runtime: the cache folder cannot be written: {REMEDY}"):
            cache_subfolder("runtime")
        cache_subfolder("base")
        cache.chmod(0o555)
        with pytest.raises(
            OutputError, match=rf"tries: the cache folder cannot be made \(Permission denied\): {REMEDY}"
        ):
            cache_subfolder("tries")
        cache.chmod(0o755)
        (cache / "runtime").chmod(0o755)

    without_rights(check)


@posix
def test_a_cache_that_may_not_be_read_is_told_with_a_cure(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Guards: "give a path that can be used" for a path that the user never gave."""
    llm4dsr: Call = lambda *words: call(monkeypatch, capfdbinary, *words)  # noqa: E731
    assert llm4dsr("models", "list").code == 0  # all is imported: nobody may not read root's Python
    registry = Registry.load()  # nor the registry beside it
    monkeypatch.setattr(Registry, "load", lambda: registry)

    def check(folder: Path) -> None:
        cache = folder / "cache"
        cache.mkdir()
        monkeypatch.setenv("LLM4DSR_CACHE", str(cache))
        cache.chmod(0o000)
        llm4dsr("models", "list").failed(1, "permission denied", REMEDY)
        cache.chmod(0o755)

    without_rights(check)
