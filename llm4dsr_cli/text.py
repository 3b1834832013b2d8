"""Texts from files, servers and file names, made fit for a terminal and for one line."""

from __future__ import annotations

import json


def printable(text: str) -> str:
    """The text with everything escaped that is no printable character: control characters, line breaks, lone
    surrogates, and marks that change the direction of writing.

    A terminal would obey such characters: they can hide what stands before them, and name its window.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text: str, most: int = 60) -> str:
    """The text in a form for a message: printable, and cut after ``most`` characters."""
    return printable(text[:most]) + ("..." if len(text) > most else "")


def printable_json(text: str) -> str:
    """The same for a text in JSON, which stays the same value; its line breaks stay, too."""
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
