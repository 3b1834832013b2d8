"""Tables and outlines as plain text that fits a width, in columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llm4dsr_cli.text import printable


def aligned(rows: Sequence[Sequence[str]], width: int, right: Sequence[int] = ()) -> str:
    """Rows of cells in columns, two blanks between them.

    Nothing is cut. Where not all fits the width, the last column, of names that may be long and must not be broken,
    stands on lines of its own, indented.

    Args:
        right: numbers of the columns that are aligned to the right.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    beside = sum(widths) + 2 * (len(widths) - 1) <= width
    lines = []
    for row in rows:
        cells = [
            cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])
            for column, cell in enumerate(row[:-1])
        ]
        lines += ["  ".join([*cells, row[-1]])] if beside else ["  ".join(cells), f"  {row[-1]}"]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def outline(values: Mapping[str, Any], width: int) -> str:
    """Names and values, one a line, control characters escaped; what a value holds stands under its name, indented."""
    return "".join(f"{line}\n" for line in _outlined(values, width, ""))


def _outlined(values: Mapping[str, Any], width: int, indent: str) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield f"{indent}{printable(name)}:"
            yield from _outlined(value, width, f"{indent}  ")
        elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
            yield f"{indent}{printable(name)}:"
            for one in value:
                yield from _wrapped(_inline(one), width, f"{indent}  ")
        else:
            yield from _wrapped(f"{name}: {_inline(value)}", width, indent)


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_inline(inner)}" for name, inner in value.items())
    return ", ".join(map(_inline, value)) if isinstance(value, list) else str(value)


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    # Paths and hashes stay whole, to be copied.
    return textwrap.wrap(
        printable(text),
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
