"""Titles: text from strangers, on one line."""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

# Control characters, line and paragraph separators and all white space: each run becomes one space.
_FOLDED = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")
# As Amazon's titles have them: "Tom &amp; Jerry". Without its semicolon "&copy" may be anything.
_HTML = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
# How programs write that there is nothing: Python, pandas, JSON and JavaScript, SQL.
_NOTHING = frozenset({"nan", "NaN", "None", "null", "NULL", "<NA>"})
# A title of which so many characters are read says what it is. On Amazon's English titles, of which 16 tokens read some
# 60 characters, longer cuts gained nothing (docs/experiments.md).
ENOUGH_CHARACTERS = 32
# A share of cut titles above this one is worth a word.
_NOTABLE = 0.1


def clean_title(title: str) -> str:
    """The title on one line: control characters, line breaks and runs of white space folded to single spaces.

    HTML's character references (``&amp;``, ``&#39;``) are the characters that they stand for, also where they were
    made twice (``&amp;amp;``).
    """
    before = ""
    while "&" in title and title != before:
        before, title = title, _HTML.sub(lambda reference: html.unescape(reference[0]), title)
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


@dataclass
class CutTitles:
    """How many titles a model has read, and how many of them it has read only up to where it cuts them.

    A title that comes back is counted once, or again after some 260,000 others.

    Attributes:
        max_tokens: where titles are cut.
        read: how many titles there were.
        cut: how many of them are longer.
        characters: how much of the cut ones was read, in all.
    """

    max_tokens: int
    read: int = 0
    cut: int = 0
    characters: float = 0.0

    def add(self, length: int, tokens: int) -> None:
        """Count a title of so many characters and tokens."""
        self.read += 1
        if tokens > self.max_tokens:
            self.cut += 1
            self.characters += length * self.max_tokens / tokens

    def merge(self, other: CutTitles) -> None:
        """Add what another process has read."""
        self.read += other.read
        self.cut += other.cut
        self.characters += other.characters

    @property
    def share(self) -> float:
        """Of the titles, 0 to 1, how many are cut."""
        return self.cut / self.read if self.read else 0.0

    def describe(self) -> str | None:
        """One sentence; None where no more than a tenth of the titles are cut.

        It has a remedy where the cut ones have not yet said what they are.
        """
        if self.share <= _NOTABLE:
            return None
        told = (
            f"{self.cut:,} of {self.read:,} titles ({self.share:.0%}) are cut to the {self.max_tokens} tokens that "
            f"this denoiser reads, some {self.characters / self.cut:.0f} characters"
        )
        if self.characters >= ENOUGH_CHARACTERS * self.cut:
            return told
        return f"{told}, and may look alike: train one on these data, which reads more of them (llm4dsr finetune)"

    def as_dict(self) -> dict[str, Any]:
        """For reports."""
        return {"read": self.read, "cut": self.cut, "share_cut": round(self.share, 4), "max_tokens": self.max_tokens}
