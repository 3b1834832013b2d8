"""One line of JSON to an object and back, with numbers kept and errors that fit into one sentence."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from llm4dsr_cli.errors import Llm4dsrError

QUOTED_CHARACTERS = 60
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


def parse_object(line: bytes, where: str, error: type[Llm4dsrError]) -> dict[str, Any]:
    """The JSON object that ``line`` holds.

    Raises ``error``, naming ``where``, when the line is not UTF-8, not JSON, or not an object.
    """
    one_a_line = "write one JSON object a line"
    try:
        value = loads(line)
    except UnicodeDecodeError as problem:
        raise error(
            f"not UTF-8 (byte {problem.start + 1} of the line)",
            where=where,
            remedy="convert the file, for instance with iconv -t UTF-8",
        ) from None
    except json.JSONDecodeError as problem:
        raise error(f"not JSON ({problem.msg}, column {problem.colno})", where=where, remedy=one_a_line) from None
    except ValueError as problem:
        raise error(f"not JSON that can be read ({problem})", where=where, remedy=one_a_line) from None
    if not isinstance(value, dict):
        raise error(
            f"{kind(value)} where an object should be",
            where=where,
            remedy=f"{one_a_line} (jq -c '.[]' turns an array into lines)",
        )
    return value


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


def quote(value: object) -> str:
    """A short form of the user's ``value`` for an error message: one line, printable, about 60 characters."""
    text = value if isinstance(value, str) else str(value)
    cut = text[:QUOTED_CHARACTERS]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    shown += "..." if len(cut) < len(text) else ""
    return f'"{shown}"' if isinstance(value, str) else shown


def quote_names(names: list[str]) -> str:
    """Names of fields or columns for an error message: the first ten, each of them quoted."""
    shown = ", ".join(quote(name) for name in names[:10])
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")
