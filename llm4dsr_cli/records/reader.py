"""The reader: bytes of a file or pipe to batches of lines and records."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import queue
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from llm4dsr_cli.closing import Closing
from llm4dsr_cli.errors import Llm4dsrError, OptionError, RecordError
from llm4dsr_cli.records import zstd
from llm4dsr_cli.records.bounds import BoundedQueue, bounded_batches, bounded_lines, is_full
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.file_kinds import LONGEST_MAGIC, explained, in_stream, refuse_binary
from llm4dsr_cli.records.parsing import parse_record
from llm4dsr_cli.records.record import OnError, R, Record
from llm4dsr_cli.records.record_format import RecordFormat

Line = tuple[int, bytes]  # number from 1, bytes without the line ending

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"


def open_input(path: str | Path) -> BinaryIO:
    """Open ``path`` for reading bytes; ``-`` is standard input. What is called ``.gz`` or ``.zst`` is decompressed.

    Raises:
        OptionError: ``-`` is a terminal, or there is no standard input.
        Llm4dsrError: there is no such file, or it is a folder, cannot be read, or is called ``.gz`` and is none.
        MissingExtraError: it is called ``.zst``, and zstandard is not installed.
    """
    path = os.fspath(path)
    if path == "-":
        return _standard_input()
    try:
        raw = Path(path).open("rb")  # noqa: SIM115 - the caller closes it
    except FileNotFoundError:
        raise Llm4dsrError("no such file", where=path, remedy="check the path") from None
    except IsADirectoryError:
        raise Llm4dsrError("is a folder", where=path, remedy="give a file") from None
    except OSError as error:
        raise Llm4dsrError(f"cannot be opened ({_reason(error)})", where=path, remedy="give a readable file") from None
    for ending, magic, name in ((".gz", _GZIP, "gzip"), (".zst", zstd.MAGIC, "zstd")):
        if path.lower().endswith(ending) and raw.peek(len(magic))[: len(magic)] not in (magic, b""):
            raw.close()
            raise Llm4dsrError(
                f"no {name} data", where=path, remedy=f"take {ending} off its name, or fetch the file again"
            )
    if path.lower().endswith(".gz"):
        return cast(BinaryIO, _OwningGzip(raw))
    return zstd.reading(raw) if path.lower().endswith(".zst") else raw


def can_be_read_twice(path: str | Path) -> bool:
    """Whether ``LineReader.open`` can read all of ``path`` more than once.

    A regular file can, and standard input (``-``) can if it is one (``llm4dsr clean - OUT < IN``). A pipe, a socket, a
    terminal or another device cannot. Where there is no file, or a folder, the answer is True: opening it says what is
    wrong.
    """
    path = os.fspath(path)
    try:
        mode = (os.fstat(sys.stdin.fileno()) if path == "-" else os.stat(path)).st_mode  # noqa: PTH116
    except (OSError, ValueError, AttributeError):  # nothing there; or a standard input that is none, or in memory
        return path != "-"
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


class _Copy(str):
    """The path of a copy; ``label`` is what messages call it."""

    label: str


@contextlib.contextmanager
def readable_twice(path: str | Path) -> Iterator[str | Path]:
    """The same input, or a copy of one that can be read once; the copy goes at the end."""
    if can_be_read_twice(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="llm4dsr-") as folder:
        copy = _Copy(Path(folder, "input"))
        copy.label = "stdin" if path == "-" else os.fspath(path)
        with contextlib.closing(open_input(path)) as stream, Path(copy).open("wb") as file:
            shutil.copyfileobj(stream, file)
        yield copy


class LineReader(Closing):
    """Lines of one input, in batches; a context manager.

    A regular file is cut into batches of equal size (long lines into smaller ones), so that a run can be repeated
    exactly. From anything else (pipe,
    socket, terminal) a batch is what has arrived, so that a slow producer's lines pass through at once. Blank lines
    are left out but counted, a byte order mark is dropped.

    Standard input that is a file is left where it was found, so that it can be opened once more.

    An exact reader gives every line as it stands, blank ones too, less its newline.

    Attributes:
        name: the input's name for messages.
        is_stream: whether it is standard input, or another stream: then no name says what comes.
    """

    def __init__(self, stream: BinaryIO, name: str, *, rewind: bool = False, exact: bool = False) -> None:
        """A reader of an open stream, which it closes; ``rewind`` takes a file back to where it is now before that."""
        self.name = name
        self._exact = exact
        self._stream = stream
        self._stop = threading.Event()
        self._arrived: queue.Queue[Line | BaseException | None] | None = None
        self._size: int | None = None  # bytes of a regular file
        self._position = 0
        self._live = False
        with contextlib.suppress(OSError):  # a stream in memory has no descriptor
            status = os.fstat(stream.fileno())
            self._live = not stat.S_ISREG(status.st_mode)
            self._size = None if self._live else status.st_size
        self.is_stream = self._live or rewind
        self._start = None if not rewind or self._size is None else os.lseek(stream.fileno(), 0, os.SEEK_CUR)

    @classmethod
    def open(cls, path: str | Path, *, exact: bool = False) -> LineReader:
        """A reader of ``path``; see ``open_input`` for what that may be and what it raises."""
        path = os.fspath(path)
        # A file's name need not be UTF-8, what is written about it must be. A log's records have another one.
        name = "stdin" if path == "-" else str(getattr(path, "label", path)).encode("utf-8", "replace").decode()
        return cls(open_input(path), name, rewind=path == "-", exact=exact)

    def close(self) -> None:
        """Stop reading. Never waits for a producer: a thread that waits for one is left behind and closes later."""
        self._stop.set()
        if self._arrived is None:
            if self._start is not None and not self._stream.closed:
                os.lseek(self._stream.fileno(), self._start, os.SEEK_SET)  # seek() may stay inside its buffer
            self._stream.close()
            return
        with contextlib.suppress(queue.Empty):  # make room, so that a thread that waits to hand over can go
            while True:
                self._arrived.get_nowait()

    def batches(self, size: int) -> Iterator[list[Line]]:
        """Lists of 1 to ``size`` lines, once; fewer where they have many bytes, see ``bounds``.

        Raises Llm4dsrError when the input is damaged or has a line that is too long.
        """
        for batch in self._arriving_batches(size) if self._live else bounded_batches(self._lines(), size):
            if self._size is not None:
                # such a stream counts decompressed bytes, the file below it compressed ones
                packed = self.name.lower().endswith((".gz", ".zst"))
                self._position = os.lseek(self._stream.fileno(), 0, os.SEEK_CUR) if packed else self._stream.tell()
            yield batch

    @property
    def fraction(self) -> float | None:
        """Share of the input's bytes read up to the last batch, 0 to 1; None when its size is unknown."""
        if self._size is None:
            return None
        return min(1.0, self._position / self._size) if self._size else 1.0

    def _lines(self) -> Iterator[Line]:
        number = 0
        try:
            for number, raw in enumerate(bounded_lines(self._stream, self.name), 1):
                line = raw.removesuffix(b"\n")
                if number == 1:
                    refuse_binary(raw[:LONGEST_MAGIC], self.name)
                if self._exact:
                    yield number, line
                    continue
                if number == 1:
                    line = line.removeprefix(_BYTE_ORDER_MARK)
                line = line.removesuffix(b"\r")
                if line.strip():
                    yield number, line
        except OSError as error:
            raise Llm4dsrError(
                f"cannot be read ({_reason(error)})", where=f"{self.name}:{number + 1}", remedy="check the device"
            ) from None

    def _arriving_batches(self, size: int) -> Iterator[list[Line]]:
        # twice the size: the next batch gathers behind this one
        arrived: BoundedQueue[Line | BaseException | None] = BoundedQueue(maxsize=2 * size)
        self._arrived = arrived
        threading.Thread(target=self._read_into, args=(arrived,), name="llm4dsr-reader", daemon=True).start()
        end: BaseException | None = None
        more = True
        while more:
            batch: list[Line] = []
            held = 0
            with contextlib.suppress(queue.Empty):
                while more and not is_full(len(batch), held, size):
                    entry = _wait_for(arrived) if not batch else arrived.get_nowait()
                    if isinstance(entry, tuple):
                        batch.append(entry)
                        held += len(entry[1])
                    else:
                        more, end = False, entry
            if batch:
                yield batch
        if end is not None:
            raise end

    def _read_into(self, arrived: queue.Queue[Line | BaseException | None]) -> None:
        end: BaseException | None = None
        try:
            for line in self._lines():
                arrived.put(line)
                if self._stop.is_set():
                    break
        except BaseException as error:  # it belongs to whoever asks for the next batch
            end = error
        self._stream.close()
        arrived.put(end)


