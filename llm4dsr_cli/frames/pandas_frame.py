"""Data frames of pandas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llm4dsr_cli.frames.frame import FLAG_COLUMN, PROBABILITY_COLUMN, Frame
from llm4dsr_cli.frames.ids import cells_of
from llm4dsr_cli.sequences import ItemId


class PandasFrame:
    """See ``Frame``. The index comes along, whatever it is; rows are never looked up by it."""

    def __init__(self, data: pd.DataFrame) -> None:
        self.data = data
        self.columns: list[Any] = [*data.columns]

    def __len__(self) -> int:
        return len(self.data)

    def values(self, column: str) -> list[Any]:
        """See ``Frame.values``."""
        series = self.data[column]
        nothing = series.isna().tolist()
        return [None if no else value for value, no in zip(series.tolist(), nothing, strict=True)]

    def ranks(self, column: str) -> NDArray[np.float64] | None:
        """See ``Frame.ranks``."""
        series = self.data[column]
        if isinstance(series.dtype, pd.CategoricalDtype) or getattr(series.dtype, "kind", "O") not in "iufmM":
            return None
        there = series.notna().to_numpy()
        ranks = np.full(len(series), np.nan)
        ranks[there] = series[there].rank(method="dense").to_numpy(dtype=np.float64)  # pandas 2 ranks NA as a value
        return ranks

    def cells(self, column: str) -> Callable[[ItemId], Any | None]:
        """See ``Frame.cells``; a categorical column holds its categories and nothing else."""
        dtype = self.data[column].dtype
        if isinstance(dtype, pd.CategoricalDtype):
            return cells_of(dtype.categories.tolist(), None)
        own = self.values(column)
        if getattr(dtype, "kind", "O") in "iuf":
            return cells_of(own, getattr(dtype, "numpy_dtype", dtype))
        texts = all(isinstance(value, str) for value in own if value is not None)
        return cells_of(own, str if texts else None)

    def put(self, column: str, cells: Mapping[int, Any]) -> Frame:
        """See ``Frame.put``."""
        series = self.data[column]
        array = series.array.copy()
        for row, value in cells.items():
            array[row] = value
        data = self.data.copy()
        data[column] = pd.Series(array, index=series.index, dtype=series.dtype)
        return PandasFrame(data)

    def kept(self, keep: NDArray[np.bool_]) -> Frame:
        """See ``Frame.kept``."""
        return PandasFrame(self.data[keep])

    def flagged(self, is_noise: NDArray[np.bool_], noise_probability: NDArray[np.float64]) -> Frame:
        """See ``Frame.flagged``; nothing is NaN."""
        return PandasFrame(self.data.assign(**{FLAG_COLUMN: is_noise, PROBABILITY_COLUMN: noise_probability}))
