"""Cleaning: what ``clean``, ``apply`` and the library share. A decision says what is done, and everyone does it."""

from __future__ import annotations

import itertools
import json
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import sequences as random_titles
from hypothesis import given
from hypothesis import strategies as st

from llm4dsr_cli import (
    Catalog,
    Cleaner,
    Cleaning,
    Denoiser,
    ItemSequence,
    KeptScores,
    ModelError,
    OptionError,
    RecordFormat,
)
from llm4dsr_cli.cleaning.counted import Counted
from llm4dsr_cli.cleaning.settings import CleaningSettings
from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.gate.fusion import N_FEATURES, Fusion
from llm4dsr_cli.gate.gate_file import GateFile
from llm4dsr_cli.records.parsing import parse_record
from llm4dsr_cli.records.record import Record
from llm4dsr_cli.replacing.candidates import Candidates
from llm4dsr_cli.replacing.proposals import Gaps, Proposal
from llm4dsr_cli.replacing.replacer import Replacer
from llm4dsr_cli.scores import Scores, log_odds_of, probability
from llm4dsr_cli.thresholds import ThresholdCurve


class Judge:
    """Scores titles by a function, and remembers the batches."""

    def __init__(self, of: Callable[[str], float]) -> None:
        self.of = of
        self.batches: list[list[list[str]]] = []
        self.name, self.sha256 = "judge", "a" * 64

    def threshold(self, false_edit_rate: float) -> float:
        return 10 * false_edit_rate

    def score(self, sequences: Iterable[Sequence[str]]) -> list[Scores]:
        self.batches.append([list(titles) for titles in sequences])
        return [np.array([self.of(title) for title in titles], dtype=np.float32) for titles in self.batches[-1]]

    def description(self) -> dict[str, Any]:
        return {"name": self.name}


class Listed:
    """Proposes the same candidates in every gap."""

    name, score_name = "listed", "rank"

    def __init__(self, *candidates: int) -> None:
        self.candidates = candidates

    def propose(self, windows: Sequence[Gaps], n: int) -> list[list[Proposal]]:
        return [[Proposal((candidate,), (1.0,)) for candidate in self.candidates] for _ in windows]


def by_number(title: str) -> float:
    """Titles such as "b 3": the number is the log-odds."""
    return float(title.split()[-1])


def gate_of(evidence: Evidence, weights: Sequence[float], **more: Any) -> GateFile:
    """A gate whose fused log-odds are a plain weighted sum of the features."""
    curve = ThresholdCurve(np.array([0.01, 0.1], dtype=np.float32), np.array([2.0, 1.0], dtype=np.float32), 100)
    fusion = Fusion(0.0, np.array(weights, dtype=np.float64), np.zeros(N_FEATURES), np.ones(N_FEATURES))
    return GateFile("judge", "a" * 64, curve, curve, fusion, evidence, np.zeros(0, dtype=np.uint64), {}, **more)


def record(items: list[Any], catalog: Catalog | None = None, **more: Any) -> Record:
    return parse_record(json.dumps({"items": items, **more}).encode(), "in.jsonl:7", RecordFormat(), catalog)


# --- decisions -------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(-3, 3), max_size=6), max_size=8), st.sampled_from(["drop", "mark", "replace"]))
def test_a_decision_keeps_what_the_action_leaves(numbers: list[list[int]], action: Any) -> None:
    """Guards: ``keep`` of another action, or of another gate than ``flagged``."""
    titles = [[f"t{i} {number}" for i, number in enumerate(those)] for those in numbers]
    candidates = Candidates()
    candidates.add("good -3", 1)
    candidates.add("bad 3", 2)
    for fallback, proposed in itertools.product(("drop", "keep"), (0, 1)):
        cleaning = Cleaning(
            Judge(by_number),
            CleaningSettings(action=action, fallback=fallback, threshold=0.5),
            replacer=Replacer(Listed(proposed), candidates, 20) if action == "replace" else None,
        )
        for those, decision in zip(numbers, cleaning.decide(titles), strict=True):
            flagged = [i for i, number in enumerate(those[:-1]) if number > 0]
            assert np.flatnonzero(decision.flagged).tolist() == flagged
            replaced = [*decision.replacements]
            assert set(replaced) <= set(flagged) and (not replaced or (action == "replace" and proposed == 0))
            gone = [i for i in flagged if i not in replaced]
            stays = action == "mark" or (action == "replace" and fallback == "keep")
            assert np.flatnonzero(~decision.keep).tolist() == ([] if stays else gone)
            assert np.allclose(decision.noise_probability, probability(np.array(those)))


