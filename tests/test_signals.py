"""Signals: real ones, sent to real processes, and while llama.cpp is at work."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import PATIENCE, files, preceded_by, sequences, write

from llm4dsr_cli.model.engine import Engine
from llm4dsr_cli.model.llama import Model
from llm4dsr_cli.signals import held

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX"),
    pytest.mark.usefixtures("warm_environment"),
]

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
# Pytest may itself run where they are ignored, as background jobs of a shell do; a child would inherit that.
HEEDED = (
    "import signal\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "for number in (signal.SIGTERM, signal.SIGHUP): signal.signal(number, signal.SIG_DFL)\n"
)
# Sends its own process a signal in the nth of llama.cpp's log lines that hold some text.
AT_A_LOG_LINE = (
    HEEDED
    + """
import logging, os
class Sender(logging.Handler):
    seen = 0
    def emit(self, record):
        if {text!r} in record.getMessage():
            Sender.seen += 1
            if Sender.seen == {nth}:
                os.kill(os.getpid(), {number})
logger = logging.getLogger("llm4dsr.llama_cpp")
logger.setLevel(logging.DEBUG)
logger.addHandler(Sender())
"""
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for results, with an earlier one."""
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "out.jsonl").write_bytes(b"before")
    return folder


def arguments(source: Path | str, folder: Path, engine: list[str]) -> list[str]:
    target, audit = str(folder / "out.jsonl"), str(folder / "audit.jsonl")
    return ["clean", str(source), target, "--audit", audit, "--action", "drop", "--quiet", *engine]


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize(
    ("text", "nth"),
    [("llama_model_loader", 1), ("", 40), ("llama_context", 1), ("~llama_context", 1)],
    ids=["as the model loads", "later", "as the context is made", "as it is freed"],
)
def test_no_signal_is_lost_in_a_log_line(
    tmp_path: Path, folder: Path, engine: list[str], number: signal.Signals, text: str, nth: int
) -> None:
    """Guards: Ctrl-C and SIGTERM swallowed by ctypes while a model loads, after which the run went on to its end."""
    source = write(tmp_path / "in.jsonl", [{"items": titles} for titles in sequences(3)])
    program = preceded_by(AT_A_LOG_LINE.format(text=text, nth=nth, number=int(number)))
    done = subprocess.run([*program, *arguments(source, folder, engine)], capture_output=True, timeout=PATIENCE)
    assert done.returncode == CODES[number], done.stderr.decode()
    if text == "~llama_context":  # all was in place when it was freed
        assert files(folder).keys() == {"out.jsonl", "audit.jsonl"}
        assert done.stderr == b"llm4dsr: interrupted\n"
        return
    assert files(folder) == {"out.jsonl": b"before"}
    assert done.stderr == b"llm4dsr: interrupted: nothing was written\n"


