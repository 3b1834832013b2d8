"""What fine-tuning brought: before, after and simple baselines on the same held-out windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.evaluation.metrics import DetectionQuality, detection_quality
from llm4dsr_cli.evaluation.reference_scores import reference_scores
from llm4dsr_cli.finetune.data import Domain, LabelledWindow

Scores = Sequence[NDArray[np.floating]]
ALL = "all"
BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class Line:
    """One line of the comparison: a scorer's quality on one domain's test windows, or on ``ALL`` of them."""

    domain: str
    scorer: str
    quality: DetectionQuality


def compare(domains: Sequence[Domain], windows: Sequence[LabelledWindow], scores: Mapping[str, Scores]) -> list[Line]:
    """Detection quality of each scorer on each domain, the last item of each window left out.

    Args:
        scores: by scorer's name, an array of shape (n_items,) for each window, NaN where it does not score a domain.
            Those of a baseline are comparable within a domain only: ``ALL`` is measured before and after alone.
    """
    lines = []
    for number, domain in enumerate(domains):
        here = [i for i, window in enumerate(windows) if window.domain == number]
        for name, rows in scores.items():
            score, label = judged([rows[i] for i in here], [windows[i] for i in here])
            if not np.isnan(score).any():
                lines.append(Line(domain.name, name, detection_quality(score, label)))
    if len(domains) > 1:
        lines += [
            Line(ALL, name, detection_quality(*judged(rows, windows)))
            for name, rows in scores.items()
            if name in (BEFORE, AFTER)
        ]
    return lines


def baseline_scores(
    train: Sequence[Domain], windows: Sequence[LabelledWindow], *, say: Callable[[str], None] = lambda line: None
) -> dict[str, list[NDArray[np.float64]]]:
    """Scores of the baselines, each counting the train part of its domain: what no window's user is in.

    Args:
        say: told in one line each what is left out.

    Returns:
        By name, an array of shape (n_items,) for each window, NaN where a baseline does not suit the domain.
    """
    scores: dict[str, list[NDArray[np.float64]]] = {}
    said: dict[str, None] = {}
    for number, domain in enumerate(train):
        index = {title: i for i, title in enumerate(domain.titles)}
        here = [i for i, window in enumerate(windows) if window.domain == number]
        sequences = [*zip(domain.users, domain.sequences, strict=True)]
        judged = range(len(sequences), len(sequences) + len(here))
        sequences += [(windows[i].user, np.array([index[title] for title in windows[i].titles])) for i in here]
        folds = {windows[i].user: 0 for i in here}
        found = reference_scores(
            domain.titles, sequences, judged, folds=folds, say=lambda line: said.update({line: None})
        )
        for name, of_domain in found.items():
            rows = scores.setdefault(name, [np.full(len(window.titles), np.nan) for window in windows])
            for i, row in zip(here, of_domain, strict=True):
                rows[i] = row
    for line in said:
        say(line)
    return scores


def judged(scores: Scores, windows: Sequence[LabelledWindow]) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Scores and labels of all items but the windows' last, shape (n,) each."""
    score = [np.asarray(row[:-1], dtype=np.float64) for row in scores]
    label = [window.labels[:-1] for window in windows]
    return np.concatenate([np.zeros(0), *score]), np.concatenate([np.zeros(0, dtype=np.int8), *label])


def table(lines: Sequence[Line]) -> list[str]:
    """The comparison as lines of text, columns aligned."""
    rows = [["data", "scorer", "AUROC", "AP", "P@1%", "items"]]
    for line in lines:
        q = line.quality
        figures = ("-" if np.isnan(x) else f"{x:.3f}" for x in (q.auroc, q.average_precision, q.precision_at_1pct))
        rows.append([line.domain, line.scorer, *figures, f"{q.n_items:,}"])
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return [
        "  ".join(cell.ljust(width) if column < 2 else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]
