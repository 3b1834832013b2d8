"""What a run is compared with: baselines that count its training users, and nobody else."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from llm4dsr_cli.evaluation import reference_scores
from llm4dsr_cli.evaluation.baselines import Ease
from llm4dsr_cli.finetune.comparison import baseline_scores
from llm4dsr_cli.finetune.data import Domain, LabelledWindow


def domain_of(name: str, seed: int) -> tuple[Domain, list[LabelledWindow]]:
    """Training users with two sequences each, in a catalog of which half is never seen, and windows of other users."""
    rng = np.random.default_rng(seed)
    titles = [f"{name} number {i}" for i in range(60)]
    sequences = [rng.choice(30, 6, replace=False) for _ in range(40)]
    train = Domain(name, titles, sequences, [f"u{i // 2}" for i in range(40)])
    windows = [
        LabelledWindow([titles[i] for i in rng.choice(60, 5, replace=False)], np.zeros(5, np.int8), 0, f"other{n}")
        for n in range(9)
    ]
    return train, windows


def test_baselines_count_the_training_users_and_judge_the_windows_of_the_others() -> None:
    """Guards windows that vouch for themselves, scores of another window or domain, and users cut into two
    histories by a baseline that is about whole users."""
    (first, one), (second, two) = domain_of("a", 1), domain_of("b", 2)
    windows = [window for pair in zip(one, two, strict=True) for window in pair]
    windows = [
        LabelledWindow(w.titles, w.labels, number % 2, w.user) for number, w in enumerate(windows)
    ]  # the domains take turns
    scores = baseline_scores([first, second], windows)
    assert set(scores) == {"popularity", "co-occurrence + TF-IDF", "EASE"}
    for number, window in enumerate(windows):
        train = (first, second)[window.domain]
        items = [train.titles.index(title) for title in window.titles]
        held = [sum(item in sequence for sequence in train.sequences) for item in items]
        np.testing.assert_allclose(scores["popularity"][number], -np.log1p(held))
        ease = Ease(len(train.titles))
        ease.fit([np.union1d(*train.sequences[at : at + 2]) for at in range(0, 40, 2)])
        np.testing.assert_allclose(scores["EASE"][number], ease.score([items])[0], atol=1e-5)


def test_a_baseline_that_is_left_out_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a gigabyte for a large catalog, though the data hold few of its titles, and a line for each domain."""
    (first, one), (second, two) = domain_of("a", 1), domain_of("b", 2)
    windows = [*one, *(LabelledWindow(w.titles, w.labels, 1, w.user) for w in two)]
    n_used = len({title for window in one for title in window.titles} | {*first.titles[:30]})
    assert n_used < 60
    said: list[str] = []
    monkeypatch.setattr(reference_scores, "EASE_TITLES", n_used)
    assert not np.isnan(baseline_scores([first], one, say=said.append)["EASE"][0]).any()
    assert said == []
    monkeypatch.setattr(reference_scores, "EASE_TITLES", 10)
    assert "EASE" not in baseline_scores([first, second], windows, say=said.append)
    assert len(said) == len(set(said)) and all(line.startswith("EASE is left out") for line in said)
