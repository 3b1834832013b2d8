"""Properties of an evaluation: what is measured, on whom, and that labels serve for nothing but measuring."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import sequences
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4dsr_cli import Denoiser, EvaluationSettings, LabelledData, RecordFormat, evaluate
from llm4dsr_cli.errors import Llm4dsrError, ModelError, OptionError, RecordError
from llm4dsr_cli.evaluation.baselines import Popularity
from llm4dsr_cli.evaluation.folds import random_folds, score_by_folds
from llm4dsr_cli.evaluation.metrics import detection_quality
from llm4dsr_cli.evaluation.reference_scores import reference_scores
from llm4dsr_cli.evaluation.strata import LENGTHS, bins, by_quintile
from llm4dsr_cli.gate.counting import user_hash
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.gate.fusion import N_FEATURES, Fusion
from llm4dsr_cli.gate.gate_file import GateFile
from llm4dsr_cli.records.parsing import parse_record
from llm4dsr_cli.records.record import Record
from llm4dsr_cli.thresholds import ThresholdCurve

pytestmark = pytest.mark.usefixtures("warm_environment")

QUICK = EvaluationSettings(threshold=0.0, bootstrap=0)
# A busy machine is no bug.
unhurried = settings(deadline=None, max_examples=30)


@pytest.fixture
def denoiser(warm_environment: None, tiny_denoiser: Path) -> Iterator[Denoiser]:
    with Denoiser.load(str(tiny_denoiser), threads=1, weights="q8_0") as loaded:
        yield loaded


def records(rows: list[dict[str, Any]]) -> list[Record]:
    form = RecordFormat()
    return [parse_record(json.dumps(row).encode(), f"data:{n}", form, None) for n, row in enumerate(rows, 1)]


def labelled(n: int = 60, seed: int = 0, *, n_users: int | None = None, rate: float = 0.3) -> LabelledData:
    """Random labels for random titles."""
    rng = np.random.default_rng(seed)
    rows = [
        {"user_id": k % (n_users or n), "items": titles, "noise": (rng.random(len(titles)) < rate).astype(int).tolist()}
        for k, titles in enumerate(sequences(n, seed))
    ]
    return LabelledData.read(records(rows), "noise")


def make_gate(denoiser: Denoiser, data: LabelledData, calibrated_on: list[Any]) -> GateFile:
    rng = np.random.default_rng(5)
    pairs = [(user, data.titles_of(n)) for n, user in enumerate(data.users)]
    return GateFile(
        model_name="tiny-denoiser",
        model_sha256=denoiser.sha256,
        alone=ThresholdCurve.fit(rng.standard_normal(500)),
        fused=ThresholdCurve.fit(rng.standard_normal(500) - 2),
        fusion=Fusion(
            -1.0, np.resize([0.5, -1.0, 0.4, -0.3, 0.2, 0.1], N_FEATURES), np.zeros(N_FEATURES), np.ones(N_FEATURES)
        ),
        evidence=Evidence.count(pairs),
        calibration_users=np.array(sorted(user_hash(user) for user in calibrated_on), dtype=np.uint64),
        summary={},
    )


# --- labels and noise ------------------------------------------------------------------------------------------------


def test_injected_noise_is_where_the_labels_say_at_the_rate_that_was_asked_for() -> None:
    """Guards: labels shifted by one, the last item spared, noise that is in the sequence already or in no catalog."""
    clean = sequences(400, seed=1)
    catalog = [f"Other {n}" for n in range(500)]
    rows = records([{"items": titles} for titles in clean])
    data = LabelledData.inject(rows, 0.2, seed=1, catalog=catalog)
    drawn: list[str] = []
    for n, titles in enumerate(clean):
        for before, after, label in zip(titles, data.titles_of(n), data.labels[n], strict=True):
            assert (after != before) == bool(label)
            drawn += [after] if label else []
    assert set(drawn) <= set(catalog)
    assert len(drawn) / sum(map(len, clean)) == pytest.approx(0.2, abs=0.03)
    # 400 draws of 500 leave no title with many.
    assert max(map(drawn.count, drawn)) < 8
    last = np.mean([labels[-1] for labels in data.labels])
    assert last == pytest.approx(0.2, abs=0.08)


def test_injection_depends_on_seed_record_number_and_record_alone() -> None:
    """Guards: one stream for all records, by which one more item in the first record changes all that follow."""
    titles = sequences(30, seed=2)
    catalog = [f"Other {n}" for n in range(100)]

    def drawn(rows: list[list[str]], seed: int = 0) -> list[list[str]]:
        data = LabelledData.inject(records([{"items": row} for row in rows]), 0.5, seed=seed, catalog=catalog)
        return [data.titles_of(n) for n in range(len(rows))]

    first = drawn(titles)
    assert drawn(titles) == first
    assert drawn([["Another", "beginning"], *titles[1:]])[1:] == first[1:]
    assert drawn(titles[:10]) == first[:10]
    assert drawn(titles, seed=1) != first


def test_titles_that_differ_in_white_space_only_are_one_item() -> None:
    """Guards: noise that is the item it replaces, written otherwise, and popularity split over spellings."""
    rows = [{"items": ["A  b", "A b", "A\nb"]}, {"items": ["c", "d", "e"]}, {"items": ["f", "g"]}]
    assert LabelledData.inject(records(rows), 0.01).titles == ["A b", "c", "d", "e", "f", "g"]


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        ({}, ["noise", "missing"]),
        ({"noise": 1}, ["an integer"]),
        ({"noise": [0, 1]}, ["2 entries", "3 items"]),
        ({"noise": [0, 2, 0]}, ['"noise"[1] is 2']),
        ({"noise": [0, "1", 0]}, ['"noise"[1] is "1"']),
        ({"noise": [0, 1.0, 0]}, ['"noise"[1]']),
        ({"noise": [0, None, 0]}, ['"noise"[1] is null']),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_line_and_remedy(noise: dict[str, Any], words: list[str]) -> None:
    """Guards: labels read as probabilities or truth values, and a record that shifts all that follow."""
    rows = [{"items": ["a", "b"], "noise": [0, 1]}, {"items": ["a", "b", "c"], **noise}]
    with pytest.raises(RecordError) as error:
        LabelledData.read(records(rows), "noise")
    assert error.value.where == "data:2"
    assert error.value.remedy
    for word in words:
        assert word in str(error.value)


def test_too_few_titles_to_draw_from_name_the_record() -> None:
    """Guards: an endless search for a title that is not in the sequence."""
    with pytest.raises(
        RecordError, match=r"data:1: 3 different titles are too few .* give `catalog` .* for `labels_field`"
    ):
        LabelledData.inject(records([{"items": ["a", "b", "c"]}]))


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 10.0, math.nan])
def test_a_rate_outside_zero_to_one_is_refused(rate: float) -> None:
    """Guards: a percentage taken for a share."""
    with pytest.raises(OptionError, match=r"^a noise rate of .*: give a share above 0 and below 1"):
        LabelledData.inject(records([{"items": ["a"]}]), rate)


# --- what is measured ------------------------------------------------------------------------------------------------


def test_figures_are_those_of_the_titles_scores_without_the_last_items(denoiser: Denoiser) -> None:
    """Guards: the recommender's target measured, labels of another record, edits of another threshold."""
    oracle = pytest.importorskip("sklearn.metrics")
    data = labelled(150, seed=3)
    for protected in (0, 1, 2):
        found = evaluate(data, denoiser, EvaluationSettings(threshold=0.3, protect_last=protected, bootstrap=0))
        scores = denoiser.score([data.titles_of(n) for n in range(150)])
        pairs = [
            (score, label)
            for one, labels in zip(scores, data.labels, strict=True)
            for score, label in zip(one[: len(one) - protected], labels, strict=False)
        ]
        score, label = (np.array(column) for column in zip(*pairs, strict=True))
        assert found.overall.detection.n_items == len(label)
        assert found.overall.detection.n_noise == label.sum()
        assert found.overall.detection.auroc == pytest.approx(oracle.roc_auc_score(label, score), abs=1e-3)
        edits = found.overall.edits
        if protected:  # else the gate keeps one item a sequence, however suspicious
            assert edits.precision == pytest.approx(oracle.precision_score(label, score > 0.3), abs=5e-3)
            assert edits.recall == pytest.approx(oracle.recall_score(label, score > 0.3), abs=5e-3)
            assert edits.false_edit_rate == pytest.approx((score[label == 0] > 0.3).mean(), abs=5e-3)


