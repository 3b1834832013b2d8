"""The trial: recommenders on the data as they are, cleaned in several ways, and edited at random."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from llm4dsr_cli.console import Advance, untold
from llm4dsr_cli.trial.compare import Compared, Edits, Measured, chosen, compare
from llm4dsr_cli.trial.editing import Edited
from llm4dsr_cli.trial.fits import Fit, Fits
from llm4dsr_cli.trial.kept import Kept, digest
from llm4dsr_cli.trial.metrics import CHOSEN_BY
from llm4dsr_cli.trial.plan import Cost, Plan, fitting_plan, whole_plan
from llm4dsr_cli.trial.recommenders import Recommender, make_recommender
from llm4dsr_cli.trial.settings import AS_IT_IS, Setting, TrialSettings
from llm4dsr_cli.trial.splits import Split

Say = Callable[[str], None]

# Where fewer of the different items are left, the verdict says so.
_FEW = 0.95
# So many numbers of seeds belong to one ``TrialSettings.seed``.
_SEEDS = 1_000
# Seconds of a fit before one was made; only their ratios count.
_GUESSED = {"ease": 10.0, "neighbours": 3.0}
_GUESSED_NETWORK = 100.0


class Editing(Protocol):
    """What gives a split's sequences, edited as a setting says."""

    def edited(self, setting: Setting, seed: int = 0) -> Edited:
        """``seed`` draws the places of a random control."""


