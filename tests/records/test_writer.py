"""The writer: a target is either the whole new file or what it was before."""

from __future__ import annotations

import errno
import gzip
import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llm4dsr_cli.errors import OutputError
from llm4dsr_cli.records.writer import OutputFile, together

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes, links and FIFOs of POSIX")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
needs_full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def run(program: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, env=ENVIRONMENT, stderr=subprocess.PIPE, check=False, **options)


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_a_file_appears_whole_and_alone(tmp_path: Path, name: str) -> None:
    """Guards: a reader that finds half a file, and temporary files left over."""
    path = tmp_path / name
    with OutputFile(path) as output:
        output.write(b"a")
        output.flush()
        assert not path.exists()
        (part,) = files(tmp_path)
        assert re.fullmatch(r"\.out.*\.[0-9a-f]+\.tmp\.(jsonl|gz)", part)
        output.write(b"b")
    assert files(tmp_path) == {name}
    content = path.read_bytes()
    assert (gzip.decompress(content) if name.endswith(".gz") else content) == b"a\nb\n"


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_after_any_exception_the_target_is_what_it_was(tmp_path: Path, name: str, error: type[BaseException]) -> None:
    """Guards: a good result overwritten by the first half of a failed run."""
    path = tmp_path / name
    path.write_bytes(b"before")
    with pytest.raises(error), OutputFile(path) as output:
        output.write(b"a")
        raise error
    assert path.read_bytes() == b"before"
    assert files(tmp_path) == {name}


