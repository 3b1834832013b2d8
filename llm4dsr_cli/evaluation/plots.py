"""Plots of an evaluation: precision and recall, reliability, and scores by label, side by side in one file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.evaluation.bootstrap import Multiplicities, bootstrap_intervals
from llm4dsr_cli.evaluation.metrics import precision_recall_curve
from llm4dsr_cli.evaluation.picture import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, VERMILLION, picture
from llm4dsr_cli.scores import probability

if TYPE_CHECKING:
    from llm4dsr_cli.evaluation.measure import Evaluation

_BASELINES = ((GREEN, (0, (5, 1.5))), (ORANGE, (0, (1, 1))), (PURPLE, (0, (4, 1, 1, 1))))

# Bins of equally many items, and narrower ones at the suspicious end, where the gate decides.
_RELIABILITY_BINS = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1)
_DRAWS = 300


def plot_evaluation(evaluation: Evaluation, plot: Path) -> None:
    """Draw an evaluation into a .png, .svg or .pdf file, which appears when it is whole.

    Left: precision over recall of the denoiser and the baselines that were measured, the gate marked on it. Middle: the
    share of noise over the noise probability in bins of equally many items, with 95% bootstrap intervals over users.
    Right: noise log-odds of items that are noise and of items that belong.

    Raises:
        OptionError, MissingExtraError: see ``picture.check_plot``.
        OutputError: the file cannot be written.
    """
    with picture(plot, 12.6, 4.1) as figure:
        left, middle, right = figure.subplots(1, 3)
        _precision_and_recall(left, evaluation)
        _reliability(middle, evaluation)
        _scores_by_label(right, evaluation)


def _precision_and_recall(axes: Any, evaluation: Evaluation) -> None:
    items, overall = evaluation.items, evaluation.overall
    base_rate = overall.detection.n_noise / overall.detection.n_items
    axes.set(title="Precision and recall", xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    if not overall.detection.n_noise:
        _note(axes, "no item is noise")
        return
    axes.axhline(base_rate, color=GREY, linewidth=1, linestyle=":", zorder=1)
    axes.text(1, base_rate - 0.015, f"chance, {base_rate:.0%}", color=GREY, fontsize=8, ha="right", va="top")
    for (name, scores), (color, dashes) in zip(items.baselines.items(), _BASELINES, strict=False):
        recall, precision = precision_recall_curve(scores, items.labels)
        label = f"{name}, AP {evaluation.baselines[name].detection.average_precision:.2f}"
        axes.plot(recall, precision, color=color, linewidth=1.2, linestyle=dashes, label=label, zorder=2)
    recall, precision = precision_recall_curve(items.log_odds, items.labels)
    label = f"{evaluation.scorer_name}, AP {overall.detection.average_precision:.2f}"
    axes.plot(recall, precision, color=BLUE, linewidth=2, label=label, zorder=3)
    if overall.edits is not None and not math.isnan(overall.edits.precision):
        at = (overall.edits.recall, overall.edits.precision)
        text = f"gate: {at[1]:.0%} right, {at[0]:.0%} found"
        dot = {"color": BLUE, "markeredgecolor": "white", "markeredgewidth": 1.4, "markersize": 9}
        axes.plot(*at, "o", label=text, clip_on=False, zorder=4, **dot)
    handles, labels = axes.get_legend_handles_labels()
    # Where a good curve does not run.
    corner = "lower left" if overall.detection.average_precision > 0.6 else "upper right"
    axes.legend(
        handles[::-1], labels[::-1], loc=corner, bbox_to_anchor=(0, 0.12, 1, 0.88), fontsize=8, handlelength=2.6
    )


def _reliability(axes: Any, evaluation: Evaluation) -> None:
    items = evaluation.items
    predicted = probability(items.log_odds)
    axes.set(title="Reliability", xlabel="noise probability", ylabel="share that is noise", xlim=(0, 1), ylim=(0, 1.02))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", zorder=1)
    axes.text(0.8, 0.77, "as stated", color=GREY, fontsize=8, va="top")
    edges = np.unique(np.quantile(predicted, _RELIABILITY_BINS))
    place = np.clip(np.searchsorted(edges, predicted, side="right") - 1, 0, max(0, len(edges) - 2))
    used = np.unique(place)
    stated = [predicted[place == part].mean() for part in used]
    found = [float(items.labels[place == part].mean()) for part in used]
    n_users = int(items.users.max()) + 1
    if n_users > 1:

        def shares(drawn: Multiplicities) -> dict[str, float]:
            weights = drawn[items.users]
            in_bin = np.bincount(place, weights=weights)
            noise = np.bincount(place, weights=weights * items.labels)
            return {str(part): noise[part] / in_bin[part] if in_bin[part] else math.nan for part in used}

        (intervals,) = bootstrap_intervals([shares], n_users, draws=_DRAWS)
        low, high = zip(*(intervals[str(part)] for part in used), strict=True)
        axes.vlines(stated, low, high, color=BLUE, linewidth=1.4, alpha=0.55, zorder=2)
    axes.plot(stated, found, "-o", color=BLUE, linewidth=1, markersize=5, markeredgecolor="white", zorder=3)


def _scores_by_label(axes: Any, evaluation: Evaluation) -> None:
    items = evaluation.items
    log_odds = items.log_odds[np.isfinite(items.log_odds)]
    labels = items.labels[np.isfinite(items.log_odds)]
    low, high = float(log_odds.min()), float(log_odds.max())
    edges = np.linspace(low, high if high > low else low + 1, 41)
    axes.set(title="Scores by label", xlabel="noise log-odds", ylabel="share of the label's items")
    for label, name, color in ((0, "belongs", BLUE), (1, "noise", VERMILLION)):
        of_label: NDArray[Any] = log_odds[labels == label]
        if not len(of_label):
            continue
        share = np.histogram(of_label, edges)[0] / len(of_label)
        text = f"{name} ({len(of_label):,})"
        axes.stairs(share, edges, color=color, alpha=0.25, fill=True)
        axes.stairs(share, edges, color=color, linewidth=1.5, label=text, linestyle="-" if label else (0, (4, 1)))
    axes.set_ylim(0, axes.get_ylim()[1] * 1.12)
    if low <= evaluation.threshold <= high:
        axes.axvline(evaluation.threshold, color=INK, linewidth=1)
        stated = float(probability(np.array(evaluation.threshold)))
        right = evaluation.threshold < (low + high) / 2
        axes.annotate(
            f"gate, p > {stated:.2g}",
            (evaluation.threshold, 0.99),
            xycoords=("data", "axes fraction"),
            xytext=(4 if right else -4, 0),
            textcoords="offset points",
            fontsize=8,
            ha="left" if right else "right",
            va="top",
        )
    axes.legend(loc="upper left" if evaluation.threshold > (low + high) / 2 else "upper right", fontsize=8)


def _note(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)
