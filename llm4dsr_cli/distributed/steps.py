"""The steps of a run over many shards, each as the worker of one pass: count, score, survey, and edit.

A worker is called with a shard's name. It may be called again for the same shard, when Ray has lost what it did: what
it writes takes its place whole, and is the same every time.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from llm4dsr_cli.cleaning.counted import Counted, CountedPart
from llm4dsr_cli.cleaning.run import Cleaning
from llm4dsr_cli.cleaning.scoring import KeptScores, score_records
from llm4dsr_cli.cleaning.settings import CleaningSettings
from llm4dsr_cli.cleaning.tally import RunCounts
from llm4dsr_cli.distributed.folder import Folder
from llm4dsr_cli.distributed.shards import Edited, ShardEditor, ShardReader
from llm4dsr_cli.distributed.state import EDITABLE, SCORES
from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.gate.gate_file import GateFile
from llm4dsr_cli.gate.histogram import ScoreHistogram, scores_in
from llm4dsr_cli.gate.survey import Survey
from llm4dsr_cli.model.metadata import DenoiserMetadata
from llm4dsr_cli.records.parallel import ParallelLists
from llm4dsr_cli.records.record import OnError, Record
from llm4dsr_cli.records.scored_line import scores_line
from llm4dsr_cli.replacing.replacer import ProposerName
from llm4dsr_cli.scores import Scores
from llm4dsr_cli.sequences import ItemSequence
from llm4dsr_cli.titles import CutTitles


@dataclass(frozen=True)
class Job:
    """What all workers of a run know.

    Attributes:
        reader: reads the shards.
        target: where they go.
        skips: whether lines that are no records are left out, and not an error.
        loading: how a denoiser is loaded, for ``Denoiser.load``.
        name, sha256, metadata: of that denoiser.
    """

    reader: ShardReader
    target: Folder
    skips: bool
    loading: dict[str, Any]
    name: str
    sha256: str
    metadata: DenoiserMetadata

    @property
    def silent(self) -> OnError | None:
        """For ``on_error`` of a step that does not tell of lines that are no records; another one does."""
        return (lambda error, line: None) if self.skips else None

    @property
    def scores(self) -> Folder:
        return self.target.within(SCORES)

    @property
    def editable(self) -> Folder:
        return self.target.within(EDITABLE)


@dataclass(frozen=True)
class Judging:
    """How items are judged, as soon as the counts have been weighed.

    Attributes:
        settings: what is done with flagged items, and which are flagged.
        gate_file: the user's, or one that was fitted to the data.
        counted: counts that propose items, for the action "replace".
        proposer: who proposes.
        surveyed: finds the threshold of a share of edits; None before it is known.
    """

    settings: CleaningSettings
    gate_file: GateFile | None
    counted: Counted | None = None
    proposer: ProposerName = "counts"
    surveyed: Survey | None = None

    def by_kept_scores(self, job: Job) -> Cleaning:
        """A cleaning that reads scores and loads no model; it replaces nothing."""
        return Cleaning(
            KeptScores(job.name, job.sha256, job.metadata),
            self.settings,
            gate_file=self.gate_file,
            catalog=job.reader.catalog,
            record_format=job.reader.record_format,
            user_field=job.reader.user_field,
            surveyed=self.surveyed,
        )

    def loaded(self, job: Job) -> Cleaning:
        """A cleaning with the denoiser, which judges what is proposed."""
        cleaning = Cleaning.load(
            **job.loading,
            **vars(self.settings),
            catalog=job.reader.catalog,
            gate=self.gate_file,
            proposer=self.proposer,
            counted=self.counted,
            record_format=job.reader.record_format,
            user_field=job.reader.user_field,
        )
        if self.surveyed is None or self.settings.edit is None:
            return cleaning
        return cleaning.editing(self.settings.edit, self.surveyed)


@dataclass(frozen=True)
class Done:
    """One shard after a step.

    Attributes:
        shard: its name.
        worker: the machine and the process.
        records: how many it has.
        seconds: how long it took.
        result: what the step found.
    """

    shard: str
    worker: tuple[str, int]
    records: int
    seconds: float
    result: Any


class Step(ABC):
    """A worker of one pass.

    Args:
        shared: what ``Cluster.share`` gave for a tuple of the arguments of ``begin``, a job and what else there is.
    """

    def __init__(self, shared: Any) -> None:
        import ray

        self._node = str(ray.util.get_node_ip_address())
        self.begin(*ray.get(shared))

    def begin(self, job: Job, *others: Any) -> None:
        self.job = job

    def __call__(self, name: str) -> Done:
        began = time.monotonic()
        records, result = self.run(name)
        return Done(name, (self._node, os.getpid()), records, time.monotonic() - began, result)

    @abstractmethod
    def run(self, name: str) -> tuple[int, Any]:
        """Do one shard; the number of its records, and what was found."""


class Count(Step):
    """Counts who has what."""

    def begin(self, job: Job, protect_last: int, *others: Any) -> None:
        self.job, self._protect_last = job, protect_last
        self._with_items = job.reader.catalog is None

    def run(self, name: str) -> tuple[int, CountedPart]:
        records = 0

        def sequences() -> Iterator[ItemSequence]:
            nonlocal records
            for batch in self.job.reader.batches(name, self.job.silent):
                records += len(batch)
                yield from (record.sequence(self.job.reader.user_field) for record in batch)

        part = CountedPart.of(sequences(), with_items=self._with_items, protect_last=self._protect_last)
        return records, part


class Score(Step):
    """Scores items, and keeps the scores."""

    @cached_property
    def _denoiser(self) -> Any:
        from llm4dsr_cli.model.denoiser import Denoiser

        denoiser = Denoiser.load(**self.job.loading)
        if denoiser.sha256 != self.job.sha256:
            raise ModelError(
                f"the denoiser on {self._node} is another one ({denoiser.sha256[:12]}...) than where the run was begun "
                f"({self.job.sha256[:12]}...)",
                where=str(denoiser.path),
                remedy="put the same file, or the same version of llm4dsr-cli, on all machines",
            )
        return denoiser

    def run(self, name: str) -> tuple[int, CutTitles]:
        before = replace(self._denoiser.cut_titles)
        counts = RunCounts()
        batches = self.job.reader.batches(name, self.job.silent)
        with self.job.scores.writing(name) as path, path.open("wb") as out:
            for lines in score_records(batches, self._denoiser, counts, _line_of_scores):
                out.writelines(line + b"\n" for line in lines)
        cut = self._denoiser.cut_titles
        read = CutTitles(
            cut.max_tokens, cut.read - before.read, cut.cut - before.cut, cut.characters - before.characters
        )
        return counts.records, read


def _line_of_scores(record: Record, scores: Scores, sha256: str) -> bytes:
    return scores_line(scores)


class Look(Step):
    """Finds how often each score is there, and which lists run parallel to the items; nothing is edited yet."""

    def begin(self, job: Job, *others: Any) -> None:
        judging: Judging
        self.job, (judging,) = job, others
        self._cleaning = judging.by_kept_scores(job)
        self._gate = judging.settings.gate(-np.inf)

    def run(self, name: str) -> tuple[int, tuple[ScoreHistogram, ParallelLists]]:
        lists = ParallelLists(self.job.reader.record_format)
        records = 0

        def scores() -> Iterator[Scores]:
            nonlocal records
            for batch in self.job.reader.scored(name, self.job.scores, self.job.sha256, self.job.silent):
                records += len(batch)
                lists.observe(batch)
                yield from self._cleaning.log_odds([self._cleaning.sequence(record) for record in batch])

        histogram, editable = ScoreHistogram.of(scores(), self._gate)
        if self._cleaning.fuses:
            with self.job.editable.writing(name) as path, path.open("wb") as out:
                np.save(out, editable)
        return records, (histogram, lists)


class Pick(Step):
    """Gives the fused scores in the step of a histogram in which the threshold is."""

    def begin(self, job: Job, *others: Any) -> None:
        self._step: int
        self.job, (self._step,) = job, others

    def run(self, name: str) -> tuple[int, Scores]:
        with self.job.editable.reading(name) as path:
            return 0, scores_in(self._step, np.load(path))


class Edit(Step):
    """Writes shards with their edits."""

    def begin(self, job: Job, *others: Any) -> None:
        judging: Judging
        self._editor: ShardEditor
        self.job, (judging, self._editor) = job, others
        self._cleaning = judging.loaded(job) if judging.settings.action == "replace" else judging.by_kept_scores(job)

    def run(self, name: str) -> tuple[int, tuple[Edited, tuple[int, int]]]:
        coverage = self._cleaning.coverage
        before = (0, 0) if coverage is None else (coverage.items, coverage.known)
        edited = self._editor.edit(name, self._cleaning)
        seen = (0, 0) if coverage is None else (coverage.items - before[0], coverage.known - before[1])
        return edited.counts.records, (edited, seen)
