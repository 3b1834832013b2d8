"""GGUF files, opened with errors that fit into one sentence."""

from __future__ import annotations

from pathlib import Path

from gguf import GGUFReader

from llm4dsr_cli.errors import ModelError


def open_gguf(path: str | Path) -> GGUFReader:
    """Map a GGUF file.

    Raises:
        ModelError: it is missing, no GGUF, or cut short.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError("no such model file", where=str(path), remedy="check the path")
    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise ModelError(
            f"this is no whole GGUF file ({error})", where=str(path), remedy="fetch or make it again"
        ) from None
    return reader
