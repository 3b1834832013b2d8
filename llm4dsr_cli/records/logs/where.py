"""Where: which rows of a log are judged, as a condition on its columns."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.records.json_lines import quote_names
from llm4dsr_cli.records.shapes import is_number

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
# A value is quoted, or has no sign in it that could be meant as another condition.
_VALUE = r"""'[^']*'|"[^"]*"|(?!.*\sor\s)[^\s'"<>=!&|,](?:[^'"<>=!&|,]*[^\s'"<>=!&|,])?"""
_CONDITION = re.compile(
    rf"\s*(?P<name>[^<>=!]+?)\s*(?P<sign>==|!=|>=|<=|=|>|<)\s*(?P<value>{_VALUE})\s*", re.IGNORECASE
)
# What stands in quotes is not looked into.
_AND = re.compile(r"""\s+and\s+(?=(?:[^'"]|'[^']*'|"[^"]*")*$)""", re.IGNORECASE)
_TRUTH = ("true", "false")


@dataclass(frozen=True)
class Condition:
    """A comparison of one column: as numbers where the value is one, else as text; true and false in any case."""

    column: str
    sign: str
    value: str

    def holds(self, cell: str | None) -> bool:
        """Whether a cell meets it; an empty one never does, nor one that is no number where the value is one.

        Raises:
            OptionError: it asks for the order of a number and a text that is not quoted.
        """
        if cell is None:
            return False
        compare = _OPERATORS[self.sign]
        try:
            number = float(self.value)
        except ValueError:
            return self._of_text(cell)
        try:
            return compare(float(cell), number)
        except ValueError:
            return False

    def _of_text(self, cell: str) -> bool:
        value = self.value.strip("'\"")
        if value == self.value and self.sign in (">=", "<=", ">", "<") and is_number(cell):
            raise OptionError(
                f"`where` asks for {self.column} {self.sign} {value}, but {self.column} holds numbers, such as {cell}",
                remedy="compare with a number, or with a text in quotes",
            )
        if value.lower() in _TRUTH and cell.lower() in _TRUTH:
            cell, value = cell.lower(), value.lower()
        return _OPERATORS[self.sign](cell, value)


def conditions(text: str, columns: Sequence[str], where: str) -> list[Condition]:
    """What a text such as ``rating >= 4 and verified = true`` says; all of it has to hold.

    Args:
        columns: of the log.
        where: the log's name for messages.

    Raises:
        OptionError: it cannot be read, or has a column that the log has not.
    """
    found = []
    for part in _AND.split(text):
        match = _CONDITION.fullmatch(part)
        if match is None:
            raise OptionError(
                f"`where` has {part!r}, which is no condition",
                remedy="write COLUMN >= VALUE, with `and` between several, and a text with signs in it in quotes",
            )
        if match["name"] not in columns:
            raise OptionError(
                f"`where` names {match['name']!r}, the columns are {quote_names(list(columns))}",
                where=where,
                remedy="name one of them",
            )
        found.append(Condition(match["name"], match["sign"], match["value"]))
    return found
