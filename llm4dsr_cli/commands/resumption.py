"""Scoring that can be resumed: what a score depends on, and the loop that keeps each one as it comes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llm4dsr_cli.commands.record_options import RecordOptions
from llm4dsr_cli.errors import CatalogError, Llm4dsrError
from llm4dsr_cli.version import __version__

if TYPE_CHECKING:
    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.console import Advance
    from llm4dsr_cli.model.denoiser import Denoiser
    from llm4dsr_cli.records.reader import LineReader
    from llm4dsr_cli.records.resumable import ResumableFile
    from llm4dsr_cli.records.writer import OutputFile


def scoring_state(source: str, records: RecordOptions, denoiser: Denoiser) -> dict[str, str | None]:
    """What a record's score depends on, by the option that a person knows it by."""
    from llm4dsr_cli.cache import file_sha256

    record_format = records.record_format()
    return {
        "IN": file_sha256(source, Llm4dsrError),
        "--catalog": None if records.catalog is None else file_sha256(records.catalog, CatalogError),
        "--items-field": record_format.items_field,
        "--titles-field": record_format.titles_field,
        "--item-id-field": record_format.item_id_field,
        "--item-title-field": record_format.item_title_field,
        "--catalog-id-field": record_format.catalog_id_field,
        "--catalog-title-field": record_format.catalog_title_field,
        "--padding-id": "\n".join(record_format.padding_ids) or None,
        "--newest-first": "yes" if record_format.newest_first else None,
        "--model": denoiser.sha256,
        "--base or --weights": denoiser.runtime.name,
        "--engine": denoiser.engine,
        "the version": __version__,
    }


def write_scores(
    batches: Iterator[list[bytes]], out: OutputFile, counts: RunCounts, reader: LineReader, advance: Advance
) -> None:
    """Write lines as they are scored, and tell a progress bar how fast it goes."""
    began = time.monotonic()
    for lines in batches:
        for line in lines:
            out.write(line)
        out.flush()
        speed = counts.records / max(1e-6, time.monotonic() - began)
        advance(f"{counts.records:,} records, {speed:.0f}/s", reader.fraction)


def how_to_go_on(kept: ResumableFile | None) -> list[str]:
    """A sentence about what a run that did not end has left, if it has left anything: its whole lines are counted."""
    path = None if kept is None else kept.kept_path
    if path is None:
        return []
    with path.open("rb") as file:
        n = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    return [f"{n:,} scored records are kept in {path}, go on with --resume"] if n else []
