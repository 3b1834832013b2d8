"""Evaluation: how well a denoiser, its gate and simple baselines find noise of known place.

Scorers are given titles and users, never labels: those are joined to the finished scores, item by item.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.console import Advance, untold
from llm4dsr_cli.defaults import FALSE_EDIT_RATE
from llm4dsr_cli.errors import Llm4dsrError, OptionError
from llm4dsr_cli.evaluation.bootstrap import Intervals, Multiplicities, bootstrap_intervals
from llm4dsr_cli.evaluation.labelled_data import LabelledData
from llm4dsr_cli.evaluation.metrics import DetectionQuality, EditQuality, Ranking, edit_quality
from llm4dsr_cli.evaluation.reference_scores import check_baselines, reference_scores
from llm4dsr_cli.evaluation.strata import Indices, Stratum, bins, by_quintile
from llm4dsr_cli.gate.coverage import Coverage
from llm4dsr_cli.gate.gate import Gate
from llm4dsr_cli.gate.gate_file import GateFile
from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.scores import BATCH_RECORDS, Scores, probability
from llm4dsr_cli.thresholds import check_rate

# Of the figures these are no quality, and get no interval.
COUNTS = ("n_items", "n_noise")


@dataclass(frozen=True)
class Measurement:
    """Quality of one scorer over one set of items.

    Attributes:
        detection: of its scores, whatever the threshold.
        edits: of its edits at the gate; None for a scorer without a gate.
        intervals: (low, high) by figure: 95% bootstrap intervals over users; empty without a bootstrap.
    """

    detection: DetectionQuality
    edits: EditQuality | None
    intervals: Intervals

    def figures(self) -> dict[str, Any]:
        """Counts and shares by name, NaN where undefined."""
        return {**asdict(self.detection), **(asdict(self.edits) if self.edits else {})}

    def as_dict(self) -> dict[str, Any]:
        """Figures and intervals, for JSON."""
        return {**self.figures(), "intervals": {name: list(bounds) for name, bounds in self.intervals.items()}}


@dataclass(frozen=True)
class JudgedItems:
    """The items that were measured; arrays of shape (n_items,).

    Attributes:
        log_odds: noise log-odds, float32; the fused ones where a gate fuses.
        labels: 1 = noise.
        edited: whether the gate edits it.
        users: number of the user, 0..n_users-1.
        lengths: items of its sequence, the protected ones too.
        popularity: other users of the data who hold it.
        repetitions: how often its sequence holds it.
        baselines: suspicion by each baseline.
    """

    log_odds: Scores
    labels: NDArray[np.int8]
    edited: NDArray[np.bool_]
    users: NDArray[np.int64]
    lengths: NDArray[np.int64]
    popularity: NDArray[np.int64]
    repetitions: NDArray[np.int64]
    baselines: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` found.

    Attributes:
        threshold: noise log-odds above which the gate edits.
        overall: all items.
        by_length: items by the length of their sequence, shortest first.
        by_popularity: items by how many other users hold them: fifths of the items, least popular first.
        by_repetition: items by how often their sequence holds them: once, or more often.
        baselines: by name.
        model: the denoiser's name and hashes.
        protocol: how it was measured.
    """

    items: JudgedItems
    threshold: float
    overall: Measurement
    by_length: list[tuple[Stratum, Measurement]]
    by_popularity: list[tuple[Stratum, Measurement]]
    by_repetition: list[tuple[Stratum, Measurement]]
    baselines: dict[str, Measurement]
    model: dict[str, Any]
    protocol: dict[str, Any]

    @property
    def scorer_name(self) -> str:
        """What the scores come from, for people."""
        return "denoiser and counts" if self.protocol["fusion"] else "denoiser"

    def as_dict(self) -> dict[str, Any]:
        """For JSON; undefined figures are NaN, the threshold a probability."""

        def strata(parts: list[tuple[Stratum, Measurement]]) -> list[dict[str, Any]]:
            return [{"low": part.low, "high": part.high, **found.as_dict()} for part, found in parts]

        return {
            **self.overall.figures(),
            "threshold": float(probability(np.array(self.threshold))),
            "intervals": self.overall.as_dict()["intervals"],
            "by_length": strata(self.by_length),
            "by_popularity": strata(self.by_popularity),
            "by_repetition": strata(self.by_repetition),
            "baselines": {name: found.as_dict() for name, found in self.baselines.items()},
            "model": self.model,
            "protocol": self.protocol,
        }


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured, and how.

    Attributes:
        false_edit_rate: sets the gate's threshold, by the gate file's calibration or else the denoiser's; None is
            FALSE_EDIT_RATE, or the lowest that the gate file promises.
        threshold: noise log-odds, instead of a rate.
        fusion: fuse the log-odds with the counts of the gate file, where there is one.
        protect_last: so many items at a sequence's end are not measured; they serve as context.
        limit: measure so many records, evenly spaced.
        baselines: measure simple baselines beside the denoiser, each counted on the other of two folds of the users.
        bootstrap: draws for the intervals; 0 makes none.
        seed: of these draws.

    Raises:
        OptionError: an attribute is out of range.
    """

    false_edit_rate: float | None = None
    threshold: float | None = None
    fusion: bool = True
    protect_last: int = 1
    limit: int | None = None
    baselines: bool = False
    bootstrap: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.false_edit_rate is not None:
            check_rate(self.false_edit_rate)
        self.rule(0.0 if self.threshold is None else self.threshold)
        if self.limit is not None and self.limit < 1:
            raise OptionError(f"`limit` is {self.limit}", remedy="give 1 or more records")
        if self.bootstrap < 0:
            raise OptionError(f"`bootstrap` is {self.bootstrap}", remedy="give 0 or more draws")
        if self.seed < 0:
            raise OptionError(f"`seed` is {self.seed}", remedy="give 0 or more")

    def rule(self, threshold: float) -> Gate:
        """The gate whose edits are measured."""
        return Gate(threshold, protect_last=self.protect_last)


def evaluate(
    data: LabelledData,
    denoiser: Denoiser,
    settings: EvaluationSettings | None = None,
    *,
    gate: GateFile | None = None,
    say: Callable[[str], None] = lambda line: None,
    advance: Advance = untold,
) -> Evaluation:
    """Measure a denoiser on labelled data, item by item.

    Args:
        gate: a calibration on one's own data. Users on whose sequences it was calibrated are not measured.
        say: told what is left out, one line each.
        advance: told what was done, and the share of the records that are scored.

    Raises:
        Llm4dsrError: the data holds too little to measure.
        ModelError: gate and denoiser do not fit together, carry no calibration for this rate, or the gate is of other
            data.
        MissingExtraError: baselines without the extra ``benchmark``.
    """
    settings = settings or EvaluationSettings()
    if gate is not None:
        gate.check_model(denoiser.sha256, "`gate`")
    threshold, rate = settings.threshold, None
    if threshold is None:
        if gate is None:
            rate = settings.false_edit_rate or FALSE_EDIT_RATE
            threshold = denoiser.metadata.threshold(rate)
        else:
            curve = gate.curve(fusion=settings.fusion)
            rate = settings.false_edit_rate or curve.promised(FALSE_EDIT_RATE)
            threshold = curve.threshold(rate)
    judged, left_out = _choose(data, gate, settings, say)
    if gate is not None:
        coverage = Coverage(gate.evidence)
        coverage.add([data.titles_of(n) for n in judged])
        coverage.check()
        if warning := coverage.warning():
            say(warning)
    judged_users = {data.users[n] for n in judged}
    if settings.bootstrap and len(judged_users) < 2:
        raise Llm4dsrError(
            "one user is too few for intervals", remedy="give records of more users, or `bootstrap` 0 for no intervals"
        )
    suspicion: dict[str, list[NDArray[Any]]] = {}
    if settings.baselines:
        check_baselines()
        advance("baselines", None)
        sequences = list(zip(data.users, data.sequences, strict=True))
        suspicion = reference_scores(data.titles, sequences, judged, say=say)
    counts = gate if settings.fusion else None
    log_odds = _score([(data.users[n], data.titles_of(n)) for n in judged], denoiser, counts, advance)
    items = _join(data, judged, log_odds, suspicion, settings.rule(threshold))
    if items.labels.all():
        raise Llm4dsrError(
            f"all {len(items.labels)} judged items are noise: nothing shows how those that belong are judged",
            remedy="give more records, or labels that are 0 for items that belong",
        )
    advance("intervals", None)
    everything = Stratum(0, None, np.arange(len(items.labels)))
    strata = [bins(items.lengths), by_quintile(items.popularity), bins(items.repetitions, (1, 2))]
    parts = [everything, *chain.from_iterable(strata)]
    scorers = [_Scorer(items, part.items, items.log_odds, items.edited) for part in parts]
    scorers += [_Scorer(items, everything.items, scores, None) for scores in items.baselines.values()]
    overall, *others = _measure(scorers, len(judged_users), settings.bootstrap, settings.seed)
    measured = iter(others)
    by_length, by_popularity, by_repetition = ([(part, next(measured)) for part in those] for those in strata)
    return Evaluation(
        items=items,
        threshold=threshold,
        overall=overall,
        by_length=by_length,
        by_popularity=by_popularity,
        by_repetition=by_repetition,
        baselines=dict(zip(items.baselines, measured, strict=True)),
        model=denoiser.description(),
        protocol={
            **data.source,
            "gate": gate is not None,
            "fusion": counts is not None,
            "false_edit_rate": rate,
            "threshold_log_odds": threshold if math.isfinite(threshold) else None,
            "protect_last": settings.protect_last,
            "limit": settings.limit,
            "n_records": len(judged),
            "n_users": len(judged_users),
            "calibration_users_left_out": left_out,
            "bootstrap": settings.bootstrap,
            "bootstrap_seed": settings.seed,
        },
    )


class _Scorer:
    """One scorer's figures over some of the judged items, for any multiplicities of the users."""

    def __init__(
        self, items: JudgedItems, chosen: Indices, scores: NDArray[Any], edited: NDArray[np.bool_] | None
    ) -> None:
        self._labels = items.labels[chosen]
        self._users = items.users[chosen]
        self._ranking = Ranking(scores[chosen], self._labels)
        self._edited = None if edited is None else edited[chosen]

    def quality(self, drawn: Multiplicities | None = None) -> tuple[DetectionQuality, EditQuality | None]:
        weights = None if drawn is None else drawn[self._users]
        edits = None if self._edited is None else edit_quality(self._edited, self._labels, weights)
        return self._ranking.quality(weights), edits

    def figures(self, drawn: Multiplicities) -> dict[str, float]:
        found = Measurement(*self.quality(drawn), intervals={}).figures()
        return {name: value for name, value in found.items() if name not in COUNTS}


