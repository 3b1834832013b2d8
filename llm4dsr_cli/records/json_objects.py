"""A line to the JSON object that it holds; and what the line is, where it holds none."""

from __future__ import annotations

import ast
import json
import shlex
import warnings
from typing import Any, NoReturn

from llm4dsr_cli.errors import Llm4dsrError
from llm4dsr_cli.records.json_lines import kind, loads

ONE_A_LINE = "write one JSON object a line"
RECIPES = "docs/recipes.md has more"
# A longer line is not looked at closely for a message.
_LONG = 1_000_000
# Python's literals, and what Python's JSON writes where JSON has nothing.
_PYTHON_LINES = (
    'python3 -c "import ast,json,sys; [print(json.dumps(ast.literal_eval(l))) for l in sys.stdin]" < {file} > NEW'
)
_NULLS = (
    'python3 -c "import json,sys; '
    '[print(json.dumps(json.loads(l, parse_constant=lambda c: None))) for l in sys.stdin]" < {file} > NEW'
)


def parse_object(line: bytes, where: str, error: type[Llm4dsrError]) -> dict[str, Any]:
    """The JSON object that ``line`` holds.

    Raises ``error``, naming ``where``, when the line is not UTF-8, not JSON, or not an object; it says what the line
    seems to be, and the command that makes JSON lines of it.
    """
    try:
        value = loads(line)
    except UnicodeDecodeError as problem:
        raise error(
            f"not UTF-8 (byte {problem.start + 1} of the line)", where=where, remedy=to_utf8(file_of(where))
        ) from None
    except ValueError as problem:
        _refuse(line, problem, where, error)
    if not isinstance(value, dict):
        bare = isinstance(value, list) and not any(isinstance(entry, (dict, list)) for entry in value)
        # A list of objects is a file's worth of records; a list of ids is one record without its name.
        command = f": jq -c {shlex.quote('{items: .}' if bare else '.[]')} {file_of(where)} > NEW"
        raise error(
            f"{kind(value)} where an object should be",
            where=where,
            remedy=ONE_A_LINE + (command if isinstance(value, list) else ""),
        )
    return value


def file_of(where: str) -> str:
    """The name of a file in ``file:line``, as a shell takes it; IN where there is none."""
    name, _, number = where.rpartition(":")
    return shlex.quote(name) if name not in ("", "stdin") and number.isdecimal() else "IN"


def to_utf8(file: str, encoding: str = "LATIN1") -> str:
    """What to do with text in another encoding."""
    if_so = "if it is Latin-1" if encoding == "LATIN1" else "first"
    return f"convert it, {if_so}: iconv -f {encoding} -t UTF-8 {file} > NEW"


def _refuse(line: bytes, problem: ValueError, where: str, error: type[Llm4dsrError]) -> NoReturn:
    """Raise the error for a line that is not JSON."""
    file = file_of(where)
    text = line[:_LONG].decode("utf-8", "replace").strip()
    if isinstance(problem, json.JSONDecodeError):
        what = f"not JSON ({problem.msg}, column {problem.colno})"
    else:
        what = f"not JSON that can be read ({problem})"
    remedy = ONE_A_LINE
    if text[:1] in ("{", "["):
        if text in ("{", "[") or (text[:1] == "[" and not text.endswith("]")):
            array = text[0] == "["
            what = f"not JSON lines but {'an array' if array else 'an object'} over several lines"
            remedy = f"{ONE_A_LINE}: jq -c {shlex.quote('.[]' if array else '.')} {file} > NEW"
        elif (constants := _constants(text)) is not None:
            if constants:
                what = f"not JSON but with {constants[0]}, which JSON has not"
                remedy = f"write null: {_NULLS.format(file=file)}"
        elif _is_python(text):
            what, remedy = "not JSON but Python", f"write JSON: {_PYTHON_LINES.format(file=file)}"
        elif _is_several(text):
            what, remedy = "not one JSON object but several", f"{ONE_A_LINE}: jq -c . {file} > NEW"
    if text.endswith(",") and _is_object(text[:-1]):
        what, remedy = "not JSON but with a comma behind it", f"{ONE_A_LINE}: sed 's/, *$//' {file} > NEW"
    elif text[:1] in "{[" and "\r" in text and _is_object(text.partition("\r")[0]):
        what = "not JSON but with lines that end as an old Mac's, in carriage returns alone"
        remedy = f"{ONE_A_LINE}: tr '\\r' '\\n' < {file} > NEW"
    elif text[:1] == "<":
        what, remedy = "not JSON but HTML or XML", "see what was downloaded there"
    raise error(what, where=where, remedy=remedy) from None


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _constants(text: str) -> list[str] | None:
    """The NaN and Infinity in what Python's own parser takes for JSON; None for what it takes for none."""
    found: list[str] = []
    try:
        json.loads(text, parse_constant=found.append)
    except (ValueError, RecursionError):
        return None
    return found


def _is_python(text: str) -> bool:
    """Whether it is what Python's ``repr`` makes of a dict or a list, or begins like that."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # "1or" is no business of the user's
            return isinstance(ast.literal_eval(text), (dict, list))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text.startswith("{'")


def _is_several(text: str) -> bool:
    """Whether another object follows the first one."""
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return text[end:].lstrip(" ,\t")[:1] == "{"
