"""Data frames of polars."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llm4dsr_cli.frames.frame import FLAG_COLUMN, PROBABILITY_COLUMN, Frame
from llm4dsr_cli.frames.ids import cells_of
from llm4dsr_cli.sequences import ItemId


class PolarsFrame:
    """See ``Frame``."""

    def __init__(self, data: pl.DataFrame) -> None:
        self.data = data
        self.columns: list[Any] = data.columns

    def __len__(self) -> int:
        return len(self.data)

    def values(self, column: str) -> list[Any]:
        """See ``Frame.values``; NaN is nothing, too."""
        return [*_without_nan(self.data[column])]

    def ranks(self, column: str) -> NDArray[np.float64] | None:
        """See ``Frame.ranks``."""
        series = _without_nan(self.data[column])
        if not (series.dtype.is_numeric() or series.dtype.is_temporal()):
            return None
        ranks: NDArray[np.float64] = series.rank("dense").cast(pl.Float64).fill_null(np.nan).to_numpy()
        return ranks

    def cells(self, column: str) -> Callable[[ItemId], Any | None]:
        """See ``Frame.cells``; an Enum holds its categories and nothing else."""
        dtype = self.data[column].dtype
        if isinstance(dtype, pl.Enum):
            return cells_of(dtype.categories.to_list(), None)
        own = self.values(column)
        if dtype.is_integer() or dtype.is_float():
            name = str(dtype).lower()
            return cells_of(own, np.dtype(name) if name in np.sctypeDict else None)
        return cells_of(own, str if dtype in (pl.String, pl.Categorical) else None)

    def put(self, column: str, cells: Mapping[int, Any]) -> Frame:
        """See ``Frame.put``."""
        series = self.data[column]
        values = series.to_list()
        for row, value in cells.items():
            values[row] = value
        return PolarsFrame(self.data.with_columns(pl.Series(column, values, dtype=series.dtype)))

    def kept(self, keep: NDArray[np.bool_]) -> Frame:
        """See ``Frame.kept``."""
        return PolarsFrame(self.data.filter(pl.Series(keep, dtype=pl.Boolean)))

    def flagged(self, is_noise: NDArray[np.bool_], noise_probability: NDArray[np.float64]) -> Frame:
        """See ``Frame.flagged``; nothing is null."""
        flags = pl.Series(FLAG_COLUMN, is_noise, dtype=pl.Boolean)
        chances = pl.Series(PROBABILITY_COLUMN, noise_probability, dtype=pl.Float64).fill_nan(None)
        return PolarsFrame(self.data.with_columns(flags, chances))


def _without_nan(series: pl.Series) -> pl.Series:
    return series.fill_nan(None) if series.dtype.is_float() else series
