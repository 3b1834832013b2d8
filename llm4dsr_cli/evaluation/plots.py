"""Plots of an evaluation: precision and recall, reliability, and scores by label, side by side in one file."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.errors import MissingExtraError, OptionError
from llm4dsr_cli.evaluation.bootstrap import Multiplicities, bootstrap_intervals
from llm4dsr_cli.evaluation.metrics import precision_recall_curve
from llm4dsr_cli.files import atomic_path
from llm4dsr_cli.scores import probability

if TYPE_CHECKING:
    from llm4dsr_cli.evaluation.measure import Evaluation

FORMATS = (".png", ".svg", ".pdf")

# Okabe and Ito's colours, which people with any colour vision tell apart.
BLUE, VERMILLION, GREEN, ORANGE, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7"
GREY, INK = "#8A8A8A", "#222222"
_BASELINES = ((GREEN, (0, (5, 1.5))), (ORANGE, (0, (1, 1))), (PURPLE, (0, (4, 1, 1, 1))))

# Bins of equally many items, and narrower ones at the suspicious end, where the gate decides.
_RELIABILITY_BINS = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1)
_DRAWS = 300

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "llm4dsr",
}
# Files of equal figures are equal.
METADATA = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def check_plot(plot: Path) -> None:
    """Whether a plot of this name can be drawn, before anything is computed for it.

    Raises:
        OptionError: it ends in none of ``FORMATS``.
        MissingExtraError: matplotlib is not installed.
    """
    if plot.suffix.lower() not in FORMATS:
        raise OptionError(f"`plot` is {plot}: no such kind of picture", remedy=f"end its name in {', '.join(FORMATS)}")
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise MissingExtraError("plot", "matplotlib") from error


def plot_evaluation(evaluation: Evaluation, plot: Path) -> None:
    """Draw an evaluation into a .png, .svg or .pdf file, which appears when it is whole.

    Left: precision over recall of the denoiser and the baselines that were measured, the gate marked on it. Middle: the
    share of noise over the noise probability in bins of equally many items, with 95% bootstrap intervals over users.
    Right: noise log-odds of items that are noise and of items that belong.

    Raises:
        OptionError, MissingExtraError: see ``check_plot``.
        OutputError: the file cannot be written.
    """
    check_plot(plot)
    # No pyplot: a figure of its own needs no display and leaves the caller's settings alone.
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    kind = plot.suffix.lower()
    with rc_context(STYLE), atomic_path(plot) as temporary:
        figure = Figure(figsize=(12.6, 4.1), layout=ConstrainedLayoutEngine(w_pad=0.12, wspace=0.04))
        left, middle, right = figure.subplots(1, 3)
        _precision_and_recall(left, evaluation)
        _reliability(middle, evaluation)
        _scores_by_label(right, evaluation)
        figure.savefig(temporary, format=kind[1:], dpi=160, metadata=METADATA[kind])


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
