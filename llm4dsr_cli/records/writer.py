"""The writer: lines to a file that appears only when it is whole, or to standard output."""

from __future__ import annotations

import contextlib
import gzip
import os
import stat
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, TextIO, cast

from llm4dsr_cli.errors import OptionError, OutputError
from llm4dsr_cli.files import AtomicFile, check_target, explained
from llm4dsr_cli.records import zstd
from llm4dsr_cli.signals import held
from llm4dsr_cli.streams import check_out


class OutputFile:
    """Lines written to one place; a context manager.

    ``-`` is standard output. A file is written beside its target and takes the target's place only when the block
    ends without an exception (``files.AtomicFile``); whatever the exception (an exit or an interrupt too), the target
    stays as it was. A target that exists and is no regular file (a device, a FIFO) is written directly. ``.gz`` and
    ``.zst`` are compressed. ``name`` is the output's name for messages.

    Raises OutputError at construction when the folder is missing or the target cannot be written, later when writing
    fails. BrokenPipeError passes through.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = "stdout" if str(path) == "-" else str(path)
        self._target: Path | None = None  # None: standard output
        self._file: AtomicFile | None = None  # None: written directly
        self._raw: BinaryIO | None = None
        self._packed: BinaryIO | None = None
        if str(path) == "-":
            check_out()
        else:
            with self._explained():
                self._target = check_target(path)
                if self._target.suffix == ".zst":
                    zstd.check()
                if self._target.is_file() or not self._target.exists():
                    self._file = AtomicFile(self._target)

    def __enter__(self) -> OutputFile:
        try:
            with self._explained():
                self._raw = self._open()
                if self._target is not None and self._target.suffix == ".gz":
                    # neither name nor time: the same records give the same bytes
                    self._packed = cast(BinaryIO, gzip.GzipFile(filename="", mode="wb", fileobj=self._raw, mtime=0))
                elif self._target is not None and self._target.suffix == ".zst":
                    self._packed = zstd.writing(self._raw)
        except BaseException:
            self._discard()
            raise
        return self

    def _open(self) -> BinaryIO:
        if self._target is None:
            return sys.stdout.buffer
        if self._file is None:
            return self._target.open("wb")
        self._file.create()
        return self._file.path.open("wb")

    @property
    def appears_whole(self) -> bool:
        """Whether what is written takes the target's place later; False when it has, or is written directly."""
        return self._file is not None

    def write(self, line: bytes) -> None:
        """Write ``line`` and a newline. Raises OutputError when that fails."""
        self.write_bytes(line + b"\n")

    def write_bytes(self, data: bytes) -> None:
        """Write these bytes. Raises OutputError when that fails."""
        with self._explained():
            self._stream().write(data)

    def flush(self) -> None:
        """Hand what is written to whoever reads along; nobody does before a file is in its place."""
        if self._file is None:
            with self._explained():
                self._stream().flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._discard()
            return
        try:
            self.finish()
            self.put_in_place()
        except BaseException:
            self._discard()
            raise

    def finish(self) -> None:
        """Write all that is still in memory; nothing can be written afterwards. Raises OutputError when it fails."""
        with self._explained():
            if not self._raw_stream().closed:
                self._finish()

    def put_in_place(self) -> None:
        """Let what was written and finished take the target's place.

        Raises:
            OutputError: that fails; what was written is kept, and the error tells where.
        """
        if self._file is None:
            return
        try:
            with self._explained():
                self._file.put_in_place()
        except OutputError as error:
            raise OutputError(error.what, where=self.name, remedy=f"what was written is in {self.keep()}") from error
        self._file = None

    def keep(self) -> Path | None:
        """Leave what was written and finished beside its target; where that is, None when there is no such file."""
        file, self._file = self._file, None
        return None if file is None else file.keep()

    def _stream(self) -> BinaryIO:
        return self._packed or self._raw_stream()

    def _raw_stream(self) -> BinaryIO:
        if self._raw is None:
            raise ValueError(f"{self.name} is not open")
        return self._raw

    def _finish(self) -> None:
        raw = self._raw_stream()
        if self._packed is not None:
            self._packed.close()
        raw.flush()
        if self._file is not None:
            os.fsync(raw.fileno())
        if self._target is not None:
            raw.close()

    def _discard(self) -> None:
        """Close and remove what there is; the exception on its way says more than one from here would."""
        for stream in (self._packed, self._raw):
            if stream is not None and self._target is not None:
                with contextlib.suppress(OSError, ValueError):
                    stream.close()
        if self._file is not None:
            self._file.discard()

    def _explained(self) -> contextlib.AbstractContextManager[None]:
        return explained(self.name, atomic=self._file is not None)


