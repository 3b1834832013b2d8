"""Cleaning: sequences in, decisions out; records in, edited records out. Every way to clean goes through here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.cleaning.counted import Counted
from llm4dsr_cli.cleaning.decision import Decision, Fallback
from llm4dsr_cli.cleaning.editing import additions, record_edits
from llm4dsr_cli.cleaning.fitting import fit_to
from llm4dsr_cli.cleaning.settings import CleaningSettings, check_choice
from llm4dsr_cli.closing import Closing
from llm4dsr_cli.console import Advance, untold
from llm4dsr_cli.defaults import USER_FIELD
from llm4dsr_cli.errors import ModelError, OptionError
from llm4dsr_cli.gate.coverage import Coverage
from llm4dsr_cli.gate.gate import Gate
from llm4dsr_cli.gate.gate_file import GateFile
from llm4dsr_cli.gate.survey import KnownNoise, Survey
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.edits import Action, dropped_and_put
from llm4dsr_cli.records.parallel import ParallelLists
from llm4dsr_cli.records.parsing import record_of
from llm4dsr_cli.records.record import Record, load_catalog
from llm4dsr_cli.records.record_format import RecordFormat
from llm4dsr_cli.replacing.candidates import Candidates
from llm4dsr_cli.replacing.replacer import ProposerName, Replacement, Replacer
from llm4dsr_cli.scores import BATCH_RECORDS, Scorer, Scores
from llm4dsr_cli.sequences import ItemSequence, JudgeableSequence
from llm4dsr_cli.titles import CutTitles

if TYPE_CHECKING:
    from llm4dsr_cli.replacing.generate.suggester import Suggester


class Cleaning(Closing):
    """Finds the items that do not belong, and what belongs there; see ``Cleaning.load``.

    Threads may share one: the denoiser judges for one of them at a time.

    Attributes:
        scorer: gives noise log-odds.
        settings: what is done with flagged items, and which are flagged.
        gate_file: what ``calibrate`` learned; None without one.
        coverage: how many of the items that were decided about the gate file has counted; None without one, and where
            these are the data that it was fitted to.
        replacer: proposes items; for the action "replace".
        counted: what was counted of the data; for ``fitted``.
        catalog, record_format, user_field: how ``clean`` reads records.
        surveyed: for settings with ``edit``, what finds their threshold; ``survey`` makes it.

    Raises:
        OptionError: the action is "replace" and there is no replacer.
        ModelError: the gate file was calibrated for another denoiser, or promises no rate so low.
    """

    def __init__(
        self,
        scorer: Scorer,
        settings: CleaningSettings | None = None,
        *,
        gate_file: GateFile | None = None,
        replacer: Replacer | None = None,
        catalog: Catalog | None = None,
        record_format: RecordFormat | None = None,
        user_field: str | None = None,
        counted: Counted | None = None,
        surveyed: Survey | None = None,
    ) -> None:
        settings = settings or CleaningSettings()
        if settings.action == "replace" and replacer is None:
            raise OptionError('`action` is "replace", and nobody proposes items', remedy="give a `replacer`")
        if gate_file is not None and scorer.sha256 is not None:
            gate_file.check_model(scorer.sha256, "`gate`")
        self.scorer = scorer
        self.settings = settings
        self.surveyed = surveyed
        self._gate: Gate | None = None  # of a share of edits it is not known before the data are
        if settings.edit is None:
            self._gate = settings.gate(settings.log_odds_threshold(gate_file, scorer.threshold))
        elif surveyed is not None:
            self._gate = settings.gate(surveyed.threshold(settings.edit))
        self.gate_file = gate_file
        # What was counted of the data themselves holds no more than the last items of a long history, and is no other.
        own = gate_file is not None and (
            gate_file.cross_fitted or (counted is not None and gate_file.evidence is counted.evidence)
        )
        self.coverage = None if gate_file is None or own else Coverage(gate_file.evidence)
        self.replacer = replacer
        self.counted = counted
        self.catalog = catalog
        self.record_format = record_format or RecordFormat()
        self.user_field = user_field or (gate_file and gate_file.user_field) or USER_FIELD
        self._open = ExitStack()  # what ``load`` has loaded

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        catalog: str | Path | Catalog | None = None,
        gate: str | Path | GateFile | None = None,
        action: Action = "drop",
        fallback: Fallback = "drop",
        proposer: ProposerName = "counts",
        counted: Iterable[ItemSequence] | Counted | None = None,
        threshold: float | None = None,
        false_edit_rate: float | None = None,
        edit: float | None = None,
        max_edits: float | None = None,
        protect_last: int = 1,
        fusion: bool = True,
        record_format: RecordFormat | None = None,
        user_field: str | None = None,
        base: str | Path | None = None,
        weights: str = "auto",
        engine: str = "llama",
        threads: int | None = None,
        gpu_layers: int | None = None,
        offline: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ) -> Cleaning:
        """Load all that a cleaning takes. The result is a context manager; ``close`` frees the model.

        Args:
            model, base, weights, engine, threads, gpu_layers, offline, say: as for ``Denoiser.load``.
            catalog: titles by id, and what may replace an item.
            gate: what ``calibrate`` gave, or its file.
            action, fallback, threshold, false_edit_rate, edit, max_edits, protect_last, fusion: as for
                ``CleaningSettings``.
            proposer: who proposes what replaces an item: "counts" of the data, or "generate", the denoiser.
            counted: sequences of the data, read once, or what was counted of them: their counts propose items where
                there is no gate, and their items may replace others where there is no catalog; ``fitted`` lets them
                judge, too.
            record_format: where in a record its items are, for ``clean``.
            user_field: where in a record its user is; None is the gate's field, else "user_id".

        Raises:
            OptionError: an argument is out of range, contradicts another, or is missing for the action.
            CatalogError, ModelError, OutputError: a file cannot be used.
        """
        check_choice("proposer", proposer, get_args(ProposerName))
        settings = CleaningSettings(
            action=action,
            fallback=fallback,
            threshold=threshold,
            false_edit_rate=false_edit_rate,
            edit=edit,
            max_edits=max_edits,
            protect_last=protect_last,
            fusion=fusion,
        )
        record_format = record_format or RecordFormat()
        if not (catalog is None or isinstance(catalog, Catalog)):
            catalog = load_catalog(catalog, record_format, keep_fields=action == "replace")
        if not (gate is None or isinstance(gate, GateFile)):
            gate = GateFile.load(gate)
        # It loads llama.cpp, which kept scores can do without.
        from llm4dsr_cli.model.denoiser import KNOWN_BYTES, Denoiser

        loading: dict[str, Any] = {"base": base, "weights": weights, "threads": threads}
        loading |= {"gpu_layers": gpu_layers, "offline": offline, "say": say}
        with ExitStack() as stack:
            denoiser = stack.enter_context(Denoiser.load(model, **loading, engine=engine, known_bytes=KNOWN_BYTES))

            def load_suggester() -> Suggester:
                from llm4dsr_cli.replacing.generate.suggester import Suggester

                return stack.enter_context(Suggester.load(model, **loading))

            seen = counted
            if not (seen is None or isinstance(seen, Counted)):
                seen = Counted.of(seen, with_items=catalog is None, protect_last=protect_last)
            replacer = None
            if action == "replace":
                if catalog is not None:
                    candidates = Candidates.from_catalog(catalog, record_format.is_padding)
                elif seen is not None:
                    candidates = seen.items
                else:
                    raise OptionError("replacing takes items", remedy="give `catalog`, or the sequences with `counted`")
                evidence = gate.evidence if gate is not None else None if seen is None else seen.evidence
                window = denoiser.metadata.max_window
                replacer = Replacer.make(proposer, window, candidates, evidence=evidence, load_suggester=load_suggester)
            cleaning = cls(
                denoiser,
                settings,
                gate_file=gate,
                replacer=replacer,
                catalog=catalog,
                record_format=record_format,
                user_field=user_field,
                counted=seen,
            )
            cleaning._open = stack.pop_all()
        return cleaning

    @property
    def gate(self) -> Gate:
        """Flags items by their log-odds.

        Raises:
            OptionError: a share of edits is asked for, and the data have not been surveyed.
        """
        if self._gate is None:
            raise OptionError("`edit` takes two passes over the data", remedy="clean with ``within_budget``")
        return self._gate

    @property
    def fuses(self) -> bool:
        """Whether items are judged by the gate file's counts, too."""
        return self.gate_file is not None and self.settings.fusion

    @property
    def cut_titles(self) -> CutTitles | None:
        """How many titles the denoiser has read, and cut; None where something else judges."""
        found: CutTitles | None = getattr(self.scorer, "cut_titles", None)
        return found

    def score(self, sequences: Iterable[ItemSequence | Sequence[str | None]]) -> Iterator[ItemSequence]:
        """The sequences with the denoiser's log-odds, for several cleanings to decide by; lazily, in batches."""
        for batch in _batches(sequences):
            scores = self._scores([sequence.judgeable() for sequence in batch])
            for sequence, log_odds in zip(batch, _spread(batch, scores), strict=True):
                yield replace(sequence, log_odds=log_odds)

    def log_odds(self, sequences: Sequence[ItemSequence]) -> list[Scores]:
        """What the gate judges by, for one batch: log-odds that are kept or the denoiser's, fused where a gate fuses.

        Returns:
            One float32 array of shape (n_items,) for each sequence; NaN for items that nobody can judge.
        """
        judgeable = [sequence.judgeable() for sequence in sequences]
        scores = self._scores(judgeable)
        if self.gate_file is not None and self.settings.fusion:
            fuse = self.gate_file.fuse
            scores = [fuse(one.titles, one.owner, found) for one, found in zip(judgeable, scores, strict=True)]
        return _spread(sequences, scores)

    def _scores(self, sequences: Sequence[JudgeableSequence]) -> list[Scores]:
        unknown = [sequence.titles for sequence in sequences if sequence.log_odds is None]
        found = self.scorer.score(unknown) if unknown else []
        if [len(log_odds) for log_odds in found] != [len(titles) for titles in unknown]:
            raise ModelError(f"{self.scorer.name} gave other than one score for each item")
        if not all(np.isfinite(log_odds).all() for log_odds in found):
            raise ModelError(f"{self.scorer.name} gave scores that are no numbers")
        given = iter(found)
        return [next(given) if sequence.log_odds is None else sequence.log_odds for sequence in sequences]

    def decide(self, sequences: Iterable[ItemSequence | Sequence[str | None]]) -> Iterator[Decision]:
        """A decision for each sequence, in order; lazily, in batches of BATCH_RECORDS, so that a stream may be endless.

        A plain list of titles is a sequence that names nobody. An item whose title is None is left alone: nobody can
        judge it, and the others are judged without it.
        """
        for batch in _batches(sequences):
            yield from self.decide_batch(batch)
        if self.coverage is not None:
            self.coverage.check()

    def decide_batch(self, sequences: Sequence[ItemSequence]) -> list[Decision]:
        """``decide`` for sequences that are scored together; a score depends a little on those beside it.

        Raises:
            ModelError: the gate file is of other data: it has counted next to none of the items.
        """
        if self.coverage is not None:
            self.coverage.add([sequence.judgeable().titles for sequence in sequences])
        scores = self.log_odds(sequences)
        flagged = [self.gate.decide(log_odds) for log_odds in scores]
        proposals: list[dict[int, Replacement]] = [{} for _ in sequences]
        if self.settings.action == "replace" and self.replacer is not None:
            proposals = self._proposals(self.replacer, sequences, scores, flagged)
        return [
            Decision(log_odds, edits, self.settings.action, self.settings.fallback, self.gate.threshold, proposed)
            for log_odds, edits, proposed in zip(scores, flagged, proposals, strict=True)
        ]

    def _proposals(
        self,
        replacer: Replacer,
        sequences: Sequence[ItemSequence],
        scores: list[Scores],
        flagged: list[NDArray[np.bool_]],
    ) -> list[dict[int, Replacement]]:
        """What is proposed for flagged items, by position; the replacer sees only what can be judged."""
        places = [sequence.judged for sequence in sequences]
        found = replacer.replace(
            [sequence.judgeable() for sequence in sequences],
            [log_odds[at] for log_odds, at in zip(scores, places, strict=True)],
            [edits[at] for edits, at in zip(flagged, places, strict=True)],
            self.gate.threshold,
            self.log_odds,
        )
        return [
            {int(at[position]): replacement for position, replacement in proposed.items()}
            for at, proposed in zip(places, found, strict=True)
        ]

    def clean(self, records: Iterable[dict[str, Any]], *, annotate: bool = False) -> Iterator[dict[str, Any]]:
        """Records with their items edited, in order; lazily, as ``decide``.

        A record in which nothing is edited comes back as it is, the same object. ``annotate`` adds the items' noise
        probabilities to each, None for items that nobody can judge.

        Raises:
            RecordError: a record's items cannot be read, a field that is to be added is there already, or a list that
                runs parallel to the items elsewhere is of another length.
        """
        numbered = enumerate(records, 1)
        lists = ParallelLists(self.record_format)
        while batch := list(islice(numbered, BATCH_RECORDS)):
            parsed = [record_of(data, f"record {n}", self.record_format, self.catalog) for n, data in batch]
            lists.observe(parsed)
            for record, decision in zip(parsed, self.decide_batch([*map(self.sequence, parsed)]), strict=True):
                decision = decision.placed(record.order, len(record.titles))
                edits = record_edits(record, decision, self.candidates)
                dropped, put = dropped_and_put(edits)
                add = additions(decision, annotate=annotate, fused=self.fuses)
                yield record.edited(dropped, add, put, lists.of(record, dropping=bool(dropped)))
        if self.coverage is not None:
            self.coverage.check()

    @property
    def candidates(self) -> Candidates | None:
        """What may replace an item; None for another action."""
        return None if self.replacer is None else self.replacer.candidates

    def sequence(self, record: Record) -> ItemSequence:
        """A record's items without its padding, oldest first, its user, and its scores if it was scored.

        Raises:
            OptionError: its items have fields of the catalog, which the catalog did not keep for replacements.
        """
        if self.replacer is not None:
            self.replacer.candidates.check_fields(record)
        return record.sequence(self.user_field)

    def gated(self, **changes: Any) -> Cleaning:
        """A cleaning with other ``CleaningSettings``, which shares this one's denoiser, and does not close it.

        A new ``threshold`` or ``false_edit_rate`` takes the place of the old one, and of a share of edits, which
        ``within_budget`` gives. Where what may be edited changes, or who judges, a share of edits takes a survey again.

        Raises:
            OptionError: as ``CleaningSettings``.
        """
        ways = ("threshold", "false_edit_rate", "edit")
        anew = any(changes.get(way) is not None for way in ways)
        if anew:
            changes = {**dict.fromkeys(ways), **changes}
        settings = replace(self.settings, **changes)
        surveyed = ("max_edits", "protect_last", "fusion")
        stands = not anew and all(getattr(settings, name) == getattr(self.settings, name) for name in surveyed)
        return self._with(settings, self.surveyed if stands else None)

    def _with(self, settings: CleaningSettings, surveyed: Survey | None, gate_file: GateFile | None = None) -> Cleaning:
        return Cleaning(
            self.scorer,
            settings,
            surveyed=surveyed,
            gate_file=gate_file or self.gate_file,
            replacer=self.replacer,
            counted=self.counted,
            catalog=self.catalog,
            record_format=self.record_format,
            user_field=self.user_field,
        )

    def within_budget(self, share: float, sequences: Iterable[ItemSequence | Sequence[str | None]]) -> Cleaning:
        """A cleaning that edits at most this share of all items of these sequences, the most suspicious ones.

        The sequences are scored, or their kept scores read, to find the threshold; cleaning them is a second pass.
        """
        return self.editing(share, self.survey(sequences))

    def survey(self, sequences: Iterable[ItemSequence | Sequence[str | None]]) -> Survey:
        """What shares of edits would do to these sequences, which are scored, or their kept scores read."""
        scores = (log_odds for batch in _batches(sequences) for log_odds in self.log_odds(batch))
        return Survey(scores, self.settings.gate(-math.inf), self.known_noise)

    @property
    def known_noise(self) -> KnownNoise | None:
        """Scores of the items that were put in to calibrate; None where nobody has.

        And none with ``max_edits``: what that leaves of a sequence is chosen by the scores, and so is no sample.
        """
        if self.gate_file is None or self.settings.max_edits is not None:
            return None
        return self.gate_file.known_noise(fusion=self.settings.fusion)

    def editing(self, share: float, survey: Survey) -> Cleaning:
        """A cleaning that edits at most this share of all items that a survey saw, the most suspicious ones."""
        settings = replace(self.settings, threshold=None, false_edit_rate=None, edit=share)
        return self._with(settings, survey)

    def fitted(self, *, say: Callable[[str], None] = lambda line: None, advance: Advance = untold) -> Cleaning:
        """A cleaning whose judgements are fused with the counts of the data, where these help the denoiser.

        Noise is put into the sequences of some of the users that were counted, and scored. It needs ``counted``, and
        FEWEST_SEQUENCES users; with fewer, or where the counts do not help, or the sample is too small to promise the
        false-edit rate, the denoiser judges alone. A user's counts never judge the user's own items.

        Args:
            say: told, in a sentence, who judges.
            advance: told what was scored, and the share of it.
        """
        if self.counted is None:
            raise OptionError("nothing was counted", remedy="give `counted`")
        titles = self.counted.items.titles if self.catalog is None else [title for _, title in self.catalog if title]
        rate = self.settings.rate(None)
        fitted = fit_to(
            self.counted, titles, self.scorer, protect_last=self.settings.protect_last, rate=rate, advance=advance
        )
        say(fitted.told)
        # Judging alone, the denoiser keeps a rate by its own calibration, of more users than the sample has.
        if fitted.gate is None or (rate is not None and not fitted.helps):
            return self
        return self._with(replace(self.settings, fusion=fitted.helps), None, fitted.gate)

    def close(self) -> None:
        """Free the models that ``load`` has loaded; harmless when there is none."""
        self._open.close()


def _spread(sequences: Sequence[ItemSequence], scores: Sequence[Scores]) -> list[Scores]:
    """Scores of the items that can be judged, at their places among all of them; NaN for the others."""
    spread = []
    for sequence, found in zip(sequences, scores, strict=True):
        if len(found) == len(sequence.titles):
            spread.append(found)
            continue
        whole = np.full(len(sequence.titles), np.nan, dtype=np.float32)
        whole[sequence.judged] = found
        spread.append(whole)
    return spread


def _batches(sequences: Iterable[ItemSequence | Sequence[str | None]]) -> Iterator[list[ItemSequence]]:
    iterator = iter(sequences)
    while batch := list(islice(iterator, BATCH_RECORDS)):
        yield [one if isinstance(one, ItemSequence) else ItemSequence(one) for one in batch]