def _measure(scorers: Sequence[_Scorer], n_users: int, draws: int, seed: int) -> list[Measurement]:
    intervals: list[Intervals] = [{} for _ in scorers]
    if draws:
        intervals = bootstrap_intervals([scorer.figures for scorer in scorers], n_users, draws=draws, seed=seed)
    return [Measurement(*scorer.quality(), found) for scorer, found in zip(scorers, intervals, strict=True)]


def _choose(
    data: LabelledData, gate: GateFile | None, settings: EvaluationSettings, say: Callable[[str], None]
) -> tuple[list[int], int]:
    """The records to measure, and how many users are left out because the gate was calibrated on them.

    Nobody is left out of data all of whose users it was calibrated on: with other noise, they are all there is.
    """
    if not data.sequences:
        raise Llm4dsrError("there are no records to measure", remedy="give at least a few sequences")
    known = set() if gate is None else {user for user in set(data.users) if gate.holds_calibration_user(user)}
    long_enough = [n for n, items in enumerate(data.sequences) if len(items) > settings.protect_last]
    if not long_enough:
        raise Llm4dsrError(
            f"no items are left to judge in {len(data.sequences):,} records: they are too short",
            remedy=f"give sequences of more than {settings.protect_last} items",
        )
    usable = [n for n in long_enough if data.users[n] not in known]
    if not usable:
        usable, known = long_enough, set()
        say("the gate was calibrated on all of these users: its figures flatter it; evaluate on others for fair ones")
    elif known:
        say(f"{len(known):,} users are left out: the gate was calibrated on their sequences")
    n = min(settings.limit or len(usable), len(usable))
    return [usable[place] for place in np.linspace(0, len(usable) - 1, n).astype(int)], len(known)