@contextlib.contextmanager
def together(outputs: Sequence[OutputFile]) -> Iterator[None]:
    """Open several outputs of one run, which appear together: none before all are written whole.

    The first one takes its place last: records are never new without their audit.

    Raises what ``OutputFile`` raises; after any exception every target is what it was. Only when an output cannot take
    its place (a folder has that name by now) those before it are new already; then the rest is kept, and the error says
    where.
    """
    with contextlib.ExitStack() as stack:
        for output in outputs:
            stack.enter_context(output)
        yield
        for output in outputs:
            output.finish()
        with held():
            _put_in_place([*outputs[1:], *outputs[:1]])


def _put_in_place(outputs: Sequence[OutputFile]) -> None:
    for number, output in enumerate(outputs):
        try:
            output.put_in_place()
        except OutputError as error:  # noqa: PERF203 - at most once
            kept = [(other.name, other.keep()) for other in outputs[number + 1 :]]
            told = [str(error.remedy), *(f"what is to be {name} is in {path}" for name, path in kept if path)]
            told += [f"{other.name} is new" for other in outputs[:number]]
            raise OutputError(error.what, where=error.where, remedy="; ".join(told)) from error


def check_paths(inputs: Mapping[str, str | Path], outputs: Mapping[str, str | Path]) -> None:
    """Refuse an output that would overwrite an input or another output.

    Both map an option's name to its path; ``-`` is standard input, or standard output, which the shell may have opened
    on a file. The null device may be there any number of times. Raises OptionError, naming both options.
    """
    # Standard input has no name: as an output, - is another stream.
    others = [
        (name, _Place(None if str(path) == "-" else str(path), _status(path, sys.stdin)))
        for name, path in inputs.items()
    ]
    for name, path in outputs.items():
        place = _Place(str(path), _status(path, sys.stdout))
        for other, other_place in others:
            if place.may_be(other_place) and not _is_null(path):
                what = "standard output" if place.name == other_place.name == "-" else f"the same file, {path}"
                raise OptionError(f"{other} and {name} are {what}", remedy=f"give {name} another path")
        others.append((name, place))


class _Place(NamedTuple):
    """Where something is read or written: its path, and what is there already."""

    name: str | None
    status: os.stat_result | None

    def may_be(self, other: _Place) -> bool:
        """Whether two places are one file, or would become one."""
        if self.status is not None and other.status is not None:
            return os.path.samestat(self.status, other.status)
        if self.name is None or other.name is None or self.status is not None or other.status is not None:
            return False
        return self.name == other.name if "-" in (self.name, other.name) else _same_new(self.name, other.name)


def _status(path: str | Path, stream: TextIO | None) -> os.stat_result | None:
    """What is there; None when nothing is, or no file behind a standard stream."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a stream that is None, or in memory
        if str(path) != "-":
            return Path(path).stat()
        status = os.fstat(stream.fileno())  # type: ignore[union-attr]
        return status if stat.S_ISREG(status.st_mode) else None
    return None


def _same_new(one: str, other: str) -> bool:
    """Whether two paths that lead nowhere yet would lead to one file.

    Their folders are compared as such, for one may be mounted twice; their names as if the disk did not tell
    capitals or the kinds of Unicode apart, for many do not.
    """
    ends = [Path(os.path.realpath(path)) for path in (one, other)]
    names = [unicodedata.normalize("NFC", end.name).casefold() for end in ends]
    with contextlib.suppress(OSError):  # a folder that is missing is told by whoever opens the file
        return names[0] == names[1] and ends[0].parent.samefile(ends[1].parent)
    return False


def _is_null(path: str | Path) -> bool:
    return os.path.normcase(os.path.realpath(path)) == os.path.normcase(os.path.realpath(os.devnull))
