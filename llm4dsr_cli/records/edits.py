"""Edits: what a record becomes when the gate has decided, and the line that tells of each edit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.records.json_lines import dumps
from llm4dsr_cli.records.record import Record
from llm4dsr_cli.scores import probability

Action = Literal["drop", "mark", "replace"]
Fallback = Literal["drop", "keep"]
PROBABILITY_FIELD = "noise_probability"
FLAG_FIELD = "noise_flag"


@dataclass(frozen=True)
class Substitute:
    """What was proposed for a flagged item.

    Attributes:
        item: as it is to stand in the record; None if it is not accepted.
        title: its title.
        proposer: who proposed it.
        score: by name, how good it is to the proposer.
        log_odds: its noise log-odds in that place.
        accepted: whether it is to stand there.
    """

    item: Any
    title: str
    proposer: str
    score: dict[str, float]
    log_odds: float
    accepted: bool


@dataclass(frozen=True)
class EditedRecord:
    """A record after the gate: its output line, and an audit line for each edit, all without newlines.

    ``replaced`` of the edits put another item in an item's place.
    """

    line: bytes
    audit: list[bytes]
    replaced: int = 0


def edit_record(
    record: Record,
    log_odds: NDArray[np.floating],
    edits: NDArray[np.bool_],
    *,
    action: Action,
    annotation: NDArray[np.floating] | None,
    output_line: int,
    threshold: float,
    substitutes: Mapping[int, Substitute] | None = None,
    fallback: Fallback = "drop",
) -> EditedRecord:
    """Apply the gate's decisions to a record.

    ``drop`` takes the flagged items and their entries in all parallel lists out; ``mark`` leaves everything and adds
    ``noise_flag``, 0 or 1 for each item; ``replace`` puts accepted substitutes in their place, and does as the fallback
    says with the others. An annotation adds ``noise_probability`` for each item of the output. A record with neither
    edits nor additions keeps its bytes.

    Args:
        log_odds: noise log-odds, shape (n_items,).
        edits: the gate's decisions, shape (n_items,).
        annotation: noise probabilities as they are to be written, shape (n_items,); None adds none.
        output_line: number of the record's line in the output, from 1, for the audit.
        threshold: the gate's, in log-odds, for the audit.
        substitutes: what was proposed, by position.
        fallback: what ``replace`` does with a flagged item that has no accepted substitute.

    Raises:
        RecordError: a field to be added is there already.
    """
    flagged = np.flatnonzero(edits).tolist()
    proposed = substitutes or {}
    put = {p: proposed[p] for p in flagged if p in proposed and proposed[p].accepted} if action == "replace" else {}
    left = [position for position in flagged if position not in put]
    dropped = left if action == "drop" or (action == "replace" and fallback == "drop") else []
    add: dict[str, Any] = {}
    if annotation is not None:
        add[PROBABILITY_FIELD] = np.delete(annotation, dropped).tolist()
    if action == "mark":
        add[FLAG_FIELD] = edits.astype(int).tolist()
    chances = np.round(probability(log_odds), 5)
    audit = [
        dumps(
            {
                "record": record.where,
                "output_line": output_line,
                "position": position,
                "action": "drop" if position in dropped else action,
                "title": record.titles[position],
                "from": record.data[record.format.items_field][position],
                **_parallel_values(record, position),
                "to": put[position].item if position in put else None,
                "noise_probability": float(chances[position]),
                "threshold": _probability(threshold),
                **_proposed(proposed.get(position), position in put),
            }
        )
        for position in (flagged if action == "mark" else sorted([*put, *dropped]))
    ]
    items = {position: (substitute.item, substitute.title) for position, substitute in put.items()}
    return EditedRecord(record.render(drop=dropped, add=add, put=items), audit, len(put))


def _proposed(substitute: Substitute | None, accepted: bool) -> dict[str, Any]:
    """What the audit says of a proposal."""
    if substitute is None:
        return {}
    about = {
        "title": substitute.title,
        "noise_probability": _probability(substitute.log_odds),
        "proposer": substitute.proposer,
        **{name: round(score, 4) for name, score in substitute.score.items()},
    }
    return {"replacement" if accepted else "refused": about}


def _probability(log_odds: float) -> float:
    return round(float(probability(np.array(log_odds))), 5)


def _parallel_values(record: Record, position: int) -> dict[str, Any]:
    """The entries of the parallel lists that go with an item, so that a dropped one can be put back."""
    names = [*([record.format.titles_field] if record.format.titles_field else []), *record.format.parallel_fields]
    return {"parallel": {name: record.data[name][position] for name in names}} if names else {}
