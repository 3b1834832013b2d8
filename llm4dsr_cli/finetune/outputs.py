"""Outputs: where a fine-tuning run writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm4dsr_cli.errors import OptionError, OutputError


@dataclass(frozen=True)
class Outputs:
    """Where a run's files go: the denoiser, and beside it a folder with everything else."""

    denoiser: Path

    @property
    def folder(self) -> Path:
        return self.denoiser.with_suffix(".run")

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def suggestion_checkpoint(self) -> Path:
        return self.folder / "suggestions.pt"

    @property
    def peft(self) -> Path:
        return self.folder / "peft"

    @property
    def history(self) -> Path:
        return self.folder / "history.jsonl"

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

    def check(self, checkpoints: Sequence[Path], resume: bool) -> None:
        """Raises OptionError when an earlier run is in the way, or when there is none to go on with.

        Args:
            checkpoints: what a run writes, in order; it can be resumed once the first is there.
        """
        if resume and not checkpoints[0].is_file():
            raise OptionError("there is no run to resume", where=str(self.folder), remedy="leave out `resume`")
        if not resume and any(checkpoint.exists() for checkpoint in checkpoints):
            raise OptionError(
                "an earlier run is here", where=str(self.folder), remedy="go on with `resume`, or remove the folder"
            )
