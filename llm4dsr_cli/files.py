"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from llm4dsr_cli import parts
from llm4dsr_cli.errors import OutputError

_NO_SPACE = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
# A temporary name must fit where its target's does: Linux allows 255 bytes, encrypted folders fewer.
_STEM_CHARACTERS = 16
_SUFFIX_BYTES = 16


class AtomicFile:
    """A file beside its target, under another name, until it takes the target's place or is discarded.

    It gets the target's permissions where the target exists; a link stays a link, to the new content.

    Attributes:
        target: where the target's link leads, if it is one.
        path: the other name; one of its own, with the target's suffix if that is short, unless it was given. A file
            under a name of its own is a part (``parts``): what a killed run leaves of it, a later one removes.

    Raises:
        OutputError: as ``check_target``; or the target is there and no regular file, or its folder takes no file.
    """

    def __init__(self, target: str | Path, path: Path | None = None) -> None:
        self.target = check_target(target)
        if self.target.exists() and not self.target.is_file():  # replacing /dev/null would break more than this run
            raise OutputError("is not a regular file", where=str(target), remedy="name a file to write")
        suffix = self.target.suffix if len(os.fsencode(self.target.suffix)) <= _SUFFIX_BYTES else ""
        stem, token = self.target.stem[:_STEM_CHARACTERS], secrets.token_hex(8)
        self._left = re.compile(rf"\.{re.escape(stem)}\.[0-9a-f]{{16}}\.tmp{re.escape(suffix)}")
        self._kept = self.target.with_name(f"{stem}.{token}.kept{suffix}")
        self._is_part = path is None
        self.path = path or self.target.with_name(f".{stem}.{token}.tmp{suffix}")
        if self._is_part:  # what is wrong with the folder should show before any work is done
            with explained(str(target)):
                self.create()
            self.discard()

    def create(self) -> None:
        """Make the file, empty, and remove what killed runs have left of such files. Raises OSError."""
        if self._is_part:
            parts.sweep(self.target.parent, self._left)
        self.path.touch(exist_ok=False)
        if self._is_part:
            parts.begin(self.path)
        if self.target.exists():
            shutil.copymode(self.target, self.path)

    def put_in_place(self) -> None:
        """Let it take the target's place, with what is on the disk by now. Raises OSError."""
        parts.end(self.path)
        self.path.replace(self.target)

    def keep(self) -> Path:
        """Leave it beside its target, which cannot be replaced, and give the name that it is found by."""
        parts.end(self.path)
        if self._is_part:
            with contextlib.suppress(OSError):
                self.path.replace(self._kept)
                return self._kept
        return self.path

    def discard(self) -> None:
        """Remove it, unless it took the target's place."""
        parts.end(self.path)
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield an empty file beside ``target``; it becomes ``target`` when the block succeeds and vanishes when it fails.

    See ``AtomicFile``. Raises OutputError when it cannot be written (a full disk, say); other exceptions of the block
    pass unchanged.
    """
    file = AtomicFile(target)
    try:
        with explained(str(target), {str(file.path), str(file.target)}):
            file.create()
            yield file.path
            with file.path.open("ab") as written:
                os.fsync(written.fileno())
            file.put_in_place()
    finally:
        file.discard()


@contextlib.contextmanager
def explained(name: str, ours: set[str] | None = None, *, atomic: bool = True) -> Iterator[None]:
    """Turn an OSError into an OutputError about the output ``name``; a broken pipe passes.

    Args:
        ours: the files that the output is written to; an error of another file or connection passes. None takes every
            error for the output's.
        atomic: nothing was changed when this fails.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if ours is not None and (
            isinstance(error, ConnectionError) or str(error.filename or name) not in {*ours, name}
        ):
            raise
        # numpy tells of a full disk without an error number ("6528 requested and 736 written").
        full = error.errno in _NO_SPACE or error.errno is None
        reason = error.strerror or "the disk took only a part of it"
        remedy = "free some space or choose another folder" if full else "choose another folder"
        raise OutputError(
            reason[:1].lower() + reason[1:], where=name, remedy=f"{remedy}; nothing was changed" if atomic else remedy
        ) from error


def check_target(path: str | Path) -> Path:
    """The file that is to be written: ``path``, or where that link leads.

    Raises:
        OutputError: its folder is missing, it is a folder or write-protected, or its name is too long.
    """
    target = followed(path)
    if not target.parent.is_dir():
        raise OutputError(
            "its folder is missing", where=str(path), remedy=f"mkdir -p {shlex.quote(str(target.parent))}"
        )
    if target.is_dir():
        raise OutputError("is a folder", where=str(path), remedy="name a file in it")
    if target.exists() and not os.access(target, os.W_OK):  # replacing it would work, and override its owner's wish
        raise OutputError("is write-protected", where=str(path), remedy="choose another name, or make it writable")
    return target


def followed(path: str | Path) -> Path:
    """Where a link leads, so that it stays and what it points to is replaced.

    What is there and is no regular file keeps its name: /dev/fd/63 of a shell's >(command) leads nowhere.

    Raises:
        OutputError: the name is too long for the file system.
    """
    path = Path(path)
    check_name(path)
    return path if path.exists() and not path.is_file() else Path(os.path.realpath(path))


def check_name(path: Path) -> None:
    """Raises OutputError when a file's name is too long for the file system, whether the file is there or not."""
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise OutputError(
                "its name is too long for this file system", where=str(path), remedy="choose a shorter name"
            ) from None
