"""Cleaning a folder of shards on Ray: count, score, survey and edit them, one pass after the other."""

from __future__ import annotations

import hashlib
import pickle
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from llm4dsr_cli.cache import file_sha256
from llm4dsr_cli.cleaning.cleaner import Cleaner
from llm4dsr_cli.cleaning.counted import Counted
from llm4dsr_cli.cleaning.passes import counts_data, weighs_counts
from llm4dsr_cli.cleaning.run import Cleaning
from llm4dsr_cli.cleaning.settings import CleaningSettings
from llm4dsr_cli.console import Advance, untold
from llm4dsr_cli.defaults import USER_FIELD
from llm4dsr_cli.distributed.cluster import Cluster
from llm4dsr_cli.distributed.folder import Folder
from llm4dsr_cli.distributed.shards import ShardEditor, ShardReader, is_table
from llm4dsr_cli.distributed.state import OWN, RunState
from llm4dsr_cli.distributed.steps import Count, Done, Edit, Job, Judging, Look, Pick, Score
from llm4dsr_cli.errors import CatalogError, OptionError, OutputError
from llm4dsr_cli.gate.gate_file import GateFile
from llm4dsr_cli.gate.histogram import MergedSurvey, ScoreHistogram
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.parallel import ParallelLists
from llm4dsr_cli.records.record import Record
from llm4dsr_cli.records.record_format import RecordFormat
from llm4dsr_cli.replacing.replacer import ProposerName
from llm4dsr_cli.version import __version__

if TYPE_CHECKING:
    from llm4dsr_cli.model.denoiser import Denoiser

Say = Callable[[str], None]
Progress = Callable[[], AbstractContextManager[Advance]]


@dataclass(frozen=True)
class Shards:
    """What is cleaned, and where it goes.

    Attributes:
        source, target: folders.
        audit, rejects: folders for a shard's audit, and for what is no record; None for none. Without ``rejects``,
            what is no record is an error.
        annotate: add the items' noise probabilities.
        record_format, catalog, user_field: as for ``Cleaning``.
        catalog_path: of the catalog, to know it again.
    """

    source: str
    target: str
    audit: str | None = None
    rejects: str | None = None
    annotate: bool = False
    record_format: RecordFormat = field(default_factory=RecordFormat)
    catalog: Catalog | None = None
    catalog_path: str | None = None
    user_field: str = USER_FIELD


@dataclass
class FolderRun:
    """A run and what it has found so far; see ``clean_folder``.

    Attributes:
        cleaner: the cleaning as it decided, with the tally of all shards that this run has edited.
        survey: of the scores of all shards.
        shards, skipped: how many there are, and how many of them were finished before.
        rates: for each worker (machine, process) that scored: shards, sequences, and seconds of work.
        passes: seconds of each pass.
        work: seconds that workers worked in each pass, all together; without their start.
    """

    cleaner: Cleaner[Record]
    survey: MergedSurvey
    shards: int
    skipped: int
    rates: dict[tuple[str, int], tuple[int, int, float]]
    passes: dict[str, float]
    work: dict[str, float]

    def report(self, cluster: Cluster) -> dict[str, Any]:
        """For JSON."""
        return {
            "address": cluster.address,
            "nodes": cluster.nodes,
            "shards": self.shards,
            "finished_before": self.skipped,
            "seconds": {name: round(seconds, 3) for name, seconds in self.passes.items()},
            "seconds_of_work": {name: round(seconds, 3) for name, seconds in self.work.items()},
            "workers": [
                {
                    "node": node,
                    "process": process,
                    "threads": cluster.threads,
                    "shards": shards,
                    "sequences": sequences,
                    "seconds": round(seconds, 3),
                    "sequences_per_second": round(sequences / max(seconds, 1e-6), 2),
                }
                for (node, process), (shards, sequences, seconds) in sorted(self.rates.items())
            ],
        }

    def describe(self) -> list[str]:
        """What people want to know of it, a sentence each."""
        found = []
        if self.skipped:
            found.append(f"{self.skipped:,} of {self.shards:,} shards were finished before, and are not counted here")
        if self.rates:
            speeds = [sequences / max(seconds, 1e-6) for _, sequences, seconds in self.rates.values()]
            each = sum(speeds) / len(speeds)
            found.append(f"scored by {len(speeds)} workers, {each:.1f} sequences/s each")
        return found


