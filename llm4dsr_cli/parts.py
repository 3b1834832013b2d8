"""Parts: files on their way to their names, and those that killed runs have left."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from llm4dsr_cli.locks import lock, lock_surely

# A part is locked from its beginning nearly to its end; a run needs much less than this for the rest.
_ABANDONED_S = 3600

_ours: dict[Path, BinaryIO] = {}
_empty: set[Path] = set()


def begin(part: Path) -> None:
    """Hold a file that was just made as a part of this process: no other will ``sweep`` it. Raises OSError."""
    _ours[part] = file = part.open("ab")
    lock(file)


def end(part: Path) -> None:
    """Let go of a part, which is to be renamed or removed. (Windows renames no file that is open.)"""
    if file := _ours.pop(part, None):
        file.close()


def watch(path: Path) -> None:
    """Let a file that is to outlive this process go with it as long as nothing is in it that is worth keeping."""
    _empty.add(path)


def keep(path: Path) -> None:
    """Let a file that was watched stay, or be removed by whoever made it."""
    _empty.discard(path)


def remove_all() -> None:
    """Remove the parts of this process, which ends without cleaning up."""
    while _empty:
        with suppress(OSError):
            _empty.pop().unlink()
    for part in [*_ours]:
        end(part)
        with suppress(OSError):
            part.unlink()


def sweep(folder: Path, name: re.Pattern[str]) -> None:
    """Remove the parts of that name that runs have left which were killed.

    A part goes when nothing was written to it for an hour and its writer is gone, by its lock. Where the file system
    knows no locks, or the file is another user's, it stays.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if name.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    _remove_abandoned(Path(entry.path))


def _remove_abandoned(part: Path) -> None:
    if time.time() - part.stat().st_mtime < _ABANDONED_S:
        return
    with part.open("ab") as file:
        abandoned = lock_surely(file)
        if abandoned and os.name != "nt":
            part.unlink()
    if abandoned and os.name == "nt":
        part.unlink()  # which fails as long as its writer has it open