def _score(
    sequences: Sequence[tuple[Hashable, list[str]]],
    denoiser: Denoiser,
    gate: GateFile | None,
    advance: Advance,
) -> list[Scores]:
    """Noise log-odds of the items of each (user, titles), fused where there is a gate."""
    scores: list[Scores] = []
    for start in range(0, len(sequences), BATCH_RECORDS):
        batch = sequences[start : start + BATCH_RECORDS]
        found = denoiser.score([titles for _, titles in batch])
        if gate is not None:
            found = [gate.fuse(titles, user, one) for (user, titles), one in zip(batch, found, strict=True)]
        scores += found
        advance(f"{len(scores):,} of {len(sequences):,} records", len(scores) / len(sequences))
    return scores


def _join(
    data: LabelledData,
    judged: Sequence[int],
    log_odds: Sequence[Scores],
    suspicion: dict[str, list[NDArray[Any]]],
    rule: Gate,
) -> JudgedItems:
    """Labels beside the finished scores, without the protected items."""
    number: dict[Hashable, int] = {}
    for n in judged:
        number.setdefault(data.users[n], len(number))

    def flat(per_record: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate([values[: len(values) - rule.protect_last] for values in per_record])

    sequences = [data.sequences[n] for n in judged]
    lengths = [len(items) for items in sequences]
    return JudgedItems(
        log_odds=flat(log_odds),
        labels=flat([data.labels[n] for n in judged]),
        edited=flat([rule.decide(scores) for scores in log_odds]),
        users=flat([np.full(n, number[data.users[at]]) for at, n in zip(judged, lengths, strict=True)]),
        lengths=flat([np.full(n, n) for n in lengths]),
        # The judged user is one of those who hold the item.
        popularity=data.popularity()[flat(sequences)] - 1,
        repetitions=flat([_repetitions(items) for items in sequences]),
        baselines={name: flat(scores) for name, scores in suspicion.items()},
    )


def _repetitions(items: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often a sequence holds each of its items, shape (n_items,)."""
    _, item_of, times = np.unique(items, return_inverse=True, return_counts=True)
    return times[item_of].astype(np.int64)
