"""A picture: how all of ours look, and a file that appears when the picture in it is whole."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llm4dsr_cli.errors import MissingExtraError, OptionError
from llm4dsr_cli.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")

# Okabe and Ito's colours, which people with any colour vision tell apart.
BLUE, VERMILLION, GREEN, ORANGE, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7"
GREY, INK = "#8A8A8A", "#222222"

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


@contextmanager
def picture(plot: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches to draw into; at the block's end it is a .png, .svg or .pdf file.

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
        figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, wspace=0.04))
        yield figure
        figure.savefig(temporary, format=kind[1:], dpi=160, metadata=METADATA[kind])
