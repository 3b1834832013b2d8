"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llm4dsr_cli.errors import OutputError


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield an empty file beside ``target``; it becomes ``target`` when the block succeeds and vanishes when it fails.

    The file keeps the target's suffix, and its permissions where it exists. The folder must exist. Raises OutputError
    when it cannot be written (a full disk, say); other exceptions of the block pass unchanged.
    """
    target = Path(os.path.realpath(target))  # a link stays a link, to the new content
    if target.exists():
        if not target.is_file():  # replacing /dev/null would break more than this run
            raise OutputError("is not a regular file", where=str(target), remedy="name a file to write")
        if not os.access(target, os.W_OK):
            raise OutputError("is read-only", where=str(target), remedy="name another file, or allow writing")
    temp = target.with_name(f".{target.stem[:40]}.{secrets.token_hex(8)}.tmp{target.suffix}")
    try:
        temp.touch(exist_ok=False)
        if target.exists():
            shutil.copymode(target, temp)
        yield temp
        with temp.open("rb+") as file:
            os.fsync(file.fileno())
        temp.replace(target)
    except OSError as error:
        if isinstance(error, ConnectionError) or str(error.filename or temp) != str(temp):
            raise  # a closed pipe, or another file the block used
        # numpy tells of a full disk without an error number ("6528 requested and 736 written").
        remedy = "free some space" if error.errno in (errno.ENOSPC, None) else None
        reason = error.strerror or "the disk took only a part of it"
        raise OutputError(f"cannot be written: {reason}", where=str(target), remedy=remedy) from error
    finally:
        with suppress(OSError):
            temp.unlink(missing_ok=True)
