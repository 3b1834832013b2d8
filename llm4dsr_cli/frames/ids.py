"""Ids in cells: what a cell's value is as an id, and what an id is in a column of some type."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from llm4dsr_cli.sequences import ItemId


def id_of(value: object) -> ItemId | None:
    """The id that a cell's value is, whose text is compared with others; None where it is none.

    A whole number in a column of floats is that integer: 17850.0 is 17850. A text stays as it is, 007 too.
    """
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real) and isinstance(value, (float, np.floating)):
        number = float(value)
        if math.isnan(number):
            return None
        return int(number) if number.is_integer() else number
    return str(value) or None


def cells_of(own: Iterable[Any], type_: np.dtype[Any] | type[str] | None) -> Callable[[ItemId], Any | None]:
    """Gives for an id the value that it is in a column; None where the column cannot hold it.

    Args:
        own: values that the column can hold, since it has them.
        type_: what else it can hold: numbers of this type, any text, or nothing.
    """
    known = {str(id_of(value)): value for value in own if value is not None}

    def cell(id_: ItemId) -> Any | None:
        text = str(id_)
        if text in known or type_ is None:
            return known.get(text)
        return text if type_ is str else _number(text, np.dtype(type_))

    return cell


def _number(text: str, type_: np.dtype[Any]) -> int | float | None:
    """The number of a type that a text spells; None where the type cannot hold just this one."""
    try:
        if type_.kind in "iu":
            value: int | float = int(text)
            fits = np.iinfo(type_).min <= value <= np.iinfo(type_).max
        else:
            with np.errstate(over="ignore"):
                value, fits = type_.type(float(text)).item(), True
    except ValueError:
        return None
    return value if fits and str(id_of(value)) == text else None
