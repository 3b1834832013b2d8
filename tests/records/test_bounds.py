"""Bounds in bytes of what is read."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import PATIENCE, run, write
from hypothesis import given
from hypothesis import strategies as st

from llm4dsr_cli.errors import CatalogError, Llm4dsrError
from llm4dsr_cli.records import bounds
from llm4dsr_cli.records.bounds import BoundedQueue, bounded_batches, bounded_lines
from llm4dsr_cli.records.reader import LineReader


@given(content=st.binary(max_size=60), longest=st.integers(1, 20))
def test_lines_are_those_of_the_stream_up_to_the_first_that_is_too_long(content: bytes, longest: int) -> None:
    """Guards: lines that are cut, lost or joined by a bound that they do not reach."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "LONGEST_LINE", longest)
        lines = list(io.BytesIO(content))
        too_long = [number for number, line in enumerate(lines, 1) if len(line) > longest]
        if too_long:
            with pytest.raises(CatalogError, match=f"^name:{too_long[0]}: longer than 0 MB"):
                list(bounded_lines(io.BytesIO(content), "name", CatalogError))
        else:
            assert list(bounded_lines(io.BytesIO(content), "name")) == lines


@given(lines=st.lists(st.tuples(st.integers(), st.binary(max_size=30)), max_size=40), size=st.integers(1, 8))
def test_batches_are_of_one_size_but_for_long_lines(lines: list[tuple[int, bytes]], size: int) -> None:
    """Guards: other batches, and so other scores, of ordinary data; and batches without a bound."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "BATCH_BYTES", 50)
        batches = list(bounded_batches(lines, size))
    assert [line for batch in batches for line in batch] == lines
    held = [[len(line) for _, line in batch] for batch in batches]
    assert all(len(batch) <= size and sum(batch[:-1]) < 50 for batch in held)
    assert all(len(batch) == size or sum(batch) >= 50 for batch in held[:-1])


def test_a_queue_is_full_of_lines_or_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: 128 lines of 64 MB that wait while the first one is scored."""
    monkeypatch.setattr(bounds, "BATCH_BYTES", 100)
    waiting: BoundedQueue[tuple[int, bytes] | None] = BoundedQueue(maxsize=3)
    for entry in ((1, b"a" * 60), (2, b"b" * 60)):
        assert not waiting.full()
        waiting.put(entry)
    assert waiting.full() and not waiting.empty()
    assert waiting.get() == (1, b"a" * 60)
    assert not waiting.full()
    waiting.put(None)
    waiting.put(None)
    assert waiting.full()
    assert [waiting.get() for _ in range(3)] == [(2, b"b" * 60), None, None]
    assert waiting.empty() and not waiting.full()


def test_long_lines_come_in_smaller_batches_from_files_and_pipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "BATCH_BYTES", 100)
    content = b"".join(b"%d" % n + b"x" * 40 + b"\n" for n in range(9))
    path = tmp_path / "in"
    path.write_bytes(content)
    with LineReader.open(path) as reader:
        from_file = list(reader.batches(8))
    assert [len(batch) for batch in from_file] == [3, 3, 3]
    ours, theirs = os.pipe()
    os.write(theirs, content)
    os.close(theirs)
    with LineReader(os.fdopen(ours, "rb"), "pipe") as reader:
        from_pipe = list(reader.batches(8))
    assert [line for batch in from_pipe for line in batch] == [line for batch in from_file for line in batch]
    assert max(map(len, from_pipe)) <= 3


# The largest memory that it ever had, in kB; the lines are of 5 MB, 60 of them. (getrusage tells that of the process
# that it was forked from, if it is larger.)
READ = """
import re, sys
from llm4dsr_cli.records.reader import LineReader
with LineReader.open(sys.argv[1]) as reader:
    assert sum(map(len, reader.batches(64))) == 60
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory as Linux counts it")
@pytest.mark.parametrize("piped", [False, True])
def test_memory_does_not_follow_64_long_lines(tmp_path: Path, piped: bool) -> None:
    """Guards: 1.9 GB for 64 lines of 10 MB."""
    path = tmp_path / "in.gz"
    path.write_bytes(gzip.compress((b"a" * 5_000_000 + b"\n") * 60))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    program = [sys.executable, "-c", READ, "-" if piped else str(path)]
    unpacked = gzip.decompress(path.read_bytes()) if piped else b""
    done = subprocess.run(program, input=unpacked, capture_output=True, env=environment, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) < 150_000


@pytest.mark.usefixtures("warm_environment")
@pytest.mark.parametrize("which", ["IN", "IN, bad lines skipped", "catalog.jsonl.gz", "catalog.csv.gz", "/dev/zero"])
def test_a_line_without_an_end_is_one_sentence(tmp_path: Path, engine: list[str], which: str) -> None:
    """Guards: MemoryError, or the system's killer, for a file of 65 kB that unpacks to a line of gigabytes."""
    bomb = gzip.compress(bytes(65_000_000))
    source, catalog, line = tmp_path / "in.jsonl", tmp_path / "catalog.jsonl", 2
    if which.startswith("catalog"):
        write(source, [{"items": [1]}])
        damaged = catalog = tmp_path / which
        catalog.write_bytes(
            gzip.compress(b"id,title\n" if ".csv" in which else b'{"id": 1, "title": "Alien"}\n') + bomb
        )
    else:
        write(catalog, [{"id": 1, "title": "Alien"}])
        damaged = source = tmp_path / "in.jsonl.gz"
        source.write_bytes(gzip.compress(b'{"items": [1]}\n') + bomb)
        if which == "/dev/zero":
            damaged, source, line = Path("/dev/zero"), Path("/dev/zero"), 1
    words = ["clean", source, tmp_path / "out", "--catalog", catalog, "--action", "drop", "--quiet", *engine]
    outcome = run(*words, *(["--on-error", "skip"] if "skipped" in which else []))
    outcome.failed(1, f"{damaged}:{line}: longer than 64 MB", "one sequence or item in each")
    assert not (tmp_path / "out").exists()


def test_the_bound_of_a_line_is_64_mb() -> None:
    with pytest.raises(Llm4dsrError, match=r"^x:1: longer than 64 MB: give a file of lines"):
        list(bounded_lines(io.BytesIO(bytes(64_000_001)), "x"))
    assert len(next(bounded_lines(io.BytesIO(bytes(64_000_000)), "x"))) == 64_000_000
