"""What a person is shown before anything is edited: what shares of edits would do, and some of the edits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from llm4dsr_cli.commands.edited_sequences import edited_item, surroundings
from llm4dsr_cli.commands.inputs import VOUCHING, warn_of_nameless

if TYPE_CHECKING:
    from llm4dsr_cli.cleaning.run import Cleaning
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.gate.survey import Survey
    from llm4dsr_cli.sequences import ItemSequence


def surveyed(
    cleaning: Cleaning, sequences: Callable[[], Iterator[ItemSequence]], console: Console, examples: int
) -> Cleaning:
    """The cleaning as it is to decide about the data (``settled``); says what its share of edits and others would do.

    Args:
        sequences: gives those that are to be cleaned, with their scores, as often as it is called.
        examples: how many edits are shown.
    """
    from llm4dsr_cli.cleaning.passes import settled

    with console.progress() as advance:
        cleaning, survey = settled(cleaning, sequences, looks=not console.quiet, say=console.say, advance=advance)
    if cleaning.counted is not None and cleaning.fuses:
        warn_of_nameless(console, cleaning.counted.nameless, cleaning.user_field, VOUCHING)
    if survey is not None and not console.quiet:
        _show(cleaning, survey, sequences(), console, examples)
    return cleaning


def _show(
    cleaning: Cleaning, survey: Survey, sequences: Iterator[ItemSequence], console: Console, examples: int
) -> None:
    """Say what shares of edits would do, and show edits that the cleaning is going to make.

    Args:
        survey: of the cleaning.
        sequences: those that were surveyed, in the same order; read as far as the examples go.
    """
    from llm4dsr_cli.scores import probability, rounded_probability

    tell_shares(survey, console)
    chosen = survey.examples(cleaning.gate.threshold, examples)
    if chosen:
        console.say("some of the edits, most certain first: noise probability, item, and what it is among")
    found = _sequences_of({number for number, *_ in chosen}, sequences)
    for number, position, log_odds in chosen:
        sequence = found[number]
        (judged,) = cleaning.log_odds([sequence])
        console.show(edited_item(sequence.titles[position], rounded_probability(log_odds)))
        console.show(surroundings(sequence.titles, probability(judged).tolist(), position))


def tell_shares(survey: Survey, console: Console) -> None:
    """Say what shares of edits would do, and how much noise there may be."""
    from llm4dsr_cli.gate.survey import ASSUMED_NOISE, SHARES

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


def _sequences_of(numbers: set[int], sequences: Iterator[ItemSequence]) -> dict[int, ItemSequence]:
    found: dict[int, ItemSequence] = {}
    for number, sequence in enumerate(sequences):
        if len(found) == len(numbers):
            break
        if number in numbers:
            found[number] = sequence
    return found
