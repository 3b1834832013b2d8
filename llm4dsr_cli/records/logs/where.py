"""Where: which rows of a log are judged, as a condition on its columns."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.records.json_lines import quote_names

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"\s*(?P<name>.+?)\s*(?P<sign>==|!=|>=|<=|=|>|<)\s*(?P<value>.+?)\s*")


@dataclass(frozen=True)
class Condition:
    """A comparison of one column: as numbers where the value is one, else as text."""

    column: str
    sign: str
    value: str

    def holds(self, cell: str | None) -> bool:
        """Whether a cell meets it; an empty one never does, nor one that is no number where the value is one."""
        if cell is None:
            return False
        compare = _OPERATORS[self.sign]
        try:
            number = float(self.value)
        except ValueError:
            return compare(cell, self.value.strip("'\""))
        try:
            return compare(float(cell), number)
        except ValueError:
            return False


def conditions(text: str, columns: Sequence[str], where: str) -> list[Condition]:
    """What a text such as ``rating >= 4 and verified = true`` says; all of it has to hold.

    Args:
        columns: of the log.
        where: the log's name for messages.

    Raises:
        OptionError: it cannot be read, or has a column that the log has not.
    """
    found = []
    for part in re.split(r"\s+and\s+", text, flags=re.IGNORECASE):
        match = _CONDITION.fullmatch(part)
        if match is None:
            raise OptionError(
                f"`where` has {part!r}, which is no condition",
                remedy="write COLUMN >= VALUE, and `and` between several",
            )
        if match["name"] not in columns:
            raise OptionError(
                f"`where` names {match['name']!r}, the columns are {quote_names(list(columns))}",
                where=where,
                remedy="name one of them",
            )
        found.append(Condition(match["name"], match["sign"], match["value"]))
    return found
