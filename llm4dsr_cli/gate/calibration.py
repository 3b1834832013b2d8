"""Calibration on one's own data: noise of known place, scored, and what follows from it for the gate."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.console import Advance, untold
from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.gate.counting import user_hash
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.gate.fusion import Fusion, fusion_features
from llm4dsr_cli.gate.gate_file import GateFile
from llm4dsr_cli.gate.noise_source import NoiseSource
from llm4dsr_cli.gate.sample import UserSequence
from llm4dsr_cli.gate.survey import ASSUMED_NOISE
from llm4dsr_cli.noise import inject_noise
from llm4dsr_cli.scores import BATCH_RECORDS, Scorer, Scores, probability
from llm4dsr_cli.sequences import IndexedSequences, ItemSequence
from llm4dsr_cli.thresholds import ThresholdCurve

STATED_RATES = (0.005, 0.01, 0.02, 0.05)
# What the fusion's few weights need is little: most users go to the thresholds.
FUSION_SHARE = 1 / 3
FEWEST_SEQUENCES = 30
_RELIABILITY_BINS = np.linspace(0, 1, 11)
# Of the noise log-odds of items that were put in: what share of such noise lies above a threshold.
NOISE_QUANTILES = np.linspace(0, 1, 101)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CalibrationSettings:
    """What decides a calibration.

    Attributes:
        sequences: at most so many are scored, each of another user.
        noise_rate: share of their items that are replaced, 0.5 at most: what belongs has to be seen among its like.
        protect_last: so many items at a sequence's end are left out, as the gate will never edit them.
        seed: fixes users and noise.
    """

    sequences: int = 2_000
    noise_rate: float = 0.1
    protect_last: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sequences < FEWEST_SEQUENCES:
            raise OptionError(f"`sequences` is {self.sequences}", remedy=f"give {FEWEST_SEQUENCES} or more")
        if not 0 < self.noise_rate <= 0.5:
            raise OptionError(
                f"`noise_rate` is {self.noise_rate:g}", remedy="give a share above 0, and at most 0.5, such as 0.1"
            )
        if self.protect_last < 0:
            raise OptionError(f"`protect_last` is {self.protect_last}", remedy="give 0 or more")
        if self.seed < 0:
            raise OptionError(f"`seed` is {self.seed}", remedy="give 0 or more")


@dataclass(frozen=True)
class NoisySequence:
    """A user's sequence with injected noise.

    Attributes:
        user: whose it is.
        titles: of the items.
        labels: 1 = replaced, shape (n_items,).
        lenders: for an item that was put in and that a user lent (``NoiseSource``), that user's number in the counts,
            which leave the user out; -1 for the others, shape (n_items,). None is -1 for all.
    """

    user: Hashable
    titles: list[str]
    labels: NDArray[np.int8]
    lenders: list[int] | None = None


@dataclass(frozen=True)
class ScoredItems:
    """The items of noisy sequences that can be edited, each array of shape (n_items,) or (n_items, n_features).

    Attributes:
        features: those of ``fusion_features``, the denoiser's log-odds first.
        labels: 1 = noise.
        user: number of the user whose item it is.
    """

    features: Floats
    labels: NDArray[np.int8]
    user: NDArray[np.int64]

    def of(self, chosen: NDArray[np.bool_]) -> ScoredItems:
        """The items for which ``chosen``, bool of shape (n_items,), is true."""
        return ScoredItems(self.features[chosen], self.labels[chosen], self.user[chosen])

    def columns(self, n: int) -> ScoredItems:
        """The same items with their first n features."""
        return replace(self, features=self.features[:, :n])


def calibrate(
    sequences: Sequence[ItemSequence],
    scorer: Scorer,
    *,
    user_field: str | None = None,
    settings: CalibrationSettings | None = None,
    advance: Advance = untold,
) -> GateFile:
    """Learn thresholds, reliability and fusion for a denoiser from unlabelled sequences.

    Evidence is counted from all of the data, as it is. Noise goes into one sequence each of randomly drawn users;
    when a user's items are judged, that user is left out of the counts. A third of these users fit the fusion, the
    others set the fused thresholds; the denoiser's own thresholds, which need no fitting, use them all.

    Args:
        sequences: of all users; a user may have several. Items without a title are left out.
        scorer: the denoiser that the gate is for.
        user_field: the records' field that the users come from, for whoever uses the gate; None if from none.
        advance: told what was scored, and the share of it.

    Raises:
        OptionError: too few sequences or titles.
    """
    settings = settings or CalibrationSettings()
    if scorer.name is None or scorer.sha256 is None:
        raise OptionError("a gate is for a denoiser that is known by name and hash", remedy="give a `Denoiser`")
    data = [(one.owner, one.titles) for one in (sequence.judgeable() for sequence in sequences)]
    evidence = Evidence.count(data)
    noisy = noisy_sequences(data, (title for _, titles in data for title in titles), evidence, settings)
    scores = scored(noisy, scorer, advance)
    items = scored_items(noisy, scores, evidence, settings.protect_last)
    gate = fit_gate(
        items,
        evidence,
        users=[sequence.user for sequence in noisy],
        model_name=scorer.name,
        model_sha256=scorer.sha256,
        settings=settings,
    )
    return replace(gate, user_field=user_field)


def noisy_sequences(
    data: Sequence[UserSequence], titles: Iterable[str], evidence: Evidence, settings: CalibrationSettings
) -> list[NoisySequence]:
    """One sequence each of randomly drawn users, with noise put in.

    Args:
        titles: those of them that users have are put in, as ``NoiseSource`` draws them.
        evidence: who has what.

    Raises:
        OptionError: too few sequences with an item that may be edited, or too few titles.
    """
    rng = np.random.default_rng([settings.seed, 0])
    titles = list(titles)
    had = (title for title, number in zip(titles, evidence.numbers(titles).tolist(), strict=True) if number >= 0)
    indexed = IndexedSequences.build(data, had)
    n_drawn = indexed.n_catalog
    shortest, longest = max(1, settings.protect_last) + 1, n_drawn // 2
    by_user: dict[Hashable, list[int]] = {}
    for number, (user, sequence) in enumerate(zip(indexed.users, indexed.sequences, strict=True)):
        if shortest <= len(sequence) <= longest:  # noise for a longer one would take more titles
            by_user.setdefault(user, []).append(number)
    if len(by_user) < FEWEST_SEQUENCES:
        if longest < shortest:
            raise OptionError(
                f"{n_drawn} titles that users have are too few to put noise into sequences", remedy="give more data"
            )
        raise OptionError(
            f"{len(by_user)} users with a sequence of {shortest} to {longest} items are too few "
            f"({longest} is half of the titles that users have)",
            remedy=f"give {FEWEST_SEQUENCES} or more, or name whose a record is with `user_field`",
        )
    numbers = evidence.numbers(indexed.titles[:n_drawn])
    source = NoiseSource(evidence.popularity[numbers])
    users = list(by_user)
    drawn = rng.permutation(len(users))[: settings.sequences]
    result = []
    for user in (users[place] for place in drawn.tolist()):
        those = by_user[user]
        window = indexed.sequences[those[int(rng.integers(len(those)))]]
        noisy, labels = inject_noise(window, n_drawn, settings.noise_rate, rng, source.draw)
        lent = [item for item in dict.fromkeys(noisy[labels == 1].tolist()) if source.is_lent(item, rng)]
        lender = {item: evidence.random_holder(int(numbers[item]), user, rng) for item in lent}
        lenders = [lender.get(item, -1) for item in noisy.tolist()]
        result.append(NoisySequence(user, [indexed.titles[item] for item in noisy], labels, lenders))
    return result


def scored(noisy: Sequence[NoisySequence], scorer: Scorer, advance: Advance = untold) -> list[Scores]:
    """The denoiser's log-odds of noisy sequences, shape (n_items,) each."""
    scores: list[Scores] = []
    for start in range(0, len(noisy), BATCH_RECORDS):
        scores += scorer.score([sequence.titles for sequence in noisy[start : start + BATCH_RECORDS]])
        advance(f"{len(scores):,} sequences with noise put in", len(scores) / len(noisy))
    return scores


