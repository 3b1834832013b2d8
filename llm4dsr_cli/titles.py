"""Titles: text from strangers, on one line."""

from __future__ import annotations

import re
import unicodedata

# Control characters, line and paragraph separators and all white space: each run becomes one space.
_FOLDED = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")


def clean_title(title: str) -> str:
    """The title on one line: control characters, line breaks and runs of white space folded to single spaces."""
    return _FOLDED.sub(" ", title).strip()


def folded_title(title: str) -> str:
    """What two spellings of a title have in common: the clean title without case and in one form of each character.

    By it counts know an item: one export writes "ALIEN", another "Alien" (Unicode Standard, annex 15, form NFKC, and
    section 3.13, case folding).
    """
    return unicodedata.normalize("NFKC", clean_title(title)).casefold()
