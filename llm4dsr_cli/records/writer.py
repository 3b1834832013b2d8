"""The writer: lines to a file that appears only when it is whole, or to standard output."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import secrets
import shlex
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from llm4dsr_cli.errors import OptionError, OutputError
from llm4dsr_cli.streams import check_out

_NO_SPACE = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class OutputFile:
    """Lines written to one place; a context manager.

    ``-`` is standard output. A file is written beside its target and takes the target's place only when the block
    ends without an exception; whatever the exception (an exit or an interrupt too), the target stays as it was. A
    target that exists and is no regular file (a device, a FIFO) is written directly. ``.gz`` is compressed.
    ``name`` is the output's name for messages.

    Raises OutputError at construction when the folder is missing or the target cannot be written, later when writing
    fails. BrokenPipeError passes through.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = "stdout" if str(path) == "-" else str(path)
        self._target: Path | None = None  # None: standard output
        self._mode: int | None = None  # of a file that is there already
        self._direct = True
        self._part: Path | None = None
        self._raw: BinaryIO | None = None
        self._gzip: gzip.GzipFile | None = None
        self._finished = False
        if str(path) == "-":
            check_out()
        else:
            with self._explained():
                self._check(followed(path))

    def _check(self, target: Path) -> None:
        self._target = target
        if target.suffix == ".zst":
            raise OutputError("zstd is not supported", where=self.name, remedy="write .gz, or pipe into zstd")
        if not target.parent.is_dir():
            raise OutputError(
                "its folder is missing", where=self.name, remedy=f"mkdir -p {shlex.quote(str(target.parent))}"
            )
        if target.is_dir():
            raise OutputError("is a folder", where=self.name, remedy="name a file in it")
        self._direct = target.exists() and not target.is_file()
        if target.exists():
            self._mode = stat.S_IMODE(target.stat().st_mode)
            if not os.access(target, os.W_OK):  # replacing it would work, and override its owner's wish
                raise OutputError(
                    "is write-protected", where=self.name, remedy="choose another name, or make it writable"
                )

    def __enter__(self) -> OutputFile:
        try:
            with self._explained():
                self._open()
        except BaseException:
            self._discard()
            raise
        return self

    def _open(self) -> None:
        if self._target is None:
            self._raw = sys.stdout.buffer
            return
        if self._direct:
            self._raw = self._target.open("wb")
        else:
            part = self._target.with_name(f".{self._target.name}.{secrets.token_hex(4)}.part")
            self._raw = part.open("xb")
            self._part = part
            if self._mode is not None:
                part.chmod(self._mode)
        if self._target.suffix == ".gz":
            # neither name nor time: the same records give the same bytes
            self._gzip = gzip.GzipFile(filename="", mode="wb", fileobj=self._raw, mtime=0)

    def write(self, line: bytes) -> None:
        """Write ``line`` and a newline. Raises OutputError when that fails."""
        with self._explained():
            self._stream().write(line + b"\n")

    def flush(self) -> None:
        """Hand what is written to whoever reads along; nobody does before a file is in its place."""
        if self._part is None:
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
        if not self._finished:
            with self._explained():
                self._finish()
            self._finished = True

    def put_in_place(self) -> None:
        """Let what was written and finished take the target's place."""
        if self._part is not None and self._target is not None:
            with self._explained():
                self._part.replace(self._target)
            self._part = None

    def _stream(self) -> BinaryIO | gzip.GzipFile:
        if self._raw is None:
            raise ValueError(f"{self.name} is not open")
        return self._gzip or self._raw

    def _finish(self) -> None:
        raw = self._raw
        if raw is None:
            return
        if self._gzip is not None:
            self._gzip.close()
        raw.flush()
        if self._target is None:
            return
        if self._part is not None:
            os.fsync(raw.fileno())
        raw.close()

    def _discard(self) -> None:
        """Close and remove what there is; the exception on its way says more than one from here would."""
        for stream in (self._gzip, self._raw):
            if stream is not None and self._target is not None:
                with contextlib.suppress(OSError, ValueError):
                    stream.close()
        if self._part is not None:
            with contextlib.suppress(OSError):
                self._part.unlink()
            self._part = None

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn an OSError into an OutputError, a broken pipe apart."""
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            reason = error.strerror or str(error)
            remedy = "free some space or choose another folder" if error.errno in _NO_SPACE else "choose another folder"
            raise OutputError(
                reason[:1].lower() + reason[1:],
                where=self.name,
                remedy=remedy if self._direct else f"{remedy}; nothing was changed",
            ) from error


def followed(path: str | Path) -> Path:
    """Where a link leads, so that it stays and what it points to is replaced.

    What is there and is no regular file keeps its name: /dev/fd/63 of a shell's >(command) leads nowhere.
    """
    path = Path(path)
    return path if path.exists() and not path.is_file() else Path(os.path.realpath(path))


@contextlib.contextmanager
def together(outputs: Sequence[OutputFile]) -> Iterator[None]:
    """Open several outputs of one run, which appear together and in this order: none before all are written whole.

    Raises what ``OutputFile`` raises; after any exception every target is what it was.
    """
    with contextlib.ExitStack() as stack:
        for output in outputs:
            stack.enter_context(output)
        yield
        for output in outputs:
            output.finish()
        for output in outputs:
            output.put_in_place()


def check_paths(inputs: Mapping[str, str | Path], outputs: Mapping[str, str | Path]) -> None:
    """Refuse an output that would overwrite an input or another output.

    Both map an option's name to its path. ``-`` may stand among the outputs once; the null device any number of
    times. Raises OptionError, naming both options.
    """
    others = [(name, path) for name, path in inputs.items() if str(path) != "-"]
    for name, path in outputs.items():
        for other, other_path in others:
            if _same(path, other_path):
                what = "standard output" if str(path) == "-" else f"the same file, {path}"
                raise OptionError(f"{other} and {name} are {what}", remedy=f"give {name} another path")
        others.append((name, path))


def _same(one: str | Path, other: str | Path) -> bool:
    if "-" in (str(one), str(other)):
        return str(one) == str(other)
    paths = [os.path.normcase(os.path.realpath(path)) for path in (one, other)]
    if os.path.normcase(os.path.realpath(os.devnull)) in paths:
        return False
    with contextlib.suppress(OSError):  # one of them does not exist yet
        return Path(one).samefile(other)
    return paths[0] == paths[1]
