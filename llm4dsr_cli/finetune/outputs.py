"""Outputs: where a fine-tuning run writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm4dsr_cli.errors import OptionError, OutputError
from llm4dsr_cli.model.adapter import Part


@dataclass(frozen=True)
class Outputs:
    """Where a run's files go: the denoiser, and beside it a folder with everything else."""

    denoiser: Path

    @property
    def folder(self) -> Path:
        return self.denoiser.with_suffix(".run")

    @property
    def peft(self) -> Path:
        return self.folder / "peft"

    def checkpoint(self, part: Part) -> Path:
        return self.folder / {"detector": "checkpoint.pt", "suggester": "suggestions.pt"}[part]

    def history(self, part: Part) -> Path:
        return self.folder / {"detector": "history.jsonl", "suggester": "suggestions.jsonl"}[part]

    def make_folder(self) -> None:
        """Make the folder, which may be there already. Raises OutputError where that fails."""
        try:
            self.folder.mkdir(parents=False, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"the run's folder cannot be made ({error.strerror})",
                where=str(self.folder),
                remedy="choose another `output`",
            ) from None

    def check(self, parts: Sequence[Part], resume: bool) -> None:
        """Raises OptionError when an earlier run is in the way, or when there is none to go on with.

        Args:
            parts: what a run trains, in order; it can be resumed once the first has begun.
        """
        there = [self.checkpoint(part).exists() for part in parts]
        if resume and not there[0]:
            raise OptionError("there is no run to resume", where=str(self.folder), remedy="leave out `resume`")
        if not resume and any(there):
            raise OptionError(
                "an earlier run is here", where=str(self.folder), remedy="go on with `resume`, or remove the folder"
            )
