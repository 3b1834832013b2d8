"""Calibration on one's own data: the rate is kept, and nothing leaks."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm4dsr_cli.errors import ModelError, OptionError
from llm4dsr_cli.evaluation.metrics import auroc
from llm4dsr_cli.gate.calibration import (
    CalibrationSettings,
    NoisySequence,
    ScoredItems,
    calibrate,
    fit_gate,
    noisy_sequences,
    rate_bound,
    scored_items,
)
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.gate.fusion import N_FEATURES
from llm4dsr_cli.gate.gate_file import FILE_VERSION, GateFile
from llm4dsr_cli.scores import Scores
from llm4dsr_cli.sequences import ItemSequence
from llm4dsr_cli.thresholds import ThresholdCurve

GROUPS, PER_GROUP = 5, 30
TITLES = [f"group {group} thing {number}" for group in range(GROUPS) for number in range(PER_GROUP)]
Data = list[tuple[Hashable, list[str]]]


def make_data(n_users: int, *, seed: int = 0, taste: float = 1.0) -> Data:
    """Each user likes one group of items; ``taste`` is the share of items that follow it."""
    rng = np.random.default_rng(seed)
    data: Data = []
    for user in range(n_users):
        of_group = rng.permutation(PER_GROUP)[:8] + PER_GROUP * (user % GROUPS)
        anywhere = rng.permutation(len(TITLES))[:8]
        chosen = np.where(rng.random(8) < taste, of_group, anywhere)
        data.append((user, [TITLES[item] for item in dict.fromkeys(chosen.tolist())]))
    return data


class Blind:
    """Scores that know nothing, different for every item."""

    name, sha256 = "m", "ab" * 32

    def __init__(self) -> None:
        self._rng = np.random.default_rng(7)

    def score(self, sequences: Iterable[Sequence[str]]) -> list[Scores]:
        return [self._rng.normal(size=len(titles)).astype(np.float32) for titles in sequences]

    def threshold(self, false_edit_rate: float) -> float:
        raise NotImplementedError

    def description(self) -> dict[str, Any]:
        return {}


def blind(sequences: list[list[str]]) -> list[np.ndarray]:
    return Blind().score(sequences)


def fit(data: Data, **settings: Any) -> GateFile:
    sequences = [ItemSequence(titles, user) for user, titles in data]
    return calibrate(sequences, Blind(), settings=CalibrationSettings(**settings))


def noisy(data: Data, **settings: Any) -> list[NoisySequence]:
    return noisy_sequences(data, TITLES, Evidence.count(data), CalibrationSettings(**settings))


def judged(gate: GateFile, sequences: list[NoisySequence]) -> tuple[np.ndarray, np.ndarray]:
    """Fused log-odds and labels of all items but the last of each sequence."""
    scores = [
        gate.fuse(s.titles, s.user, log_odds)[:-1]
        for s, log_odds in zip(sequences, blind([s.titles for s in sequences]), strict=True)
    ]
    return np.concatenate(scores), np.concatenate([s.labels[:-1] for s in sequences])


def test_the_counts_find_what_a_blind_model_cannot() -> None:
    """Guards fusion that is fitted and then not used, or used with the wrong sign."""
    gate = fit(make_data(600))
    scores, labels = judged(gate, noisy(make_data(600, seed=1), seed=5))
    assert auroc(scores, labels) > 0.9


def test_without_taste_nothing_is_found_on_users_who_were_counted() -> None:
    """Guards self-vouching: a user's own pairs are the only thing that could tell noise apart here."""
    data = make_data(500, taste=0)
    gate = fit(data)
    scores, labels = judged(gate, noisy(data, seed=5))
    assert auroc(scores, labels) == pytest.approx(0.5, abs=0.06)


def scored(data: Data, seed: int) -> tuple[ScoredItems, Evidence, list[Hashable]]:
    """Items of all users with noise, as calibration sees them."""
    settings = CalibrationSettings(seed=seed)
    evidence = Evidence.count(data)
    sequences = noisy_sequences(data, TITLES, evidence, settings)
    items = scored_items(sequences, blind([s.titles for s in sequences]), evidence, settings.protect_last)
    return items, evidence, [s.user for s in sequences]


