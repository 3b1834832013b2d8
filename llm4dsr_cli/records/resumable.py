"""The resumable output: a file whose first part outlives an interrupt, so that a later run can go on with it."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import orjson

from llm4dsr_cli import parts
from llm4dsr_cli.errors import OptionError, OutputError
from llm4dsr_cli.files import AtomicFile, check_name, followed
from llm4dsr_cli.locks import lock, opened_locked
from llm4dsr_cli.records.record import Record
from llm4dsr_cli.records.writer import OutputFile

# What the result depends on: the name that a person knows it by, and its value or hash.
State = Mapping[str, str | None]


class ResumableFile(OutputFile):
    """Lines written to ``OUT.part``, which takes the target's place when the block ends without an exception.

    After an exception, a crash or a kill, ``OUT.part`` and ``OUT.part.json`` stay: what was written, and the state of
    everything it depends on. With ``resume`` a later run continues it. While the block runs, ``OUT.part.json`` is
    locked, so that no other run writes to the same files.

    Attributes:
        kept_records: how many records of an earlier run ``remaining`` has passed over.

    Raises:
        OptionError: the target is no regular file or compressed; a part is there and ``resume`` was not given; or it
            was, and what the result depends on has changed.
        OutputError: as for ``OutputFile``; another run is writing to the same files; or a file's name is too long.
    """

    def __init__(self, path: str | Path, state: State, *, resume: bool = False) -> None:
        super().__init__(path)
        if not can_resume(path):
            raise OptionError(
                f"{self.name} is compressed, or no regular file", remedy="leave out `resume`, or write a plain file"
            )
        self.kept_records = 0
        self._state = dict(state)
        self._resume = resume
        self._part, self._state_file = part_paths(path)
        self._file = AtomicFile(path, self._part)
        self._lock: BinaryIO | None = None  # OUT.part.json, open and locked
        self._good = 0  # bytes from the start that belong to the result
        self._peeked = 0
        self._cut = False
        check_part(path, resume=resume)
        if _has_content(self._part):
            self._check_state()

    def _check_state(self) -> None:
        try:
            before = orjson.loads(self._state_file.read_bytes())
        except (OSError, ValueError):
            before = None
        begun = f"{self._part} was begun"
        if not isinstance(before, dict):
            raise self._refusal(f"nothing tells how {begun}")
        for name, value in self._state.items():
            if before.get(name) != value:
                raise self._refusal(f"{name} changed since {begun}", "give the same again, or ")

    def _refusal(self, what: str, or_else: str = "") -> OptionError:
        return OptionError(what, remedy=f"{or_else}{_removal(self._part, self._state_file)}, and leave out `resume`")

    def _open(self) -> BinaryIO:
        self._lock = opened_locked(self._state_file)
        if self._lock is None:
            raise _being_written(self.name)
        # Another run may have begun and stopped since this object was made.
        if _has_content(self._part):
            if not self._resume:
                raise _left_over(self._part, self._state_file)
            self._check_state()
        else:
            self._part.unlink(missing_ok=True)
            self._lock.truncate(0)
            self._lock.write(orjson.dumps(self._state, option=orjson.OPT_INDENT_2))
            self._lock.flush()
            os.fsync(self._lock.fileno())
            assert self._file is not None
            self._file.create()
            for path in (self._part, self._state_file):
                parts.watch(path)
        return self._part.open("r+b")

    def remaining(
        self,
        batches: Iterable[list[Record]],
        written_for: Callable[[bytes, Record], bool],
        passed_over: Callable[[list[bytes], list[Record]], None] = lambda lines, records: None,
    ) -> Iterator[list[Record]]:
        """The batches that are not kept whole; the first line written for one of them cuts the rest off.

        Whole batches, because a record's score depends a little on those beside it.

        Args:
            written_for: whether a line was written for a record.
            passed_over: told of each batch that is kept, and of its lines.
        """
        iterator = iter(batches)
        for batch in iterator:
            lines = self._peek(len(batch))
            if len(lines) < len(batch) or not all(map(written_for, lines, batch)):
                yield batch
                break
            self._good = self._peeked
            self.kept_records += len(batch)
            passed_over(lines, batch)
        yield from iterator

    def _peek(self, n: int) -> list[bytes]:
        """The next n lines that are kept, or fewer, without their endings."""
        file = self._raw_stream()
        file.seek(self._good)
        lines = [line[:-1] for line in (file.readline() for _ in range(n)) if line.endswith(b"\n")]
        self._peeked = file.tell()
        return lines

    def _cut_to_good(self) -> None:
        if not self._cut:
            self._raw_stream().seek(self._good)
            self._raw_stream().truncate()
            self._cut = True

    def write(self, line: bytes) -> None:
        """Hand ``line`` and a newline, after what ``remaining`` passed over, to the operating system.

        That keeps them if this process is killed.

        Raises:
            OutputError: it fails, or something else wrote to the part or removed it.
        """
        with self._explained():
            self._cut_to_good()
            self._check_part()
            self._raw_stream().write(line + b"\n")
            self._raw_stream().flush()
        self._unwatch()
        self._good += len(line) + 1

    def _unwatch(self) -> None:
        for path in (self._part, self._state_file):
            parts.keep(path)

    def flush(self) -> None:
        """Nothing waits in a buffer."""

    def _check_part(self) -> None:
        """Not every file system knows locks, and not every program asks for one."""
        ours = os.fstat(self._raw_stream().fileno())
        try:
            intact = ours.st_size == self._good and os.path.samestat(ours, self._part.stat())
        except FileNotFoundError:
            intact = False
        if not intact:
            raise OutputError(
                "something else wrote to it or removed it",
                where=str(self._part),
                remedy="see what that was, and run again",
            )

    def _finish(self) -> None:
        self._cut_to_good()
        self._check_part()
        super()._finish()

    def put_in_place(self) -> None:
        """Let ``OUT.part`` become the target, and remove the state."""
        super().put_in_place()
        self._unlock(remove=True)

    def _discard(self) -> None:
        """Close the file and keep it, unless it is empty; the exception on its way says more than one from here."""
        if self._lock is None:
            return
        if self._raw is not None:
            with contextlib.suppress(OSError, ValueError):
                self._raw.close()
        kept = _has_content(self._part)
        if not kept:
            with contextlib.suppress(OSError):
                self._part.unlink(missing_ok=True)
        self._unlock(remove=not kept)

    def _unlock(self, *, remove: bool) -> None:
        """Let other runs write to these files; with ``remove``, take away the state."""
        file, self._lock = self._lock, None
        if file is None:
            return
        self._unwatch()
        # While it is locked: afterwards it may be another run's. Windows removes no open file.
        if remove and os.name != "nt":
            with contextlib.suppress(OSError):
                self._state_file.unlink()
        file.close()
        if remove and os.name == "nt":
            with contextlib.suppress(OSError):
                self._state_file.unlink()

    @property
    def kept_path(self) -> Path | None:
        """Where the part is kept; None when nothing is, or what is there is not this run's."""
        return self._part if self._raw is not None and self._part.exists() else None


