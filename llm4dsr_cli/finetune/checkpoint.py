"""Checkpoints: what an interrupted training goes on from."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.files import atomic_path


def save_checkpoint(path: Path, contents: Mapping[str, Any]) -> None:
    """Write a checkpoint, atomically; its entry ``identity`` says what must be equal in a run that goes on."""
    # By way of memory: torch reports a full disk by an error of its own kind.
    buffer = io.BytesIO()
    torch.save(dict(contents), buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        OptionError: it is damaged, or of a run with another identity.
    """
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved["identity"]
    except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError):
        remedy = "remove its folder and leave out `resume`"
        raise OptionError("is no whole checkpoint", where=str(path), remedy=remedy) from None
    changed = [key for key, value in identity.items() if saved["identity"].get(key) != value]
    if changed:
        raise OptionError(
            f"the run to resume had other {' and '.join(changed)}",
            where=str(path),
            remedy="give the same options and data, or remove its folder and leave out `resume`",
        )
    return saved
