"""Titles: text from strangers, on one line."""

from __future__ import annotations

import re
import unicodedata

# Control characters, line and paragraph separators and all white space: each run becomes one space.
_FOLDED = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")
# How programs write that there is nothing: Python, pandas, JSON and JavaScript, SQL.
_NOTHING = frozenset({"nan", "NaN", "None", "null", "NULL", "<NA>"})


def clean_title(title: str) -> str:
    """The title on one line: control characters, line breaks and runs of white space folded to single spaces."""
    return _FOLDED.sub(" ", title).strip()


def title_of(value: object) -> str | None:
    """The title that a value of somebody's data is, as it stands there; None where it is none.

    A number is the title that it spells (1984, 2.5). Blank text is none, nor is what programs write where nothing is:
    ``nan``, ``NaN``, ``None``, ``null``, ``NULL``, ``<NA>``; nor is a boolean, a list or an object.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return None
    plain = value.strip()
    if not plain.isprintable():  # a zero-width space is blank, too
        plain = clean_title(plain)
    return value if plain and plain not in _NOTHING else None


def folded_title(title: str) -> str:
    """What two spellings of a title have in common: the clean title without case and in one form of each character.

    By it counts know an item: one export writes "ALIEN", another "Alien" (Unicode Standard, annex 15, form NFKC, and
    section 3.13, case folding).
    """
    return unicodedata.normalize("NFKC", clean_title(title)).casefold()
