"""One line of JSON to a value and back, with numbers kept, and words of the user's for messages."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

QUOTED_CHARACTERS = 60
# A number as JSON writes it.
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LONG_NUMBER = re.compile(rb"[0-9]{19}")


def loads(line: bytes) -> Any:
    """The value of one JSON text in UTF-8, integers of any size kept.

    Raises UnicodeDecodeError when it is not UTF-8, and another ValueError when it is not JSON.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        line.decode("utf-8")
        raise
    # orjson reads integers beyond 64 bits as floats without a word. It still goes first, because the standard
    # library accepts NaN and half surrogate pairs.
    if _LONG_NUMBER.search(line):
        try:
            return json.loads(line.decode("utf-8"))
        except RecursionError:
            raise ValueError("nested too deeply") from None
    return value


def dumps(value: Any) -> bytes:
    """``value`` as compact JSON in UTF-8, without a newline.

    Raises TypeError for what JSON has no type for, ValueError for what is nested too deeply.
    """
    try:
        return orjson.dumps(value)
    except TypeError:  # integers beyond 64 bits, more than 254 levels
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except RecursionError:
            raise ValueError("nested too deeply") from None


def kind(value: object) -> str:
    """What JSON calls the type of ``value``, with its article."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "an integer",
        float: "a float",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)


def quote(value: object, characters: int = QUOTED_CHARACTERS) -> str:
    """A short form of the user's ``value`` for an error message: one line, printable, of about so many characters."""
    text = "null" if value is None else value if isinstance(value, str) else str(value)
    cut = text[:characters]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    shown += "..." if len(cut) < len(text) else ""
    return f'"{shown}"' if isinstance(value, str) else shown


def quote_names(names: list[str]) -> str:
    """Names of fields or columns for an error message: the first ten, each of them quoted."""
    shown = ", ".join(quote(name) for name in names[:10])
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")
