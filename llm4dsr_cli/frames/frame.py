"""The frame: what cleaning asks of a data frame, and which library answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.sequences import ItemId

FLAG_COLUMN = "is_noise"
PROBABILITY_COLUMN = "noise_probability"


class Frame(Protocol):
    """A data frame of any library; rows are known by their numbers, from 0.

    Attributes:
        data: the library's own object, which is never changed.
        columns: names of its columns.
    """

    data: Any
    columns: list[Any]

    def __len__(self) -> int:
        """How many rows there are."""

    def values(self, column: str) -> list[Any]:
        """The cells of a column; None where there is nothing."""

    def ranks(self, column: str) -> NDArray[np.float64] | None:
        """Each cell's rank, NaN where there is nothing; None for a column of texts or objects, which have no times."""

    def cells(self, column: str) -> Callable[[ItemId], Any | None]:
        """Gives for an id the value that it is in a column; None where the column's type has none."""

    def put(self, column: str, cells: Mapping[int, Any]) -> Frame:
        """The frame with other values in some rows of a column, which keeps its type."""

    def kept(self, keep: NDArray[np.bool_]) -> Frame:
        """The frame without some of its rows."""

    def flagged(self, is_noise: NDArray[np.bool_], noise_probability: NDArray[np.float64]) -> Frame:
        """The frame with these columns behind its own; NaN becomes what the library has for nothing."""


def frame_of(data: Any, argument: str = "df") -> Frame:
    """The frame that an object is.

    Args:
        argument: what it was given as, for messages.

    Raises:
        OptionError: it is no data frame of pandas or polars, or two of its columns have one name.
    """
    if not is_frame(data):
        kind = f"{type(data).__module__.partition('.')[0]}'s {type(data).__name__}"
        remedy = "give a data frame of pandas or polars"
        if hasattr(data, "collect") and _home(data, "LazyFrame") == "polars":
            remedy = f"give {argument}.collect(), for it has no rows yet"
        elif hasattr(data, "toPandas"):
            remedy = f"give {argument}.toPandas()"
        raise OptionError(f"`{argument}` is {kind}", remedy=remedy)
    frame: Frame
    if _home(data, "DataFrame") == "pandas":
        from llm4dsr_cli.frames.pandas_frame import PandasFrame

        frame = PandasFrame(data)
    else:
        from llm4dsr_cli.frames.polars_frame import PolarsFrame

        frame = PolarsFrame(data)
    twice = next((name for place, name in enumerate(frame.columns) if name in frame.columns[:place]), None)
    if twice is not None:
        raise OptionError(f"`{argument}` has two columns {twice}", remedy="rename one of them")
    return frame


def is_frame(data: object) -> bool:
    """Whether an object is a data frame of a library that is known here."""
    return _home(data, "DataFrame") in ("pandas", "polars")


def _home(data: object, name: str) -> str | None:
    """The package of a class of this name among an object's; so neither library is imported for the other's objects."""
    homes = (kind.__module__.partition(".")[0] for kind in type(data).__mro__ if kind.__name__ == name)
    return next(homes, None)