def test_the_same_lines_give_the_same_gzip_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: time or name inside the .gz, which change its checksum on every run."""
    for name, now in (("a.gz", 1e9), ("b.gz", 1.1e9)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        with OutputFile(tmp_path / name) as output:
            output.write(b"line")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_an_existing_file_keeps_its_mode(tmp_path: Path) -> None:
    """Guards: private data that everyone may read after one run."""
    path = tmp_path / "out"
    path.touch()
    path.chmod(0o640)
    with OutputFile(path) as output:
        (part,) = (entry for entry in tmp_path.iterdir() if entry != path)
        assert stat.S_IMODE(part.stat().st_mode) == 0o640
        output.write(b"a")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_new_file_has_the_usual_mode(tmp_path: Path) -> None:
    """Guards: mode 600 of temporary files on results that others are to read."""
    with OutputFile(tmp_path / "out"):
        pass
    (tmp_path / "usual").touch()
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path, exists: bool) -> None:
    """Guards: a link into another folder replaced by a file, its target left stale."""
    folder = tmp_path / "data"
    folder.mkdir()
    if exists:
        (folder / "real").write_bytes(b"before")
    link = tmp_path / "out"
    link.symlink_to(folder / "real")
    with OutputFile(link) as output:
        output.write(b"a")
        assert files(tmp_path) == {"data", "out"}
    assert link.is_symlink()
    assert (folder / "real").read_bytes() == b"a\n"
    assert files(folder) == {"real"}


def test_devices_and_fifos_are_written_directly(tmp_path: Path) -> None:
    """Guards: a device replaced by a file, which root's run would do; a FIFO's reader that waits for ever.

    The device is a terminal, whose folder takes no files: a run as root that fails here must not harm /dev.
    """
    ours, theirs = os.openpty()
    with OutputFile(os.ttyname(theirs)) as output:
        output.write(b"a")
    assert os.read(ours, 100) == b"a\r\n"
    os.close(theirs)
    os.close(ours)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    received: list[bytes] = []
    with_first_line = threading.Event()

    def receive() -> None:
        with fifo.open("rb") as file:
            received.append(file.readline())
            with_first_line.set()
            received.append(file.read())

    reader = threading.Thread(target=receive)
    reader.start()
    with OutputFile(fifo) as output:
        output.write(b"a")
        output.flush()
        assert with_first_line.wait(10)
        output.write(b"b")
    reader.join()
    assert received == [b"a\n", b"b\n"]
    assert fifo.is_fifo()


@pytest.fixture
def full_device(tmp_path: Path) -> Path:
    """A device that is always full; of our own where /dev could be harmed."""
    if not os.access("/dev", os.W_OK):
        return Path("/dev/full")
    device = tmp_path / "full"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, Path("/dev/full").stat().st_rdev)
        device.open("wb").close()
    except OSError as error:
        pytest.skip(f"no device of our own: {error}")
    return device


@needs_full_device
def test_a_full_device_is_one_sentence(full_device: Path) -> None:
    """Guards: a traceback, or silence, when what is buffered fails only at the flush or the close."""
    sentence = f"^{re.escape(str(full_device))}: no space left on device: free some space or choose another folder$"
    with pytest.raises(OutputError, match=sentence), OutputFile(full_device) as output:
        output.write(b"a")
        output.flush()
    for length in (1, 10_000_000):
        with pytest.raises(OutputError, match=sentence), OutputFile(full_device) as output:
            output.write(b"a" * length)


@pytest.mark.parametrize("name", ["out", "out.gz"])
def test_a_full_disk_leaves_the_target_as_it_was(tmp_path: Path, name: str) -> None:
    """Guards: half a file in place of a whole one, and the full disk filled up with temporary files."""
    path = tmp_path / name
    path.write_bytes(b"before")
    program = (
        "import os, resource, signal, sys\n"
        "from llm4dsr_cli.errors import OutputError\n"
        "from llm4dsr_cli.records.writer import OutputFile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try:\n"
        "    with OutputFile(sys.argv[1]) as output:\n"
        "        for _ in range(int(sys.argv[2])):\n"
        "            output.write(os.urandom(1000))\n"
        "except OutputError as error:\n"
        "    sys.exit(str(error))\n"
    )
    for lines in ("1000", "53"):  # fails in write, fails in the last flush
        done = run(program, str(path), lines)
        sentence = f"{path}: file too large: free some space or choose another folder; nothing was changed\n"
        assert done.stderr.decode() == sentence
        assert path.read_bytes() == b"before"
        assert files(tmp_path) == {name}


def test_a_failing_fsync_leaves_the_target_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: a file put in place that the disk never took."""

    def fail(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    path = tmp_path / "out.jsonl"
    with pytest.raises(OutputError) as caught, OutputFile(path) as output:
        output.write(b"a")
    sentence = "no space left on device: free some space or choose another folder; nothing was changed"
    assert str(caught.value) == f"{path}: {sentence}"
    assert files(tmp_path) == set()


WRITE_TO_STDOUT = (
    "import os, sys\n"
    "from llm4dsr_cli.errors import OutputError\n"
    "from llm4dsr_cli.records.writer import OutputFile\n"
    "try:\n"
    "    with OutputFile('-') as output:\n"
    "        output.write(b'a'); output.flush()\n"
    "        if len(sys.argv) > 1:\n"
    "            os.read(int(sys.argv[1]), 1)\n"
    "        output.write(b'b')\n"
    "    sys.stdout.write('still open\\n')\n"
    "except (OutputError, BrokenPipeError) as error:\n"
    "    sys.stderr.write(f'{type(error).__name__} {error}')\n"
    "    sys.stderr.flush(); os._exit(1)\n"
)


def test_standard_output_gets_lines_at_each_flush_and_stays_open() -> None:
    """Guards: a slow stream held back in a buffer; stdout closed under whoever writes next."""
    assert run(WRITE_TO_STDOUT, stdout=subprocess.PIPE).stdout == b"a\nb\nstill open\n"
    ours, theirs = os.pipe()
    start, go = os.pipe()
    command = [sys.executable, "-c", WRITE_TO_STDOUT, str(start)]
    with subprocess.Popen(command, stdout=theirs, pass_fds=[start], env=ENVIRONMENT) as process:
        os.close(theirs)
        assert os.read(ours, 100) == b"a\n"
        os.write(go, b"!")
        assert process.wait(30) == 0
    for fd in (ours, start, go):
        os.close(fd)


def test_a_broken_pipe_passes_through() -> None:
    """Guards: `| head -1` reported as an error; the command line ends quietly on BrokenPipeError."""
    ours, theirs = os.pipe()
    os.close(ours)
    assert run(WRITE_TO_STDOUT, stdout=theirs).stderr.startswith(b"BrokenPipeError")
    os.close(theirs)


@needs_full_device
def test_a_full_standard_output_is_one_sentence() -> None:
    with Path("/dev/full").open("wb") as full:
        error = run(WRITE_TO_STDOUT, stdout=full).stderr
    assert error == b"OutputError stdout: no space left on device: free some space"


def test_outputs_of_one_run_appear_together_and_the_first_one_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: edits that no audit tells of, after a kill at the wrong moment, and half of a run's results after a full
    disk."""
    names = ["out", "audit", "report.gz"]
    placed: list[str] = []
    replace = Path.replace

    def record(self: Path, target: Path) -> Path:
        placed.append(Path(target).name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", record)
    outputs = [OutputFile(tmp_path / name) for name in names]
    with together(outputs):
        for output in outputs:
            output.write(b"a")
        assert not files(tmp_path) & set(names)
    assert placed == ["audit", "report.gz", "out"] and files(tmp_path) == set(names)

    for name in names:
        (tmp_path / name).write_bytes(b"before")
    synced: list[int] = []

    def fail_at_last(fd: int) -> None:
        synced.append(fd)
        if len(synced) == len(names):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail_at_last)
    outputs = [OutputFile(tmp_path / name) for name in names]
    with pytest.raises(OutputError, match="no space left"), together(outputs):
        outputs[0].write(b"a")
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"before"}
    assert files(tmp_path) == set(names)


def test_an_audit_that_cannot_take_its_place_is_kept_and_named(tmp_path: Path) -> None:
    """Guards: edited records in place, their finished audit unlinked, and "nothing was changed"."""
    out, audit, report = tmp_path / "out.jsonl", tmp_path / "audit.jsonl", tmp_path / "report.json"
    out.write_bytes(b"before")
    with pytest.raises(OutputError) as caught, together([OutputFile(out), OutputFile(report), OutputFile(audit)]):
        audit.mkdir()
    said = str(caught.value)
    kept = {name: next(tmp_path.glob(f"{name}.*.kept.jsonl")) for name in ("out", "audit")}
    assert said == (
        f"{audit}: is a directory: what was written is in {kept['audit']}; "
        f"what is to be {out} is in {kept['out']}; {report} is new"
    )
    assert out.read_bytes() == b"before" and report.exists()
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_records_that_cannot_take_their_place_are_kept(tmp_path: Path) -> None:
    out, audit = tmp_path / "out", tmp_path / "audit"
    with pytest.raises(OutputError) as caught, together([OutputFile(out), OutputFile(audit)]):
        out.mkdir()
    (kept,) = tmp_path.glob("out.*.kept")
    assert str(caught.value) == f"{out}: is a directory: what was written is in {kept}; {audit} is new"


def test_what_is_kept_is_whole(tmp_path: Path) -> None:
    """Guards: a kept file without its end, which was still in a buffer; alone, and compressed."""
    out = tmp_path / "out.jsonl.gz"
    with pytest.raises(OutputError), OutputFile(out) as output:
        output.write(b"line")
        out.mkdir()
    (kept,) = tmp_path.glob("*.kept.gz")
    assert gzip.decompress(kept.read_bytes()) == b"line\n"