def clean_folder(
    cluster: Cluster,
    shards: Shards,
    settings: CleaningSettings,
    *,
    proposer: ProposerName = "counts",
    gate: GateFile | None = None,
    dry_run: bool = False,
    say: Say = lambda line: None,
    progress: Progress | None = None,
    surveyed: Callable[[Cleaning, MergedSurvey], None] = lambda cleaning, survey: None,
    **loading: Any,
) -> FolderRun | None:
    """Clean a folder of JSON lines or Parquet into another one, where each file gets its own name.

    It is ``llm4dsr clean`` of all files together, by the workers of a cluster. Scores are kept, and a shard appears
    when it is whole; a run that was stopped goes on where it was, when it is called again with the same arguments.

    Args:
        cluster: who works.
        shards: what is cleaned.
        settings: what is done with flagged items, and which are flagged.
        proposer, gate: as for ``Cleaning.load``.
        dry_run: score and survey, and edit nothing.
        say: told in one sentence each what happens.
        progress: gives what is told how far a pass is.
        surveyed: told what edits would do, before there are any.
        loading: ``model``, ``base``, ``weights``, ``engine``, ``gpu_layers`` and ``offline``, as for ``Denoiser.load``.

    Returns:
        What was done; None where an earlier run of the same has finished.

    Raises:
        OptionError: an argument is out of range; a file of the folder is no shard; or ``target`` holds something else
            than an earlier run of the same.
        Llm4dsrError: a shard, a model or Ray fails; it says where.
    """
    return _Run(cluster, shards, settings, proposer, gate, say, progress, loading).run(dry_run, surveyed)