def fitted_on_half(items: ScoredItems, evidence: Evidence, n_users: int) -> tuple[GateFile, ScoredItems]:
    """A gate from every other user, and the items of the others."""
    half = np.arange(n_users) % 2 == 0
    mine = items.of(half[items.user])
    mine = replace(mine, user=mine.user // 2)
    users = list(range((n_users + 1) // 2))
    gate = fit_gate(mine, evidence, users=users, model_name="m", model_sha256="", settings=CalibrationSettings())
    return gate, items.of(~half[items.user])


def test_permuted_labels_give_nothing_to_find() -> None:
    """Guards measured users whose labels decided the weights: of labels at random, nothing carries over to others."""
    items, evidence, users = scored(make_data(600), seed=9)
    true_gate, others = fitted_on_half(items, evidence, len(users))
    assert auroc(true_gate.fusion.log_odds(others.features), others.labels) > 0.85
    shuffled = replace(items, labels=np.random.default_rng(3).permutation(items.labels))
    gate, others = fitted_on_half(shuffled, evidence, len(users))
    assert auroc(gate.fusion.log_odds(others.features), others.labels) == pytest.approx(0.5, abs=0.05)


def test_an_oracle_of_the_calibration_users_is_worth_nothing_on_others() -> None:
    """Guards users on both sides: a feature that knows the labels of calibration users only must not help."""
    items, evidence, users = scored(make_data(600, taste=0), seed=9)
    rng = np.random.default_rng(4)
    knows = (items.user % 2 == 0) & (rng.random(len(items.user)) < 0.9)
    features = items.features.copy()
    features[:, 0] = np.where(knows, items.labels, rng.random(len(knows)) < 0.1)
    gate, others = fitted_on_half(replace(items, features=features), evidence, len(users))
    assert gate.fusion.weights[0] > 0.5
    assert auroc(gate.fusion.log_odds(others.features), others.labels) == pytest.approx(0.5, abs=0.06)


def test_the_stated_rate_is_kept_on_users_that_calibration_never_saw() -> None:
    """Guards the promise itself: quantile on the wrong side, weights and thresholds fitted on the same users."""
    rate, rates, bounds = 0.05, [], []
    for split in range(24):
        data = make_data(900, seed=100 + split, taste=0.7)
        gate = fit(data[:600], sequences=600)
        scores, labels = judged(gate, noisy(data[600:], seed=split))
        rates.append(float((scores[labels == 0] > gate.threshold(rate)).mean()))
        bounds.append(next(r["at_most"] for r in gate.summary["fused"]["rates"] if r["false_edit_rate"] == rate))
    assert np.mean(rates) <= rate * 1.1
    assert np.mean(rates) >= rate * 0.5
    assert np.mean(np.array(rates) <= np.array(bounds) + 0.01) >= 0.8


def test_the_same_data_and_seed_give_the_same_file(tmp_path: Path) -> None:
    """Guards order of sets and clocks in the file."""
    for name in ("a", "b"):
        fit(make_data(100)).save(tmp_path / name)
    one, other = (GateFile.load(tmp_path / name) for name in ("a", "b"))
    assert one.summary == other.summary
    assert one.fusion.weights.tolist() == other.fusion.weights.tolist()


def test_a_gate_file_gives_the_same_scores_after_a_round_trip(tmp_path: Path) -> None:
    """Guards an array that is not written, or loses precision."""
    data = make_data(200)
    gate = fit(data)
    gate.save(tmp_path / "my.gate")
    loaded = GateFile.load(tmp_path / "my.gate")
    user, titles = data[3]
    scores = np.linspace(-1, 1, len(titles), dtype=np.float32)
    np.testing.assert_array_equal(gate.fuse(titles, user, scores), loaded.fuse(titles, user, scores))
    for fusion in (True, False):
        assert gate.threshold(0.05, fusion=fusion) == loaded.threshold(0.05, fusion=fusion)
    assert loaded.holds_calibration_user(data[3][0]) and not loaded.holds_calibration_user("nobody")


def test_noise_goes_into_one_sequence_of_each_user_and_never_repeats_an_item() -> None:
    """Guards items of one user counted as independent, and noise that is no noise."""
    data = make_data(100) + make_data(100, seed=2)
    sequences = noisy(data, noise_rate=0.3)
    assert len({s.user for s in sequences}) == len(sequences) == 100
    assert all(len(set(s.titles)) == len(s.titles) for s in sequences)
    share = np.concatenate([s.labels for s in sequences]).mean()
    assert 0.2 < share < 0.4


def test_too_little_data_is_one_sentence() -> None:
    """Guards a gate that promises from next to nothing."""
    with pytest.raises(OptionError, match="too few"):
        fit(make_data(10))
    with pytest.raises(OptionError, match="titles that users have"):
        fit([(user, ["a", "b", "c"]) for user in range(100)])
    items = ScoredItems(np.zeros((90, N_FEATURES)), (np.arange(90) % 45 > 0).astype(np.int8), np.arange(90))
    everything_noise = replace(items, labels=np.ones(90, dtype=np.int8))
    for part in (items, everything_noise):
        with pytest.raises(OptionError, match="too few"):
            fit_gate(
                replace(part, labels=part.labels | (part.user > 0)),
                Evidence.count([]),
                users=range(90),
                model_name="m",
                model_sha256="",
                settings=CalibrationSettings(),
            )
    gate = fit(make_data(40))
    with pytest.raises(ModelError, match="cannot promise"):
        gate.threshold(0.0001)


@pytest.mark.parametrize("damage", ["nothing", "cut", "text", "older", "newer"])
def test_a_file_that_is_no_gate_is_one_sentence(tmp_path: Path, damage: str) -> None:
    """Guards tracebacks of zipfile and numpy, and weights of another version's features."""
    path = tmp_path / "my.gate"
    fit(make_data(60)).save(path)
    if damage == "nothing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "text":
        path.write_text("{}")
    else:
        arrays = dict(np.load(path))
        other = FILE_VERSION + (1 if damage == "newer" else -1)
        about = arrays["about"].tobytes().replace(b'"version":%d' % FILE_VERSION, b'"version":%d' % other)
        assert about != arrays["about"].tobytes()
        arrays["about"] = np.frombuffer(about, np.uint8)
        with path.open("wb") as file:
            np.savez(file, **arrays)
    with pytest.raises(ModelError, match=r"my\.gate"):
        GateFile.load(path)


def alike(n_users: int, n_items: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Scores of which a user's items have a part in common, shape (n_users * n_items,)."""
    own = np.sqrt(1 - share) * rng.normal(size=(n_users, n_items))
    return (own + np.sqrt(share) * rng.normal(size=(n_users, 1))).ravel()


@pytest.mark.parametrize(("n_users", "n_items", "share"), [(60, 10, 0.9), (200, 8, 0.6), (200, 1, 0.0)])
def test_the_rate_is_kept_on_average_however_alike_a_users_items_are(n_users: int, n_items: int, share: float) -> None:
    """Guards the pooled quantile, which takes the items of a few users for as many independent ones."""
    rng = np.random.default_rng(0)
    rate, rates = 0.02, []
    for _ in range(400):
        threshold = ThresholdCurve.fit(alike(n_users, n_items, share, rng), np.repeat(np.arange(n_users), n_items))
        rates.append((alike(300, 1, 0.0, rng) > threshold.threshold(rate)).mean())
    assert np.mean(rates) <= rate + 0.0015


def test_users_of_one_item_each_give_the_plain_conformal_quantile() -> None:
    """Guards the weighted rank against an off-by-one."""
    scores = np.random.default_rng(0).normal(size=999)
    by_user, plain = ThresholdCurve.fit(scores, np.arange(999)), ThresholdCurve.fit(scores)
    np.testing.assert_array_equal(by_user.log_odds, plain.log_odds)
    assert plain.threshold(0.05) == np.sort(scores).astype(np.float32)[950 - 1]
    with pytest.raises(ModelError, match="cannot promise"):
        ThresholdCurve.fit(np.arange(2000.0), np.repeat(np.arange(50), 40)).threshold(0.01)


@pytest.mark.parametrize(("n_users", "share", "rate"), [(300, 0.0, 0.05), (300, 0.9, 0.05), (200, 0.6, 0.01)])
def test_the_bound_covers_what_calibrations_do(n_users: int, share: float, rate: float) -> None:
    """Guards a bound for independent items where a user's items go together."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(n_users), 10)
    covered = []
    for _ in range(60):
        cut, new = alike(n_users, 10, share, rng), alike(n_users, 10, share, rng)
        bound = rate_bound(rate, cut, user, n_new=len(new))
        covered.append((new > ThresholdCurve.fit(cut, user).threshold(rate)).mean() <= bound)
    assert np.mean(covered) >= 0.88
    assert rate < rate_bound(rate, alike(n_users, 10, 0, rng), user) < 2 * rate


def test_a_user_with_many_items_weighs_as_one() -> None:
    """Guards a threshold that one heavy account sets for all others."""
    scores = np.concatenate([np.full(1000, 10.0), np.arange(199) / 199])
    users = np.concatenate([np.zeros(1000, dtype=int), np.arange(1, 200)])
    assert ThresholdCurve.fit(scores, users).threshold(0.05) < 1
    assert ThresholdCurve.fit(scores).threshold(0.05) == 10


def test_the_bound_is_wider_where_a_users_items_go_together() -> None:
    """Guards the design effect: the same number of items promises less when they are alike."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(300), 10)
    bounds = [rate_bound(0.05, alike(300, 10, share, rng), user) for share in (0.0, 0.9)]
    assert bounds[1] - 0.05 > 1.5 * (bounds[0] - 0.05)


def test_evidence_is_counted_from_the_data_as_they_are() -> None:
    """Guards counts of the injected noise instead of the data."""
    data = make_data(60)
    np.testing.assert_array_equal(fit(data).evidence.held, Evidence.count(data).held)
