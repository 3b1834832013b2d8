"""Trying a cleaning on one's own sequences, from what a user has to the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llm4dsr_cli.cleaning.run import Cleaning
from llm4dsr_cli.console import Advance, untold
from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.gate.gate_file import GateFile
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.record import load_catalog
from llm4dsr_cli.records.record_format import RecordFormat
from llm4dsr_cli.scores import BATCH_RECORDS
from llm4dsr_cli.sequences import ItemSequence
from llm4dsr_cli.trial.editing import Editor, counted_sequences, judging
from llm4dsr_cli.trial.items import Histories
from llm4dsr_cli.trial.kept import Kept, digest
from llm4dsr_cli.trial.recommenders import make_recommender, torch_threads
from llm4dsr_cli.trial.recommenders.ease import check_size
from llm4dsr_cli.trial.run import Say, Trial, run_trial
from llm4dsr_cli.trial.settings import Setting, TrialSettings
from llm4dsr_cli.trial.splits import FEWEST_TARGETS, Split, by_time, leave_two_out

SplitName = Literal["leave-two-out", "time"]

# Of the time that is left the model gets so much at most; where that is too little for all users, some are drawn.
_MODEL_SHARE = 0.4
# Proposals that are scored for each flagged item's sequence.
_PROPOSALS = 2


def try_cleaning(
    sequences: Iterable[ItemSequence],
    settings: TrialSettings | None = None,
    *,
    split: SplitName = "leave-two-out",
    times: Sequence[float | Sequence[float]] | None = None,
    catalog: str | Path | Catalog | None = None,
    gate: str | Path | GateFile | None = None,
    max_edits: float | None = None,
    state: str | Path | None = None,
    say: Say = lambda line: None,
    advance: Advance = untold,
    **loading: Any,
) -> Trial:
    """Whether cleaning these sequences helps the recommenders that learn from them, and which setting does most.

    Args:
        sequences: of all users, oldest item first; those of one user are joined (``Histories.of``).
        split: "leave-two-out", or "time": one moment for all users, for which the items need times.
        times: for each sequence the times of its items, or one time that orders a user's sequences.
        catalog: what may replace an item, and what noise is drawn from to weigh the counts; None is the sequences' own
            items.
        gate: how denoiser and counts are weighed, in place of a fit; its own counts are not used.
        max_edits: as for ``Cleaning.load``.
        state: a folder where scores and fits are kept, so that an interrupted trial, run again, goes on.
        say: told what happens, a sentence at a time.
        advance: told what was done, and the share of it.
        loading: ``model``, ``base``, ``weights``, ``engine``, ``threads`` (which recommenders with torch take, too),
            ``gpu_layers`` and ``offline``, as for ``Denoiser.load``.

    Raises:
        OptionError: an argument is out of range, or the sequences are too few.
        MissingExtraError: a recommender takes torch, which is not installed.
        ModelError, OutputError: a file cannot be used.
    """
    began = time.monotonic()
    settings = settings or TrialSettings()
    for name in settings.recommenders:
        make_recommender(name)  # what is wrong with it should show now
    if split not in ("leave-two-out", "time"):
        raise OptionError(f"`split` is {split}: no such split", remedy="choose leave-two-out or time")
    if not (gate is None or isinstance(gate, GateFile)):
        gate = GateFile.load(gate)
    if not (catalog is None or isinstance(catalog, Catalog)):
        catalog = load_catalog(catalog, RecordFormat())
    histories = Histories.of(sequences, times)
    if catalog is not None and "replace" in settings.actions:
        histories.items.add_catalog(catalog)
    data = leave_two_out(histories) if split == "leave-two-out" else by_time(histories)
    if settings.time_budget is None:  # which may draw fewer users
        settings = _of_this_size(settings, data, say)
    kept = Kept(state)
    with Cleaning.load(
        action="replace" if "replace" in settings.actions else "drop",
        catalog=catalog,
        counted=counted_sequences(data),
        edit=settings.settings[0].share,  # others are asked for later; it takes no threshold of a calibration
        max_edits=max_edits,
        protect_last=0,
        fusion=settings.fusion,
        say=say,
        **loading,
    ) as loaded:
        cleaning, judge = judging(loaded, data, kept, gate=gate, say=say, advance=advance)
        edit_seconds: Callable[[Setting], float] = lambda setting: 0.0  # noqa: E731 - unless there is a budget
        n_histories = len(data.sequences)
        if settings.time_budget is not None:
            seconds = _seconds_an_item(cleaning, data)
            data = _within(data, settings, began, seconds, kept, say)
            settings = _of_this_size(settings, data, say)
            edit_seconds = _edit_seconds(data, seconds)
        editor = Editor(data, cleaning, kept, judge=judge, advance=advance)
        say(
            f"{int(data.trains.sum()):,} histories to learn from, {data.n_editable:,} items in them, "
            f"{len(data.validation):,} validation and {len(data.test):,} test targets"
        )
        with torch_threads(loading.get("threads")):
            found = run_trial(
                data,
                editor,
                settings,
                kept,
                began=began,
                edit_seconds=edit_seconds,
                say=say,
                advance=advance,
            )
        if len(data.sequences) < n_histories:
            told = f"{len(data.sequences):,} of {n_histories:,} histories"
            found.protocol["left_out"] = ", ".join(filter(None, [told, found.protocol["left_out"]]))
        return found


def _of_this_size(settings: TrialSettings, data: Split, say: Say) -> TrialSettings:
    """The same without EASE where the data are too large for it, and others are tried. Raises OptionError."""
    if "ease" not in settings.recommenders:
        return settings
    try:
        check_size(int(data.trains.sum()), len(data.items))
    except OptionError as error:
        others = tuple(name for name in settings.recommenders if name != "ease")
        if not others:
            raise
        say(f"EASE is left out: {error.what}")
        return replace(settings, recommenders=others)
    return settings


def _seconds_an_item(cleaning: Cleaning, data: Split) -> float:
    """How long the model takes for an item, measured on a batch."""
    some = counted_sequences(data)[:BATCH_RECORDS]
    began = time.monotonic()
    list(cleaning.score(some))
    return (time.monotonic() - began) / max(1, sum(len(one.titles) for one in some))


def _edit_seconds(data: Split, seconds_an_item: float) -> Callable[[Setting], float]:
    """About how long the model takes to replace by a setting; of scored sequences, to drop takes no time."""
    whole, length = data.n_editable * seconds_an_item, data.n_editable / max(1, len(data.sequences))

    def takes(setting: Setting) -> float:
        return _PROPOSALS * whole * min(1.0, setting.share * length) if setting.action == "replace" else 0.0

    return takes


def _within(data: Split, settings: TrialSettings, began: float, seconds_an_item: float, kept: Kept, say: Say) -> Split:
    """As many users as the model gets through in its share of the time; a resumed trial keeps their number."""
    assert settings.time_budget is not None
    key = digest(data.sequences, repr(settings))
    earlier = kept.get("users", key)
    n = len(data.sequences)
    if earlier is None:
        left = max(0.0, settings.time_budget - (time.monotonic() - began))
        takes = data.n_editable * seconds_an_item
        takes += min(map(_edit_seconds(data, seconds_an_item), settings.settings))
        n = min(n, max(10 * FEWEST_TARGETS, int(n * _MODEL_SHARE * left / max(takes, 1e-9))))
        kept.put("users", key, users=np.array(n))
    else:
        n = int(earlier["users"])
    if n == len(data.sequences):
        return data
    say(f"the time allows {n:,} of {len(data.sequences):,} histories, drawn at random")
    return data.with_users(n, settings.seed)
