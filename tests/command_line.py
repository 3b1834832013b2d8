"""Running ``llm4dsr`` in tests: as a real process, or inside this one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llm4dsr_cli.__main__ import main

COMMAND = [sys.executable, "-m", "llm4dsr_cli"]
NOBODY = 65534
PATIENCE = 60  # seconds; for processes on a machine that does other things as well


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    code: int
    out: bytes
    err: str

    def failed(self, code: int, *words: str) -> None:
        """Assert that it failed with one sentence that holds all words, and nothing else."""
        assert self.code == code, self.err
        assert self.out == b""
        assert self.err.startswith("llm4dsr: "), self.err
        assert self.err.endswith("\n") and self.err.count("\n") == 1, self.err
        for word in words:
            assert word in self.err


Call = Callable[..., Outcome]


def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the options of whoever runs the tests; the cache folder is the fixture's."""
    for name in [*os.environ]:
        if (name.startswith("LLM4DSR_") and name != "LLM4DSR_CACHE") or name in ("NO_COLOR", "PYTHONUNBUFFERED"):
            monkeypatch.delenv(name)


def call(monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[bytes], *arguments: object) -> Outcome:
    """Run the command line in this process, with standard output and error captured."""
    monkeypatch.setattr(sys, "argv", ["llm4dsr", *map(str, arguments)])
    capture.readouterr()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(SystemExit) as end:
        main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    out, err = capture.readouterr()
    return Outcome(int(end.value.code or 0), out, err.decode())


def run(*arguments: object, program: list[str] = COMMAND, **options: Any) -> Outcome:
    """Run the command line as a process of its own, with nothing on its standard input unless it is given."""
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("stdout", subprocess.PIPE)
    done = subprocess.run(
        [*program, *map(str, arguments)], stderr=subprocess.PIPE, check=False, timeout=PATIENCE, **options
    )
    return Outcome(done.returncode, done.stdout or b"", done.stderr.decode())


def preceded_by(statements: str) -> list[str]:
    """A program that runs the command line after some statements of its own."""
    return [sys.executable, "-c", f"{statements}\nfrom llm4dsr_cli.__main__ import main\nmain()"]


def without_rights(check: Callable[[Path], None]) -> None:
    """Run a check in a folder of its own, without root's rights, which no permission of a file stops."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not hasattr(os, "geteuid") or os.geteuid() != 0:
            check(folder)
            return
        folder.chmod(0o777)
        child = os.fork()
        if child == 0:
            try:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                check(folder)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def files(folder: Path) -> dict[str, bytes]:
    """Name and content of every file in a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


WORDS = [
    "Alien",
    "Aliens",
    "The Thing",
    "Blade Runner",
    "Caterpillar",
    "Heat",
    "Amélie",
    "七人の侍",
    "Up",
    "Ratatouille",
]


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def read_edits(audit: Path) -> list[Any]:
    """The edits of an audit, less the line that tells the output from others."""
    return [line for line in read(audit) if "position" in line]


def sequences(n: int, seed: int = 0, longest: int = 9) -> list[list[str]]:
    """n sequences of titles, some longer than the tiny denoiser's window."""
    rng = random.Random(seed)
    return [[f"{rng.choice(WORDS)} {rng.randrange(100)}" for _ in range(rng.randint(1, longest))] for _ in range(n)]