class ScratchFile(ResumableFile):
    """A resumable file of lines that a run needs for itself: what it is named after is never made.

    When the block ends without an exception the part is gone, unless ``kept`` is true.
    """

    kept = False

    @property
    def part(self) -> Path:
        """Where the lines are while the block runs."""
        return self._part

    def finish(self) -> None:
        """Cut off what an earlier run left behind the last line. Raises OutputError when that fails."""
        with self._explained():
            self._cut_to_good()
            self._check_part()

    def put_in_place(self) -> None:
        """Close the part, and remove it unless it is to be kept."""
        if not self.kept:
            self.forget()
        self._discard()

    def forget(self) -> None:
        """Empty the part, so that nothing is kept of it."""
        self._raw_stream().truncate(0)


def part_paths(path: str | Path) -> tuple[Path, Path]:
    """The part and the state file that belong to a target."""
    target = followed(path)
    return target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")


def can_resume(path: str | Path) -> bool:
    """Whether a target is an uncompressed regular file, or would become one."""
    return followed(path).suffix not in (".gz", ".zst") and _can_be_regular(path)


def _can_be_regular(path: str | Path) -> bool:
    target = followed(path)
    return str(path) != "-" and (target.is_file() or not target.exists())


def scratch_name(path: str | Path) -> str | None:
    """What a ``ScratchFile`` of scores is named after that belongs to a target.

    None where there can be no such file beside it: it is no regular file, or of a very long name.
    """
    name = f"{path}.scores"
    try:
        for part in part_paths(name):
            check_name(part)
    except OutputError:
        return None
    return name if _can_be_regular(path) and can_resume(name) else None


def check_part(path: str | Path, *, resume: bool) -> None:
    """Refuse to begin where another run is, or has stopped.

    Raises:
        OptionError: an earlier run left a part that would be lost without ``resume``.
        OutputError: a run is writing to it; or the part's name, or its state's, is too long for the file system.
    """
    part, state = part_paths(path)
    check_name(part)
    check_name(state)
    with contextlib.suppress(OSError), state.open("r+b") as file:  # it may not be there
        if not lock(file):
            raise _being_written(str(path))
    if _has_content(part) and not resume:
        raise _left_over(part, state)


def _has_content(part: Path) -> bool:
    return part.exists() and part.stat().st_size > 0


def _being_written(name: str) -> OutputError:
    return OutputError("another run is writing it", where=name, remedy="wait until it ends, or choose another name")


def _left_over(part: Path, state: Path) -> OptionError:
    return OptionError(
        f"{part} is there from a run that did not end",
        remedy=f"go on with `resume`, or begin again after: {_removal(part, state)}",
    )


def _removal(part: Path, state: Path) -> str:
    return f"rm {shlex.quote(str(part))} {shlex.quote(str(state))}"
