"""Cells: the texts of a table as values of the types that a record's items have.

A table has texts only, and JSON has types. Whoever reads the cleaned records expects that ``"price": 7.5`` is still a
number when another item stands there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from llm4dsr_cli.records.json_lines import loads

_INTEGER = re.compile(r"(0|-?[1-9][0-9]{0,3000})(\.0*)?")  # pandas writes the integers of a column with gaps as 1986.0
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_BOOLEANS = {"true": True, "false": False}


def value_of(text: str, models: Iterable[Any], column_type: str | None = None) -> Any:
    """A cell as a value of the type that a field of a record's items has; None (JSON's null) where it is no such value.

    A string stays the cell's text, as it is. An integer is a whole number without leading zeros (``1986`` or
    ``1986.0``), a float any finite number, a boolean ``true`` or ``false`` in small or capital letters, a list or an
    object its JSON. An empty cell is None, but for strings. Where one item has an integer and another a float, both
    are allowed. Where no type is known, only text that RecBole's header calls a number or a token is taken.

    Args:
        models: the values of the field in the record's items; the first that is not null says the type.
        column_type: RecBole's type of the column, ``float`` or ``token``, say.
    """
    known = [model for model in models if model is not None]
    kind = type(known[0]) if known else {"float": float, "token": str, "token_seq": str}.get(column_type or "")
    stripped = text.strip()
    if kind is str:
        return text
    if kind is bool:
        return _BOOLEANS.get(stripped.lower())
    if kind is int:
        floats_too = column_type == "float" or any(type(model) is float for model in known)
        integer = _integer(stripped)
        return _float(stripped) if integer is None and floats_too else integer
    if kind is float:
        return _float(stripped)
    if kind in (list, dict):
        return _json(stripped, kind)
    return None


def _integer(text: str) -> int | None:
    found = _INTEGER.fullmatch(text)
    return int(found[1]) if found else None


def _float(text: str) -> float | None:
    value = float(text) if _FLOAT.fullmatch(text) else math.nan
    return value if math.isfinite(value) else None


def _json(text: str, kind: type) -> Any:
    try:
        value = loads(text.encode())
    except ValueError:
        return None
    return value if isinstance(value, kind) else None