def test_labels_serve_for_measuring_alone(denoiser: Denoiser) -> None:
    """Guards: labels that reach the scorer, the baselines or the fusion. With permuted ones AUROC must be chance."""
    pytest.importorskip("sklearn")
    data = labelled(150, seed=4, n_users=40)
    # Labels that the scores find perfectly, and the same ones permuted.
    scores = denoiser.score([data.titles_of(n) for n in range(150)])
    cut = np.quantile(np.concatenate(scores), 0.8)
    good = dataclasses.replace(data, labels=[(one > cut).astype(np.int8) for one in scores])
    rng = np.random.default_rng(0)
    flat = rng.permutation(np.concatenate(good.labels))
    parts = np.split(flat, np.cumsum([len(one) for one in scores])[:-1])
    bad = dataclasses.replace(data, labels=parts)
    gate = make_gate(denoiser, data, [])
    options = EvaluationSettings(threshold=0.0, bootstrap=0, baselines=True)
    found = {name: evaluate(one, denoiser, options, gate=gate) for name, one in (("good", good), ("bad", bad))}
    np.testing.assert_array_equal(found["good"].items.log_odds, found["bad"].items.log_odds)
    np.testing.assert_array_equal(found["good"].items.edited, found["bad"].items.edited)
    assert set(found["bad"].items.baselines) == {"popularity", "co-occurrence + TF-IDF", "EASE"}
    for name, suspicion in found["good"].items.baselines.items():
        np.testing.assert_array_equal(suspicion, found["bad"].items.baselines[name])
    assert evaluate(good, denoiser, QUICK).overall.detection.auroc > 0.99
    assert evaluate(bad, denoiser, QUICK).overall.detection.auroc == pytest.approx(0.5, abs=0.08)
    for baseline in found["bad"].baselines.values():
        assert baseline.detection.auroc == pytest.approx(0.5, abs=0.08)


