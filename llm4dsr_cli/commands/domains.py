"""The training data of ``llm4dsr finetune``: one domain for each catalog."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm4dsr_cli.commands.inputs import first_ids, read_sequences, tell_catalog, tell_unjudged, warn_of_nameless

if TYPE_CHECKING:
    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.commands.options import ErrorOptions
    from llm4dsr_cli.commands.record_options import DataOptions
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.finetune.data import Domain
    from llm4dsr_cli.records.record_format import RecordFormat


def read_domains(
    train: list[str],
    catalogs: list[str],
    fields: DataOptions,
    user_field: str,
    errors: ErrorOptions,
    counts: RunCounts,
    console: Console,
) -> list[Domain]:
    """One domain for each catalog; files that share one are one domain. ``counts`` are kept up to date."""
    from llm4dsr_cli.finetune.data import SHORTEST_WINDOW, Domain
    from llm4dsr_cli.records.record import load_catalog
    from llm4dsr_cli.records.unjudged import Unjudged

    on_error = errors.leaving_out(counts, console)
    nameless = short = 0
    files: dict[str | None, list[tuple[str, str, RecordFormat]]] = {}
    for number, path in enumerate(train):
        named = catalogs[min(number, len(catalogs) - 1)] if catalogs else None
        source, options, beside = fields.gathered_with(path, named, console, user_field, errors, counts)
        files.setdefault(beside, []).append((path, source, options.record_format()))
    domains = []
    for catalog_path, sources in files.items():
        name, first, record_format = sources[0]
        catalog = load_catalog(catalog_path, record_format, record_ids=partial(first_ids, first, record_format))
        tell_catalog(catalog, console)
        sequences: list[tuple[Any, list[str]]] = []
        for _, source, own_format in sources:
            more, unnamed = read_sequences(source, own_format, catalog, user_field, on_error, counts)
            sequences += [(one.owner, list(one.titles)) for one in more]
            nameless += unnamed
        tell_unjudged(counts, catalog, console)
        counts.unjudged = Unjudged()
        short += sum(len(row) < SHORTEST_WINDOW for _, row in sequences)
        titles = [] if catalog is None else [title for _, title in catalog if title is not None]
        domains.append(Domain.build(_name(name), titles, sequences))
    warn_of_nameless(console, nameless, user_field, "quality will look too good")
    if short:
        console.say(f"left out: {short:,} sequences of fewer than {SHORTEST_WINDOW} items")
    return domains


def _name(path: str) -> str:
    """A domain's name: its file's, or its folder's where the file's says only what part of the data it is."""
    stem = Path(path).name.split(".")[0]
    return Path(path).parent.name or stem if stem in ("train", "sequences", "data", "interactions") else stem