def read_records(
    reader: LineReader,
    size: int,
    record_format: RecordFormat,
    catalog: Catalog | None,
    on_error: OnError | None = None,
) -> Iterator[list[Record]]:
    """Lists of 1 to ``size`` records, one for each batch that has any.

    ``on_error`` gets each line that is no record, with the error; without it, the error is raised.
    """
    return read_parsed(reader, size, lambda line, where: parse_record(line, where, record_format, catalog), on_error)


def read_parsed(
    reader: LineReader,
    size: int,
    parse: Callable[[bytes, str], R],
    on_error: OnError | None = None,
    *,
    takes_logs: bool = True,
) -> Iterator[list[R]]:
    """``read_records`` for records that ``parse`` makes of a line and its ``file:line``.

    Whoever ``takes_logs`` reads one from a stream where its format is named, so that the error of one says that.
    """
    first = True
    asks_format = takes_logs and reader.is_stream
    for batch in _asking_format(reader.batches(size)) if asks_format else reader.batches(size):
        records: list[R] = []
        for number, line in batch:
            try:
                records.append(parse(line, f"{reader.name}:{number}"))
            except RecordError as error:
                lines = [line, *(one for _, one in batch[1:2])]
                told = explained(error, lines, asks_format=asks_format) if first else error
                if on_error is None:
                    raise told from None
                on_error(told, line)
            first = False
        if records:
            yield records


def _asking_format(batches: Iterator[list[Line]]) -> Iterator[list[Line]]:
    """The same batches, whose error says so where naming a format would help."""
    try:
        yield from batches
    except Llm4dsrError as error:
        raise in_stream(error) from None


class _OwningGzip(gzip.GzipFile):
    """A gzip stream that closes the file below it."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        super().__init__(fileobj=raw, mode="rb")

    def close(self) -> None:
        super().close()
        self._raw.close()


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise OptionError("there is no standard input", remedy="give a file")
    if sys.stdin.isatty():
        raise OptionError("standard input is a terminal", remedy="give a file, or pipe records in")
    try:
        # A buffer of our own: a thread that still waits in sys.stdin.buffer when Python ends makes it abort.
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except io.UnsupportedOperation:
        return sys.stdin.buffer


def _wait_for(arrived: queue.Queue[Line | BaseException | None]) -> Line | BaseException | None:
    while True:
        with contextlib.suppress(queue.Empty):
            return arrived.get(timeout=0.5)  # Windows hears Ctrl-C only between waits


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
