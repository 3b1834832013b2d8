"""Standard streams that are closed, full or left by their reader, of real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import COMMAND, PATIENCE, read, sequences, write

pytestmark = [
    pytest.mark.skipif(not Path("/dev/full").exists(), reason="streams of Linux"),
    pytest.mark.usefixtures("warm_environment"),
]

Shell = Callable[..., tuple[int, bytes, bytes]]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """``shell(redirections, argument, ...)``: exit code, and what came on standard output and error, where they were
    not redirected."""

    def run(redirections: str, *arguments: object) -> tuple[int, bytes, bytes]:
        done = subprocess.run(
            ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", *COMMAND, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.mark.parametrize(
    "redirections", [">&-", "2>&-", "<&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>/dev/full"]
)
def test_a_daemon_s_run_writes_its_file(tmp_path: Path, shell: Shell, engine: list[str], redirections: str) -> None:
    """Guards: AttributeError after the work, or exit 1 without a word and without OUT, where a stream is closed."""
    source, target = write(tmp_path / "in.jsonl", [{"items": titles} for titles in sequences(20)]), tmp_path / "out"
    code, out, error = shell(redirections, "clean", source, target, "--action", "drop", *engine)
    assert (code, out) == (0, b""), error
    assert len(read(target)) == 20
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    if "2>" not in redirections:
        assert b"20 records" in error


def test_an_error_keeps_its_code_where_nobody_hears_it(tmp_path: Path, shell: Shell, engine: list[str]) -> None:
    for redirections in ("2>&-", "2>/dev/full"):
        assert shell(redirections, "clean", tmp_path / "absent", tmp_path / "out", *engine) == (1, b"", b"")
        assert shell(redirections, "clean", "--no-such-option") == (2, b"", b"")


def test_records_for_a_closed_stream_are_refused_before_any_work(
    tmp_path: Path, shell: Shell, engine: list[str]
) -> None:
    """Guards: minutes of work for records that nobody can get."""
    source = write(tmp_path / "in.jsonl", [{"items": ["Alien"]}])
    out_closed = shell(">&-", "clean", source, "-", "--action", "drop", "--model", tmp_path / "absent.gguf")
    assert out_closed == (1, b"", b"llm4dsr: stdout: is closed: open it, or write to a file\n")
    in_closed = shell("<&-", "clean", "-", tmp_path / "out", "--action", "drop", *engine)
    assert in_closed == (2, b"", b"llm4dsr: there is no standard input: give a file\n")


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """Guards: messages of a C library in OUT, which was opened under standard error's number."""
    program = (
        "import os\n"
        "from llm4dsr_cli.streams import open_closed\n"
        "open_closed()\n"
        f"file = open({str(tmp_path / 'out')!r}, 'w')\n"
        "assert file.fileno() > 2\n"
        "for number in (0, 1, 2):\n"
        "    try:\n"
        "        os.read(0, 1) if number == 0 else os.write(number, b'x')\n"
        "    except OSError:\n"
        "        file.write(str(number))\n"
    )
    command = [sys.executable, "-c", program]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    closed = ["/bin/sh", "-c", '"$@" <&- >&- 2>&-', "sh", *command]
    assert subprocess.run(closed, env=environment, timeout=PATIENCE).returncode == 0
    assert (tmp_path / "out").read_text() == "012"


PRINTING = [
    ["--version"],
    ["--help"],
    ["clean", "--help"],
    ["models", "list"],
    ["models", "show", "MODEL"],
    ["models", "show", "MODEL", "--json"],
    ["models", "prune", "--dry-run", "--quiet"],
]


@pytest.fixture
def printing(warm_cache: Path, tiny_denoiser: Path) -> Callable[[list[str]], list[str]]:
    """The arguments of a command that prints something."""
    (warm_cache / "tries").mkdir(exist_ok=True)
    (warm_cache / "tries" / "something").touch()  # for prune to list
    return lambda words: [str(tiny_denoiser) if word == "MODEL" else word for word in words]


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_what_cannot_be_printed_is_one_sentence(
    shell: Shell, printing: Callable[[list[str]], list[str]], words: list[str]
) -> None:
    """Guards: tracebacks of ``--version`` and of rich where standard output is full or closed."""
    for redirections in (">/dev/full", ">&-"):
        code, _, error = shell(redirections, *printing(words))
        assert code == 1
        assert error.startswith(b"llm4dsr: ") and error.count(b"\n") == 1, error


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_a_reader_who_left_is_no_error(printing: Callable[[list[str]], list[str]], words: list[str]) -> None:
    """Guards: exit 1 from rich or click, who take a broken pipe for theirs."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*COMMAND, *printing(words)], stdout=writing, stderr=subprocess.PIPE, timeout=PATIENCE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
