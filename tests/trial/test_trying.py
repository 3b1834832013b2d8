"""From sequences to the verdict, as Python and the command call it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llm4dsr_cli import TrialSettings, try_cleaning
from llm4dsr_cli.errors import MissingExtraError, OptionError
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.sequences import ItemSequence
from llm4dsr_cli.trial import recommenders

pytestmark = pytest.mark.usefixtures("warm_environment")

N_ITEMS = 40


def users(n: int) -> list[ItemSequence]:
    rng = np.random.default_rng(0)
    return [
        ItemSequence([f"title {i}" for i in items], user, [int(i) for i in items])
        for user, items in enumerate(rng.permutation(N_ITEMS)[: rng.integers(5, 9)] for _ in range(n))
    ]


def test_a_budget_too_short_for_all_users_draws_some_and_keeps_them(tiny_denoiser: Path, tmp_path: Path) -> None:
    """Guards a budget that the model alone overruns, and a resumed trial of other users."""
    wanted = TrialSettings(recommenders=("neighbours",), shares=(0.1,), actions=("drop",), seeds=2, time_budget=1e-3)
    found = []
    for _ in range(2):
        said: list[str] = []
        trial = try_cleaning(
            users(300), wanted, state=tmp_path, model=tiny_denoiser, threads=1, weights="q8_0", say=said.append
        )
        assert "the time allows 200 of 300 histories, drawn at random" in said
        found.append(trial.as_dict())
    assert found[0]["protocol"]["sequences"] == 200
    assert found[0]["protocol"]["left_out"].startswith("200 of 300 histories")
    assert found[0] == found[1]


def test_what_replaces_may_come_from_the_catalog(tiny_denoiser: Path) -> None:
    """Guards an item of the catalog that nobody has, which a trial could not place."""
    catalog = Catalog([(i, f"title {i}") for i in range(N_ITEMS + 30)])
    wanted = TrialSettings(recommenders=("neighbours",), shares=(0.2,), actions=("replace",), seeds=1)
    trial = try_cleaning(users(60), wanted, catalog=catalog, model=tiny_denoiser, threads=1, weights="q8_0")
    assert trial.protocol["different_items"] == N_ITEMS + 30
    assert trial.compared[0].replaced > 0


def test_what_is_missing_shows_before_the_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards minutes of scoring for a trial that cannot be."""
    monkeypatch.setattr(recommenders, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="finetune"):
        try_cleaning(users(60), TrialSettings(recommenders=("sasrec",)), model="no such model")
    with pytest.raises(OptionError, match="`split` is none"):
        try_cleaning(users(60), split="none", model="no such model")  # type: ignore[arg-type]


def test_ease_is_left_out_where_the_data_are_too_large_for_it(
    tiny_denoiser: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a trial that ends with an error after all sequences were scored, by a recommender that nobody chose."""
    monkeypatch.setattr("llm4dsr_cli.trial.recommenders.ease.LARGEST", 30)
    said: list[str] = []
    wanted = TrialSettings(shares=(0.2,), actions=("drop",), seeds=1)
    trial = try_cleaning(users(60), wanted, model=tiny_denoiser, threads=1, weights="q8_0", say=said.append)
    assert trial.protocol["recommenders"] == ["neighbours"]
    assert any(line.startswith("EASE is left out: 60 users and 40 items are too many") for line in said)
    with pytest.raises(OptionError, match="too many for EASE"):
        try_cleaning(users(60), TrialSettings(recommenders=("ease",)), model="no such model")


def test_a_damaged_gate_in_the_state_folder_is_fitted_again(tiny_denoiser: Path, tmp_path: Path) -> None:
    """Guards a trial that never ends again because a file of its folder was cut short."""
    wanted = TrialSettings(recommenders=("neighbours",), shares=(0.1,), actions=("drop",), seeds=1)

    def told() -> object:
        trial = try_cleaning(users(60), wanted, state=tmp_path, model=tiny_denoiser, threads=1, weights="q8_0")
        return trial.as_dict()["settings"]

    first = told()
    (gate,) = tmp_path.glob("gate-*.gate")
    gate.write_bytes(gate.read_bytes()[:100])
    assert told() == first
    assert gate.stat().st_size > 100


def test_torch_takes_the_threads_of_the_trial_and_gives_them_back() -> None:
    """Guards ``--threads 1`` on a shared machine, which the networks took no notice of."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    with recommenders.torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with recommenders.torch_threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before
