"""Where titles are cut: chosen from the catalog, since a token is four letters of English and half of one of Korean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from llm4dsr_cli.model.prompts import Tokenize
from llm4dsr_cli.titles import ENOUGH_CHARACTERS

# The shortest reads some 60 characters of English; 24 tokens were no better there (docs/experiments.md).
LENGTHS = (16, 24, 32, 48, 64)
# Of the titles, how many have to be read well enough.
_SHARE = 0.98
# So many titles of a catalog, evenly spaced, stand for all of them.
_SAMPLE = 20_000


def choose_title_tokens(
    catalogs: Sequence[Sequence[str]],
    tokenize: Tokenize,
    fits: Callable[[int], bool] = lambda tokens: True,
    say: Callable[[str], None] = lambda line: None,
) -> int:
    """The smallest of ``LENGTHS`` in tokens at which 98% of each catalog's titles are read well enough.

    That is: whole, or for 32 characters, and unlike any other title of the catalog. Where no length does, it is the
    largest.

    Args:
        catalogs: different clean titles of each.
        tokenize: the base model's tokenizer, without special tokens.
        fits: whether windows of titles of so many tokens go into the base model; the smallest length is taken anyway.
        say: told in one line what was chosen.
    """
    lengths = [length for length in LENGTHS if length == LENGTHS[0] or fits(length)]
    read = [_read_well(titles, tokenize, lengths) for titles in catalogs if titles]
    worst = [min((shares[place] for shares in read), default=1.0) for place in range(len(lengths))]
    chosen = next((place for place, share in enumerate(worst) if share >= _SHARE), len(lengths) - 1)
    say(
        f"reads {lengths[chosen]} tokens of a title: {worst[chosen]:.0%} of the titles whole, or for "
        f"{ENOUGH_CHARACTERS} characters, and told apart (`max_title_tokens` decides otherwise)"
    )
    return lengths[chosen]


def _read_well(titles: Sequence[str], tokenize: Tokenize, lengths: Sequence[int]) -> list[float]:
    """For each length, the share of the titles that are read well enough."""
    sample = titles[:: -(-len(titles) // _SAMPLE)]
    # A token is hardly longer than 32 characters: what lies beyond is cut at any of the lengths.
    texts = [title[: 32 * LENGTHS[-1]] for title in sample]
    tokens = [tokenize(text) for text in texts]
    shares = []
    for length in lengths:
        starts = [row[:length].tobytes() for row in tokens]
        titles_of = Counter(starts)
        well = sum(
            titles_of[start] == 1 and (len(row) <= length or len(text) * length >= ENOUGH_CHARACTERS * len(row))
            for start, row, text in zip(starts, tokens, texts, strict=True)
        )
        shares.append(well / len(texts))
    return shares
