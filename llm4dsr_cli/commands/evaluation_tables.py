"""Tables of an evaluation on standard output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llm4dsr_cli.commands.tables import Tables
from llm4dsr_cli.scores import probability
from llm4dsr_cli.streams import write_out

if TYPE_CHECKING:
    from llm4dsr_cli.evaluation.measure import Evaluation, Measurement
    from llm4dsr_cli.evaluation.strata import Stratum

DETECTION = {
    "auroc": "AUROC",
    "average_precision": "AP",
    "precision_at_1pct": "P@1%",
    "precision_at_3pct": "P@3%",
    "precision_at_5pct": "P@5%",
    "precision_at_10pct": "P@10%",
}
EDITS = {"precision": "precision", "recall": "recall", "f1": "F1", "false_edit_rate": "false edits"}
SPELLED = {"AP": "average precision", **{f"P@{n}%": f"precision at {n}%" for n in (1, 3, 5, 10)}}


def print_tables(evaluation: Evaluation, *, color: bool) -> None:
    """All figures; undefined ones as a dash."""
    out = Tables(color=color)
    out.line(_headline(evaluation))
    overall = evaluation.overall
    intervals = bool(overall.intervals)
    figures = overall.figures()
    rows = []
    for name, title in {**DETECTION, **EDITS}.items():
        row = [SPELLED.get(title, title), _share(figures[name], name)]
        rows.append([*row, _bounds(overall.intervals[name], name)] if intervals else row)
    columns = [evaluation.scorer_name, "", "95% interval"] if intervals else [evaluation.scorer_name, ""]
    stated = float(probability(np.array(evaluation.threshold)))
    out.table(columns, rows[: len(DETECTION)])
    out.table([f"at the gate, noise probability above {stated:.4g}", *columns[1:]], rows[len(DETECTION) :])
    strata = {"items of the sequence": evaluation.by_length, "other users who have it": evaluation.by_popularity}
    if len(evaluation.by_repetition) > 1:
        strata["times it is held"] = evaluation.by_repetition
    for title, parts in strata.items():
        out.table(*_strata(title, parts, DETECTION))
        out.table(*_strata(f"{title}: edits", parts, EDITS))
    if evaluation.baselines:
        scorers = {evaluation.scorer_name: overall, **evaluation.baselines}
        rows = [[name, *_cells(found, DETECTION)] for name, found in scorers.items()]
        out.table(["scorer", *DETECTION.values()], rows)
    # Not by rich itself, which makes an exit code of its own of a broken pipe.
    write_out(out.text)


def _headline(evaluation: Evaluation) -> str:
    protocol, detection = evaluation.protocol, evaluation.overall.detection
    noise = (
        f"injected at {protocol['inject']:g}, seed {protocol['seed']}"
        if "inject" in protocol
        else f'labelled in "{protocol["labels_field"]}"'
    )
    return (
        f"{evaluation.model['name']}: {protocol['n_records']:,} records of {protocol['n_users']:,} users,\n"
        f"{detection.n_items:,} items judged, {detection.n_noise:,} of them noise "
        f"({detection.n_noise / detection.n_items:.1%}, {noise})"
    )


def _strata(
    title: str, parts: Sequence[tuple[Stratum, Measurement]], shown: dict[str, str]
) -> tuple[list[str], list[list[str]]]:
    if shown is EDITS:
        return [title, *shown.values()], [[part.name, *_cells(found, shown)] for part, found in parts]
    rows = [
        [part.name, f"{found.detection.n_items:,}", f"{found.detection.n_noise:,}", *_cells(found, shown)]
        for part, found in parts
    ]
    return [title, "items", "noise", *shown.values()], rows


def _cells(found: Measurement, shown: dict[str, str]) -> list[str]:
    figures = found.figures()
    return [_share(figures[name], name) for name in shown]


def _share(value: float, name: str) -> str:
    # False edits are rare by design: three decimals would hide them.
    digits = 4 if name == "false_edit_rate" else 3
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _bounds(bounds: tuple[float, float], name: str) -> str:
    return "-" if math.isnan(bounds[0]) else f"{_share(bounds[0], name)} to {_share(bounds[1], name)}"
