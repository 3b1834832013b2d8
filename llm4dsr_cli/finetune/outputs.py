"""Outputs: where a fine-tuning run writes."""

from __future__ import annotations

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
                remedy="choose another --output",
            ) from None

    def check_free(self, checkpoint: Path, resume: bool) -> None:
        """Raises OptionError when an earlier run is in the way of one that does not go on with it."""
        if checkpoint.exists() and not resume:
            raise OptionError(
                "an earlier run is here", where=str(self.folder), remedy="go on with --resume, or remove the folder"
            )
