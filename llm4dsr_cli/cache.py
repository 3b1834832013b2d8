"""The user's cache folder: where it is, hashes it remembers, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

import platformdirs

from llm4dsr_cli.errors import ModelError, OptionError, OutputError
from llm4dsr_cli.files import atomic_path

CHUNK = 1 << 20
CACHE_REMEDY = "set LLM4DSR_CACHE to a folder that can be read and written"
MEMO_ENTRIES = 256
# A file written again within one tick of its file system's clock keeps its mtime (FAT ticks every 2 s).
SETTLED_NS = 2_000_000_000


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


def file_sha256(path: Path, *, memo: bool = True) -> str:
    """The SHA-256 of a file in lower-case hex, remembered until the file changes.

    ``memo=False`` reads the file whatever is remembered. Raises ModelError when the file cannot be read.
    """
    resolved = Path(os.path.realpath(path))
    try:
        if memo and (known := _recall(resolved, _state(resolved.stat()))):
            return known
        digest = hashlib.sha256()
        with resolved.open("rb") as file:
            before = _state(os.fstat(file.fileno()))
            while chunk := file.read(CHUNK):
                digest.update(chunk)
            after = _state(os.fstat(file.fileno()))
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    if memo and before == after and time.time_ns() - after[1] > SETTLED_NS:
        _remember(resolved, after, digest.hexdigest())
    return digest.hexdigest()


def cache_subfolder(name: str) -> Path:
    """A folder of the cache, made if it is not there.

    Raises:
        OutputError: it cannot be made, or cannot be written.
    """
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the cache folder cannot be made ({error.strerror})", where=str(folder), remedy=CACHE_REMEDY
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError("the cache folder cannot be written", where=str(folder), remedy=CACHE_REMEDY)
    return folder


def _state(stat: os.stat_result) -> list[int]:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _memo_file() -> Path:
    return cache_folder() / "sha256.json"


def _read_memo() -> dict[str, object]:
    try:
        memo = json.loads(_memo_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the memo only saves time
        return {}
    return memo if isinstance(memo, dict) else {}


def _recall(path: Path, state: list[int]) -> str | None:
    match _read_memo().get(str(path)):
        case [*then, str(digest)] if then == state and len(digest) == 64:
            return digest
    return None


def _remember(path: Path, state: list[int], digest: str) -> None:
    memo = _read_memo()
    memo.pop(str(path), None)
    memo[str(path)] = [*state, digest]
    latest = dict(list(memo.items())[-MEMO_ENTRIES:])
    with suppress(OSError, OutputError):
        _memo_file().parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(_memo_file()) as temp:
            temp.write_text(json.dumps(latest, indent=0), encoding="utf-8")
