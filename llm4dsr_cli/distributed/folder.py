"""The folder: files of one place, on a disk or in an object store, that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path, PurePosixPath
from typing import Any

from llm4dsr_cli.errors import Llm4dsrError, MissingExtraError, OptionError, OutputError

_PART = ".part-"
_CHUNK = 8 << 20


class Folder:
    """A folder of any of pyarrow's file systems; it may be sent to another machine.

    Names are relative, with slashes. Work is done on files of this machine: those of a disk where they are, those of
    an object store in a copy.

    Attributes:
        path: as it was given, without what behind a ``?`` says how to reach it.

    Raises:
        OptionError: no such file system.
    """

    def __init__(self, path: str) -> None:
        try:
            from pyarrow import ArrowException, fs
        except ImportError:
            raise MissingExtraError("ray", "pyarrow") from None

        self.path = path.partition("?")[0].rstrip("/") or "/"
        try:
            if "://" in path:
                self._files, self._root = fs.FileSystem.from_uri(path)
                self._root = self._root.rstrip("/")
            else:
                self._files, self._root = fs.LocalFileSystem(), str(Path(path).absolute())
        except (ArrowException, OSError, ValueError) as error:
            raise OptionError(_told(error), where=path, remedy="give a folder, or s3://BUCKET/FOLDER") from None
        self.is_local = isinstance(self._files, fs.LocalFileSystem)

    def within(self, name: str) -> Folder:
        """A folder in it."""
        inner = copy(self)
        inner.path, inner._root = self.label(name), self._at(name)
        return inner

    def holds(self, other: Folder) -> bool:
        """Whether another folder is this one, or lies in it."""
        return bool(self._files == other._files) and f"{other._root}/".startswith(f"{self._root}/")

    def passes_over(self, other: Folder) -> bool:
        """Whether another folder lies in this one under a name that ``sizes`` passes over."""
        inner = other._root.removeprefix(f"{self._root}/")
        return self.holds(other) and inner != other._root and _is_hidden(inner)

    def label(self, name: str) -> str:
        """A file's name for messages."""
        return f"{self.path}/{name}"

    def sizes(self) -> dict[str, int]:
        """Bytes by name of all files below it, in the order of their names; none of a folder that is not there.

        What begins with a dot or an underscore, as do a run's own files, is passed over.
        """
        return {name: int(info.size) for name, info in self._below()}

    def stamps(self) -> dict[str, list[int | None]]:
        """Bytes, and nanoseconds of the last change where the file system tells, by name of the same files."""
        return {name: [int(info.size), info.mtime_ns] for name, info in self._below()}

    def _below(self) -> list[tuple[str, Any]]:
        from pyarrow.fs import FileSelector, FileType

        with self._explained():
            if self._files.get_file_info(self._root).type == FileType.File:
                remedy = "put it into a folder, or cut it: split -n l/64 --additional-suffix=.jsonl FILE FOLDER/part-"
                raise OptionError("is a file", where=self.path, remedy=remedy)
            found = self._files.get_file_info(FileSelector(self._root, recursive=True, allow_not_found=True))
        files = {}
        for info in found:
            name = str(PurePosixPath(info.path).relative_to(PurePosixPath(self._root)))
            if info.type == FileType.File and not _is_hidden(name):
                files[name] = info
        return sorted(files.items())

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        from pyarrow.fs import FileType

        with self._explained(name):
            return bool(self._files.get_file_info(self._at(name)).type == FileType.File)

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """A file of this machine that holds what the one of this name does."""
        if self.is_local:
            path = Path(self._at(name))
            if not path.is_file():
                where = self.label(name)
                raise Llm4dsrError("no such file", where=where, remedy="give a folder that all machines share")
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="llm4dsr-") as folder:
            local = Path(folder, PurePosixPath(name).name)
            # As it is: pyarrow would unpack what is called .gz, and the one that reads it would not know.
            with (
                self._explained(name),
                self._files.open_input_stream(self._at(name), compression=None) as stream,
                local.open("wb") as to,
            ):
                shutil.copyfileobj(stream, to, _CHUNK)
            yield local

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Where a file may be made; it takes this name when the block ends without an exception, if it is there.

        Two that write the same name at once harm neither: the last one's file stays, whole.
        """
        target = self._at(name)
        parent, last = str(PurePosixPath(target).parent), PurePosixPath(name).name
        with self._explained(name, OutputError):
            self._files.create_dir(parent, recursive=True)
        with tempfile.TemporaryDirectory(prefix=_PART, dir=parent if self.is_local else None) as folder:
            made = Path(folder, last)
            yield made
            if not made.exists():
                return
            with self._explained(name, OutputError):
                if self.is_local:
                    with made.open("ab") as file:
                        os.fsync(file.fileno())
                    made.replace(target)
                    return
                part = f"{parent}/{_PART}{secrets.token_hex(8)}-{last}"
                with made.open("rb") as file, self._files.open_output_stream(part, compression=None) as to:
                    shutil.copyfileobj(file, to, _CHUNK)
                self._files.move(part, target)

    def remove(self, name: str) -> None:
        """Remove a folder in it, if it is there."""
        with suppress(OSError):
            self._files.delete_dir(self._at(name))

    def sweep(self) -> None:
        """Remove what workers that were killed have left half-written; nobody may be writing."""
        from pyarrow.fs import FileSelector, FileType

        with self._explained():
            found = self._files.get_file_info(FileSelector(self._root, recursive=True, allow_not_found=True))
        for info in found:
            if info.base_name.startswith(_PART):
                with suppress(OSError):
                    (self._files.delete_dir if info.type == FileType.Directory else self._files.delete_file)(info.path)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _explained(self, name: str | None = None, kind: type[Llm4dsrError] = Llm4dsrError) -> Iterator[None]:
        from pyarrow import ArrowException

        try:
            yield
        except (OSError, ArrowException) as error:
            where = self.path if name is None else self.label(name)
            raise kind(_told(error), where=where, remedy="check the path, the network and your rights") from None


def _told(error: Any) -> str:
    first = str(getattr(error, "strerror", None) or error).strip().partition("\n")[0]
    return first[:300] or type(error).__name__


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))
