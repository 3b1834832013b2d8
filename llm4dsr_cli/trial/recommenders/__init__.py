"""Recommenders to try a cleaning on, small enough for a laptop.

Item numbers run from 0 to n_items - 1; a history is an int64 array of them, oldest first.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.errors import MissingExtraError, OptionError
from llm4dsr_cli.noise import Indices

Weights = NDArray[np.float32]


@dataclass(frozen=True)
class Validation:
    """What a recommender may stop early by.

    Attributes:
        histories: item numbers, oldest first.
        targets: the next item of each, shape (n_targets,).
        masked: for each target the items that are not recommended; None masks none.
    """

    histories: Sequence[Indices]
    targets: Indices
    masked: Sequence[Indices] | None = None


class Recommender(Protocol):
    """Learns from sequences which item comes next.

    Attributes:
        name: as ``--recommender`` takes it.
        version: another one for every change of its figures; kept results of an older version are not used.
        seeded: whether a seed changes what it learns.
    """

    name: str
    version: int
    seeded: bool

    def fit(
        self,
        sequences: Sequence[Indices],
        weights: Sequence[Weights] | None,
        n_items: int,
        seed: int,
        validation: Validation,
    ) -> None:
        """Learn, and forget what was learned before.

        Args:
            weights: how much each interaction counts, shape (n_items,) for each sequence; None is 1 for all.
        """

    def scores(self, histories: Sequence[Indices]) -> NDArray[np.float32]:
        """How much every item is the next one of each history, higher = more; shape (n_histories, n_items)."""


_HOMES = {
    "ease": ("ease", "Ease"),
    "neighbours": ("neighbours", "Neighbours"),
    "sasrec": ("sasrec", "SasRec"),
    "gru4rec": ("gru4rec", "Gru4Rec"),
    "bert4rec": ("bert4rec", "Bert4Rec"),
}
NAMES = tuple(_HOMES)
_WITH_TORCH = ("sasrec", "gru4rec", "bert4rec")


def default_names() -> tuple[str, ...]:
    """The two that take no torch, and SASRec where torch is installed."""
    return ("ease", "neighbours", *(("sasrec",) if find_spec("torch") else ()))


def make_recommender(name: str) -> Recommender:
    """A recommender by its name.

    Raises:
        OptionError: there is none of this name.
        MissingExtraError: it takes torch, which is not installed.
    """
    if name not in _HOMES:
        raise OptionError(f"`recommender` is {name}: no such recommender", remedy=f"choose {', '.join(NAMES)}")
    if name in _WITH_TORCH and not find_spec("torch"):
        raise MissingExtraError("finetune", "torch")
    module, kind = _HOMES[name]
    make: Callable[[], Recommender] = getattr(importlib.import_module(f"{__name__}.{module}"), kind)
    return make()


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Let torch take so many threads in the block; None, and where there is no torch, changes nothing."""
    if threads is None or not find_spec("torch"):
        yield
        return
    torch: Any = importlib.import_module("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
