"""The comparison: what a setting changes, how sure that is, and whether to use it.

Users and seeds are drawn again together, each with replacement and independently of the other (the pigeonhole
bootstrap; Owen, Annals of Applied Statistics 1(2), 2007), so that an interval knows that other users, other first
weights and other random items would have given other figures. Of S seeds, S - 1 are drawn: with all S, the variance
between so few would be underestimated by (S - 1) / S (McCarthy and Snowden, "The bootstrap and finite population
sampling", 1985). All differences are paired: the same users, seeds and draws on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.trial.metrics import CHOSEN_BY, METRICS, gains
from llm4dsr_cli.trial.settings import AS_IT_IS, Setting

DRAWS = 2_000
# So many counts of draws are made floats at a time.
_AT_ONCE = 10_000_000

Floats = NDArray[np.float64]
Ranks = NDArray[np.float32]


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval; NaN where it is not defined."""

    value: float
    low: float
    high: float

    @property
    def is_positive(self) -> bool:
        """Whether all of the interval lies above zero."""
        return self.low > 0

    def as_dict(self) -> dict[str, Any]:
        return {"value": self.value, "interval": [self.low, self.high]}


class Draws:
    """Users and seeds that are drawn again, the same for every figure of a set of targets.

    Args:
        users: for each target the number of its user, int64, shape (n_targets,).
        n_seeds: how many seeds there are. With one, intervals know of users alone.
        level: share of the draws within an interval.
    """

    def __init__(
        self, users: NDArray[np.int64], n_seeds: int, *, level: float = 0.95, draws: int = DRAWS, seed: int = 0
    ) -> None:
        self._users, self._user = np.unique(users, return_inverse=True)
        self._targets = np.bincount(self._user).astype(np.float64)
        self._level = level
        rng = np.random.default_rng([seed, 5])
        n_users, n_drawn = len(self._users), max(1, n_seeds - 1)
        # The first column counts all users and seeds once: it is the figure itself.
        self._user_draws = np.ones((1 + draws, n_users), dtype=np.uint16)
        for drawn in self._user_draws[1:]:
            drawn[:] = np.bincount(rng.integers(n_users, size=n_users), minlength=n_users)
        seeds = [np.bincount(rng.integers(n_seeds, size=n_drawn), minlength=n_seeds) / n_drawn for _ in range(draws)]
        self._seed_draws = np.column_stack([np.full(n_seeds, 1 / n_seeds), *seeds])
        self._n_targets = self._drawn(self._targets[None])[0]

    def means(self, values: Floats) -> Floats:
        """The mean of values of shape (n_seeds, n_targets), then that of each draw, shape (1 + draws,)."""
        by_user = np.stack([np.bincount(self._user, weights=row, minlength=len(self._users)) for row in values])
        means: Floats = (self._seed_draws * self._drawn(by_user)).sum(axis=0) / self._n_targets
        return means

    def _drawn(self, by_user: NDArray[Any]) -> Floats:
        """Sums over the users of each draw, shape (n_rows, 1 + draws), of values of shape (n_rows, n_users)."""
        parts = np.array_split(self._user_draws, 1 + self._user_draws.size // _AT_ONCE)
        return np.concatenate([by_user @ part.T.astype(np.float64) for part in parts], axis=1)

    def estimate(self, figures: Floats) -> Estimate:
        """A figure with the percentile interval of its draws."""
        drawn = figures[1:][~np.isnan(figures[1:])]
        if not len(drawn) or np.isnan(figures[0]):
            return Estimate(float("nan"), float("nan"), float("nan"))
        low, high = np.quantile(drawn, [(1 - self._level) / 2, (1 + self._level) / 2])
        return Estimate(float(figures[0]), float(low), float(high))


class Edits(NamedTuple):
    """What a setting did to the sequences that recommenders learn from.

    Attributes:
        edits, replaced: how many items were edited, and how many of these replaced.
        items_left: of the different items, the share that still stands in them.
    """

    edits: int
    replaced: int
    items_left: float


@dataclass(frozen=True)
class Compared:
    """A setting against the data as they are.

    Attributes:
        setting: what was tried.
        edits, replaced, items_left: as of ``Edits``.
        validation, test: the relative change of CHOSEN_BY, the mean over recommenders.
        random: that of the random control, on test targets.
        over_random: the first less the second.
        figures: by recommender and metric, on test targets: "as it is", "value", "random", and as estimates
            "difference" and "random difference".
    """

    setting: Setting
    edits: int
    replaced: int
    items_left: float
    validation: Estimate
    test: Estimate
    random: Estimate
    over_random: Estimate
    figures: dict[str, dict[str, dict[str, Any]]]

    @property
    def helps(self) -> bool:
        """Whether it is measurably better than the data as they are, and than as many edits at random."""
        return self.test.is_positive and self.over_random.is_positive

    def as_dict(self) -> dict[str, Any]:
        about = {"name": self.setting.name, "action": self.setting.action, "share": self.setting.share}
        about |= {"edits": self.edits, "replaced": self.replaced, "items_left": self.items_left, "helps": self.helps}
        return {
            **about,
            "gain": self.test.value,
            "interval": [self.test.low, self.test.high],
            "validation": self.validation.as_dict(),
            "random": {"gain": self.random.value, "interval": [self.random.low, self.random.high]},
            "over_random": self.over_random.as_dict(),
            "recommenders": {
                name: {
                    metric: {
                        key: found.as_dict() if isinstance(found, Estimate) else found for key, found in figures.items()
                    }
                    for metric, figures in by_metric.items()
                }
                for name, by_metric in self.figures.items()
            },
        }


@dataclass(frozen=True)
class Measured:
    """Ranks of all seeds, shape (n_seeds, n_targets), by setting and recommender, of one set of targets."""

    ranks: Mapping[tuple[Setting, str], Ranks]
    users: NDArray[np.int64]


def compare(
    settings: Sequence[Setting],
    recommenders: Sequence[str],
    validation: Measured,
    test: Measured,
    edits: Mapping[Setting, Edits],
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Compared]:
    """Each setting against the data as they are and against its random control.

    Args:
        validation, test: of ``AS_IT_IS``, of all settings and of their controls, by each recommender.
        edits: of each setting.
    """
    n_seeds = len(next(iter(test.ranks.values())))
    on_test = _Relative(test, recommenders, Draws(test.users, n_seeds, level=level, draws=draws, seed=seed))
    of_validation = Draws(validation.users, n_seeds, level=level, draws=draws, seed=seed)
    on_validation = _Relative(validation, recommenders, of_validation)
    # A recommender that finds nothing in the data as they are has no relative change, and takes it from nobody else.
    telling = [name for name in recommenders if on_test.finds(name) and on_validation.finds(name)]
    on_test.recommenders = on_validation.recommenders = telling or recommenders
    compared = []
    for setting in settings:
        gain, random = on_test.gain(setting), on_test.gain(setting.control)
        compared.append(
            Compared(
                setting,
                *edits[setting],
                validation=on_validation.draws.estimate(on_validation.gain(setting)),
                test=on_test.draws.estimate(gain),
                random=on_test.draws.estimate(random),
                over_random=on_test.draws.estimate(gain - random),
                figures={
                    name: {metric: on_test.figures(setting, name, metric) for metric in METRICS}
                    for name in recommenders
                },
            )
        )
    return compared


class _Relative:
    """Figures of one set of targets, all from the same draws."""

    def __init__(self, measured: Measured, recommenders: Sequence[str], draws: Draws) -> None:
        self.draws = draws
        self._measured = measured
        self.recommenders = recommenders
        self._known: dict[tuple[Setting, str, str], Floats] = {}  # a thousand numbers each, asked for several times

    def _means(self, setting: Setting, recommender: str, metric: str) -> Floats:
        key = setting, recommender, metric
        if key not in self._known:
            self._known[key] = self.draws.means(gains(self._measured.ranks[setting, recommender], metric))
        return self._known[key]

    def finds(self, recommender: str) -> bool:
        """Whether it finds a target in the data as they are."""
        return bool(self._means(AS_IT_IS, recommender, CHOSEN_BY)[0] > 0)

    def gain(self, setting: Setting) -> Floats:
        """The relative change of CHOSEN_BY, the mean over recommenders: for all, and for each draw."""
        changes = []
        for name in self.recommenders:
            before = self._means(AS_IT_IS, name, CHOSEN_BY)
            after = self._means(setting, name, CHOSEN_BY)
            known = before > 0  # a recommender that finds no target of a draw has no relative change
            changes.append(np.where(known, (after - before) / np.where(known, before, 1), np.nan))
        mean: Floats = np.mean(changes, axis=0)
        return mean

    def figures(self, setting: Setting, recommender: str, metric: str) -> dict[str, Any]:
        before = self._means(AS_IT_IS, recommender, metric)
        after = self._means(setting, recommender, metric)
        random = self._means(setting.control, recommender, metric)
        return {
            "as it is": float(before[0]),
            "value": float(after[0]),
            "difference": self.draws.estimate(after - before),
            "random": float(random[0]),
            "random difference": self.draws.estimate(random - before),
        }


def chosen(compared: Sequence[Compared]) -> Compared | None:
    """The setting that helps most on validation targets; None where none does."""
    better = [one for one in compared if one.validation.value > 0]
    return max(better, key=lambda one: one.validation.value, default=None)
