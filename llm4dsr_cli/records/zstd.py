"""Zstandard: streams of ``.zst`` files, which are read and written by the extra ``zstd``."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

from llm4dsr_cli.errors import MissingExtraError

MAGIC = b"\x28\xb5\x2f\xfd"
_CHUNK = 1 << 17


class DamagedError(Exception):
    """Data that cannot be decompressed."""


def _zstandard() -> Any:
    try:
        import zstandard
    except ModuleNotFoundError:
        raise MissingExtraError("zstd", "zstandard") from None
    return zstandard


def check() -> None:
    """Raise MissingExtraError where zstandard is not installed."""
    _zstandard()


def reading(raw: BinaryIO) -> io.BufferedReader:
    """The text of a compressed stream, which is closed with it.

    Raises EOFError where a reading ends inside a frame, DamagedError where the data are no such data.
    """
    return io.BufferedReader(_Frames(raw))


def writing(raw: BinaryIO) -> BinaryIO:
    """A stream that compresses into another one, and leaves that open."""
    compressor = _zstandard().ZstdCompressor(write_checksum=True)
    stream: BinaryIO = compressor.stream_writer(raw, closefd=False)
    return stream


class _Frames(io.RawIOBase):
    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._zstandard = _zstandard()
        self._frame: Any = None
        self._compressed = b""
        self._text = b""

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def readinto(self, buffer: Any) -> int:
        while not self._text:
            if not self._compressed:
                self._compressed = self._raw.read(_CHUNK)
                if not self._compressed:
                    if self._frame is not None:
                        raise EOFError("a frame is cut short")
                    return 0
            if self._frame is None:
                self._frame = self._zstandard.ZstdDecompressor().decompressobj()
            try:
                self._text = self._frame.decompress(self._compressed)
            except self._zstandard.ZstdError as error:
                raise DamagedError(str(error)) from None
            self._compressed = b""
            if self._frame.eof:
                self._compressed, self._frame = self._frame.unused_data, None
        n = min(len(buffer), len(self._text))
        buffer[:n] = self._text[:n]
        self._text = self._text[n:]
        return n

    def close(self) -> None:
        self._raw.close()
        super().close()
