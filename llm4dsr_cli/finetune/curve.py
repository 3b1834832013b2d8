"""The training curve as a picture: loss, and what held-out users say, over the windows seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm4dsr_cli.evaluation.picture import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, VERMILLION, picture

if TYPE_CHECKING:
    from llm4dsr_cli.finetune.run import Finetuned

_DOMAINS = (VERMILLION, GREEN, ORANGE, PURPLE)
_LINES = ("-o", "-.s", ":^")  # when the colours are used up
_MEASURES = {"auroc": "AUROC", "average_precision": "Average precision"}


def plot_training(done: Finetuned, path: Path) -> None:
    """Draw a run into a .png, .svg or .pdf file, which appears when it is whole.

    Left: training loss over windows. Middle and right: AUROC and average precision on the validation users, overall
    and by domain; dashed the value before the training, a ring around the weights that were exported. Baselines are
    drawn for a single domain: the scores of several cannot be pooled.

    Raises:
        OptionError, MissingExtraError: see ``picture.check_plot``.
        OutputError: the file cannot be written.
    """
    with picture(path, 12.6, 4.4) as figure:
        left, *others = figure.subplots(1, 3)
        rows = [row for row in done.history if "loss" in row]
        left.plot([row["windows"] for row in rows], [row["loss"] for row in rows], "-o", **_line(BLUE))
        left.set(title="Training loss")
        for axes, (key, title) in zip(others, _MEASURES.items(), strict=True):
            _validation(axes, done, key)
            axes.set(title=f"{title} on held-out users")
        for axes in (left, *others):
            axes.set(xlabel="windows seen", xlim=(0, None))
            axes.xaxis.set_major_formatter("{x:,.0f}")
        # One for all, beside the lines and not over them.
        handles, labels = others[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)


def _validation(axes: Any, done: Finetuned, key: str) -> None:
    windows = [row["windows"] for row in done.history]
    domains = [name for name in done.history[0] if name.startswith(f"{key}_")]
    for number, name in enumerate(domains):
        color = _DOMAINS[number % len(_DOMAINS)]
        label = name.removeprefix(f"{key}_")
        style = _LINES[number // len(_DOMAINS) % len(_LINES)]
        axes.plot(windows, [row[name] for row in done.history], style, label=label, **_line(color, 1.2, 3))
    values = [row[key] for row in done.history]
    axes.plot(windows, values, "-o", label="all" if domains else "denoiser", **_line(BLUE), zorder=3)
    chosen = done.chosen
    axes.plot(chosen["windows"], chosen[key], "o", markersize=11, markerfacecolor="none", color=INK, label="exported")
    axes.axhline(values[0], color=BLUE, linewidth=1, linestyle="--", zorder=1, label="before")
    if not domains:
        for line, color in zip(done.baselines, (GREEN, ORANGE, PURPLE), strict=False):
            axes.axhline(
                getattr(line.quality, key), color=color, linewidth=1, linestyle=":", zorder=1, label=line.scorer
            )
    axes.grid(axis="y", color=GREY, alpha=0.2)


def _line(color: str, width: float = 2, size: float = 4) -> dict[str, Any]:
    return {"color": color, "linewidth": width, "markersize": size, "markeredgecolor": "white"}