@contextmanager
def started(program: list[str], folder: Path, engine: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A run that waits for a second record, its outputs open."""
    command = [*program, *arguments("-", folder, engine)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            assert process.stdin
            process.stdin.write(json.dumps({"items": ["Alien"]}).encode() + b"\n")
            process.stdin.flush()
            deadline = time.monotonic() + PATIENCE
            while len(files(folder)) < 3 and time.monotonic() < deadline:
                time.sleep(0.02)
            assert len(files(folder)) == 3 and process.poll() is None
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_run_that_is_ended_leaves_the_target_and_nothing_beside_it(
    folder: Path, engine: list[str], number: signal.Signals
) -> None:
    """Guards: a hidden part of each output for every ssh session that is closed."""
    with started(preceded_by(HEEDED), folder, engine) as process:
        process.send_signal(number)
        assert process.wait(PATIENCE) == CODES[number]
        assert process.stderr
        said = process.stderr.read()
    assert said.startswith(b"llm4dsr: interrupted: nothing was written")
    assert files(folder) == {"out.jsonl": b"before"}


def test_what_is_ignored_stays_ignored(folder: Path, engine: list[str]) -> None:
    """Guards: ``nohup llm4dsr ... &`` ended by the terminal that is closed."""
    with started(preceded_by("import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"), folder, engine) as process:
        process.send_signal(signal.SIGHUP)
        assert process.stdin
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
    assert files(folder).keys() == {"out.jsonl", "audit.jsonl"}


# The signal comes in a finalizer, of which Python ignores exceptions.
DROPPED = (
    HEEDED
    + """
import os
from llm4dsr_cli.records.writer import OutputFile
write = OutputFile.write
class Finalized:
    def __del__(self):
        os.kill(os.getpid(), {number})
def written(self, line):
    Finalized()
    write(self, line)
OutputFile.write = written
"""
)


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_that_python_would_drop_ends_the_run(
    tmp_path: Path, folder: Path, engine: list[str], number: signal.Signals
) -> None:
    """Guards: "Exception ignored in", after which the run goes on."""
    source = write(tmp_path / "in.jsonl", [{"items": titles} for titles in sequences(3)])
    program = preceded_by(DROPPED.format(number=int(number)))
    done = subprocess.run([*program, *arguments(source, folder, engine)], capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (CODES[number], b"")
    # What was scored is kept; what was being written is not.
    assert files(folder).pop("out.jsonl") == b"before"
    assert files(folder).keys() == {"out.jsonl", "out.jsonl.scores.part", "out.jsonl.scores.part.json"}


# The signal comes when an output is open, and not yet with those that are discarded.
BETWEEN = (
    HEEDED
    + """
import os
from llm4dsr_cli.records.writer import OutputFile
enter = OutputFile.__enter__
def entered(self):
    enter(self)
    os.kill(os.getpid(), signal.SIGTERM)
    return self
OutputFile.__enter__ = entered
"""
)


def test_a_signal_between_two_steps_leaves_no_part(tmp_path: Path, folder: Path, engine: list[str]) -> None:
    source = write(tmp_path / "in.jsonl", [{"items": titles} for titles in sequences(3)])
    command = [*preceded_by(BETWEEN), *arguments(source, folder, engine)]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (143, b"llm4dsr: interrupted: nothing was written\n")
    assert files(folder) == {"out.jsonl": b"before"}


class Late(Exception):
    """What a caller's handler raises."""


@pytest.fixture
def alarm() -> Iterator[Callable[[str], None]]:
    """``alarm(text)``: SIGALRM, whose handler raises, comes with the next of llama.cpp's log lines that hold a text."""
    logger = logging.getLogger("llm4dsr.llama_cpp")
    handlers: list[logging.Handler] = []

    def raise_late(*_: object) -> None:
        raise Late

    def at(text: str) -> None:
        class Sender(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if text in record.getMessage():
                    logger.removeHandler(self)
                    os.kill(os.getpid(), signal.SIGALRM)

        handlers.append(Sender())
        logger.addHandler(handlers[-1])

    before, level = signal.signal(signal.SIGALRM, raise_late), logger.level
    logger.setLevel(logging.DEBUG)
    yield at
    for handler in handlers:
        logger.removeHandler(handler)
    logger.setLevel(level)
    signal.signal(signal.SIGALRM, before)


def test_a_caller_s_own_handler_is_heard_too(tiny_base: Path, alarm: Callable[[str], None]) -> None:
    """Guards: a timeout around the library's calls, or Ctrl-C in a notebook, that never comes."""
    alarm("llama_model_loader")
    with pytest.raises(Late):
        Model(tiny_base)
    with Model(tiny_base) as model:
        alarm("llama_context")
        with pytest.raises(Late):
            Engine(model, causal=False)
        engine = Engine(model, causal=False)
        alarm("~llama_context")
        with pytest.raises(Late):
            engine.close()
        engine.close()


def test_handlers_run_in_their_order_once_a_block_has_ended() -> None:
    """Guards: a signal lost because another one came, handlers that stay replaced, and handlers of other threads."""
    heard: list[str] = []
    before = {
        number: signal.signal(number, lambda n, frame: heard.append(signal.Signals(n).name))
        for number in (signal.SIGUSR1, signal.SIGUSR2)
    }
    try:
        ours = signal.getsignal(signal.SIGUSR1)
        with held():
            for number in (signal.SIGUSR2, signal.SIGUSR1):
                os.kill(os.getpid(), number)
            assert heard == []
        assert heard == ["SIGUSR2", "SIGUSR1"]
        assert signal.getsignal(signal.SIGUSR1) is ours
        with pytest.raises(ValueError, match="inside"), held():
            os.kill(os.getpid(), signal.SIGUSR1)
            raise ValueError("inside")
        assert heard == ["SIGUSR2", "SIGUSR1", "SIGUSR1"]

        def elsewhere() -> None:
            with held():
                heard.append("elsewhere")

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert heard[-1] == "elsewhere"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
