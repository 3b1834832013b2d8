"""Value kinds: what the values of a column are, and the type of Parquet that holds all of them without a loss.

A kind is "text", "bool", one of NUMBERS, or "list of " and one of these. Objects, and lists of lists, are their JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from decimal import Decimal
from typing import Any

# Whole numbers that a float of 64 bits holds, those that an integer of 64 bits holds, what neither holds, and the rest.
NUMBERS = frozenset({"short", "long", "digits", "float"})
_SHORT, _LONG = range(-(2**53), 2**53 + 1), range(-(2**63), 2**63)
_LIST = "list of "


class Digits(str):
    """A number of a record as it is written there."""


def kind_of(value: Any) -> str:
    """The kind of a value of JSON, which is not null and has Digits for its numbers."""
    if isinstance(value, Digits):
        if not value.lstrip("-").isdecimal():
            return "float" if _is_float(value) else "digits"
        return "short" if int(value) in _SHORT else "long" if int(value) in _LONG else "digits"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, list):
        if any(isinstance(one, (list, dict)) for one in value):
            return "text"
        inner = {kind_of(one) for one in value if one is not None}
        return _LIST + (inner.pop() if len(inner) == 1 else common_kind(inner) if inner else "")
    return "text"


def _is_float(text: str) -> bool:
    """Whether a float of 64 bits keeps all digits of a number."""
    value = float(text)
    return math.isfinite(value) and Decimal(repr(value)) == Decimal(text)


def common_kind(kinds: Collection[str]) -> str:
    """The kind that holds values of all these: "long", "float", "bool", "text", or a list of such; "text" for none."""
    if kinds and all(kind.startswith(_LIST) for kind in kinds):
        return _LIST + common_kind({kind.removeprefix(_LIST) for kind in kinds} - {""})
    if {*kinds} == {"bool"}:
        return "bool"
    if kinds and {*kinds} <= {"short", "long"}:
        return "long"
    return "float" if kinds and {*kinds} <= {"short", "float"} else "text"


def arrow_type(arrow: Any, kind: str) -> Any:
    """The type of pyarrow for a kind that ``common_kind`` gave."""
    if kind.startswith(_LIST):
        return arrow.list_(arrow_type(arrow, kind.removeprefix(_LIST)))
    return {"long": arrow.int64, "float": arrow.float64, "bool": arrow.bool_, "text": arrow.string}[kind]()


def typed(text: str | None, kind: str) -> Any:
    """A value of a kind that ``common_kind`` gave, from its text, or its JSON where it is none."""
    if text is None or kind == "text":
        return text
    if kind == f"{_LIST}text":
        entries = json.loads(text, parse_int=str, parse_float=str)
        return [one if one is None or isinstance(one, str) else json.dumps(one) for one in entries]
    return float(text) if kind == "float" else json.loads(text)
