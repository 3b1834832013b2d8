"""A plot of a trial: what each setting changes, with its interval, beside as many edits at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm4dsr_cli.evaluation.picture import BLUE, GREY, picture
from llm4dsr_cli.trial.compare import Compared
from llm4dsr_cli.trial.metrics import CHOSEN_BY
from llm4dsr_cli.trial.run import Trial


def plot_trial(trial: Trial, plot: Path) -> None:
    """Draw a trial into a .png, .svg or .pdf file, which appears when it is whole.

    For each action the relative change of NDCG@20 on test targets over the share of edits, with 95% intervals, and that
    of the random control.

    Raises:
        OptionError, MissingExtraError: see ``picture.check_plot``.
        OutputError: the file cannot be written.
    """
    actions = list(dict.fromkeys(one.setting.action for one in trial.compared))
    with picture(plot, 4.2 * len(actions), 3.8) as figure:
        parts = figure.subplots(1, len(actions), sharey=True, squeeze=False)[0]
        for axes, action in zip(parts, actions, strict=True):
            _changes(axes, [one for one in trial.compared if one.setting.action == action])
            axes.set(title=f"{action}", xlabel="items edited")
        figure.legend(*parts[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
        parts[0].set_ylabel(f"change of {CHOSEN_BY} on test targets")


def _changes(axes: Any, compared: list[Compared]) -> None:
    places = range(len(compared))
    axes.axhline(0, color=GREY, linewidth=1, linestyle=":", zorder=1)
    for shift, color, label, marker, of in (
        (0.12, GREY, "as many at random", "s", [one.random for one in compared]),
        (-0.12, BLUE, "most suspicious", "o", [one.test for one in compared]),
    ):
        at = [place + shift for place in places]
        axes.vlines(at, [one.low for one in of], [one.high for one in of], color=color, linewidth=1.6, alpha=0.6)
        axes.plot(at, [one.value for one in of], marker, color=color, markeredgecolor="white", label=label, zorder=3)
    axes.set_xticks(list(places), [f"{one.setting.share:.1%}".replace(".0%", "%") for one in compared])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:+.0%}")
    axes.set_xlim(-0.5, len(compared) - 0.5)
