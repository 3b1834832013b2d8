"""What a trial tries: the settings of a cleaning, and the options of the trial itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from llm4dsr_cli.errors import OptionError

TrialAction = Literal["drop", "replace", "weigh"]
ACTIONS: tuple[TrialAction, ...] = ("drop", "replace", "weigh")
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
# Replacing scores what it proposes, which takes the longer the more it is.
_MOST_REPLACED = 0.2
# What an interaction that "weigh" flags counts for.
FLAGGED_WEIGHT = 0.5


@dataclass(frozen=True, order=True)
class Setting:
    """One way to clean.

    Attributes:
        action: "drop" takes flagged items out, "replace" puts others in their place or drops them, "weigh" lets them
            count FLAGGED_WEIGHT; None leaves everything as it is.
        share: of the items that may be edited.
        at_random: the control: as many items are edited, wherever they stand.
    """

    action: TrialAction | None = None
    share: float = 0.0
    at_random: bool = False

    @property
    def name(self) -> str:
        """In words, as tables and files have it."""
        if self.action is None:
            return "as it is"
        return f"{'random ' if self.at_random else ''}{self.action} {percent(self.share)}"

    @property
    def control(self) -> Setting:
        """The same number of edits, at random."""
        return replace(self, at_random=True)


def percent(share: float) -> str:
    """A share as people write it: 5%, 0.5%."""
    return f"{100 * share:.4g}%"


AS_IT_IS = Setting()


@dataclass(frozen=True)
class TrialSettings:
    """What decides a trial.

    Attributes:
        recommenders: their names; see ``recommenders.NAMES``.
        shares: of the items that may be edited, each tried with each action; None is SHARES, up to 20% where items are
            replaced.
        actions: what is done with them.
        seeds: how often each recommender is trained, and random items are drawn.
        clean_histories: whether what a recommender is asked with is cleaned as well, not only what it learns from.
        fusion: judge by the counts of the training part, too, where they help.
        time_budget: seconds that all may take; None is as many as it takes.
        confidence: of the intervals.
        seed: fixes everything else that is drawn.
    """

    recommenders: tuple[str, ...] = ("ease", "neighbours")
    shares: tuple[float, ...] | None = None
    actions: tuple[TrialAction, ...] = ("drop", "replace")
    seeds: int = 3
    clean_histories: bool = True
    fusion: bool = True
    time_budget: float | None = None
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.recommenders:
            raise OptionError("no `recommender` is given", remedy="name one")
        if self.seeds < 1:
            raise OptionError(f"`seeds` is {self.seeds}", remedy="give 1 or more")
        if self.seed < 0:
            raise OptionError(f"`seed` is {self.seed}", remedy="give 0 or more")
        for share in self.shares or ():
            if not 0 < share < 1:
                raise OptionError(f"`edit` is {share:g}", remedy="give a share of the items, between 0 and 1")
        for action in self.actions:
            if action not in ACTIONS:
                raise OptionError(f"`action` is {action}: no such action", remedy="choose drop, replace or weigh")
        if (self.shares is not None and not self.shares) or not self.actions:
            raise OptionError("there is no setting to try", remedy="name shares and actions")
        if not 0 < self.confidence < 1:
            raise OptionError(f"`confidence` is {self.confidence:g}", remedy="give a share, such as 0.95")
        if self.time_budget is not None and self.time_budget <= 0:
            raise OptionError(f"`time_budget` is {self.time_budget:g} seconds", remedy="give more than none")

    @property
    def settings(self) -> list[Setting]:
        """The settings to try, each once, in the order of actions and shares."""
        return [Setting(action, share) for action in dict.fromkeys(self.actions) for share in self._shares(action)]

    def _shares(self, action: TrialAction) -> list[float]:
        if self.shares is not None:
            return sorted(set(self.shares))
        return [share for share in SHARES if action != "replace" or share <= _MOST_REPLACED]
