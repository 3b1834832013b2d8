"""What a person is shown before anything is edited: what shares of edits would do, and some of the edits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm4dsr_cli.cleaning.run import Cleaning
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.gate.survey import Survey
    from llm4dsr_cli.sequences import ItemSequence

EXAMPLES = 10
_COLUMNS = 79
_INDENT = " " * 8
_PLACE = "[*]"
_BETWEEN = " | "


def surveyed(cleaning: Cleaning, sequences: Callable[[], Iterator[ItemSequence]], console: Console) -> Cleaning:
    """The cleaning as it is to decide about the data (``settled``); says what its share of edits and others would do.

    Args:
        sequences: gives those that are to be cleaned, with their scores, as often as it is called.
    """
    from llm4dsr_cli.cleaning.passes import settled

    with console.progress() as advance:
        cleaning, survey = settled(cleaning, sequences, looks=not console.quiet, say=console.say, advance=advance)
    if survey is not None and not console.quiet:
        _show(cleaning, survey, sequences(), console)
    return cleaning


def _show(cleaning: Cleaning, survey: Survey, sequences: Iterator[ItemSequence], console: Console) -> None:
    """Say what shares of edits would do, and show edits that the cleaning is going to make.

    Args:
        survey: of the cleaning.
        sequences: those that were surveyed, in the same order; read as far as the examples go.
    """
    from llm4dsr_cli.gate.survey import ASSUMED_NOISE, SHARES
    from llm4dsr_cli.scores import rounded_probability

    outlooks = [survey.outlook(share) for share in SHARES]
    if any(one.right is not None for one in outlooks):
        shares = [f"{noise:.0%}" for noise in ASSUMED_NOISE]
        console.say(f"share of the edits that is right, if {', '.join(shares)} of the data is noise:")
        console.say("".join(f"{name:>10}" for name in ("--edit", "items", *shares)))
        for one in outlooks:
            right = [f"{share:.0%}" for share in (one.right or {}).values()]
            console.say("".join(f"{cell:>10}" for cell in (f"{one.share:.0%}", f"{one.edits:,}", *right)))
    else:
        told = ", ".join(f"{one.share:.0%}: {one.edits:,}" for one in outlooks)
        console.say(f"items that --edit would edit: {told}")
    most = survey.most_noise()
    if most is not None:
        console.say(f"by these scores at most {most:.0%} of the data is noise like the random items that were put in")
    chosen = survey.examples(cleaning.gate.threshold, EXAMPLES)
    if chosen:
        console.say("some of the edits, most certain first: noise probability, item, and what it is among")
    found = _sequences_of({number for number, *_ in chosen}, sequences)
    for number, position, log_odds in chosen:
        titles = [title or "?" for title in found[number].titles]
        console.say(f"  {rounded_probability(log_odds):.3f} {_cut(titles[position], _COLUMNS - len(_INDENT))}")
        console.say(f"{_INDENT}{_surroundings(titles, position, _COLUMNS - len(_INDENT))}")


def _sequences_of(numbers: set[int], sequences: Iterator[ItemSequence]) -> dict[int, ItemSequence]:
    found: dict[int, ItemSequence] = {}
    for number, sequence in enumerate(sequences):
        if len(found) == len(numbers):
            break
        if number in numbers:
            found[number] = sequence
    return found


def _surroundings(titles: Sequence[str], position: int, columns: int) -> str:
    """The titles around an item, whose place is marked, as many as fit."""
    parts, left, right = [_PLACE], position - 1, position + 1
    while left >= 0 or right < len(titles):
        for place, at in ((0, left), (len(parts) + 1, right)):
            if 0 <= at < len(titles):
                longer = [*parts]
                longer.insert(place, _cut(titles[at], 30))
                if len(_BETWEEN.join(longer)) > columns:
                    return _BETWEEN.join(parts)
                parts = longer
        left, right = left - 1, right + 1
    return _BETWEEN.join(parts)


def _cut(title: str, columns: int) -> str:
    return title if len(title) <= columns else f"{title[: columns - 3]}..."
