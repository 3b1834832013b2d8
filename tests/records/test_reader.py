"""The reader: files in equal batches, pipes as they flow, and everything unreadable in one sentence."""

from __future__ import annotations

import gzip
import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import without_rights
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from llm4dsr_cli.errors import Llm4dsrError, OptionError, RecordError
from llm4dsr_cli.records.file_kinds import LONGEST_MAGIC, refuse_binary
from llm4dsr_cli.records.reader import LineReader, can_be_read_twice, open_input, read_records
from llm4dsr_cli.records.record_format import RecordFormat
from llm4dsr_cli.records.writer import OutputFile

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes and terminals of POSIX")
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Pipe:
    """A real pipe: a reader on one end, bytes put in at the other."""

    def __init__(self) -> None:
        end, self.fd = os.pipe()
        self.reader = LineReader(os.fdopen(end, "rb"), "pipe")

    def put(self, data: bytes) -> None:
        os.write(self.fd, data)

    def end(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe that ends after ten seconds at the latest: what waits for more fails instead of hanging."""
    pipe = Pipe()
    watchdog = threading.Timer(10, pipe.end)
    watchdog.start()
    with pipe.reader:
        yield pipe
    watchdog.cancel()
    pipe.end()
    wait_for_threads()


def wait_for_threads() -> None:
    """Wait until no reader's thread is left."""
    deadline = time.monotonic() + 10
    while any(thread.name == "llm4dsr-reader" for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "a reader's thread goes on"
        time.sleep(0.01)


def refusal(path: Path | str) -> str:
    """The error's sentence for the whole input, with its folder taken out."""
    with pytest.raises(Llm4dsrError) as caught, LineReader.open(str(path)) as reader:
        list(reader.batches(10))
    assert caught.value.remedy
    return str(caught.value).replace(f"{Path(path).parent}/", "")


def is_text(lines: list[bytes]) -> bool:
    """Whether these lines do not begin as a file of another kind does."""
    try:
        refuse_binary(b"\n".join(lines)[:LONGEST_MAGIC].split(b"\n")[0] + b"\n", "in")
    except Llm4dsrError:
        return False
    return True


@unhurried
@given(
    st.lists(st.binary(max_size=6)), st.integers(1, 4), st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.booleans()
)
def test_lines_are_numbered_and_stripped_of_endings_only(
    tmp_path_factory, lines: list[bytes], size: int, ending: bytes, mark: bool, ended: bool
) -> None:
    """Guards: lines lost or renumbered by blanks, endings, byte order marks or batch borders; spaces eaten."""
    lines = [line.replace(b"\n", b" ").replace(b"\r", b" ").replace(b"\xef", b" ") for line in lines]
    assume(is_text(lines))
    plain = tmp_path_factory.mktemp("lines") / "in.jsonl"
    content = b"\xef\xbb\xbf" * mark + ending.join(lines) + ending * ended
    expected = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    for path in (plain, plain.with_suffix(".gz")):
        path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
        with LineReader.open(str(path)) as reader:
            batches = list(reader.batches(size))
        assert [line for batch in batches for line in batch] == expected
        assert all(len(batch) == size for batch in batches[:-1])
        assert all(batches)


@unhurried
@given(st.lists(st.binary(min_size=1, max_size=6)), st.integers(1, 4))
def test_a_pipe_gives_the_lines_of_a_file(lines: list[bytes], size: int) -> None:
    """Guards: lines lost, doubled or reordered between the two threads; batches empty or too large."""
    lines = [line.replace(b"\n", b"x").replace(b"\r", b"x") + b"x" for line in lines]
    assume(is_text(lines))
    pipe = Pipe()
    with pipe.reader as reader:
        pipe.put(b"\n".join(lines) or b"\n")
        pipe.end()
        batches = list(reader.batches(size))
    assert [line for batch in batches for line in batch] == [
        (i, line.removeprefix(b"\xef\xbb\xbf") if i == 1 else line) for i, line in enumerate(lines, 1)
    ]
    assert all(1 <= len(batch) <= size for batch in batches)


def test_a_slow_pipe_flows(pipe: Pipe) -> None:
    """Guards: the first line held back until a batch is full. The pipe stays open, so waiting would last."""
    batches = pipe.reader.batches(100)
    pipe.put(b"first\n")
    assert next(batches) == [(1, b"first")]
    pipe.put(b"second\nhal")
    assert next(batches) == [(2, b"second")]
    pipe.put(b"f\n")
    assert next(batches) == [(3, b"half")]
    pipe.end()
    assert list(batches) == []
    wait_for_threads()


def test_lines_that_have_arrived_come_in_one_batch(pipe: Pipe) -> None:
    """Guards: batches of one, which would cost the engine its throughput."""
    batches = pipe.reader.batches(4)
    pipe.put(b"0\n")
    assert len(next(batches)) == 1
    pipe.put(b"".join(b"%d\n" % i for i in range(1, 10)))
    deadline = time.monotonic() + 10
    while pipe.reader._arrived.qsize() < 8:  # the thread's queue is full
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [len(next(batches)) for _ in range(2)] == [4, 4]
    pipe.end()


@pytest.mark.parametrize("size", [1, 2, 50])
def test_leaving_early_ends_the_thread(size: int) -> None:
    """Guards: a thread that waits for ever to hand over a line nobody wants."""
    pipe = Pipe()
    with pipe.reader as reader:
        pipe.put(b"line\n" * 1000)
        next(reader.batches(size))
        time.sleep(0.1)
    pipe.end()
    wait_for_threads()


def test_leaving_does_not_wait_for_a_silent_producer(pipe: Pipe) -> None:
    """Guards: an error that shows up only when the producer sends its next line: closing waits for the read."""
    pipe.put(b"not JSON\n")
    with pytest.raises(RecordError, match=r"^pipe:1: not JSON"), pipe.reader:
        list(read_records(pipe.reader, 10, RecordFormat(), None))
    assert pipe.fd >= 0, "closing waited for the pipe's end"


def test_a_program_ends_while_its_standard_input_is_silent() -> None:
    """Guards: Python's fatal error at exit, when a thread still waits inside sys.stdin.buffer."""
    program = (
        "from llm4dsr_cli.records.reader import LineReader\n"
        "with LineReader.open('-') as reader:\n"
        "    assert next(reader.batches(5)) == [(1, b'a')]\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"a\n")
        process.stdin.flush()
        try:
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
        assert process.stderr.read() == b""


def test_standard_input_from_a_file_has_equal_batches(tmp_path: Path) -> None:
    """Guards: `< in.jsonl` cut differently on every run."""
    (tmp_path / "in").write_bytes(b"a\nb\nc\n")
    program = (
        "from llm4dsr_cli.records.reader import LineReader\n"
        "with LineReader.open('-') as reader:\n"
        "    sizes = [(len(batch), reader.fraction) for batch in reader.batches(2)]\n"
        "assert sizes == [(2, 4 / 6), (1, 1.0)], sizes\n"
    )
    with (tmp_path / "in").open("rb") as file:
        subprocess.run([sys.executable, "-c", program], stdin=file, check=True, env=environment())


@pytest.mark.parametrize("n_lines", [3, 30_000])  # within the buffer of a stream, and beyond it
@pytest.mark.parametrize("skipped", [0, 2])
def test_standard_input_from_a_file_can_be_read_again(tmp_path: Path, n_lines: int, skipped: int) -> None:
    """Guards: a second pass over `< in.jsonl` that finds nothing, and one that begins before the first one did."""
    (tmp_path / "in").write_bytes(b"%\n" * skipped + b"".join(b"%d\n" % number for number in range(n_lines)))
    program = (
        "import contextlib\n"
        "from llm4dsr_cli.records.reader import LineReader, can_be_read_twice\n"
        "def lines(reader):\n"
        "    return [line for batch in reader.batches(1000) for line in batch]\n"
        "assert can_be_read_twice('-')\n"
        "with LineReader.open('-') as first:\n"  # opened, and not read before another one has passed
        "    with LineReader.open('-') as second:\n"
        "        seen = lines(second)\n"
        "    assert lines(first) == seen\n"
        "with contextlib.suppress(KeyError), LineReader.open('-') as broken_off:\n"
        "    next(broken_off.batches(2))\n"
        "    raise KeyError\n"
        "assert can_be_read_twice('-')\n"
        "with LineReader.open('-') as third:\n"
        "    assert lines(third) == seen\n"
        f"assert seen == [(i + 1, b'%d' % i) for i in range({n_lines})], seen[:3]\n"
    )
    with (tmp_path / "in").open("rb") as file:
        file.seek(2 * skipped)
        os.lseek(file.fileno(), 2 * skipped, os.SEEK_SET)
        subprocess.run([sys.executable, "-c", program], stdin=file, check=True, env=environment())


@pytest.mark.parametrize("as_path", [str, Path])
def test_what_can_be_read_twice_is_a_file(tmp_path: Path, as_path: type) -> None:
    """Guards: a pipe drained by a first pass; a missing file called a pipe, instead of missing."""
    (tmp_path / "in").write_bytes(b"a\n")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    for name, expected in (("in", True), ("none", True), (".", True), ("fifo", False), ("link", False)):
        assert can_be_read_twice(as_path(tmp_path / name)) is expected, name
    assert not can_be_read_twice(as_path("/dev/null"))


@pytest.mark.parametrize("way", ["pipe", "socket", "device"])
def test_standard_input_that_flows_is_not_read_twice(way: str) -> None:
    program = "from llm4dsr_cli.records.reader import can_be_read_twice; assert not can_be_read_twice('-')"
    ours, theirs = socket.socketpair()
    stdin = {"pipe": subprocess.PIPE, "socket": theirs.fileno(), "device": subprocess.DEVNULL}[way]
    with ours, theirs:
        subprocess.run([sys.executable, "-c", program], stdin=stdin, check=True, env=environment())


@pytest.mark.parametrize("stdin", [None, io.TextIOWrapper(io.BytesIO(b"a\n"))], ids=["none", "memory"])
def test_standard_input_without_a_descriptor_is_not_read_twice(monkeypatch: pytest.MonkeyPatch, stdin: Any) -> None:
    """Guards: tracebacks under pythonw and test runners."""
    monkeypatch.setattr(sys, "stdin", stdin)
    assert not can_be_read_twice("-")
    if stdin is not None:
        with LineReader.open("-") as reader:
            assert list(reader.batches(2)) == [[(1, b"a")]]


def test_zstd_is_read_and_written_like_gzip(tmp_path: Path) -> None:
    """Guards: the end of a download that broke off taken for the end of the data; several frames, as pzstd writes."""
    import zstandard

    lines = [b"line %d" % n for n in range(50_000)]
    with OutputFile(tmp_path / "in.jsonl.zst") as output:
        for line in lines:
            output.write(line)
    data = (tmp_path / "in.jsonl.zst").read_bytes()
    (tmp_path / "two.ZST").write_bytes(data + zstandard.compress(b"end\n"))
    with LineReader.open(tmp_path / "two.ZST") as reader:
        found = [line for batch in reader.batches(1000) for _, line in batch]
    assert found == [*lines, b"end"] and reader.fraction == 1
    for name, damaged in (("cut.zst", data[:-100]), ("flipped.zst", data[:500] + b"\x00\xff" * 50 + data[600:])):
        (tmp_path / name).write_bytes(damaged)
        with LineReader.open(tmp_path / name) as reader, pytest.raises(Llm4dsrError, match="cut short zstd data"):
            list(reader.batches(1000))


@pytest.mark.parametrize("name", ["in.gz", "IN.GZ", "in.jsonl.Gz"])
@pytest.mark.parametrize("as_path", [str, Path])
def test_a_compressed_input_may_be_spelled_in_capitals(tmp_path: Path, name: str, as_path: type) -> None:
    """Guards: compressed bytes taken for lines, and a program that has to turn its paths into text."""
    (tmp_path / name).write_bytes(gzip.compress(b"a\nb\n"))
    with LineReader.open(as_path(tmp_path / name)) as reader:
        assert list(reader.batches(5)) == [[(1, b"a"), (2, b"b")]]
        assert reader.name == str(tmp_path / name)
    with open_input(as_path(tmp_path / name)) as stream:
        assert stream.read() == b"a\nb\n"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def test_errors_of_the_thread_reach_the_consumer(tmp_path: Path) -> None:
    """Guards: a broken input that looks like a short one, because the error ended the thread alone."""
    fifo = tmp_path / "in.gz"
    os.mkfifo(fifo)
    data = gzip.compress(b"".join(b"%d\n" % (i * i) for i in range(1000)))[:-20]
    writer = threading.Thread(target=fifo.write_bytes, args=(data,))
    writer.start()
    with pytest.raises(Llm4dsrError, match="damaged or cut short gzip data"), LineReader.open(str(fifo)) as reader:
        list(reader.batches(10))
    writer.join()


def test_progress_grows_to_one(tmp_path: Path) -> None:
    """Guards: progress by decompressed bytes, which runs past the end of a .gz file."""
    lines = b"".join(os.urandom(20).hex().encode() + b" " * 200 + b"\n" for _ in range(20_000))
    for name, content in (("in.jsonl", lines), ("in.jsonl.gz", gzip.compress(lines))):
        (tmp_path / name).write_bytes(content)
        with LineReader.open(str(tmp_path / name)) as reader:
            fractions = [reader.fraction, *(reader.fraction for _ in reader.batches(5000))]
        assert fractions == sorted(fractions)
        assert fractions[0] == 0
        assert 0.2 < fractions[1] < 0.7
        assert fractions[-1] == 1
    (tmp_path / "empty").touch()
    with LineReader.open(str(tmp_path / "empty")) as reader:
        assert reader.fraction == 1


def test_progress_of_a_pipe_is_unknown(pipe: Pipe) -> None:
    assert pipe.reader.fraction is None
    pipe.end()


def test_streams_in_memory_can_be_read() -> None:
    """Guards: library users and test runners without a file descriptor."""
    with LineReader(io.BytesIO(b"a\nb\nc"), "memory") as reader:
        assert list(reader.batches(2)) == [[(1, b"a"), (2, b"b")], [(3, b"c")]]
        assert reader.fraction is None


def test_inputs_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    """Guards: tracebacks, and half a download taken for the whole."""
    assert refusal(tmp_path / "none") == "none: no such file: check the path"
    (tmp_path / "folder").mkdir()
    assert refusal(tmp_path / "folder") == "folder: is a folder: give a file"
    cut = tmp_path / "in.gz"
    cut.write_bytes(gzip.compress(b"a\nb\n")[:-4])
    assert refusal(cut) == "in.gz:3: damaged or cut short gzip data: fetch or compress the file again"
    cut.write_bytes(b"plain text\n")
    assert refusal(cut) == "in.gz: no gzip data: take .gz off its name, or fetch the file again"
    damaged = bytearray(gzip.compress(os.urandom(1000)))
    damaged[12] ^= 0xFF
    cut.write_bytes(damaged)
    assert refusal(cut).startswith("in.gz:1: damaged")


def test_a_file_without_permission_is_refused() -> None:
    """Guards: a traceback."""

    def check(folder: Path) -> None:
        (folder / "in").touch(mode=0)
        assert refusal(folder / "in").startswith("in: cannot be opened (permission denied)")

    without_rights(check)


def test_a_terminal_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: a program that seems to hang because it waits for someone to type."""
    import pty

    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "r") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        with pytest.raises(OptionError, match=r"^standard input is a terminal: give a file, or pipe"):
            open_input("-")
    os.close(ours)


def test_no_standard_input_at_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(OptionError, match="no standard input"):
        open_input("-")


def test_bad_lines_raise_or_are_handed_over(tmp_path: Path) -> None:
    """Guards: line numbers of errors, good records lost beside bad ones, empty batches."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\n{"items":["a"]}\nbad\n{}\n{"items":["b"]}\n')
    with LineReader.open(str(path)) as reader, pytest.raises(RecordError, match=":3: not JSON"):
        list(read_records(reader, 2, RecordFormat(), None))
    bad: list[tuple[str, bytes]] = []
    with LineReader.open(str(path)) as reader:
        batches = list(read_records(reader, 1, RecordFormat(), None, lambda e, line: bad.append((e.where or "", line))))
    assert [[record.titles for record in batch] for batch in batches] == [[["a"]], [["b"]]]
    assert batches[1][0].where == f"{path}:5"
    assert bad == [(f"{path}:3", b"bad"), (f"{path}:4", b"{}")]