def test_a_stream_is_read_a_batch_ahead_and_no_further() -> None:
    """Guards: a generator that never ends read to its end, and memory that grows with it."""
    asked = 0

    def forever() -> Iterator[list[str]]:
        nonlocal asked
        for asked in itertools.count(1):
            yield [f"a {asked % 3}", "b 0"]

    judge = Judge(by_number)
    cleaning = Cleaning(judge, CleaningSettings(threshold=0.5))
    found = list(itertools.islice(cleaning.decide(forever()), 130))
    assert len(found) == 130 and asked <= 3 * 64
    assert [decision.flagged[0] for decision in found] == [number % 3 > 0 for number in range(1, 131)]
    asked = 0
    records = ({"items": titles} for titles in forever())
    assert [len(one["items"]) for one in itertools.islice(cleaning.clean(records), 70)] == [
        1 if number % 3 else 2 for number in range(1, 71)
    ]
    assert asked <= 2 * 64


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"action": "remove"}, "`action` is remove: no such action: choose drop, mark or replace"),
        ({"fallback": "undo"}, "`fallback`"),
        ({"action": "replace"}, "`replacer`"),
        ({"threshold": 0.5, "edit": 0.1}, "`threshold` and `edit` contradict"),
        ({"threshold": 1.5}, "`threshold`"),
        ({"false_edit_rate": 0.0}, "`false_edit_rate`"),
        ({"edit": 1.0}, "`edit`"),
        ({"edit": "5%"}, "`edit` is '5%': give a share"),
        ({"max_edits": 1.5}, "`max_edits`"),
        ({"protect_last": -1}, "`protect_last`"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(settings: dict[str, Any], words: str) -> None:
    """Guards: an unknown action that edits nothing, "replace" that drops because nobody proposes; both in silence."""
    with pytest.raises(OptionError) as caught:
        Cleaning(Judge(by_number), CleaningSettings(**settings))
    assert words in str(caught.value) and "--" not in str(caught.value)


def test_the_threshold_is_the_given_one_else_the_gates_else_the_denoisers() -> None:
    """Guards: a gate file that is ignored, or that beats what the user typed."""
    gate = gate_of(Evidence.count([]), [0.0] * N_FEATURES)
    judge = Judge(by_number)
    for settings, gate_file, threshold in (
        (CleaningSettings(threshold=0.75), gate, log_odds_of(0.75)),
        (CleaningSettings(false_edit_rate=0.1), gate, 1.0),
        (CleaningSettings(), gate, 2.0),
        (CleaningSettings(false_edit_rate=0.1), None, 1.0),
        (CleaningSettings(), None, 0.1),
    ):
        assert Cleaning(judge, settings, gate_file=gate_file).gate.threshold == pytest.approx(threshold)


# --- counts never vouch for their own user ---------------------------------------------------------------------------


def test_the_counts_of_a_sequence_that_names_nobody_do_not_judge_its_own_proposal() -> None:
    """Guards: a record without a user whose own items vouch for it, because the copy with the proposal in it has other
    titles, by which it was taken for another user."""
    titles = ["noise 3", "x 0", "y 0"]
    others = [(user, ["x 0", "good 0"]) for user in range(3)]
    evidence = Evidence.count([*others, (tuple(titles), titles)])
    popularity = [0.0] * N_FEATURES
    popularity[0], popularity[1] = 1.0, 1.0  # the denoiser's log-odds, and log(1 + users who have the item)
    candidates = Candidates()
    candidates.add("good 0", None)
    for user in (None, "known"):
        if user is not None:
            evidence = Evidence.count([*others, (user, titles)])
        cleaning = Cleaning(
            Judge(by_number),
            CleaningSettings(action="replace", threshold=0.9),
            gate_file=gate_of(evidence, popularity),
            replacer=Replacer(Listed(0), candidates, 20),
        )
        seen: list[list[float]] = []
        judge_all = cleaning.log_odds

        def listening(those: Sequence[ItemSequence], judge_all: Any = judge_all, seen: Any = seen) -> list[Scores]:
            found: list[Scores] = judge_all(those)
            seen += [scores.tolist() for scores in found]
            return found

        cleaning.log_odds = listening  # type: ignore[method-assign]
        (decision,) = cleaning.decide([ItemSequence(titles, user)])
        assert decision.replacements.keys() == {0}
        before, after = seen
        # x is held by three others and y by nobody else, before the proposal and after it.
        assert before[1:] == pytest.approx([np.log(4), 0.0]) and after[1:] == pytest.approx(before[1:])


# --- kept scores -----------------------------------------------------------------------------------------------------


def test_several_gates_decide_by_one_scoring() -> None:
    """Guards: kept scores that are not used, or that decide otherwise than fresh ones."""
    judge = Judge(by_number)
    cleaning = Cleaning(judge, CleaningSettings(threshold=0.5))
    titles = [[f"t{i} {number}" for i, number in enumerate(those)] for those in ([3, 1, 0], [2, 2, 2], [-1, 0, 3])]
    scored = list(cleaning.score(titles))
    assert len(judge.batches) == 1
    for threshold in (0.2, 0.6, 0.9):
        by_kept = [d.flagged.tolist() for d in cleaning.gated(threshold=threshold).decide(scored)]
        assert by_kept == [
            d.flagged.tolist() for d in Cleaning(Judge(by_number), CleaningSettings(threshold=threshold)).decide(titles)
        ]
    rate = cleaning.gated(false_edit_rate=0.1)
    assert rate.settings.threshold is None and rate.gate.threshold == pytest.approx(1.0)
    # Two of nine items: the 3 and a 2; the other 2 ties with the threshold, and both stay.
    budget = cleaning.within_budget(0.23, scored)
    assert [d.flagged.tolist() for d in budget.decide(scored)] == [[True, False, False], [False] * 3, [False] * 3]
    marked = budget.gated(action="mark")
    assert [d.flagged.tolist() for d in marked.decide(scored)] == [d.flagged.tolist() for d in budget.decide(scored)]
    others = ({"max_edits": 1}, {"protect_last": 2}, {"fusion": False})
    anew = [budget.gated(**change) for change in others]  # else more than the share is edited
    for unknown in (cleaning.gated(edit=0.2), Cleaning(judge, CleaningSettings(edit=0.2)), *anew):
        with pytest.raises(OptionError, match="within_budget"):
            list(unknown.decide(scored))
    assert len(judge.batches) == 1


def test_records_are_refused_by_a_gate_of_other_data_as_sequences_are() -> None:
    """Guards: records that are cleaned to their end by a gate that has counted none of their items."""
    others = Evidence.count([(user, ["one 1", "two 2"]) for user in range(9)])
    cleaning = Cleaning(Judge(by_number), CleaningSettings(threshold=0.5), gate_file=gate_of(others, [1] * N_FEATURES))
    records = [{"items": [f"new {n}", f"other {n}", f"third {n}"]} for n in range(10)]
    with pytest.raises(ModelError, match="of other data"):
        list(cleaning.decide([one["items"] for one in records]))
    with pytest.raises(ModelError, match="of other data"):
        list(cleaning.clean(records))


def test_numbers_of_numpy_are_numbers() -> None:
    """Guards: "`protect_last` is 1: give a whole number", for a number that came out of an array."""
    settings = CleaningSettings(edit=np.float32(0.5), max_edits=np.int64(2), protect_last=np.int64(1))  # type: ignore[arg-type]
    assert settings == CleaningSettings(edit=0.5, max_edits=2, protect_last=1)
    assert json.loads(json.dumps(vars(settings)))["max_edits"] == 2
    for wrong in ({"edit": True}, {"edit": "5%"}, {"protect_last": 1.0}, {"max_edits": "1"}):
        with pytest.raises(OptionError, match=r"give a (whole )?(number|share)"):
            CleaningSettings(**wrong)


def test_a_gate_of_these_data_is_never_of_other_data() -> None:
    """Guards: a run that its own counts refuse at its end, for windows of one long history are counted in part."""
    titles = [
        [f"{user} window {window} item {n} {n % 3}" for n in range(50)] for user in range(40) for window in range(9)
    ]
    data = [ItemSequence(one, f"user {number // 9}") for number, one in enumerate(titles)]
    cleaning = Cleaning(Judge(by_number), CleaningSettings(threshold=0.5), counted=Counted.of(data))
    fitted = cleaning.fitted()
    assert fitted.gate_file is not None and fitted.coverage is None
    # Another process of a cluster has the gate alone, and not what was counted for it.
    elsewhere = Cleaning(
        Judge(by_number), CleaningSettings(threshold=0.5), gate_file=pickle.loads(pickle.dumps(fitted.gate_file))
    )
    assert elsewhere.coverage is None
    assert len(list(fitted.decide(data))) == len(data)


@pytest.mark.parametrize(("wrong", "words"), [(np.nan, "no numbers"), (None, "one score for each item")])
def test_a_scorer_that_gives_no_numbers_is_refused_by_name(wrong: float | None, words: str) -> None:
    """Guards: NaN that is silently "belongs", and scores of another item."""

    class Broken(Judge):
        def score(self, sequences: Iterable[Sequence[str]]) -> list[Scores]:
            found = super().score(sequences)
            return found[1:] if wrong is None else [np.full_like(scores, wrong) for scores in found]

    with pytest.raises(ModelError, match=f"judge gave .*{words}"):
        list(Cleaning(Broken(by_number), CleaningSettings(threshold=0.5)).decide([["a 1", "b 2"], ["c 3"]]))


def test_kept_scores_judge_nothing_new() -> None:
    """Guards: a proposal that is judged by the score of the item it replaces, and so always refused."""
    candidates = Candidates()
    candidates.add("good -3", None)
    cleaning = Cleaning(
        KeptScores(),
        CleaningSettings(action="replace", threshold=0.5),
        replacer=Replacer(Listed(0), candidates, 20),
    )
    kept = ItemSequence(["a", "b"], log_odds=np.array([3, -3], dtype=np.float32))
    with pytest.raises(OptionError, match="kept scores judge no other items"):
        list(cleaning.decide([kept]))
    with pytest.raises(OptionError, match="`model` or `gate`"):
        Cleaning(KeptScores(), CleaningSettings())


# --- records ---------------------------------------------------------------------------------------------------------


def test_dicts_are_cleaned_as_lines_are() -> None:
    """Guards: the library and the command line drifting apart, and a record that is copied for nothing."""
    catalog = Catalog([(number, f"t{number} {number - 3}") for number in range(7)])
    records = [{"user_id": n, "items": [*range(n % 7 + 1)], "more": {"a": [n]}} for n in range(70)]
    for action in ("drop", "mark", "replace"):
        candidates = Candidates.from_catalog(catalog)
        cleaning = Cleaning(
            Judge(by_number),
            CleaningSettings(action=action, threshold=0.4),
            catalog=catalog,
            replacer=Replacer(Listed(0), candidates, 20) if action == "replace" else None,
        )
        found = list(cleaning.clean(records, annotate=action == "mark"))
        lines = [parse_record(json.dumps(one).encode(), "f:1", RecordFormat(), catalog) for one in records]
        batches = [lines[:64], lines[64:]]
        cleaner: Cleaner[Record] = Cleaner(cleaning, annotate=action == "mark")
        edited = [json.loads(one.line) for batch in cleaner.clean(batches) for one in batch]
        assert found == edited
        assert cleaner.counts.records == 70
        for before, after in zip(records, found, strict=True):
            assert (after is before) == (after == before)
        assert sum(after != before for before, after in zip(records, found, strict=True)) > 20


@pytest.mark.parametrize(
    ("record", "words"), [(["Alien", "Aliens"], "a list"), ("abc", "a string"), (None, "null"), (7, "an integer")]
)
def test_what_is_no_dict_is_one_sentence(record: Any, words: str) -> None:
    """Guards an AttributeError from the depths, where somebody gives lists of titles."""
    cleaning = Cleaning(Judge(by_number), CleaningSettings(threshold=0.4))
    with pytest.raises(RecordError, match=f"record 1: is {words}: give a dict"):
        list(cleaning.clean([record]))


# --- the real thing --------------------------------------------------------------------------------------------------


def test_four_threads_share_one_cleaning_and_get_what_one_gets(tiny_denoiser: Path) -> None:
    """Guards: a segmentation fault in llama.cpp, and features or proposals of another thread's sequence."""
    titles = random_titles(160)
    counted = [ItemSequence(those, user) for user, those in enumerate(titles)]
    with Denoiser.load(str(tiny_denoiser), weights="q8_0", threads=1) as denoiser:
        evidence = Evidence.count((one.owner, one.titles) for one in counted)
        gate = gate_of(evidence, np.resize([1.0, -0.3, 0.5, -0.5, -0.5, -0.5], N_FEATURES).tolist())
        gate = GateFile(**{**vars(gate), "model_sha256": denoiser.sha256})
        items = Candidates()
        for one in counted:
            items.add_items(one)
        replacer = Replacer.make("counts", 5, items, evidence=evidence, load_suggester=pytest.fail)
        settings = CleaningSettings(action="replace", threshold=0.5)
        cleaning = Cleaning(denoiser, settings, gate_file=gate, replacer=replacer)
        parts = [counted[start : start + 8] for start in range(0, 160, 8)]

        def work(part: list[ItemSequence]) -> list[Any]:
            return [(d.log_odds.tolist(), d.flagged.tolist(), dict(d.proposals)) for d in cleaning.decide(part)]

        alone = [work(part) for part in parts]
        barrier = threading.Barrier(4)

        def begin_together(number: int) -> list[list[Any]]:
            barrier.wait()
            return [work(part) for part in parts[number::4]]

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(begin_together, range(4)))
    for number in range(4):
        assert found[number] == alone[number::4]
    assert sum(len(proposals) for part in alone for *_, proposals in part) > 50