def scored_items(
    sequences: Sequence[NoisySequence],
    log_odds: Sequence[NDArray[np.float32]],
    evidence: Evidence,
    protect_last: int,
) -> ScoredItems:
    """All items that the gate may edit, with the denoiser's log-odds and what the counts say of them."""
    features, labels, users = [], [], []
    for number, (sequence, scores) in enumerate(zip(sequences, log_odds, strict=True)):
        n = len(sequence.titles) - protect_last
        columns = fusion_features(scores, evidence.features(sequence.titles, sequence.user, sequence.lenders))
        features.append(columns[:n])
        labels.append(sequence.labels[:n])
        users.append(np.full(n, number))
    return ScoredItems(np.concatenate(features), np.concatenate(labels), np.concatenate(users))


def fit_gate(
    items: ScoredItems,
    evidence: Evidence,
    *,
    users: Sequence[Hashable],
    model_name: str,
    model_sha256: str,
    settings: CalibrationSettings,
) -> GateFile:
    """A gate from scored items; ``users[i]`` is the user of number i."""
    fits_fusion = np.random.default_rng([settings.seed, 1]).permutation(len(users)) < FUSION_SHARE * len(users)
    to_fit, to_cut = items.of(fits_fusion[items.user]), items.of(~fits_fusion[items.user])
    if len(np.unique(to_fit.labels)) < 2 or to_cut.labels.all():
        raise OptionError("the data are too few to fit a gate", remedy="give more sequences")
    fusion = Fusion.fit(to_fit.features, to_fit.labels)
    fused, alone = fusion.log_odds(to_cut.features), items.features[:, 0].astype(np.float32)
    calibrations = {
        name: ThresholdCurve.fit(scores[part.labels == 0], part.user[part.labels == 0])
        for name, scores, part in (("fused", fused, to_cut), ("alone", alone, items))
    }
    return GateFile(
        model_name=model_name,
        model_sha256=model_sha256,
        alone=calibrations["alone"],
        fused=calibrations["fused"],
        fusion=fusion,
        evidence=evidence,
        calibration_users=np.array(sorted({user_hash(user) for user in users}), dtype=np.uint64),
        summary={
            "settings": asdict(settings),
            "sequences": len(users),
            "fused": summary_of(calibrations["fused"], fused, to_cut),
            "alone": summary_of(calibrations["alone"], alone, items),
        },
        protect_last=settings.protect_last,
    )