class _Run:
    def __init__(
        self,
        cluster: Cluster,
        shards: Shards,
        settings: CleaningSettings,
        proposer: ProposerName,
        gate: GateFile | None,
        say: Say,
        progress: Progress | None,
        loading: Mapping[str, Any],
    ) -> None:
        self.cluster, self.shards, self.settings = cluster, shards, settings
        self.proposer, self.gate, self.say = proposer, gate, say
        self.progress = progress or (lambda: nullcontext(untold))
        self.loading = {**everywhere(loading), "threads": cluster.threads}
        self.source, self.target = Folder(shards.source), Folder(shards.target)
        self.sizes = self.source.sizes()
        if not self.sizes:
            raise OptionError("is no folder with files in it", where=shards.source, remedy="give a folder of shards")
        if self.source.holds(self.target):
            raise OptionError("lies in the folder that is read", where=shards.target, remedy="give another folder")
        self._check_folders()
        self.tables = sum(map(is_table, self.sizes))
        if self.tables and shards.audit is not None:
            raise OptionError("`audit` is of lines, and there is Parquet", remedy="leave it out, or give JSON lines")
        self._fuses = weighs_counts(settings, gate=gate is not None)
        self.rates: dict[tuple[str, int], tuple[int, int, float]] = {}
        self.passes: dict[str, float] = {}
        self.work: dict[str, float] = {}

    def _check_folders(self) -> None:
        """Refuse audits and rejects that would be written over shards, or over each other; raises OptionError."""
        taken = {"IN": self.source, "OUT": self.target}
        for name, path in (("`audit`", self.shards.audit), ("`rejects`", self.shards.rejects)):
            if path is None:
                continue
            folder = Folder(path)
            for other, there in taken.items():
                own = other == "OUT" and there.passes_over(folder)
                if not own and (there.holds(folder) or folder.holds(there)):
                    raise OptionError(
                        f"{other} and {name} share a folder, {path}", remedy=f"give {name} one of its own"
                    )
            taken[name] = folder

    def run(self, dry_run: bool, surveyed: Callable[[Cleaning, MergedSurvey], None]) -> FolderRun | None:
        shards, settings = self.shards, self.settings
        # Nothing is counted yet, and so nothing replaced: what is wrong with a model shows before any pass.
        unreplaced = replace(settings, action="drop") if settings.action == "replace" else settings
        common: dict[str, Any] = {
            "catalog": shards.catalog,
            "record_format": shards.record_format,
            "user_field": shards.user_field,
        }
        with (
            Cleaning.load(**self.loading, **common, **vars(unreplaced), gate=self.gate, say=self.say) as first,
            ExitStack() as stack,
        ):
            denoiser = cast("Denoiser", first.scorer)
            job = self._job(denoiser)
            state = self._state(denoiser)
            if state.begin():
                self._check_all_there(f"delete {OWN} in it, and the same command makes it again")
                return None
            there = self.target.sizes()
            left = [name for name in self.sizes if name not in there]
            saved = state.kept_gate()
            counted = self._counted(job, saved is not None)
            self._score(job, denoiser)
            if saved is not None:
                gate, fusion = saved
                settled = replace(unreplaced, fusion=fusion)
                cleaning = Cleaning(denoiser, settled, gate_file=gate, **common)
            else:
                cleaning = Cleaning(denoiser, unreplaced, gate_file=self.gate, counted=counted, **common)
                if self._fuses:
                    cleaning = self._fitted(cleaning, state)
            judging = Judging(cleaning.settings, cleaning.gate_file)
            survey, lists = self._looked(job, judging, cleaning)
            if settings.edit is not None:
                cleaning = cleaning.editing(settings.edit, survey)
                judging = replace(judging, surveyed=survey)
            surveyed(cleaning, survey)
            if settings.action == "replace":
                whole = replace(cleaning.settings, action="replace")
                judging = Judging(whole, cleaning.gate_file, counted, self.proposer, judging.surveyed)
                cleaning = stack.enter_context(judging.loaded(job))
            cleaner: Cleaner[Record] = Cleaner(cleaning, shards.annotate)
            cleaner.lists.merge(lists)
            if not dry_run:
                self._edit(job, judging, lists, cleaner, left)
                self._check_all_there("give a folder that all machines share")
                state.finish()
        return FolderRun(
            cleaner, survey, len(self.sizes), len(self.sizes) - len(left), self.rates, self.passes, self.work
        )

    def _job(self, denoiser: Denoiser) -> Job:
        shards = self.shards
        reader = ShardReader(self.source, shards.record_format, shards.catalog, shards.user_field)
        # What one machine has chosen is for all: scores depend on the weights.
        chosen = weights_of(denoiser.runtime)
        loading = self.loading if chosen is None else {**self.loading, "weights": chosen}
        skips = shards.rejects is not None
        return Job(reader, self.target, skips, loading, denoiser.name, denoiser.sha256, denoiser.metadata)

    def _state(self, denoiser: Denoiser) -> RunState:
        shards = self.shards
        scores = {
            "the shards": self.source.stamps(),
            "the fields of the records": [asdict(shards.record_format), shards.user_field],
            "`catalog`": None if shards.catalog_path is None else file_sha256(shards.catalog_path, CatalogError),
            "`model`": denoiser.sha256,
            "`base` or `weights`": weights_of(denoiser.runtime),
            "`engine`": denoiser.engine,
            "the version": __version__,
        }
        edits = {
            "`gate`": None if self.gate is None else hashlib.sha256(pickle.dumps(self.gate)).hexdigest(),
            "options of the gate": vars(self.settings),
            "`proposer`": self.proposer,
            "`annotate`": shards.annotate,
            "`audit`": shards.audit,
            "`rejects`": shards.rejects,
        }
        return RunState(self.target, scores, edits)

    def _check_all_there(self, remedy: str) -> None:
        there = self.target.sizes()
        missing = [name for name in self.sizes if name not in there]
        if missing:
            raise OutputError(
                f"{len(missing):,} shards are not here, though they were written ({missing[0]})",
                where=self.shards.target,
                remedy=remedy,
            )

    def _counted(self, job: Job, fitted: bool) -> Counted | None:
        """Counts of all shards; None where nobody needs them: they are in a gate that was fitted, too."""
        with_catalog, replaces = self.shards.catalog is not None, self.settings.action == "replace"
        needed = counts_data(self.settings, gate=self.gate is not None, catalog=with_catalog, proposer=self.proposer)
        if not needed or (fitted and (with_catalog or not replaces)):
            return None
        self.say(f"counting {len(self.sizes):,} shards ...")
        parts = {
            done.shard: done.result
            for done in self._pass("counted", Count, self.sizes, (job, self.settings.protect_last))
        }
        return Counted.merged([parts[name] for name in self.sizes])

    def _score(self, job: Job, denoiser: Denoiser) -> None:
        there = job.scores.sizes()
        left = [name for name in self.sizes if name not in there]
        if len(left) < len(self.sizes):
            self.say(f"scores of {len(self.sizes) - len(left):,} of {len(self.sizes):,} shards are there already")
        for done in self._pass("scored", Score, left, (job,), model=True):
            denoiser.cut_titles.merge(done.result)
            shards, sequences, seconds = self.rates.get(done.worker, (0, 0, 0.0))
            self.rates[done.worker] = (shards + 1, sequences + done.records, seconds + done.seconds)

    def _fitted(self, cleaning: Cleaning, state: RunState) -> Cleaning:
        with self.progress() as advance:
            cleaning = cleaning.fitted(say=self.say, advance=advance)
        if cleaning.gate_file is not None:
            state.keep_gate(cleaning.gate_file, cleaning.settings.fusion)
        return cleaning

    def _looked(self, job: Job, judging: Judging, cleaning: Cleaning) -> tuple[MergedSurvey, ParallelLists]:
        """What all scores are, and which lists run parallel to the items."""
        lists = ParallelLists(self.shards.record_format)
        found = {done.shard: done.result for done in self._pass("surveyed", Look, self.sizes, (job, judging))}
        for name in self.sizes:
            lists.merge(found[name][1])
        histogram = ScoreHistogram.merged([found[name][0] for name in self.sizes])
        noise = cleaning.known_noise
        survey = MergedSurvey(histogram, noise)
        step = None if self.settings.edit is None else survey.step(self.settings.edit)
        if step is not None and cleaning.fuses:  # fused scores lie between the steps
            picked = [done.result for done in self._pass("surveyed", Pick, self.sizes, (job, step))]
            survey = MergedSurvey(histogram, noise, (step, np.concatenate(picked)))
        return survey, lists

    def _edit(
        self, job: Job, judging: Judging, lists: ParallelLists, cleaner: Cleaner[Record], left: list[str]
    ) -> None:
        shards = self.shards
        audit, rejects = (None if path is None else Folder(path) for path in (shards.audit, shards.rejects))
        editor = ShardEditor(job.reader, self.target, job.scores, job.sha256, audit, rejects, shards.annotate, lists)
        model = self.settings.action == "replace"
        coverage = cleaner.cleaning.coverage
        for done in self._pass("edited", Edit, left, (job, judging, editor), model=model):
            edited, seen = done.result
            cleaner.counts.merge(edited.counts)
            cleaner.lists.kept.update(edited.lists.kept)
            cleaner.lists.left = {**edited.lists.left, **cleaner.lists.left}
            cleaner.nameless += edited.nameless
            if coverage is not None:
                coverage.merge(*seen)

    def _pass(
        self, verb: str, worker: type, names: Iterable[str], arguments: tuple[Any, ...], *, model: bool = False
    ) -> Iterator[Done]:
        """Let workers do these shards, and tell how far they are."""
        names = list(names)
        if not names:
            return
        began = time.monotonic()
        total, bytes_done, records = sum(self.sizes[name] for name in names), 0, 0
        shared = self.cluster.share(arguments)
        with self.progress() as advance:
            for number, done in enumerate(self.cluster.each(worker, names, shared, model=model), 1):
                yield done
                records += done.records
                self.work[verb] = self.work.get(verb, 0.0) + done.seconds
                bytes_done += self.sizes[done.shard]
                speed = records / max(1e-6, time.monotonic() - began)
                told = f"{number:,} of {len(names):,} shards {verb}, {records:,} records, {speed:.0f}/s"
                advance(told, bytes_done / total if total else None)
        self.passes[verb] = self.passes.get(verb, 0.0) + time.monotonic() - began


def weights_of(runtime: Path) -> str | None:
    """The type of a merged model's weights, by its name; None of a denoiser that is no adapter."""
    found = re.search(r"-(bf16|q8_0|q4_0)-[0-9a-f]+\.gguf$", runtime.name)
    return None if found is None else found[1]


def everywhere(loading: Mapping[str, Any]) -> dict[str, Any]:
    """How a denoiser is loaded by processes with another current folder: names stay, paths of files are made whole."""
    found = dict(loading)
    for name in ("model", "base"):
        value = found.get(name)
        if value is not None and Path(value).is_file():
            found[name] = Path(value).absolute()
    return found
