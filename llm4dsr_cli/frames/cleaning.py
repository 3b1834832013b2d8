"""Cleaning a data frame: the same frame comes back without its noise, or with the noise flagged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from llm4dsr_cli.cleaning.decision import Decision, Fallback
from llm4dsr_cli.cleaning.passes import counts_data, settled
from llm4dsr_cli.cleaning.run import Cleaning
from llm4dsr_cli.cleaning.settings import CleaningSettings
from llm4dsr_cli.console import Advance, untold
from llm4dsr_cli.defaults import EDIT
from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.frames.frame import FLAG_COLUMN, PROBABILITY_COLUMN, Frame, frame_of
from llm4dsr_cli.frames.ids import id_of
from llm4dsr_cli.frames.interactions import Interactions, ids, times
from llm4dsr_cli.frames.titles import catalog_of
from llm4dsr_cli.gate.gate_file import GateFile
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.edits import Action
from llm4dsr_cli.records.json_lines import quote_names
from llm4dsr_cli.replacing.replacer import ProposerName
from llm4dsr_cli.sequences import ItemId
from llm4dsr_cli.titles import title_of

F = TypeVar("F")
Say = Callable[[str], None]


def clean_frame(
    df: F,
    *,
    user: str,
    item: str,
    titles: Any,
    time: str | None = None,
    action: Action = "drop",
    fallback: Fallback = "drop",
    proposer: ProposerName = "counts",
    gate: str | Path | GateFile | None = None,
    threshold: float | None = None,
    false_edit_rate: float | None = None,
    edit: float | None = None,
    max_edits: float | None = None,
    protect_last: int = 1,
    fusion: bool = True,
    say: Say = lambda line: None,
    advance: Advance = untold,
    **loading: Any,
) -> F:
    """A data frame of pandas or polars with one interaction a row, without the items that do not belong.

    It is done as ``llm4dsr clean`` does it with a file: the frame's own counts are weighed against the denoiser, and
    the most suspicious items are edited. What comes back is of the same kind, with the same columns, types and index,
    and its rows in the same order; ``df`` itself stays as it is. A row that names no user, no item or no time, or whose
    item has no title, stays: nobody can judge it.

    Args:
        df: the frame.
        user, item: columns of the users and of the items. Ids are compared as text, and 17850.0 is 17850.
        titles: where the items' titles are: a column, titles by id (a dict, or a Series of pandas), a frame of ids and
            titles, a ``Catalog``, or a catalog's path. Where the items are titles, it is the column of the items.
        time: column of the times, numbers, dates or texts that ``time_of`` reads. Rows of the same time follow each
            other as in the frame, and so do all of a user's rows where there is no such column.
        action: "drop" takes rows out; "replace" puts another item in the place of an item (its id, and its title where
            ``titles`` is a column), the other cells stay; "mark" is ``flag_frame``.
        fallback, proposer, gate, threshold, false_edit_rate, max_edits, protect_last, fusion: as for ``Cleaning.load``.
        edit: edit at most this share of all items; without it, and without ``threshold``, ``false_edit_rate`` and
            ``gate``, it is 0.05.
        say: told, a sentence at a time, who judges and what was done.
        advance: told what was scored, and the share of it.
        loading: ``model``, ``base``, ``weights``, ``engine``, ``threads``, ``gpu_layers`` and ``offline``, as for
            ``Denoiser.load``.

    Raises:
        OptionError: an argument is out of range, contradicts another, or names no column; ``df`` is no such frame; or
            none of the items has a title.
        CatalogError, ModelError, OutputError: a file cannot be used.
    """
    ways = (threshold, false_edit_rate, edit, gate)
    settings = CleaningSettings(
        action=action,
        fallback=fallback,
        threshold=threshold,
        false_edit_rate=false_edit_rate,
        edit=EDIT if all(way is None for way in ways) else edit,
        max_edits=max_edits,
        protect_last=protect_last,
        fusion=fusion,
    )
    if not (gate is None or isinstance(gate, GateFile)):
        gate = GateFile.load(gate)
    frame = frame_of(df)
    if action == "mark":
        _refuse_columns(frame, (FLAG_COLUMN, PROBABILITY_COLUMN))
    taken = _Taken.of(frame, user, item, titles, time)
    decisions = _decisions(taken, settings, gate, proposer, say, advance, loading)
    cleaned: F = _edited(taken, decisions, settings, say).data
    return cleaned


def flag_frame(df: F, *, user: str, item: str, titles: Any, time: str | None = None, **settings: Any) -> F:
    """The frame with two more columns, whether each row's item is noise, and how probable that is.

    ``is_noise`` is a boolean, ``noise_probability`` a float from 0 to 1; nothing (NaN in pandas, null in polars) and
    False where nobody can judge. All that ``clean_frame`` would drop is flagged.

    Args:
        df, user, item, titles, time, settings: as for ``clean_frame``.

    Raises:
        OptionError: as ``clean_frame``; or ``df`` has one of these columns already.
    """
    return clean_frame(df, user=user, item=item, titles=titles, time=time, action="mark", **settings)


@dataclass(frozen=True)
class _Taken:
    """What was taken from a frame: its interactions, and where their titles come from.

    Attributes:
        frame: the frame.
        item: the column of items.
        title: the column of titles; None where a catalog has them.
        catalog: the titles by id; None where a column has them.
        found: the sequences, and their rows.
    """

    frame: Frame
    item: str
    title: str | None
    catalog: Catalog | None
    found: Interactions

    @classmethod
    def of(cls, frame: Frame, user: str, item: str, titles: Any, time: str | None) -> _Taken:
        for argument, column in (("user", user), ("item", item), ("time", time)):
            if column is not None and column not in frame.columns:
                raise OptionError(
                    f"`{argument}` is {column}, and there is no such column",
                    remedy=f"choose one of {quote_names([str(name) for name in frame.columns])}",
                )
        items = ids(frame, item)
        catalog = catalog_of(titles, frame, item, items)
        if catalog is None:
            found: list[str | None] = [title_of(value) for value in frame.values(titles)]
        else:
            found = [None if id_ is None else _title(catalog, id_) for id_ in items]
            _check_titles(catalog, items, found)
        moments = None if time is None else times(frame, time)
        gathered = Interactions.gather(ids(frame, user), items, found, moments)
        return cls(frame, item, titles if catalog is None else None, catalog, gathered)

    def candidates(self) -> Catalog | None:
        """The catalog's items that can stand in the column of items, as they stand there."""
        if self.catalog is None:
            return None
        cell = self.frame.cells(self.item)
        pairs = ((cell(id_), title) for id_, title in self.catalog)
        return Catalog((id_, title) for value, title in pairs if (id_ := id_of(value)) is not None)