def test_a_limit_takes_records_evenly_and_changes_nothing_of_them(denoiser: Denoiser) -> None:
    """Guards: the first N of a sorted file, or noise and popularity that depend on how many are measured."""
    rows = records([{"items": titles} for titles in sequences(90, seed=5)])
    data = LabelledData.inject(rows, 0.3, seed=2)
    everything = evaluate(data, denoiser, QUICK).items
    some = evaluate(data, denoiser, dataclasses.replace(QUICK, limit=10))
    usable = [n for n, items in enumerate(data.sequences) if len(items) > 1]
    chosen = {usable[int(place)] for place in np.linspace(0, len(usable) - 1, 10)}
    mask = np.concatenate([np.full(len(data.sequences[n]) - 1, n in chosen) for n in usable])
    np.testing.assert_array_equal(some.items.labels, everything.labels[mask])
    np.testing.assert_array_equal(some.items.popularity, everything.popularity[mask])
    np.testing.assert_allclose(some.items.log_odds, everything.log_odds[mask], atol=0.01)
    assert some.protocol["n_records"] == 10
    assert evaluate(data, denoiser, dataclasses.replace(QUICK, limit=1000)).protocol["n_records"] == len(usable)


def test_strata_share_all_items_out_by_length_and_by_other_users(denoiser: Denoiser) -> None:
    """Guards: items lost between bins, the protected item missing from the length, the judged user counted himself."""
    data = labelled(200, seed=6, n_users=50)
    found = evaluate(data, denoiser, QUICK)
    lengths, popularity, repetitions = [], [], []
    held: dict[Any, set[int]] = {}
    for user, items in zip(data.users, data.sequences, strict=True):
        held.setdefault(user, set()).update(items.tolist())
    for user, items in zip(data.users, data.sequences, strict=True):
        for item in items[:-1]:
            lengths.append(len(items))
            popularity.append(sum(item in mine for other, mine in held.items() if other != user))
            repetitions.append(items.tolist().count(item))
    assert found.items.lengths.tolist() == lengths
    assert found.items.popularity.tolist() == popularity
    assert found.items.repetitions.tolist() == repetitions
    all_strata = (found.by_length, lengths), (found.by_popularity, popularity), (found.by_repetition, repetitions)
    for parts, values in all_strata:
        assert len(parts) == min(2, len(set(values))) or len(parts) > 2
        chosen = np.concatenate([part.items for part, _ in parts])
        assert sorted(chosen.tolist()) == list(range(len(values)))
        for part, measured in parts:
            within = np.array(values)[part.items]
            assert (within >= part.low).all() and (part.high is None or (within <= part.high).all())
            quality = detection_quality(found.items.log_odds[part.items], found.items.labels[part.items])
            np.testing.assert_equal(vars(measured.detection), vars(quality))


