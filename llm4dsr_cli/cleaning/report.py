"""The report: what a cleaning did, for machines and in one sentence for people."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np

from llm4dsr_cli.cleaning.cleaner import Cleaner
from llm4dsr_cli.defaults import FALSE_EDIT_RATE
from llm4dsr_cli.records.json_lines import quote, quote_names
from llm4dsr_cli.records.record import R
from llm4dsr_cli.scores import probability
from llm4dsr_cli.version import __version__


def report(cleaner: Cleaner[R], seconds: float, gate_file: str | None) -> dict[str, Any]:
    """Counts, action, gate, denoiser and versions of a run, for JSON; the threshold is a noise probability.

    Args:
        gate_file: path of the gate file, as the user gave it.
    """
    cleaning = cleaner.cleaning
    settings, gate, replacer = cleaning.settings, cleaning.gate, cleaning.replacer
    cut_titles = cleaning.cut_titles
    return {
        "counts": cleaner.counts.as_dict(),
        "unjudged": cleaner.counts.unjudged.as_dict(),
        "parallel": list(cleaner.lists.kept),
        "action": settings.action,
        **({} if replacer is None else {"proposer": replacer.proposer.name, "fallback": settings.fallback}),
        "gate": {
            "threshold": float(probability(np.array(gate.threshold))),
            "false_edit_rate": settings.rate(cleaning.gate_file),
            "edit": settings.edit,
            "max_edits": gate.max_edits,
            "protect_last": gate.protect_last,
            "file": gate_file,
            "fusion": cleaning.fuses,
            "items_counted": None if cleaning.coverage is None else cleaning.coverage.share,
        },
        "model": {
            **cleaning.scorer.description(),
            **({} if cut_titles is None else {"titles": cut_titles.as_dict()}),
        },
        "versions": {"llm4dsr-cli": __version__, "llama-cpp-python": version("llama-cpp-python")},
        "seconds": round(seconds, 3),
    }


def summary(cleaner: Cleaner[R], seconds: float) -> str:
    """What a run did, in one sentence."""
    counts = cleaner.counts
    share = counts.edited_items / counts.items if counts.items else 0
    words = {"drop": "dropped", "mark": "marked", "replace": f"replaced {counts.replaced_items:,} and dropped"}
    done = words[cleaner.cleaning.settings.action]
    edited = counts.edited_items - counts.replaced_items
    return (
        f"{counts.records:,} records, {counts.items:,} items: {done} {edited:,} items ({share:.1%}) "
        f"in {counts.edited_records:,} records, {seconds:.1f} s"
    )


def notes(cleaner: Cleaner[R]) -> list[str]:
    """What a run did with lists beside the items, and with long titles, a sentence each."""
    cut_titles = cleaner.cleaning.cut_titles
    cut = None if cut_titles is None else cut_titles.describe()
    found = [] if cut is None else [cut]
    kept = [name for name in cleaner.lists.kept if name not in cleaner.lists.record_format.parallel_fields]
    if kept:
        lists = quote_names(kept)
        found.append(
            f"kept in step with the items: {lists} (lists as long as they are; `not_parallel` leaves one as it is)"
        )
    if cleaner.counts.replaced_items and (parallel := kept or cleaner.lists.found):
        found.append(f"of a replaced item the entries stay in {quote_names(parallel)}: they are the old item's")
    return found


def warnings(cleaner: Cleaner[R]) -> list[str]:
    """What makes a run worth less than it seems, a sentence each."""
    cleaning = cleaner.cleaning
    unjudged = cleaner.counts.unjudged.describe(cleaning.catalog)
    found = [] if unjudged is None else [unjudged]
    if cleaner.counts.items and cleaner.counts.unjudged.total == cleaner.counts.items:
        found.append("no item was judged: give their titles with `catalog`, in the records, or name their fields")
    for name, where in cleaner.lists.left.items():
        found.append(
            f"{quote(name)} is as long as the items in some records where items were dropped, but not in {where}: it "
            "stays as it is; `parallel_field` keeps it in step, `not_parallel` says that it is something else"
        )
    gate = cleaning.gate_file
    if cleaning.coverage is not None and (other_data := cleaning.coverage.warning()):
        found.append(other_data)
    if gate is not None and cleaning.fuses and cleaner.nameless and gate.user_field is not None:
        found.append(
            f'{cleaner.nameless:,} records have no "{cleaning.user_field}": if the gate counted them, their own items '
            "vouch for them; name the field with `user_field`"
        )
    rate = cleaning.settings.rate(gate)
    if gate is not None and cleaning.settings.false_edit_rate is None and rate is not None and rate > FALSE_EDIT_RATE:
        found.append(
            f"no rate was given, and {rate:.3g} is the lowest that the gate promises: up to that share of the items "
            "that belong was edited; `edit`, or a gate of more users, edits fewer"
        )
    if gate is not None and cleaning.settings.protect_last < gate.protect_last:
        found.append(
            f"the gate was calibrated with `protect_last` {gate.protect_last}: it promises nothing for items after"
        )
    if cleaning.candidates is not None and cleaning.candidates.left_out:
        found.append(
            f"{cleaning.candidates.left_out:,} items replace nothing: their ids are of another kind than the records'"
        )
    if cleaning.candidates is not None and cleaning.candidates.unread:
        fields = ", ".join(f"{quote(name)} ({n:,} times)" for name, n in cleaning.candidates.unread.items())
        found.append(f"null stands where the catalog's text is no value of the field's type: {fields}")
    if cleaning.replacer is not None and cleaning.replacer.candidates.without_id:
        found.append(
            f'items that were replaced have no "{cleaning.record_format.id_name}": their other fields are the old '
            "item's; if one of them is an id, name it with `item_id_field`"
        )
    return found
