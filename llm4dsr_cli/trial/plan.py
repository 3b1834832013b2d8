"""The plan of a trial: which settings, recommenders and seeds fit into the time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llm4dsr_cli.trial.settings import Setting, TrialSettings

# Where not all fits, settings of these shares are tried first.
_SHARES_FIRST = (0.1, 0.3, 0.05, 0.2, 0.5, 0.02, 0.01)
# With fewer, nothing is known of what a seed does.
FEWEST_SEEDS = 2


@dataclass(frozen=True)
class Cost:
    """What a recommender costs: seconds of one fit, and whether each seed takes a fit of its own."""

    seconds: float
    seeded: bool

    def fits(self, n_settings: int, seeds: int) -> int:
        """Trainings on the data as they are, on each setting, and on its random control, which each seed draws anew."""
        return (1 + n_settings) * (seeds if self.seeded else 1) + n_settings * seeds


@dataclass(frozen=True)
class Plan:
    """What is tried.

    Attributes:
        told: what was left out for want of time, in words; None where nothing was.
    """

    settings: list[Setting]
    recommenders: tuple[str, ...]
    seeds: int
    told: str | None = None


def whole_plan(wanted: TrialSettings) -> Plan:
    """All that is wanted."""
    return Plan(wanted.settings, wanted.recommenders, wanted.seeds)


def fitting_plan(
    wanted: TrialSettings,
    costs: Mapping[str, Cost],
    seconds: float,
    edit_seconds: Callable[[Setting], float] = lambda setting: 0.0,
) -> Plan:
    """As much of what is wanted as fits into some seconds.

    Seeds are given up first, down to FEWEST_SEEDS, then settings, then the recommender that costs most, and at last all
    seeds but one. One setting and one recommender are tried in any case.

    Args:
        edit_seconds: what it takes to edit the data by a setting.
    """
    settings = sorted(wanted.settings, key=lambda one: (_place(one.share), wanted.actions.index(one.action or "drop")))
    recommenders = sorted(wanted.recommenders, key=lambda name: costs[name].seconds)

    def takes(these: Sequence[Setting], those: Sequence[str], seeds: int) -> float:
        fits = sum(costs[name].seconds * costs[name].fits(len(these), seeds) for name in those)
        return fits + sum(map(edit_seconds, these))

    fewest = min(FEWEST_SEEDS, wanted.seeds)
    for those in (recommenders[:n] for n in range(len(recommenders), 0, -1)):
        for n_settings in range(len(settings), 0, -1):
            least = fewest if len(those) > 1 or n_settings > 1 else 1
            for seeds in range(wanted.seeds if n_settings == len(settings) else fewest, least - 1, -1):
                if takes(settings[:n_settings], those, seeds) <= seconds or (len(those) == n_settings == seeds == 1):
                    return _told(wanted, settings[:n_settings], those, seeds)
    return _told(wanted, settings[:1], recommenders[:1], 1)


def _place(share: float) -> int:
    return _SHARES_FIRST.index(share) if share in _SHARES_FIRST else len(_SHARES_FIRST)


def _told(wanted: TrialSettings, settings: Sequence[Setting], recommenders: Sequence[str], seeds: int) -> Plan:
    kept = [one for one in wanted.settings if one in settings]
    names = tuple(name for name in wanted.recommenders if name in recommenders)
    left_out = []
    if seeds < wanted.seeds:
        left_out.append(f"{seeds} of {wanted.seeds} seeds")
    if len(kept) < len(wanted.settings):
        left_out.append(f"{len(kept)} of {len(wanted.settings)} settings ({', '.join(one.name for one in kept)})")
    if len(names) < len(wanted.recommenders):
        left_out.append(f"{len(names)} of {len(wanted.recommenders)} recommenders ({', '.join(names)})")
    return Plan(kept, names, seeds, ", ".join(left_out) or None)