@unhurried
@given(st.lists(st.integers(1, 70), min_size=1, max_size=60))
def test_every_item_is_in_one_stratum(values: list[int]) -> None:
    """Guards: bins that overlap at their bounds, equal values torn apart, empty bins measured."""
    for parts in (bins(np.array(values)), by_quintile(np.array(values))):
        assert sorted(np.concatenate([part.items for part in parts]).tolist()) == list(range(len(values)))
        for part, following in itertools.pairwise(parts):
            assert part.high is not None and part.high < following.low
    assert {part.low for part in bins(np.array(values))} <= set(LENGTHS)


def test_users_of_the_calibration_are_left_out_and_counted(denoiser: Denoiser) -> None:
    """Guards: a gate measured on what it was fitted to, be the users' ids numbers there and texts here."""
    data = labelled(80, seed=7, n_users=20)
    known = [str(user) for user in range(20) if user % 2]
    gate = make_gate(denoiser, data, [int(user) for user in known])
    said: list[str] = []
    found = evaluate(data, denoiser, QUICK, gate=gate, say=said.append)
    others = dataclasses.replace(
        data,
        **{
            name: [value for value, user in zip(getattr(data, name), data.users, strict=True) if user not in known]
            for name in ("sequences", "labels", "users")
        },
    )
    expected = [n for n, items in enumerate(others.sequences) if len(items) > 1]
    labels = np.concatenate([others.labels[n][:-1] for n in expected])
    np.testing.assert_array_equal(found.items.labels, labels)
    assert found.protocol["calibration_users_left_out"] == len(known)
    assert any("10 users are left out" in line for line in said)
    # Of data all of whose users calibrated, nobody is left out: there would be nothing to measure.
    everybody = evaluate(data, denoiser, QUICK, gate=make_gate(denoiser, data, list(range(20))), say=said.append)
    assert everybody.protocol["calibration_users_left_out"] == 0
    assert everybody.protocol["n_users"] == 20 and "flatter" in said[-1]


def test_a_gate_files_fused_scores_and_thresholds_are_the_measured_ones(denoiser: Denoiser) -> None:
    """Guards: fused scores beside the threshold of the model's own, or fusion that --no-fusion does not stop."""
    data = labelled(40, seed=8)
    gate = make_gate(denoiser, data, [])
    alone = denoiser.score([data.titles_of(n) for n in range(40)])
    for fusion, calibration in ((True, gate.fused), (False, gate.alone)):
        options = EvaluationSettings(false_edit_rate=0.05, fusion=fusion, bootstrap=0)
        found = evaluate(data, denoiser, options, gate=gate)
        scores = [gate.fuse(data.titles_of(n), data.users[n], one) if fusion else one for n, one in enumerate(alone)]
        expected = np.concatenate([one[:-1] for one in scores])
        np.testing.assert_allclose(found.items.log_odds, expected, atol=0.01)
        assert found.threshold == calibration.threshold(0.05)
        assert found.protocol["fusion"] == fusion


def test_a_gate_of_another_denoiser_is_refused(denoiser: Denoiser) -> None:
    """Guards: thresholds of one model applied to another's scores."""
    data = labelled(10)
    gate = dataclasses.replace(make_gate(denoiser, data, []), model_sha256="0" * 64)
    with pytest.raises(ModelError, match="not for the denoiser in use"):
        evaluate(data, denoiser, QUICK, gate=gate)


def test_baselines_judge_by_the_other_half_of_the_users() -> None:
    """Guards: a user's own sequences that vouch for their items, or only the judged ones counted."""
    pytest.importorskip("sklearn")
    data = labelled(120, seed=9, n_users=30)
    pairs = list(zip(data.users, data.sequences, strict=True))
    judged = list(range(0, 120, 5))
    found = reference_scores(data.titles, pairs, judged)["popularity"]
    fold = random_folds(data.users)
    assert 0.3 < np.mean([fold[user] for user in set(data.users)]) < 0.7
    for place, suspicion in zip(judged, found, strict=True):
        others = [items for user, items in pairs if fold[user] != fold[data.users[place]]]
        counts = [sum(item in items for items in others) for item in data.sequences[place]]
        np.testing.assert_allclose(suspicion, -np.log1p(counts))


