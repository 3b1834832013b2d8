"""Columns: which field of a catalog, or of an item, holds the id and which the title, where nobody said."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# As people name them, without capitals and signs: item_id, itemId and "Item ID" are one name.
_ID_NAMES = frozenset({"id", "itemid", "movieid", "asin", "parentasin", "newsid", "productid"})
# Names of fewer data sets, which are taken where there is none of the others.
_RARE_ID_NAMES = frozenset({"item", "iid", "sku", "isbn", "isbn13", "ean", "upc"})
_ID_ENDING = re.compile(r"(?:[\W_]id|[a-z0-9]I[dD]|[\W_]ID)$")
# What has an id without being an item.
_OTHERS = re.compile(
    r"user|^uid|session|review|customer|visitor|member|account|^row|event|order|categor|genre|brand|type|store|seller|"
    r"image|photo|author|keyword|impression|request|^tag"
)
# By preference; RecBole's MovieLens says movie_title.
_TITLE_NAMES = (
    "title", "itemtitle", "movietitle", "booktitle", "producttitle", "newstitle", "name", "itemname", "moviename",
    "productname", "prodname", "appname", "gamename",
)  # fmt: skip
_USER_NAMES = ("userid", "user", "uid", "reviewerid", "customerid", "visitorid", "sessionid", "username")
_TIME_NAMES = ("timestamp", "time", "unixreviewtime", "datetime", "date", "ts")
# What ``to_csv`` of a data frame writes above its index, and what reading that gives.
_NAMELESS = re.compile(r"\s*(?:Unnamed: \d+(?:_level_\d+)?)?\s*")

# Words in the name of a list of what a user had, and of one that tells of an item.
_SEQUENCES = re.compile(
    "hist|histor(?:y|ies)|seqs?|sequences?|items?|clicks?|clicked|purchases?|purchased|bought|watched|viewed|views|"
    "prev|previous|past|context|interactions"
)
_BELONGING = re.compile("also|related|similar|together|prices?|tags?|genres?|categor(?:y|ies)")


def id_names(names: Iterable[str]) -> list[str]:
    """The names that may be those of the id; several where only the data, or a person, can tell.

    Never a nameless column, ``rank``, ``index`` or the id of a user.
    """
    named = [name for name in names if not _NAMELESS.fullmatch(name)]
    usual = [name for name in named if _plain(name) in _ID_NAMES]
    if usual:
        return usual
    return [
        name
        for name in named
        if _plain(name) in _RARE_ID_NAMES or (_ID_ENDING.search(name) and not _OTHERS.search(_plain(name)))
    ]


def title_name(names: Sequence[str]) -> str | None:
    """The name that is that of the title; None where there is none."""
    return _first(names, _TITLE_NAMES)


def user_name(names: Sequence[str]) -> str | None:
    """The name that is that of the user, or of the session; None where there is none."""
    return _first(names, _USER_NAMES)


def time_name(names: Sequence[str]) -> str | None:
    """The name that is that of an interaction's time; None where there is none."""
    return _first(names, _TIME_NAMES)


def names_sequence(name: str) -> bool:
    """Whether a list of this name holds what a user had, and not what belongs to an item."""
    words = {word.casefold() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", name)}
    if any(map(_BELONGING.fullmatch, words)):
        return False
    return any(map(_SEQUENCES.fullmatch, words)) or bool(id_names([re.sub("(?i)_?list$|s$", "", name)]))


def _first(names: Sequence[str], usual: Sequence[str]) -> str | None:
    plain = [_plain(name) for name in names]
    return next((names[plain.index(name)] for name in usual if name in plain), None)


def _plain(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())
