"""Edited sequences as lines of a terminal: the item, and the titles that it is among, coloured by their probability."""

from __future__ import annotations

from collections.abc import Sequence

from llm4dsr_cli.console import Part

COLUMNS = 79
INDENT = " " * 8
_PLACE = "[*]"
_BETWEEN = " | "
_NEIGHBOUR = 30  # characters of its title
# From which noise probability on a title has which colour.
_COLOURS = ((0.5, "bold red"), (0.25, "red"), (0.1, "yellow"))


def edited_item(title: str | None, chance: float, columns: int = COLUMNS) -> list[Part]:
    """The line of an edited item: its noise probability and its title."""
    return [(f"  {chance:.3f} ", _colour(chance)), (_cut(title, columns - len(INDENT)), "bold")]


def surroundings(
    titles: Sequence[str | None], chances: Sequence[float | None], position: int, columns: int = COLUMNS
) -> list[Part]:
    """The line of the titles around an item, whose place is marked, as many as fit.

    Args:
        chances: noise probabilities of all items, None where nobody judged; empty where they are not known.
    """
    parts: list[Part] = [(_PLACE, "reverse")]
    left, right, room = position - 1, position + 1, columns - len(INDENT) - len(_PLACE)
    while left >= 0 or right < len(titles):
        for at in (left, right):
            if 0 <= at < len(titles):
                neighbour: Part = (_cut(titles[at], _NEIGHBOUR), _colour(chances[at] if chances else None))
                room -= len(neighbour[0]) + len(_BETWEEN)
                if room < 0:
                    return [(INDENT, ""), *parts]
                between = (_BETWEEN, "dim")
                parts = [neighbour, between, *parts] if at < position else [*parts, between, neighbour]
        left, right = left - 1, right + 1
    return [(INDENT, ""), *parts]


def _colour(chance: float | None) -> str:
    return next((colour for least, colour in _COLOURS if chance is not None and chance >= least), "")


def _cut(title: str | None, columns: int) -> str:
    title = title or "?"
    return title if len(title) <= columns else f"{title[: columns - 3]}..."
