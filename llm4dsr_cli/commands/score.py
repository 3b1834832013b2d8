"""``llm4dsr score``"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm4dsr_cli.commands import options
from llm4dsr_cli.commands.skipping import exit_code, rejects_path, skipping
from llm4dsr_cli.errors import CatalogError, Llm4dsrError, OptionError
from llm4dsr_cli.version import __version__

if TYPE_CHECKING:
    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.model.denoiser import Denoiser
    from llm4dsr_cli.records.resumable import ResumableFile


def score(
    source: Annotated[str, typer.Argument(metavar="IN", help="JSONL, one sequence a line; - for standard input.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="Where the records go; - for standard output.")],
    catalog: options.Catalog = None,
    items_field: options.ItemsField = "items",
    titles_field: options.TitlesField = None,
    item_id_field: options.ItemIdField = None,
    item_title_field: options.ItemTitleField = None,
    on_error: options.OnError = "fail",
    rejects: options.Rejects = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier run was stopped; what it did is in OUT.part.")
    ] = False,
    model: options.Model = None,
    base: options.Base = None,
    weights: options.Weights = "auto",
    threads: options.Threads = None,
    gpu_layers: options.GpuLayers = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_color: options.NoColor = False,
) -> int:
    """Add noise probabilities to the records, for `llm4dsr apply` to gate them as often as wanted.

    Example: llm4dsr score sequences.jsonl scored.jsonl --catalog catalog.jsonl
    """
    began = time.monotonic()
    rejects = rejects_path(on_error, rejects, target)

    from llm4dsr_cli.cache import file_sha256
    from llm4dsr_cli.cleaning.scoring import score_records
    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.model.denoiser import BATCH_RECORDS, Denoiser, check_options
    from llm4dsr_cli.records.reader import LineReader, read_parsed
    from llm4dsr_cli.records.record import Record, RecordFormat, load_catalog
    from llm4dsr_cli.records.resumable import ResumableFile, can_resume, check_part, part_paths
    from llm4dsr_cli.records.scored_line import original_line, parse_unscored
    from llm4dsr_cli.records.writer import OutputFile, check_paths, together
    from llm4dsr_cli.scores import Scores

    console = Console(quiet=quiet, verbose=verbose, color=not no_color)
    inputs = {"IN": source, "--catalog": catalog, "--model": model, "--base": base}
    outputs = {"OUT": target, "--rejects": rejects}
    keeps = can_resume(target) and all(Path(path).is_file() for path in (source, catalog) if path is not None)
    if resume and not keeps:
        raise OptionError(
            "--resume needs regular files, OUT not compressed", remedy="leave it out, or write to files and read them"
        )
    if keeps:
        part, state_file = part_paths(target)
        outputs |= {"OUT.part": str(part), "OUT.part.json": str(state_file)}
        check_part(target, resume=resume)
    check_paths(_given(inputs), _given(outputs))
    out: OutputFile = OutputFile(target)
    rejects_file = None if rejects is None else OutputFile(rejects)
    check_options(weights, threads)
    form = RecordFormat(items_field, titles_field, item_id_field=item_id_field, item_title_field=item_title_field)
    titles = load_catalog(catalog, form)
    counts = RunCounts()

    def parse(line: bytes, where: str) -> Record:
        return parse_unscored(line, where, form, titles)

    with (
        LineReader.open(source) as reader,
        Denoiser.load(
            model, base=base, weights=weights, threads=threads, gpu_layers=gpu_layers, offline=offline, say=console.say
        ) as denoiser,
    ):
        kept: ResumableFile | None = None
        if keeps:
            state = {
                "IN": file_sha256(source, Llm4dsrError),
                "--catalog": None if catalog is None else file_sha256(catalog, CatalogError),
                "--items-field": items_field,
                "--titles-field": titles_field,
                "--item-id-field": item_id_field,
                "--item-title-field": item_title_field,
                **_model(denoiser),
            }
            out = kept = ResumableFile(target, state, resume=resume)

        def score_batch(records: list[Record]) -> list[Scores]:
            return denoiser.score(record.titles for record in records)

        try:
            with together([out] if rejects_file is None else [out, rejects_file]), console.progress() as advance:
                scoring = time.monotonic()
                on_record_error = skipping(counts, rejects_file, console)
                batches = read_parsed(reader, BATCH_RECORDS, parse, on_record_error)
                if kept:
                    batches = kept.remaining(batches, original_line)
                for lines in score_records(batches, score_batch, denoiser.sha256, counts):
                    for line in lines:
                        out.write(line)
                    out.flush()
                    speed = counts.records / max(1e-6, time.monotonic() - scoring)
                    advance(f"{counts.records:,} records, {speed:.0f}/s", reader.fraction)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(": ".join(["interrupted", *_how_to_go_on(kept, counts)])) from None
        except Llm4dsrError:
            for sentence in _how_to_go_on(kept, counts):
                console.say(sentence)
            raise
    earlier = f" and kept {kept.kept_records:,} of an earlier run" if kept and kept.kept_records else ""
    console.say(f"scored {counts.records:,} records{earlier}, {time.monotonic() - began:.1f} s")
    return exit_code(counts, rejects, console)


def _given(paths: dict[str, str | None]) -> dict[str, str]:
    return {name: path for name, path in paths.items() if path is not None}


def _model(denoiser: Denoiser) -> dict[str, str | None]:
    """What of the denoiser a score depends on, by the options that choose it."""
    return {"--model": denoiser.sha256, "--base or --weights": denoiser.runtime.name, "the version": __version__}


def _how_to_go_on(kept: ResumableFile | None, counts: RunCounts) -> list[str]:
    """A sentence about what a run that did not end has left, if it has left anything."""
    if kept is None or kept.kept_path is None:
        return []
    n = kept.kept_records + counts.records
    return [f"{n:,} scored records are kept in {kept.kept_path}, go on with --resume"]