def summary_of(calibration: ThresholdCurve, log_odds: Scores, items: ScoredItems) -> dict[str, Any]:
    """What a calibration found, for people and reports.

    Args:
        log_odds: of the items, shape (n_items,), which the calibration is for.
    """
    belongs = items.labels == 0
    noise = log_odds[~belongs]
    rates = []
    for rate in STATED_RATES:
        if not len(calibration.rates) or rate < calibration.rates[0]:
            continue
        above = log_odds > calibration.threshold(rate)
        recall = float(above[~belongs].mean()) if (~belongs).any() else 0.0
        rates.append(
            {
                "false_edit_rate": rate,
                "at_most": rate_bound(rate, log_odds[belongs], items.user[belongs]),
                "threshold": float(probability(np.array(calibration.threshold(rate)))),
                "recall": recall,
                "precision": {
                    f"{noise:g}": noise * recall / (noise * recall + (1 - noise) * rate) for noise in ASSUMED_NOISE
                },
            }
        )
    chance = probability(log_odds)
    bins = np.clip(np.digitize(chance, _RELIABILITY_BINS) - 1, 0, len(_RELIABILITY_BINS) - 2)
    reliability = [
        {
            "said": float(chance[bins == number].mean()),
            "found": float(1 - belongs[bins == number].mean()),
            "items": int((bins == number).sum()),
        }
        for number in range(len(_RELIABILITY_BINS) - 1)
        if (bins == number).any()
    ]
    return {
        "items": len(belongs),
        "noise": len(noise),
        "rates": rates,
        "reliability": reliability,
        "noise_log_odds": np.quantile(noise, NOISE_QUANTILES).tolist() if len(noise) else [],
    }


def rate_bound(
    rate: float,
    log_odds: NDArray[np.floating[Any]],
    user: NDArray[np.int64],
    confidence: float = 0.95,
    n_new: int | None = None,
) -> float:
    """The false-edit rate that one calibration for ``rate`` exceeds with a chance of about 1 - confidence.

    A calibration's own rate is distributed as Beta(k, n + 1 - k), k = floor((n + 1) rate), for n independent items
    (Vovk, ACML 2012; Angelopoulos and Bates, arXiv 2107.07511, section 3.2). A user's items are not independent: n is
    divided by the design effect (Kish 1965), the variance over users of the share above a threshold against that of
    independent items. It is taken at a rate of .05 at least, since fewer items tell nothing of what goes together.

    Args:
        log_odds: of the calibration's items that belong, shape (n_items,).
        user: whose items they are, shape (n_items,).
        n_new: measured on so many new items of like users, the share found varies further; None is their true rate.
    """
    n = len(log_odds)
    tail = max(rate, 0.05)
    above = log_odds > np.quantile(log_odds, 1 - tail)
    deviation = np.bincount(user, weights=above - above.mean())
    design = max(1.0, float((deviation**2).sum() / n / max(above.mean() * (1 - above.mean()), 1e-12)))
    effective = n / design
    k = max(1.0, (effective + 1) * rate)
    rng = np.random.default_rng(0)
    draws = rng.beta(k, max(effective + 1 - k, 1e-6), size=100_000)
    if n_new is not None:
        new = max(1, round(n_new / design))
        draws = rng.binomial(new, draws) / new
    return float(np.quantile(draws, confidence))
