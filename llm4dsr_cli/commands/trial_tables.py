"""Tables of a trial on standard output: one for each recommender, and the verdict below them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llm4dsr_cli.commands.tables import Tables
from llm4dsr_cli.streams import write_out

if TYPE_CHECKING:
    from llm4dsr_cli.trial.compare import Estimate
    from llm4dsr_cli.trial.run import Trial

SHOWN = "NDCG@20"


def print_trial(trial: Trial, verdict: str, *, color: bool) -> None:
    """What each setting changes, by recommender, on test targets; then the verdict, in one line."""
    out = Tables(color=color)
    protocol = trial.protocol
    names = list(protocol["recommenders"])
    masked = "but those of the history" if protocol["history_masked"] else "also those of the history"
    out.line(
        f"{protocol['test_targets']:,} test targets among {protocol['different_items']:,} items, {masked}; "
        f"{protocol['seeds']} seeds; changes with {protocol['confidence']:.0%} intervals"
    )
    for name in [*names, "mean of the recommenders"] if len(names) > 1 else names:
        rows = []
        if name in names:
            first = trial.compared[0].figures[name][SHOWN]
            rows.append(["as it is", "0", _short(f"{first['as it is']:.4f}")])
        for one in trial.compared:
            if name not in names:
                cells = ["", *_relative(one.test), *_relative(one.random)]
            else:
                found = one.figures[name][SHOWN]
                changes = [*_absolute(found["difference"]), *_absolute(found["random difference"])]
                cells = [_short(f"{found['value']:.4f}"), *changes]
            rows.append([one.setting.name, f"{one.edits:,}", *cells])
        out.table((name, "edits", SHOWN, "change", "", "random", ""), rows)
    out.line()
    write_out(out.text + verdict + "\n")


def _short(figure: str) -> str:
    """A figure between -1 and 1 without its 0, so that a row fits 80 columns."""
    return figure.replace("0.", ".", 1)


def _absolute(found: Estimate) -> tuple[str, str]:
    low, high = _short(f"{found.low:+.4f}"), _short(f"{found.high:+.4f}")
    return _short(f"{found.value:+.4f}"), f"{low} to {high}"


def _relative(found: Estimate) -> tuple[str, str]:
    if math.isnan(found.value):
        return "-", ""
    return f"{found.value:+.1%}", f"{found.low:+.1%} to {found.high:+.1%}"
