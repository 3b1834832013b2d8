"""Tables of a trial on standard output: one for each recommender, and the verdict below them."""

from __future__ import annotations

import io
import math
import sys
from typing import TYPE_CHECKING

from llm4dsr_cli.streams import write_out

if TYPE_CHECKING:
    from llm4dsr_cli.trial.compare import Estimate
    from llm4dsr_cli.trial.run import Trial

SHOWN = "NDCG@20"


def print_trial(trial: Trial, verdict: str, *, color: bool) -> None:
    """What each setting changes, by recommender, on test targets; then the verdict, in one line."""
    import rich.box
    import rich.console
    import rich.table

    terminal = sys.stdout.isatty()
    text = io.StringIO()
    out = rich.console.Console(
        file=text,
        force_terminal=terminal,
        no_color=not color,
        highlight=False,
        markup=False,
        width=None if terminal else 200,
    )
    protocol = trial.protocol
    names = list(protocol["recommenders"])
    masked = "but those of the history" if protocol["history_masked"] else "also those of the history"
    out.print(
        f"{protocol['test_targets']:,} test targets among {protocol['different_items']:,} items, {masked}; "
        f"{protocol['seeds']} seeds; changes with {protocol['confidence']:.0%} intervals"
    )
    for name in [*names, "mean of the recommenders"] if len(names) > 1 else names:
        table = rich.table.Table(
            box=rich.box.SIMPLE_HEAD if terminal else None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold"
        )
        for number, column in enumerate((name, "edits", SHOWN, "change", "", "as many at random", "")):
            table.add_column(column, justify="right" if number else "left", no_wrap=not terminal)
        if name in names:
            first = trial.compared[0].figures[name][SHOWN]
            table.add_row("as it is", "0", f"{first['as it is']:.4f}")
        for one in trial.compared:
            if name not in names:
                cells = ["", *_relative(one.test), *_relative(one.random)]
            else:
                found = one.figures[name][SHOWN]
                cells = [
                    f"{found['value']:.4f}",
                    *_absolute(found["difference"]),
                    *_absolute(found["random difference"]),
                ]
            table.add_row(one.setting.name, f"{one.edits:,}", *cells)
        out.print()
        out.print(table)
    out.print()
    write_out(text.getvalue() + verdict + "\n")


def _absolute(found: Estimate) -> tuple[str, str]:
    return f"{found.value:+.4f}", f"{found.low:+.4f} to {found.high:+.4f}"


def _relative(found: Estimate) -> tuple[str, str]:
    if math.isnan(found.value):
        return "-", ""
    return f"{found.value:+.1%}", f"{found.low:+.1%} to {found.high:+.1%}"
