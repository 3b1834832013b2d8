"""Editing: what a decision does to a record."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from llm4dsr_cli.cleaning.decision import Decision
from llm4dsr_cli.records.edits import FLAG_FIELD, PROBABILITY_FIELD, Edit
from llm4dsr_cli.records.record import Record
from llm4dsr_cli.replacing.candidates import Candidates
from llm4dsr_cli.replacing.replacer import Replacement
from llm4dsr_cli.scores import Scores, probability, rounded_probability, shortest_probabilities


def record_edits(record: Record, decision: Decision, candidates: Candidates | None) -> list[Edit]:
    """The edits of a record's items, in their order; none for a flagged item that stays.

    Args:
        candidates: those that the decision's replacements are numbers of.

    Raises:
        RecordError: a replacement cannot stand in this record.
    """
    rounded = np.round(decision.noise_probability, 5).tolist()
    keep = decision.keep
    put = decision.replacements
    edits = []
    for position in np.flatnonzero(decision.flagged).tolist():
        proposal = decision.proposals.get(position)
        about = {} if proposal is None else _about(proposal)
        if position in put and candidates is not None:
            replacement = put[position]
            item = candidates.item(replacement.candidate, record, position)
            edits.append(Edit(position, "replace", rounded[position], item, replacement.title, about))
        elif not keep[position]:
            edits.append(Edit(position, "drop", rounded[position], about=about))
        elif decision.action == "mark":
            edits.append(Edit(position, "mark", rounded[position]))
    return edits


def chances(log_odds: Scores, *, fused: bool) -> list[float | None]:
    """Noise probabilities as records and audits have them, None for NaN.

    Args:
        fused: the log-odds are fused with counts: they are not rounded, and have no shortest text.
    """
    found = np.round(probability(log_odds), 5) if fused else shortest_probabilities(log_odds)
    return [None if math.isnan(chance) else chance for chance in found.tolist()]


def additions(decision: Decision, *, annotate: bool, fused: bool) -> dict[str, Any]:
    """The fields that a decision adds to its record: noise probabilities if asked for, flags where items are marked.

    Args:
        fused: as for ``chances``.
    """
    add: dict[str, Any] = {}
    if annotate:
        shown = decision.log_odds.copy()
        for position, replacement in decision.replacements.items():
            shown[position] = replacement.log_odds
        add[PROBABILITY_FIELD] = chances(shown[decision.keep], fused=fused)
    if decision.action == "mark":
        add[FLAG_FIELD] = decision.flagged.astype(int).tolist()
    return add


def _about(proposal: Replacement) -> dict[str, Any]:
    """What the audit says of a proposal."""
    about = {
        "title": proposal.title,
        "noise_probability": rounded_probability(proposal.log_odds),
        "proposer": proposal.proposer,
        proposal.score_name: round(proposal.score, 4),
    }
    return {"replacement" if proposal.accepted else "refused": about}
