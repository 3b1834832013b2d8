"""Fitting: how much the counts of the data that are cleaned weigh beside the denoiser, found on a sample of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llm4dsr_cli.cleaning.counted import Counted
from llm4dsr_cli.console import Advance, untold
from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.gate.calibration import (
    FEWEST_SEQUENCES,
    CalibrationSettings,
    noisy_sequences,
    scored,
    scored_items,
)
from llm4dsr_cli.gate.cross_fitting import cross_fitted_gate
from llm4dsr_cli.gate.gate_file import GateFile
from llm4dsr_cli.gate.sample import UserSequence
from llm4dsr_cli.scores import Scorer

# With fewer, counts that help to find what is put in do not help to find the noise of the data (docs/experiments.md).
FEWEST_USERS = 100
# The sample takes no longer to score than such a share of the data, or so many items.
SHARE = 0.1
FEW_ITEMS = 2_000


@dataclass(frozen=True)
class Fitted:
    """What a sample of the data told.

    Attributes:
        gate: weights, counts and thresholds; None where the data are too few.
        helps: whether the counts help the denoiser.
        told: who judges, and why, in one sentence.
    """

    gate: GateFile | None
    helps: bool
    told: str


def fit_to(
    counted: Counted,
    titles: Sequence[str],
    scorer: Scorer,
    *,
    protect_last: int = 1,
    rate: float | None = None,
    advance: Advance = untold,
) -> Fitted:
    """Weigh the counts of some data against a denoiser.

    Args:
        titles: those of the items, and maybe others.
        scorer: a denoiser that is known by name and hash.
        protect_last: so many items at a sequence's end are left out, as the gate will never edit them.
        rate: a false-edit rate that the two have to keep together; None where the threshold comes from elsewhere.
        advance: told what was scored, and the share of it.
    """
    n_users = len(counted.evidence.users)
    if scorer.name is None or scorer.sha256 is None:
        raise OptionError("a gate is for a denoiser that is known by name and hash", remedy="give a `Denoiser`")
    sample: list[UserSequence] = []
    items = 0
    limit = max(FEW_ITEMS, SHARE * counted.n_items)
    for user, those in counted.sample.sequences:
        items += len(those)
        if items > limit and len(sample) >= FEWEST_SEQUENCES:
            break
        sample.append((user, those))
    settings = CalibrationSettings(sequences=max(FEWEST_SEQUENCES, len(sample)), protect_last=protect_last)
    try:
        noisy = noisy_sequences(sample, titles, counted.evidence, settings)
        gate, helps = cross_fitted_gate(
            scored_items(noisy, scored(noisy, scorer, advance), counted.evidence, protect_last),
            counted.evidence,
            users=[one.user for one in noisy],
            model_name=scorer.name,
            model_sha256=scorer.sha256,
            settings=settings,
        )
    except OptionError as error:  # too few users, items or different titles
        return Fitted(None, False, f"the denoiser judges alone: {error.what}")
    counts, tried = f"counts of {n_users:,} users", f"{len(noisy):,} sequences with noise put in"
    if n_users < FEWEST_USERS:
        return Fitted(gate, False, f"the denoiser judges alone: {counts} are too few to help it")
    if rate is not None and gate.fused.promised(rate) > rate * (1 + 1e-6):
        told = f"{tried} are too few to promise a false-edit rate of {rate:g} with counts"
        return Fitted(gate, False, f"the denoiser judges alone: {told}")
    if helps:
        return Fitted(gate, True, f"the denoiser and {counts} judge together, weighed on {tried}")
    return Fitted(gate, False, f"the denoiser judges alone: {counts} did not help it on {tried}")
