"""Locks between processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from command_line import PATIENCE

from llm4dsr_cli.locks import exclusive

HOLD = """
import sys
from pathlib import Path
from llm4dsr_cli.locks import exclusive
with exclusive(Path(sys.argv[1]), lambda: print("waiting", flush=True)):
    print("in", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock, or waits for it, until it reads a line."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=pipe, stdout=pipe, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline()


def test_another_process_waits_and_says_so(tmp_path: Path) -> None:
    """Guards: two first uses that both choose; and a silent wait."""
    lock = tmp_path / ".lock"
    with holder(lock) as first:
        assert said(first) == "in\n"
        with holder(lock) as second:
            assert said(second) == "waiting\n"
            first.communicate("go\n", PATIENCE)
            assert said(second) == "in\n"
            second.communicate("go\n", PATIENCE)
    assert [*tmp_path.iterdir()] == []


def test_one_at_a_time_is_in(tmp_path: Path) -> None:
    """Guards: two that are in because one of them locked a file that the other had just removed."""
    lock = tmp_path / ".lock"
    inside: list[int] = []
    most: list[int] = []

    def take_turns() -> None:
        for _ in range(5):
            with exclusive(lock, lambda: None):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.005)
                inside.pop()

    threads = [threading.Thread(target=take_turns) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 30
    assert [*tmp_path.iterdir()] == []


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    """Guards: a lock file that a kill leaves, for which every later run waits."""
    lock = tmp_path / ".lock"
    with holder(lock) as first:
        assert said(first) == "in\n"
        first.kill()
        first.wait(PATIENCE)
    assert lock.exists()
    waited: list[None] = []
    with exclusive(lock, lambda: waited.append(None)):
        assert lock.exists()
    assert not lock.exists() and not waited
