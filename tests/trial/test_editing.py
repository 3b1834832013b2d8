"""Editing a split: targets are out of reach, everything is scored once, and chance edits as much as the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm4dsr_cli.cleaning.run import Cleaning
from llm4dsr_cli.sequences import ItemSequence
from llm4dsr_cli.trial.editing import Edited, Editor, counted_sequences, judging
from llm4dsr_cli.trial.items import Histories
from llm4dsr_cli.trial.kept import Kept
from llm4dsr_cli.trial.settings import AS_IT_IS, Setting
from llm4dsr_cli.trial.splits import Split, leave_two_out

pytestmark = pytest.mark.usefixtures("warm_environment")

N_ITEMS = 30
Edit = Callable[..., Any]


def users(n: int = 60, seed: int = 0) -> list[ItemSequence]:
    """Users of one of three tastes each, so that counts help a denoiser of random weights."""
    rng = np.random.default_rng(seed)
    return [
        ItemSequence([f"title {3 * i + user % 3}" for i in rng.permutation(N_ITEMS // 3)[: rng.integers(4, 9)]], user)
        for user in range(n)
    ]


def split_of(sequences: list[ItemSequence]) -> Split:
    return leave_two_out(Histories.of(sequences))


@contextmanager
def editor(
    denoiser: Path, split: Split, folder: Path | None = None, *, fusion: bool = True, edit: float = 0.5
) -> Iterator[Editor]:
    kept = Kept(folder)
    with Cleaning.load(
        denoiser,
        action="replace",
        counted=counted_sequences(split),
        edit=edit,
        protect_last=0,
        fusion=fusion,
        threads=1,
        weights="q8_0",
    ) as loaded:
        cleaning, judge = judging(loaded, split, kept)
        yield Editor(split, cleaning, kept, judge=judge)


def same(one: Edited, other: Edited) -> bool:
    return (
        all(map(np.array_equal, one.sequences, other.sequences))
        and (one.edits, one.replaced) == (other.edits, other.replaced)
        and (one.weights is None) == (other.weights is None)
        and (one.weights is None or all(map(np.array_equal, one.weights, other.weights or [])))
    )


@pytest.mark.parametrize("action", ["drop", "replace", "weigh"])
def test_as_many_items_are_edited_as_is_asked_and_as_many_at_random(tiny_denoiser: Path, action: Any) -> None:
    """Guards a control that edits more or less than what it stands beside, and shares of something else."""
    split = split_of(users())
    with editor(tiny_denoiser, split) as editing:
        for share in (0.05, 0.2):
            setting = Setting(action, share)
            model = editing.edited(setting)
            n = split.n_editable
            # Of equally suspicious items none is edited.
            assert 0.9 * share * n - 1 <= model.edits <= share * n
            for seed in (0, 1):
                random = editing.edited(setting.control, seed)
                assert (random.edits, random.replaced) == (model.edits, model.replaced)
                assert not same(random, model)
                for edited in (random, model):
                    changed = [len(one) != len(before) or (one != before).any() for one, before in pairs(edited, split)]
                    assert any(changed) != (action == "weigh")
                    dropped = sum(len(before) - len(one) for one, before in pairs(edited, split))
                    assert dropped == (edited.edits - edited.replaced if action != "weigh" else 0)
                    if edited.weights is not None:
                        assert sum(int((weight == 0.5).sum()) for weight in edited.weights) == edited.edits
            assert not same(editing.edited(setting.control, 0), editing.edited(setting.control, 1))
        assert same(editing.edited(AS_IT_IS), Edited(split.sequences))
    assert (model.replaced > 0) == (action == "replace")


@pytest.mark.parametrize("action", ["drop", "replace"])
def test_histories_that_nobody_learns_from_are_edited_as_much_as_the_others(tiny_denoiser: Path, action: Any) -> None:
    """Guards one threshold for both, and a control that replaces fewer of one part because of the other."""
    whole = split_of(users(120))
    split = replace(whole, trains=np.arange(len(whole.sequences)) % 3 > 0)

    def edits(edited: Edited, learns: bool) -> tuple[int, int]:
        """How many items of a part are gone, and how many are others now."""
        part = [pair for pair, trains in zip(pairs(edited, split), split.trains, strict=True) if trains == learns]
        titles = [({*one.tolist()}, {*before.tolist()}) for one, before in part]
        return sum(len(before) - len(one) for one, before in part), sum(len(one - before) for one, before in titles)

    with editor(tiny_denoiser, split) as editing:
        model = editing.edited(Setting(action, 0.2))
        random = editing.edited(Setting(action, 0.2, at_random=True), 1)
        for learns in (True, False):
            n = int(split.lengths[split.trains == learns].sum())
            gone, others = edits(model, learns)
            assert 0.18 * n - 1 <= gone + others <= 0.2 * n
            assert (others > 0) == (action == "replace")
            assert edits(random, learns) == (gone, others)


def test_what_is_dropped_is_what_clean_drops(tiny_denoiser: Path) -> None:
    """Guards a trial of another cleaning than the one that its verdict names."""
    split = split_of(users(120))
    with editor(tiny_denoiser, split) as editing:
        sequences = split.item_sequences()
        cleaning = editing.cleaning.gated(action="drop").within_budget(0.1, sequences)
        expected = [items[one.keep] for items, one in zip(split.sequences, cleaning.decide(sequences), strict=True)]
        assert all(map(np.array_equal, editing.edited(Setting("drop", 0.1)).sequences, expected))
        assert editing.cleaning.fuses


def test_it_is_told_whose_newest_item_was_replaced(tiny_denoiser: Path, tmp_path: Path) -> None:
    """Guards: a history that holds both the newest item and what took its place."""
    split, setting = split_of(users()), Setting("replace", 0.5)
    for _ in range(2):  # made, and kept
        with editor(tiny_denoiser, split, tmp_path) as editing:
            edited, decisions = editing.edited(setting), editing._decisions(setting)
            last = [len(items) - 1 for items in split.sequences]
            replaced = {n for n, one in enumerate(decisions) if last[n] in one.replacements}
            assert edited.newest_replaced == replaced and 0 < len(replaced) < len(decisions)


def pairs(edited: Edited, split: Split) -> list[tuple[Any, Any]]:
    return list(zip(edited.sequences, split.sequences, strict=True))


def test_targets_change_neither_judgements_nor_edits(tiny_denoiser: Path) -> None:
    """Guards the leak: targets that are counted as evidence, scored beside the others, or edited."""
    sequences = users()
    rng = np.random.default_rng(1)
    others = []
    for one in sequences:
        left = sorted({f"title {i}" for i in range(N_ITEMS)} - set(one.titles))
        others.append(replace(one, titles=[*one.titles[:-2], *rng.choice(left, 2, replace=False).tolist()]))
    found = []
    for those in (sequences, others):
        split = split_of(those)
        with editor(tiny_denoiser, split) as editing:
            assert editing.cleaning.gate_file is not None
            scores = np.concatenate(editing.judged)
            edited = editing.edited(Setting("replace", 0.2))
            titles = [[split.items.titles[i] for i in one] for one in edited.sequences]
            evidence = editing.cleaning.gate_file.evidence
            found.append((scores, titles, evidence.held.tolist(), [one.titles for one in editing.scored]))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]
    assert found[0][3] == [list(one.titles[:-2]) for one in sequences]


def test_other_targets_never_meet_kept_edits(tiny_denoiser: Path, tmp_path: Path) -> None:
    """Guards: numbers of items that were kept, and stood for other items once a target had changed."""
    sequences = users()
    corrected = [
        replace(one, titles=[*one.titles[:-1], f"title {N_ITEMS - 1 - i % N_ITEMS}"]) for i, one in enumerate(sequences)
    ]
    for those in (sequences, corrected):
        split = split_of(those)
        with editor(tiny_denoiser, split, tmp_path) as editing:
            edited = editing.edited(Setting("drop", 0.2))
        for one, before in pairs(edited, split):
            assert {*one.tolist()} <= {*before.tolist()}


def test_nothing_is_scored_twice_and_an_interrupted_scoring_goes_on(
    tiny_denoiser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards hours of scoring that an interrupt, or a second look, takes again."""
    monkeypatch.setattr("llm4dsr_cli.trial.editing._KEPT_EVERY", 0.0)
    split = split_of(users(200))
    settings = [Setting("drop", 0.1), Setting("replace", 0.1), Setting("replace", 0.1, at_random=True)]
    with editor(tiny_denoiser, split) as editing:
        expected = [editing.edited(setting) for setting in settings]
    scored = 0
    with editor(tiny_denoiser, split, tmp_path) as editing:
        inner = editing.cleaning.scorer.score

        def stop_after_two_batches(titles: Any) -> Any:
            nonlocal scored
            scored += 1
            if scored > 2:
                raise KeyboardInterrupt
            return inner(titles)

        monkeypatch.setattr(editing.cleaning.scorer, "score", stop_after_two_batches)
        with pytest.raises(KeyboardInterrupt):
            editing.edited(settings[0])
    with editor(tiny_denoiser, split, tmp_path) as editing:
        asked: list[int] = []
        again = editing.cleaning.scorer.score
        monkeypatch.setattr(editing.cleaning.scorer, "score", lambda rows: asked.append(len(rows)) or again(rows))
        found = [editing.edited(setting) for setting in settings]
        assert sum(asked[:2]) == 200 - 128
        n_asked = len(asked)
        assert all(map(same, found, [editing.edited(setting) for setting in settings]))
        assert len(asked) == n_asked
    assert all(map(same, found, expected))
    with editor(tiny_denoiser, split, tmp_path, edit=0.2) as editing:  # of a trial whose first share is another one
        monkeypatch.setattr(editing.cleaning.scorer, "score", lambda rows: pytest.fail("scored again"))
        assert all(map(same, found, map(editing.edited, settings)))


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    """Guards a trial that stops for ever at a file that a full disk has cut."""
    kept = Kept(tmp_path)
    kept.put("fit", "a", ranks=np.arange(3))
    path = kept.path("fit", "a")
    assert path is not None
    path.write_bytes(path.read_bytes()[:40])
    assert kept.get("fit", "a") is None
    kept.put("fit", "a", ranks=np.arange(3))
    found = kept.get("fit", "a")
    assert found is not None and found["ranks"].tolist() == [0, 1, 2]
