"""What fits into the time."""

from __future__ import annotations

import pytest

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.trial.plan import Cost, fitting_plan, whole_plan
from llm4dsr_cli.trial.settings import TrialSettings

WANTED = TrialSettings(recommenders=("ease", "sasrec"), seeds=4)
COSTS = {"ease": Cost(1.0, False), "sasrec": Cost(10.0, True)}


def seconds(plan: object) -> float:
    return sum(COSTS[name].seconds * COSTS[name].fits(len(plan.settings), plan.seeds) for name in plan.recommenders)  # type: ignore[attr-defined]


def test_what_is_tried_by_default_and_when_shares_are_given() -> None:
    """Guards half of a file's items replaced unasked, which takes as long as scoring it anew, and shares left out."""
    of = {
        action: {one.share for one in TrialSettings(actions=(action,)).settings}
        for action in ("drop", "replace", "weigh")
    }
    assert of["drop"] == of["weigh"] == {0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5}
    assert of["replace"] == {0.01, 0.02, 0.05, 0.1, 0.2}
    with pytest.raises(OptionError, match="no setting to try"):
        TrialSettings(shares=[])  # type: ignore[arg-type]
    given = TrialSettings(shares=(0.5, 0.1, 0.5)).settings
    assert [(one.action, one.share) for one in given] == [
        ("drop", 0.1), ("drop", 0.5), ("replace", 0.1), ("replace", 0.5)
    ]  # fmt: skip


def test_a_plan_fits_and_uses_the_time() -> None:
    """Guards a budget that is overrun, or that is left unused, and changes that nobody is told of."""
    everything = seconds(whole_plan(WANTED))
    before = 0.0
    for budget in (0, 5, 30, 60, 120, 300, 500, everything - 1, everything, 10 * everything):
        plan = fitting_plan(WANTED, COSTS, budget)
        assert plan.settings and plan.recommenders and plan.seeds
        assert seconds(plan) <= budget or len(plan.settings) == len(plan.recommenders) == plan.seeds == 1
        assert (plan.told is None) == (budget >= everything)
        assert seconds(plan) >= before or plan.recommenders != ("ease",)
        before = seconds(plan)


def test_seeds_go_first_then_settings_then_the_slowest_recommender() -> None:
    """Guards a trial of one seed where two and fewer settings would tell more."""
    fewer_seeds = fitting_plan(WANTED, COSTS, 600)
    assert (len(fewer_seeds.settings), fewer_seeds.recommenders) == (12, ("ease", "sasrec"))
    assert 2 <= fewer_seeds.seeds < 4
    fewer_settings = fitting_plan(WANTED, COSTS, 120)
    assert (fewer_settings.seeds, fewer_settings.recommenders) == (2, ("ease", "sasrec"))
    assert {one.share for one in fewer_settings.settings} <= {0.1, 0.3}
    assert "2 of 4 seeds" in str(fewer_settings.told)
    one_recommender = fitting_plan(WANTED, COSTS, 40)
    assert one_recommender.recommenders == ("ease",)
    assert "1 of 2 recommenders (ease)" in str(one_recommender.told)


def test_what_it_takes_to_edit_counts() -> None:
    """Guards minutes of the model that no plan has asked for."""
    plan = fitting_plan(WANTED, COSTS, 10_000, lambda one: 4_000.0 if one.action == "replace" else 0.0)
    assert sum(one.action == "replace" for one in plan.settings) <= 2
