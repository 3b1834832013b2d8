"""``llm4dsr score``"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm4dsr_cli.commands.inputs import exit_code, skipping, tell_cut, tell_unjudged
from llm4dsr_cli.commands.options import ModelOptions, RejectOptions, RunOptions, given
from llm4dsr_cli.commands.parameters import option_sets
from llm4dsr_cli.commands.record_options import RecordOptions
from llm4dsr_cli.commands.resumption import how_to_go_on, scoring_state, write_scores
from llm4dsr_cli.defaults import USER_FIELD
from llm4dsr_cli.errors import Llm4dsrError, OptionError

if TYPE_CHECKING:
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

    from llm4dsr_cli.cleaning.scoring import recall_records, score_records
    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.model.denoiser import KNOWN_BYTES
    from llm4dsr_cli.records.logs.gathered import check_ending
    from llm4dsr_cli.records.reader import LineReader, read_parsed
    from llm4dsr_cli.records.record import Record
    from llm4dsr_cli.records.resumable import ResumableFile, can_resume, check_part, part_paths
    from llm4dsr_cli.records.scored_line import original_line, parse_scored, parse_unscored
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
    counts = RunCounts()
    source, records = records.gathered(source, console, USER_FIELD, errors, counts)
    check_ending(target, str(source))
    out: OutputFile = OutputFile(target)
    rejects_file = None if rejects is None else OutputFile(rejects)
    model.check()
    record_format, titles = records.record_format(), records.load_catalog(source, console)

    def parse(line: bytes, where: str) -> Record:
        return parse_unscored(line, where, record_format, titles)

    def recall(lines: list[bytes], records: list[Record]) -> None:
        kept_records = zip(lines, records, strict=True)
        scored = [parse_scored(line, record.where, record_format, titles) for line, record in kept_records]
        recall_records(scored, denoiser)

    with LineReader.open(source) as reader, model.load(console.say, known_bytes=KNOWN_BYTES) as denoiser:
        kept: ResumableFile | None = None
        if keeps:
            out = kept = ResumableFile(target, scoring_state(source, records, denoiser), resume=resume)

        try:
            with together([out] if rejects_file is None else [out, rejects_file]), console.progress() as advance:
                on_record_error = skipping(counts, rejects_file, console)
                batches = read_parsed(reader, BATCH_RECORDS, parse, on_record_error)
                if kept:
                    batches = kept.remaining(batches, lambda line, record: original_line(line) == record.line, recall)
                write_scores(score_records(batches, denoiser, counts), out, counts, reader, advance)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(": ".join(["interrupted", *how_to_go_on(kept)])) from None
        except Llm4dsrError:
            for sentence in how_to_go_on(kept):
                console.say(sentence)
            raise
    tell_cut(denoiser.cut_titles, console)
    tell_unjudged(counts, titles, console, "not judged, with null for a probability")
    earlier = f" and kept {kept.kept_records:,} of an earlier run" if kept and kept.kept_records else ""
    console.say(f"scored {counts.records:,} records{earlier}, {time.monotonic() - began:.1f} s")
    return exit_code(counts, rejects, console)