@dataclass(frozen=True)
class Trial:
    """What a trial found.

    Attributes:
        compared: every setting against the data as they are.
        best: the setting that helps most on validation targets; None where none does.
        protocol: how it was measured, for reports.
    """

    compared: list[Compared]
    best: Compared | None
    protocol: dict[str, Any]

    @property
    def helps(self) -> bool:
        """Whether the best setting is measurably better, on test targets, than doing nothing and than chance."""
        return self.best is not None and self.best.helps

    @property
    def setting(self) -> Setting | None:
        """The setting to use; None where none helps measurably."""
        return self.best.setting if self.best is not None and self.best.helps else None

    @property
    def sentence(self) -> str:
        """What to do, and how sure that is."""
        if all(math.isnan(one.validation.value) for one in self.compared):
            return "nothing can be told from these data: no recommender puts a target among its first 20"
        if self.best is None:
            return "no setting helps measurably on these data: on validation targets none is better than no cleaning"
        best, level = self.best, f"{self.protocol['confidence']:.0%}"
        found = (
            f"{CHOSEN_BY} changes by {best.test.value:+.1%} on test targets "
            f"({level} interval {best.test.low:+.1%} to {best.test.high:+.1%}), and by {best.random.value:+.1%} "
            "with as many random edits"
        )
        if best.helps:
            lost = f"; it leaves out {1 - best.items_left:.0%} of the different items" if best.items_left < _FEW else ""
            return f'use "{best.setting.name}": {found}{lost}'
        tried = f'with the one that validation targets chose, "{best.setting.name}", {found}'
        return f"no setting helps measurably on these data: {tried}"

    def clean_share(self) -> float | None:
        """For ``clean --edit``, which counts all items: the share that edits as many as the best setting did."""
        if self.best is None:
            return None
        return round(self.best.setting.share * float(self.protocol["editable_items"] / self.protocol["items"]), 4)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; NaN stands for what is not defined."""
        best = None if self.best is None else self.best.setting.name
        verdict = {"helps": self.helps, "best": best, "sentence": self.sentence}
        return {
            "verdict": verdict,
            "protocol": self.protocol,
            "settings": [one.as_dict() for one in self.compared],
        }


def run_trial(
    split: Split,
    editing: Editing,
    settings: TrialSettings | None = None,
    kept: Kept | None = None,
    *,
    began: float | None = None,
    edit_seconds: Callable[[Setting], float] = lambda setting: 0.0,
    say: Say = lambda line: None,
    advance: Advance = untold,
    make: Callable[[str], Recommender] = make_recommender,
) -> Trial:
    """Try settings of a cleaning on recommenders.

    Args:
        editing: gives the edited sequences, such as an ``Editor``.
        kept: where fits are kept, so that an interrupted trial goes on; None keeps them in memory.
        began: ``time.monotonic()`` when the time budget began; None is now.
        edit_seconds: about how long it takes to edit the data by a setting; for a time budget.
        say: told what is left out for want of time.
        advance: told what was done, and the share of it.
        make: gives a recommender of a name.

    Raises:
        OptionError, MissingExtraError: there is no such recommender, or it cannot be used.
    """
    began = time.monotonic() if began is None else began
    settings = settings or TrialSettings()
    kept = kept or Kept(None)
    recommenders = {name: make(name) for name in settings.recommenders}
    fits = Fits(split, kept, clean_histories=settings.clean_histories)
    as_it_is = editing.edited(AS_IT_IS)
    plan = whole_plan(settings)
    if settings.time_budget is not None:
        plan = _within_budget(settings, recommenders, fits, as_it_is, kept, began, edit_seconds, advance)
        if plan.told:
            say(f"the time allows {plan.told}")
    tried = [AS_IT_IS, *plan.settings, *(one.control for one in plan.settings)]
    seeds = [settings.seed * _SEEDS + number for number in range(plan.seeds)]
    for number, seed in enumerate(seeds):
        for setting in tried if number == 0 else [one for one in tried if one.at_random]:
            editing.edited(setting, seed)  # is kept: what takes the model is done before the fits
    work = _Work(plan, recommenders, advance)
    edits: dict[Setting, Edits] = {}
    found: dict[tuple[Setting, str], list[Fit]] = {}
    for number, seed in enumerate(seeds):
        for setting in tried:
            edited = editing.edited(setting, seed)
            if number == 0 and not setting.at_random:
                edits[setting] = Edits(edited.edits, edited.replaced, _items_left(split, edited))
            for name in plan.recommenders:
                was_kept = fits.is_kept(recommenders[name], edited, seed)
                fit = fits.fit(recommenders[name], edited, seed)
                found.setdefault((setting, name), []).append(fit)
                work.done(name, setting, number, fit.seconds, was_kept=was_kept)
    compared = compare(
        plan.settings,
        plan.recommenders,
        _measured(found, "validation", split),
        _measured(found, "test", split),
        edits,
        level=settings.confidence,
        seed=settings.seed,
    )
    return Trial(compared, chosen(compared), _protocol(split, settings, plan, fits))


def _items_left(split: Split, edited: Edited) -> float:
    """Of the different items that a recommender could learn from, the share that it still can."""
    before, after = (
        np.unique(np.concatenate([one for one, trains in zip(sequences, split.trains, strict=True) if trains]))
        for sequences in (split.sequences, edited.sequences)
    )
    return float(np.isin(before, after).mean())


def _measured(found: Mapping[tuple[Setting, str], list[Fit]], targets: str, split: Split) -> Measured:
    number = {user: place for place, user in enumerate(dict.fromkeys(split.users))}
    users = np.array([number[user] for user in split.users], dtype=np.int64)
    ranks = {key: np.stack([getattr(fit, targets) for fit in fits]) for key, fits in found.items()}
    return Measured(ranks, users[getattr(split, targets).sequence])


def _protocol(split: Split, settings: TrialSettings, plan: Plan, fits: Fits) -> dict[str, Any]:
    n_targets = {"validation_targets": len(split.validation), "test_targets": len(split.test)}
    return {
        **{key: value for key, value in asdict(settings).items() if key not in ("shares", "actions")},
        "recommenders": list(plan.recommenders),
        "seeds": plan.seeds,
        "left_out": plan.told,
        "sequences": int(split.trains.sum()),
        "editable_items": split.n_editable,
        "items": split.n_items,
        "different_items": len(split.items),
        **n_targets,
        "protect_last": split.protect_last,
        "history_masked": fits.masks_history,
        "ranking": "all items",
        "chosen_by": f"{CHOSEN_BY} on validation targets, mean over recommenders of the relative change",
    }


def _within_budget(
    settings: TrialSettings,
    recommenders: Mapping[str, Recommender],
    fits: Fits,
    as_it_is: Edited,
    kept: Kept,
    began: float,
    edit_seconds: Callable[[Setting], float],
    advance: Advance,
) -> Plan:
    """The plan that fits the time that is left, by one fit of each recommender; a resumed trial keeps its plan."""
    first = next(iter(recommenders.values()))
    key = digest(fits.key(first, as_it_is, 0), repr(settings))
    earlier = kept.get("plan", key)
    if earlier is not None:
        names = [one.name for one in settings.settings]
        told = str(earlier["told"])
        return Plan(
            [settings.settings[names.index(name)] for name in earlier["settings"].tolist()],
            tuple(earlier["recommenders"].tolist()),
            int(earlier["seeds"]),
            told or None,
        )
    costs = {}
    for number, (name, recommender) in enumerate(recommenders.items()):
        advance(f"timing {name}", number / len(recommenders))
        costs[name] = Cost(fits.fit(recommender, as_it_is, settings.seed * _SEEDS).seconds, recommender.seeded)
    assert settings.time_budget is not None
    plan = fitting_plan(settings, costs, settings.time_budget - (time.monotonic() - began), edit_seconds)
    kept.put(
        "plan",
        key,
        settings=np.array([one.name for one in plan.settings]),
        recommenders=np.array(plan.recommenders),
        seeds=np.array(plan.seeds),
        told=np.array(plan.told or ""),
    )
    return plan


class _Work:
    """What is done and what is left, in seconds: those that fits of a recommender took, or are guessed to take."""

    def __init__(self, plan: Plan, recommenders: Mapping[str, Recommender], advance: Advance) -> None:
        n = len(plan.settings)
        self._left = {name: Cost(0, recommenders[name].seeded).fits(n, plan.seeds) for name in plan.recommenders}
        self._seeded = {name: recommenders[name].seeded for name in plan.recommenders}
        self._took: dict[str, list[float]] = {}
        self._done = 0.0
        self._advance = advance

    def done(self, name: str, setting: Setting, seed: int, seconds: float, *, was_kept: bool) -> None:
        if not self._seeded[name] and seed and not setting.at_random:
            return  # the same as with the first seed
        self._left[name] -= 1
        self._took.setdefault(name, []).append(seconds)
        self._done += 0 if was_kept else seconds
        left = sum(n * self._seconds(one) for one, n in self._left.items())
        share = self._done / (self._done + left) if self._done + left else None
        self._advance(f"{name} on {setting.name}, seed {seed}", share)

    def _seconds(self, name: str) -> float:
        if name in self._took:
            return float(np.mean(self._took[name]))
        guessed = {one: _GUESSED.get(one, _GUESSED_NETWORK) for one in self._left}
        scales = [np.mean(took) / guessed[one] for one, took in self._took.items()]
        scale = float(np.mean(scales)) if scales else 1.0
        return guessed[name] * scale
