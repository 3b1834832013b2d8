"""What a trial keeps, so that an interrupted one goes on: files that are named by what their content depends on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from llm4dsr_cli.archives import ARCHIVE_ERRORS
from llm4dsr_cli.errors import OutputError
from llm4dsr_cli.files import atomic_path, explained

Arrays = dict[str, NDArray[Any]]


def digest(*parts: Any) -> str:
    """A text that two results share if they depend on equal things: arrays, lists of them, or what JSON can say."""
    hashed = hashlib.blake2b(digest_size=12)
    for part in parts:
        _feed(hashed, part)
    return hashed.hexdigest()


def _feed(hashed: Any, part: Any) -> None:
    if isinstance(part, np.ndarray):
        hashed.update(f"{part.dtype.str}{part.shape}".encode())
        hashed.update(np.ascontiguousarray(part).tobytes())
    elif isinstance(part, list) and part and isinstance(part[0], np.ndarray):
        _feed(hashed, np.array([len(one) for one in part]))
        _feed(hashed, np.concatenate(part))
    else:
        hashed.update(orjson.dumps(part, default=repr) + b"\n")


class Kept:
    """Results by kind and digest, in a folder, or in memory alone where there is none.

    Args:
        folder: made where it is missing; its content is never removed.

    Raises:
        OutputError: the folder cannot be made.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._memory: dict[tuple[str, str], Arrays] = {}
        if self.folder is not None:
            if self.folder.exists() and not self.folder.is_dir():
                raise OutputError("is no folder", where=str(folder), remedy="name another one with `state`")
            with explained(str(folder)):
                self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, kind: str, key: str, suffix: str = ".npz") -> Path | None:
        """Where a result is; None where nothing is written."""
        return None if self.folder is None else self.folder / f"{kind}-{key}{suffix}"

    def get(self, kind: str, key: str) -> Arrays | None:
        """What was put there; None where nothing was, or where it is damaged."""
        if (kind, key) in self._memory:
            return self._memory[kind, key]
        path = self.path(kind, key)
        if path is None or not path.is_file():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (KeyError, *ARCHIVE_ERRORS):
            return None  # it is made again

    def put(self, kind: str, key: str, **arrays: NDArray[Any]) -> Arrays:
        """Keep a result, in place of an earlier one, and hand it back."""
        path = self.path(kind, key)
        if path is None:
            self._memory[kind, key] = arrays
            return arrays
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        return arrays