@pytest.mark.parametrize("n", [2, 5])
def test_each_fold_is_judged_by_all_the_others(n: int) -> None:
    """Guards: folds beyond the second that nobody judges, or that count themselves."""
    data = labelled(60, seed=9, n_users=30)
    pairs = list(zip(data.users, data.sequences, strict=True))
    fold = random_folds(data.users, n)
    assert {*fold.values()} == {*range(n)}
    found = score_by_folds(Popularity(len(data.titles)), pairs, pairs, fold)
    for (user, items), suspicion in zip(pairs, found, strict=True):
        others = [other for whose, other in pairs if fold[whose] != fold[user]]
        np.testing.assert_allclose(suspicion, -np.log1p([sum(item in one for one in others) for item in items]))


def test_a_baseline_that_cannot_work_is_left_out_and_named() -> None:
    """Guards: a traceback of scikit-learn's for titles without words."""
    pytest.importorskip("sklearn")
    said: list[str] = []
    items = [(user, np.array([user % 4, 4 + user % 3])) for user in range(12)]
    found = reference_scores(list("abcdefg"), items, list(range(12)), say=said.append)
    assert set(found) == {"popularity", "EASE"}
    assert len(said) == 1 and said[0].startswith("co-occurrence + TF-IDF is left out")


def test_an_evaluation_can_be_repeated(denoiser: Denoiser) -> None:
    """Guards: draws or noise from an unseeded generator; and a seed that does nothing."""
    data = labelled(40, seed=10)
    options = EvaluationSettings(bootstrap=50, threshold=0.0)
    first, again = (json.dumps(evaluate(data, denoiser, options).as_dict()) for _ in range(2))
    assert first == again
    other = evaluate(data, denoiser, dataclasses.replace(options, seed=1))
    assert other.overall.intervals != evaluate(data, denoiser, options).overall.intervals
    assert set(other.overall.intervals) == set(other.overall.figures()) - {"n_items", "n_noise"}


# --- too little to measure -------------------------------------------------------------------------------------------


def test_data_without_noise_leaves_figures_undefined(denoiser: Denoiser) -> None:
    """Guards: a crash, or 0, for what cannot be known."""
    data = labelled(20, seed=11)
    found = evaluate(
        dataclasses.replace(data, labels=[np.zeros_like(one) for one in data.labels]),
        denoiser,
        EvaluationSettings(threshold=0.0, bootstrap=20),
    )
    figures = found.overall.figures()
    for name in ("auroc", "average_precision", "recall", "f1"):
        assert math.isnan(figures[name]), name
        assert all(math.isnan(bound) for bound in found.overall.intervals[name]), name
    assert 0 <= figures["false_edit_rate"] <= 1


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "there are no records"),
        ([{"items": [], "noise": []}], "too short"),
        ([{"items": ["a"], "noise": [1]}] * 3, "too short"),
        (
            [{"user_id": user, "items": ["a", "b"], "noise": [1, 0]} for user in range(3)],
            "all 3 judged items are noise",
        ),
        ([{"items": ["a", "b", "c"], "noise": [1, 0, 0]}], "one user is too few"),
    ],
)
def test_too_little_data_is_one_sentence(denoiser: Denoiser, rows: list[dict[str, Any]], sentence: str) -> None:
    """Guards: a numpy traceback for an empty file, and intervals of width 0 from a single user."""
    data = LabelledData.read(records(rows), "noise")
    with pytest.raises(Llm4dsrError, match=sentence) as error:
        evaluate(data, denoiser, EvaluationSettings(threshold=0.0, bootstrap=10))
    assert error.value.remedy


@pytest.mark.parametrize(
    "options",
    [{"limit": 0}, {"bootstrap": -1}, {"seed": -1}, {"protect_last": -1}, {"false_edit_rate": 1.0}],
    ids=str,
)
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    """Guards: a negative slice that measures other items, or a limit of none taken for all."""
    with pytest.raises(OptionError):
        EvaluationSettings(**options)