def _title(catalog: Catalog, id_: ItemId) -> str | None:
    try:
        return catalog.title(id_)
    except KeyError:
        return None


def _check_titles(catalog: Catalog, items: Sequence[ItemId | None], titles: Sequence[str | None]) -> None:
    """Refuse titles of other ids: nothing would be judged, and nobody would notice."""
    known = [id_ for id_ in items if id_ is not None]
    if not known or any(title is not None for title in titles):
        return
    near = catalog.near(known[:1])
    spelled = f", {near[known[0]]} is" if near else f", {catalog.ids[0]} is" if catalog.ids else ""
    raise OptionError(
        f"no item has a title: id {known[0]} is not in `titles`{spelled}", remedy="give `titles` of the same ids"
    )


def _decisions(
    taken: _Taken,
    settings: CleaningSettings,
    gate: GateFile | None,
    proposer: ProposerName,
    say: Say,
    advance: Advance,
    loading: dict[str, Any],
) -> list[Decision]:
    """A decision for each sequence; without one there is nothing that a model has to be loaded for."""
    sequences = taken.found.sequences
    if not sequences:
        return []
    catalog = taken.candidates() if settings.action == "replace" else taken.catalog
    counts = counts_data(settings, gate=gate is not None, catalog=catalog is not None, proposer=proposer)
    with Cleaning.load(
        catalog=catalog,
        gate=gate,
        counted=sequences if counts else None,
        proposer=proposer,
        say=say,
        **vars(settings),
        **loading,
    ) as cleaning:
        scored = []
        for sequence in cleaning.score(sequences):
            scored.append(sequence)
            advance(f"{len(scored):,} of {len(sequences):,} sequences", len(scored) / len(sequences))
        cleaning, _ = settled(cleaning, lambda: scored, say=say, advance=advance)
        return [*cleaning.decide(scored)]


def _edited(taken: _Taken, decisions: Sequence[Decision], settings: CleaningSettings, say: Say) -> Frame:
    """The frame after the decisions; says what was done."""
    frame, n_rows = taken.frame, len(taken.frame)
    keep, flags = np.ones(n_rows, dtype=np.bool_), np.zeros(n_rows, dtype=np.bool_)
    chances = np.full(n_rows, np.nan)
    put: dict[int, ItemId] = {}
    new_titles: dict[int, str] = {}
    for rows, decision in zip(taken.found.rows, decisions, strict=True):
        keep[rows], flags[rows], chances[rows] = decision.keep, decision.flagged, decision.noise_probability
        for position, new in decision.replacements.items():
            assert new.id is not None  # every item of a frame has an id
            put[int(rows[position])] = new.id
            new_titles[int(rows[position])] = new.title
    unjudged = int(np.isnan(chances).sum())
    if settings.action == "mark":
        done, frame = f"flagged {int(flags.sum()):,}", frame.flagged(flags, chances)
    else:
        dropped = n_rows - int(keep.sum())
        done = f"dropped {dropped:,}" if settings.action == "drop" else f"replaced {len(put):,} and dropped {dropped:,}"
        if put:
            cell = frame.cells(taken.item)
            frame = frame.put(taken.item, {row: cell(id_) for row, id_ in put.items()})
            if taken.title is not None and taken.title != taken.item:
                frame = frame.put(taken.title, new_titles)
        frame = frame.kept(keep)
    say(f"{n_rows:,} rows of {len(taken.found.sequences):,} users: {done}; {unjudged:,} could not be judged")
    return frame


def _refuse_columns(frame: Frame, names: Sequence[str]) -> None:
    for name in names:
        if name in frame.columns:
            raise OptionError(f"`df` has a column {name} already", remedy="rename it, or drop it")
