"""Edits: what a record becomes when the gate has decided, and the line that tells of each edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.gate import probability
from llm4dsr_cli.json_lines import dumps
from llm4dsr_cli.records import Record

Action = Literal["drop", "mark"]
PROBABILITY_FIELD = "noise_probability"
FLAG_FIELD = "noise_flag"


@dataclass(frozen=True)
class EditedRecord:
    """A record after the gate: its output line, and an audit line for each edit, all without newlines."""

    line: bytes
    audit: list[bytes]


def edit_record(
    record: Record,
    log_odds: NDArray[np.floating],
    edits: NDArray[np.bool_],
    *,
    action: Action,
    annotation: NDArray[np.floating] | None,
    output_line: int,
    threshold: float,
) -> EditedRecord:
    """Apply the gate's decisions to a record.

    ``drop`` takes the flagged items and their entries in all parallel lists out; ``mark`` leaves everything and adds
    ``noise_flag``, 0 or 1 for each item. An annotation adds ``noise_probability`` for each item of the output. A
    record with neither edits nor additions keeps its bytes.

    Args:
        log_odds: noise log-odds, shape (n_items,).
        edits: the gate's decisions, shape (n_items,).
        annotation: noise probabilities as they are to be written, shape (n_items,); None adds none.
        output_line: number of the record's line in the output, from 1, for the audit.
        threshold: the gate's, in log-odds, for the audit.

    Raises:
        RecordError: a field to be added is there already.
    """
    positions = np.flatnonzero(edits).tolist()
    chances = np.round(probability(log_odds), 5)
    dropped = positions if action == "drop" else []
    add: dict[str, Any] = {}
    if annotation is not None:
        add[PROBABILITY_FIELD] = np.delete(annotation, dropped).tolist()
    if action == "mark":
        add[FLAG_FIELD] = edits.astype(int).tolist()
    audit = [
        dumps(
            {
                "record": record.where,
                "output_line": output_line,
                "position": position,
                "action": action,
                "title": record.titles[position],
                "from": record.data[record.format.items_field][position],
                **_parallel_values(record, position),
                "to": None,
                "noise_probability": float(chances[position]),
                "threshold": round(float(probability(np.array(threshold))), 5),
            }
        )
        for position in positions
    ]
    return EditedRecord(record.render(drop=dropped, add=add), audit)


def _parallel_values(record: Record, position: int) -> dict[str, Any]:
    """The entries of the parallel lists that go with an item, so that a dropped one can be put back."""
    names = [*([record.format.titles_field] if record.format.titles_field else []), *record.format.parallel_fields]
    return {"parallel": {name: record.data[name][position] for name in names}} if names else {}
