"""The resumable output: a file whose first part outlives an interrupt, so that a later run can go on with it."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import orjson

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.files import atomic_path
from llm4dsr_cli.records.record import Record
from llm4dsr_cli.records.writer import OutputFile, followed

# What the result depends on: the name that a person knows it by, and its value or hash.
State = Mapping[str, str | None]


class ResumableFile(OutputFile):
    """Lines written to ``OUT.part``, which takes the target's place when the block ends without an exception.

    After an exception, a crash or a kill, ``OUT.part`` and ``OUT.part.json`` stay: what was written, and the state of
    everything it depends on. With ``resume`` a later run continues it.

    Attributes:
        kept_records: how many records of an earlier run ``remaining`` has passed over.

    Raises:
        OptionError: the target is no regular file or compressed; a part is there and ``resume`` was not given; or it
            was, and what the result depends on has changed.
        OutputError: as for ``OutputFile``.
    """

    def __init__(self, path: str | Path, state: State, *, resume: bool = False) -> None:
        super().__init__(path)
        if not can_resume(path):
            raise OptionError(
                f"{self.name} is compressed, or no regular file", remedy="leave --resume out, or write a plain file"
            )
        check_part(path, resume=resume)
        self.kept_records = 0
        self._state = dict(state)
        self._kept_part, self._state_file = part_paths(path)
        self._good = 0  # bytes from the start that belong to the result
        self._peeked = 0
        self._cut = False
        self._resumes = resume and self._kept_part.exists()
        if self._resumes:
            self._check_state()

    def _check_state(self) -> None:
        try:
            before = orjson.loads(self._state_file.read_bytes())
        except (OSError, ValueError):
            before = None
        begun = f"{self._kept_part} was begun"
        if not isinstance(before, dict):
            raise self._refusal(f"nothing tells how {begun}")
        for name, value in self._state.items():
            if before.get(name) != value:
                raise self._refusal(f"{name} changed since {begun}", "give the same again, or ")

    def _refusal(self, what: str, or_else: str = "") -> OptionError:
        return OptionError(
            what, remedy=f"{or_else}{_removal(self._kept_part, self._state_file)}, and leave out --resume"
        )

    def _open(self) -> None:
        if self._resumes:
            self._raw = self._kept_part.open("r+b")
        else:
            with atomic_path(self._state_file) as file:
                file.write_bytes(orjson.dumps(self._state, option=orjson.OPT_INDENT_2))
            self._raw = self._kept_part.open("x+b")
        self._part = self._kept_part
        if self._mode is not None:
            self._part.chmod(self._mode)

    def remaining(
        self, batches: Iterable[list[Record]], original: Callable[[bytes], bytes | None]
    ) -> Iterator[list[Record]]:
        """The batches that are not kept whole; the first line written for one of them cuts the rest off.

        Whole batches, because a record's score depends a little on those beside it.

        Args:
            original: gives a record's line of a line that was written for it.
        """
        iterator = iter(batches)
        for batch in iterator:
            if [original(line) for line in self._peek(len(batch))] != [record.line for record in batch]:
                yield batch
                break
            self._good = self._peeked
            self.kept_records += len(batch)
        yield from iterator

    def _peek(self, n: int) -> list[bytes]:
        """The next n lines that are kept, or fewer, without their endings."""
        file = self._file()
        file.seek(self._good)
        lines = [line[:-1] for line in (file.readline() for _ in range(n)) if line.endswith(b"\n")]
        self._peeked = file.tell()
        return lines

    def _cut_to_good(self) -> None:
        if not self._cut:
            self._file().seek(self._good)
            self._file().truncate()
            self._cut = True

    def _file(self) -> BinaryIO:
        if self._raw is None:
            raise ValueError(f"{self.name} is not open")
        return self._raw

    def write(self, line: bytes) -> None:
        """Write ``line`` and a newline, after what ``remaining`` passed over. Raises OutputError when that fails."""
        with self._explained():
            self._cut_to_good()
        super().write(line)

    def flush(self) -> None:
        """Hand what is written to the operating system, which keeps it if this process is killed."""
        with self._explained():
            self._stream().flush()

    def _finish(self) -> None:
        self._cut_to_good()
        super()._finish()

    def put_in_place(self) -> None:
        """Let ``OUT.part`` become the target, and remove the state."""
        super().put_in_place()
        with contextlib.suppress(OSError):
            self._state_file.unlink()

    def _discard(self) -> None:
        """Close the file and keep it, unless it is empty; the exception on its way says more than one from here."""
        if self._raw is None:
            return
        with contextlib.suppress(OSError, ValueError):
            self._raw.close()
        with contextlib.suppress(OSError):
            if self._part is not None and not self._part.stat().st_size:
                self._part.unlink()
                self._state_file.unlink()

    @property
    def kept_path(self) -> Path | None:
        """Where the part is kept; None when nothing is."""
        return self._kept_part if self._kept_part.exists() else None


def part_paths(path: str | Path) -> tuple[Path, Path]:
    """The part and the state file that belong to a target."""
    target = followed(path)
    return target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")


def can_resume(path: str | Path) -> bool:
    """Whether a target is an uncompressed regular file, or would become one."""
    target = followed(path)
    return str(path) != "-" and target.suffix not in (".gz", ".zst") and (target.is_file() or not target.exists())


def check_part(path: str | Path, *, resume: bool) -> None:
    """Raises OptionError when an earlier run left a part that would be lost without ``--resume``."""
    part, state = part_paths(path)
    if part.exists() and not resume:
        raise OptionError(
            f"{part} is there from a run that did not end",
            remedy=f"go on with --resume, or begin again after: {_removal(part, state)}",
        )


def _removal(part: Path, state: Path) -> str:
    return f"rm {shlex.quote(str(part))} {shlex.quote(str(state))}"
