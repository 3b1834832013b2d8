"""``llm4dsr score``"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm4dsr_cli.commands.inputs import exit_code, skipping, tell_cut, tell_unjudged
from llm4dsr_cli.commands.options import ModelOptions, RecordOptions, RejectOptions, RunOptions, given
from llm4dsr_cli.commands.parameters import option_sets
from llm4dsr_cli.errors import CatalogError, Llm4dsrError, OptionError
from llm4dsr_cli.version import __version__

if TYPE_CHECKING:
    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.model.denoiser import Denoiser
    from llm4dsr_cli.records.resumable import ResumableFile


@option_sets
def score(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="JSONL, one sequence a line, oldest item first; - for standard input.")
    ],
    target: Annotated[str, typer.Argument(metavar="OUT", help="Where the records go; - for standard output.")],
    records: RecordOptions,
    errors: RejectOptions,
    model: ModelOptions,
    run: RunOptions,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier run was stopped; what it did is in OUT.part.")
    ] = False,
) -> int:
    """Add noise probabilities to the records, for `llm4dsr apply` to gate them as often as wanted.

    Example: llm4dsr score sequences.jsonl scored.jsonl --catalog catalog.jsonl
    """
    began = time.monotonic()
    rejects = errors.path(target)

    from llm4dsr_cli.cache import file_sha256
    from llm4dsr_cli.cleaning.scoring import score_records
    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.records.reader import LineReader, read_parsed
    from llm4dsr_cli.records.record import Record
    from llm4dsr_cli.records.resumable import ResumableFile, can_resume, check_part, part_paths
    from llm4dsr_cli.records.scored_line import original_line, parse_unscored
    from llm4dsr_cli.records.writer import OutputFile, check_paths, together
    from llm4dsr_cli.scores import BATCH_RECORDS

    console = run.console()
    read = {"IN": source, **records.inputs()}
    outputs = given({"OUT": target, "--rejects": rejects})
    keeps = can_resume(target) and all(Path(path).is_file() for path in read.values())
    if resume and not keeps:
        raise OptionError(
            "--resume needs regular files, OUT not compressed", remedy="leave it out, or write to files and read them"
        )
    if keeps:
        part, state_file = part_paths(target)
        outputs |= {"OUT.part": str(part), "OUT.part.json": str(state_file)}
        check_part(target, resume=resume)
    check_paths({**read, **model.inputs()}, outputs)
    out: OutputFile = OutputFile(target)
    rejects_file = None if rejects is None else OutputFile(rejects)
    model.check()
    record_format, titles = records.format(), records.load_catalog(source, console)
    counts = RunCounts()

    def parse(line: bytes, where: str) -> Record:
        return parse_unscored(line, where, record_format, titles)

    with LineReader.open(source) as reader, model.load(console.say) as denoiser:
        kept: ResumableFile | None = None
        if keeps:
            state = {
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
                **_model(denoiser),
            }
            out = kept = ResumableFile(target, state, resume=resume)

        try:
            with together([out] if rejects_file is None else [out, rejects_file]), console.progress() as advance:
                scoring = time.monotonic()
                on_record_error = skipping(counts, rejects_file, console)
                batches = read_parsed(reader, BATCH_RECORDS, parse, on_record_error)
                if kept:
                    batches = kept.remaining(batches, original_line)
                for lines in score_records(batches, denoiser, counts):
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
    tell_cut(denoiser.cut_titles, console)
    tell_unjudged(counts, titles, console, "not judged, with null for a probability")
    earlier = f" and kept {kept.kept_records:,} of an earlier run" if kept and kept.kept_records else ""
    console.say(f"scored {counts.records:,} records{earlier}, {time.monotonic() - began:.1f} s")
    return exit_code(counts, rejects, console)


def _model(denoiser: Denoiser) -> dict[str, str | None]:
    """What of the denoiser a score depends on, by the options that choose it."""
    return {"--model": denoiser.sha256, "--base or --weights": denoiser.runtime.name, "the version": __version__}


def _how_to_go_on(kept: ResumableFile | None, counts: RunCounts) -> list[str]:
    """A sentence about what a run that did not end has left, if it has left anything."""
    if kept is None or kept.kept_path is None:
        return []
    n = kept.kept_records + counts.records
    return [f"{n:,} scored records are kept in {kept.kept_path}, go on with --resume"]
