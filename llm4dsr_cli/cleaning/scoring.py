"""Scoring: records in, scored lines out; and the denoiser that gave them, when only its scores are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from llm4dsr_cli.cache import file_sha256
from llm4dsr_cli.cleaning.tally import RunCounts
from llm4dsr_cli.errors import ModelError, OptionError
from llm4dsr_cli.gate.gate_file import GateFile
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.metadata import DenoiserMetadata
from llm4dsr_cli.model.registry import Registry, find_denoiser
from llm4dsr_cli.records.record import Record
from llm4dsr_cli.records.scored_line import MODEL_DIGITS, ScoredRecord, scored_line
from llm4dsr_cli.scores import Scorer, Scores

if TYPE_CHECKING:
    from llm4dsr_cli.model.denoiser import Denoiser


class KeptScores:
    """Stands in for the denoiser that scored records, and sees to it that one denoiser gave all scores.

    Args:
        name, sha256: of that denoiser, where they are known; else the first record's is the one.
        metadata: what its file says of it; it gives the threshold for a false-edit rate.
        whose: what needs that denoiser, for messages.
        remedy: what to do about records of another one, for messages.
    """

    def __init__(
        self,
        name: str | None = None,
        sha256: str | None = None,
        metadata: DenoiserMetadata | None = None,
        *,
        whose: str = "the records before it",
        remedy: str = "score all records again",
    ) -> None:
        self.name = name
        self.metadata = metadata
        self._sha256 = sha256
        self._digits = None if sha256 is None else sha256[:MODEL_DIGITS]
        self._whose = whose
        self._remedy = remedy

    @classmethod
    def of(cls, model: str | Path | None, gate: GateFile | None, *, by_rate: bool) -> KeptScores:
        """For scores of a gate file's denoiser, or of a given one; of any, if neither is needed.

        Args:
            model: name or file of the denoiser; None is the gate's, or the one that ships.
            by_rate: whether a threshold is asked for by a false-edit rate.

        Raises:
            ModelError: the denoiser cannot be read, or is not the gate's.
        """
        metadata = None
        if model is not None or (gate is None and by_rate):
            path = find_denoiser(model, Registry.load())
            metadata, sha256 = DenoiserMetadata.read(open_gguf(path), path), file_sha256(path)
            if gate is None:
                remedy = "give the one that scored it with `model`, or score all records again"
                return cls(metadata.name, sha256, metadata, whose=metadata.name, remedy=remedy)
            gate.check_model(sha256, "`gate`")
        if gate is None:
            return cls()
        whose = f"{gate.model_name} of the gate"
        remedy = "give the gate file of the one that scored it, or score all records again"
        return cls(gate.model_name, gate.model_sha256, metadata, whose=whose, remedy=remedy)

    @property
    def sha256(self) -> str | None:
        """The denoiser's SHA-256, or the digits of it that are known; None before the first record."""
        return self._sha256 or self._digits

    def description(self) -> dict[str, Any]:
        """Name and hashes, for reports."""
        about = {"name": self.name, "sha256": self.sha256}
        return about if self.metadata is None else self.metadata.description(str(self.sha256))

    def check(self, records: Iterable[ScoredRecord]) -> None:
        """Raises ModelError when another denoiser scored one of the records."""
        for record in records:
            self._digits = self._digits or record.model
            if record.model != self._digits:
                raise ModelError(
                    f"scored by another denoiser ({record.model}...) than {self._whose} ({self._digits}...)",
                    where=record.where,
                    remedy=self._remedy,
                )

    def threshold(self, false_edit_rate: float) -> float:
        """The denoiser's threshold in log-odds.

        Raises:
            OptionError: the denoiser is not known.
            ModelError: its calibration cannot promise so low a rate.
        """
        if self.metadata is None:
            raise OptionError("a false-edit rate takes a denoiser or a gate", remedy="give `model` or `gate`")
        return self.metadata.threshold(false_edit_rate)

    def score(self, sequences: Iterable[Sequence[str]]) -> NoReturn:
        """Raises OptionError: kept scores judge no other items."""
        raise OptionError("kept scores judge no other items", remedy="clean with a denoiser")


def recall_records(records: Iterable[ScoredRecord], denoiser: Denoiser) -> None:
    """Let a denoiser know what an earlier run scored, so that it reads on where that one would have."""
    places = [(record, record.judged) for record in records]
    titles = [[str(record.titles[i]) for i in at] for record, at in places]
    denoiser.recall(titles, [record.log_odds[at] for record, at in places])


def score_records(
    batches: Iterable[list[Record]],
    scorer: Scorer,
    counts: RunCounts,
    line: Callable[[Record, Scores, str], bytes] = scored_line,
) -> Iterator[list[bytes]]:
    """For each batch of records their scored lines; a batch is counted when the next one is asked for.

    Args:
        scorer: judges the items that can be judged.
        counts: kept up to date.
        line: what is written for a record, its noise log-odds (NaN for items that nobody judged) and the scorer's hash.
    """
    for records in batches:
        places = [record.judged for record in records]
        titles = [[str(one.titles[i]) for i in at] for one, at in zip(records, places, strict=True)]
        lines = []
        for record, at, log_odds in zip(records, places, scorer.score(titles), strict=True):
            whole = np.full(len(record.titles), np.nan, dtype=np.float32)
            whole[at] = log_odds
            lines.append(line(record, whole, str(scorer.sha256)))
        yield lines
        for record in records:
            counts.add(record)
