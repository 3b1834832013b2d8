"""The user's cache folder: where it is, how long what lies in it stays, and the hashes that name it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import stat
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from llm4dsr_cli.errors import Llm4dsrError, ModelError, OptionError, OutputError

CHUNK = 1 << 20
CACHE_REMEDY = "set LLM4DSR_CACHE to a folder that can be read and written"
# The subfolders of what can be made again without a network: how many files of each kind stay, those used last.
KEPT = {"runtime": 4, "tries": 8}
# A file used, or written to, so lately may be in another process's hands: found by it, but not opened yet.
RECENT_S = 3600.0
# A download that was begun before so long has come to an end, one way or the other.
UNFINISHED_S = 24 * 3600.0


@dataclass(frozen=True)
class CachedFile:
    """A file of the cache, or a folder of a download; ``size`` in bytes, ``used`` in seconds since the epoch.

    ``whole`` is False for what a process that was killed left half-written (or another one is writing just now).
    """

    path: Path
    size: int
    used: float
    whole: bool


def cache_folder() -> Path:
    """``LLM4DSR_CACHE``, or the platform's cache folder for this user; not created here.

    Raises:
        OptionError: it lies in the home of a user who is not known or has none.
    """
    chosen = os.environ.get("LLM4DSR_CACHE")
    try:
        folder = Path(chosen) if chosen else platformdirs.user_cache_path("llm4dsr", appauthor=False)
        return folder.expanduser().absolute()
    except RuntimeError:
        what = f"there is no home folder for LLM4DSR_CACHE={chosen}" if chosen else "there is no home folder"
        raise OptionError(what, remedy=CACHE_REMEDY) from None


def cache_subfolder(name: str) -> Path:
    """A folder of the cache, made if it is not there, for this user alone.

    Raises:
        OutputError: it cannot be made, or cannot be written.
    """
    folder = cache_folder() / name
    try:
        cache_folder().parent.mkdir(parents=True, exist_ok=True)
        for part in (cache_folder(), folder):
            part.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the cache folder cannot be made ({error.strerror})", where=str(folder), remedy=CACHE_REMEDY
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError("the cache folder cannot be written", where=str(folder), remedy=CACHE_REMEDY)
    return folder


def open_to_others() -> tuple[Path, str] | None:
    """A folder of the cache that another user may write to, and the remedy; None where there is none.

    That user could choose the model that runs. Windows' permissions are not looked at.
    """
    if os.name != "nt":
        for folder in (cache_folder(), *(cache_folder() / name for name in ("base", *KEPT))):
            with contextlib.suppress(OSError):  # it may not be there
                status = folder.stat()
                if status.st_uid not in (0, os.geteuid()):
                    return folder, "set LLM4DSR_CACHE to a folder of your own"
                if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    return folder, f"chmod go-w {shlex.quote(str(folder))}"
    return None


def mark_used(path: Path) -> None:
    """Note that a file of the cache is used now: those used last stay longest."""
    with contextlib.suppress(OSError):  # a cache of another user, which may only be read
        os.utime(path)


def cached_files(name: str) -> list[CachedFile]:
    """The files of one subfolder, those used last first."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in (cache_folder() / name).iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process may be tidying up, too
                parts = [*path.rglob("*")] if path.is_dir() else []  # of a download
                states = [part.stat() for part in (path, *parts)]
                used = max(state.st_mtime for state in states)
                size = sum(state.st_size for state in states)
                found.append(CachedFile(path, size, used, not path.name.startswith(".")))
    return sorted(found, key=lambda file: (-file.used, file.path))


def surplus(name: str, keep: int, *, recent_s: float = RECENT_S, spared: Collection[Path] = ()) -> list[CachedFile]:
    """The files of one subfolder that may go.

    Args:
        keep: so many whole ones stay, those used last.
        recent_s: what was used in so many seconds before now stays, too. What is not whole stays as long at least.
        spared: these stay in any case.
    """
    files = [file for file in cached_files(name) if file.path not in spared]
    now = time.time()
    old = [file for file in files if file.whole][keep:]
    return [
        *(file for file in old if now - file.used >= recent_s),
        *(file for file in files if not file.whole and now - file.used >= max(recent_s, RECENT_S)),
    ]


def tidy(name: str, *, spared: Collection[Path] = ()) -> None:
    """Remove what a subfolder holds beyond ``KEPT``; call it when a file was added. ``spared`` is in use here."""
    for file in surplus(name, KEPT[name], spared=spared):
        remove(file)


def remove(file: CachedFile) -> bool:
    """Remove a file of the cache; False where that cannot be done: Windows removes no file that is in use.

    Elsewhere a process that has it open keeps what it holds.
    """
    try:
        if file.path.is_dir():
            shutil.rmtree(file.path)
        else:
            file.path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def file_sha256(path: str | Path, error: type[Llm4dsrError] = ModelError) -> str:
    """The SHA-256 of a file in lower-case hex. Raises ``error`` when the file cannot be read."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as reason:
        raise error(f"cannot be read: {reason.strerror or reason}", where=str(path)) from reason
    return digest.hexdigest()
