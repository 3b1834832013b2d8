"""Passes: what it takes to clean data that can be read more than once, whether they are a file or a data frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from llm4dsr_cli.cleaning.run import Cleaning
from llm4dsr_cli.cleaning.settings import CleaningSettings
from llm4dsr_cli.console import Advance, untold
from llm4dsr_cli.gate.survey import Survey
from llm4dsr_cli.replacing.replacer import ProposerName
from llm4dsr_cli.sequences import ItemSequence


class Settled(NamedTuple):
    """A cleaning that knows its gate on some data, and what was found on the way; None where nobody had to look."""

    cleaning: Cleaning
    survey: Survey | None


def weighs_counts(settings: CleaningSettings, *, gate: bool) -> bool:
    """Whether counts of the data judge beside the denoiser; those of a gate file take their place."""
    return settings.fusion and not gate


def counts_data(settings: CleaningSettings, *, gate: bool, catalog: bool, proposer: ProposerName) -> bool:
    """Whether the data have to be counted before they are scored: to judge beside the denoiser, or to replace items.

    Args:
        gate: whether there is a gate file.
        catalog: whether titles come from a catalog.
        proposer: who proposes items.
    """
    replaces = settings.action == "replace" and (not catalog or (not gate and proposer != "generate"))
    return weighs_counts(settings, gate=gate) or replaces


def settled(
    cleaning: Cleaning,
    sequences: Callable[[], Iterable[ItemSequence]],
    *,
    looks: bool = False,
    say: Callable[[str], None] = lambda line: None,
    advance: Advance = untold,
) -> Settled:
    """The cleaning as it is to decide about these data: the steps between scoring and editing.

    Where there is no gate file, their counts are weighed against the denoiser; and where a share of them is to be
    edited, the threshold is found that does it.

    Args:
        sequences: gives all of the data with their scores, as often as it is called.
        looks: survey the data even where no share of them is to be edited.
        say: told, in a sentence, who judges.
        advance: told what was scored, and the share of it.
    """
    settings = cleaning.settings
    if weighs_counts(settings, gate=cleaning.gate_file is not None) and cleaning.counted is not None:
        cleaning = cleaning.fitted(say=say, advance=advance)
    if settings.edit is None and not looks:
        return Settled(cleaning, None)
    survey = cleaning.survey(sequences())
    return Settled(cleaning if settings.edit is None else cleaning.editing(settings.edit, survey), survey)
