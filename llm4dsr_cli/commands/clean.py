"""``llm4dsr clean``"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from llm4dsr_cli.commands.completion import one_of
from llm4dsr_cli.commands.inputs import may_hold_objects
from llm4dsr_cli.commands.options import (
    EditingRunOptions,
    GateOptions,
    ModelOptions,
    OutputOptions,
    RayOptions,
    RejectOptions,
)
from llm4dsr_cli.commands.outputs import Outputs
from llm4dsr_cli.commands.parameters import option_sets
from llm4dsr_cli.commands.ray_clean import clean_on_ray
from llm4dsr_cli.commands.record_options import EditedRecordOptions
from llm4dsr_cli.defaults import EDIT
from llm4dsr_cli.errors import OptionError

if TYPE_CHECKING:
    from llm4dsr_cli.model.denoiser import Denoiser
    from llm4dsr_cli.records.record import OnError, Record
    from llm4dsr_cli.replacing.replacer import ProposerName
    from llm4dsr_cli.sequences import ItemSequence


@option_sets
def clean(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="JSONL, one sequence a line, oldest item first; - for standard input.")
    ],
    records: EditedRecordOptions,
    gate: GateOptions,
    output: OutputOptions,
    errors: RejectOptions,
    model: ModelOptions,
    run: EditingRunOptions,
    cluster: RayOptions,
    target: Annotated[
        str | None,
        typer.Argument(metavar="OUT", help="Where the records go; - for standard output. Not needed with --dry-run."),
    ] = None,
    action: Annotated[
        str,
        typer.Option(
            "--action",
            metavar="ACTION",
            autocompletion=one_of("replace", "drop", "mark"),
            help="drop: take flagged items out. replace: put what belongs in their place. mark: flag them in "
            "noise_flag.",
        ),
    ] = "drop",
    proposer: Annotated[
        str | None,
        typer.Option(
            "--proposer",
            metavar="counts|generate",
            autocompletion=one_of("counts", "generate"),
            help="What replaces: items that others have beside those of the sequence, or titles that the model names. "
            "[default: counts]",
        ),
    ] = None,
    fallback: Annotated[
        str | None,
        typer.Option(
            "--fallback",
            metavar="drop|keep",
            autocompletion=one_of("drop", "keep"),
            help="What replace does with a flagged item for which it finds nothing that belongs. [default: drop]",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Score a file, say what would be edited, and write nothing.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where an earlier run was stopped; what it scored is in OUT.scores.part."),
    ] = False,
) -> int:
    """Find the items that do not belong, and drop, replace or mark them.

    A file is scored once, judged by the denoiser and by the counts of its own users together, and then edited. A pipe
    is judged by the denoiser alone, unless a gate file holds counts.

    Example: llm4dsr clean sequences.jsonl cleaned.jsonl --catalog catalog.jsonl --audit edits.jsonl
    """
    from llm4dsr_cli.cleaning.cleaner import Cleaner
    from llm4dsr_cli.cleaning.passes import counts_data
    from llm4dsr_cli.cleaning.run import Cleaning
    from llm4dsr_cli.cleaning.settings import CleaningSettings, check_choice
    from llm4dsr_cli.commands.resumption import scoring_state
    from llm4dsr_cli.commands.two_passes import clean_file
    from llm4dsr_cli.records.reader import LineReader, can_be_read_twice, read_records
    from llm4dsr_cli.records.resumable import check_part, scratch_name
    from llm4dsr_cli.scores import BATCH_RECORDS

    console = run.console()
    gate_file = gate.load()
    user_field = gate.user_field_of(gate_file)
    if action != "replace":
        for name, value in (("--proposer", proposer), ("--fallback", fallback)):
            if value is not None:
                raise OptionError(f"{name} says how to replace", remedy="give --action replace, or leave it out")
    if target is None and not dry_run:
        raise OptionError("missing argument 'OUT'", remedy="name where the records go, or see llm4dsr clean --help")
    said: dict[str, Any] = {"action": action, "fallback": fallback or "drop", **gate.arguments()}
    cluster.check()
    if cluster.ray is not None:
        if target is None:
            raise OptionError("--ray keeps scores in OUT", remedy="name a folder, with --dry-run, too")
        return clean_on_ray(
            source, target, records, gate, output, errors, model, cluster, console, said, proposer, dry_run=dry_run
        )
    inputs = {"IN": source, **records.inputs(), **gate.inputs(), **model.inputs()}
    outputs = None if target is None or dry_run else Outputs(target, output, errors, inputs, gate.gate)
    source, records = records.gathered(source, console, user_field)
    if outputs is not None:
        outputs.take_back_to(source)
    is_file = can_be_read_twice(source)
    if is_file and not gate.says_how_many:
        said["edit"] = EDIT
    settings = CleaningSettings(**said)
    check_choice("proposer", proposer or "counts", ("counts", "generate"))
    if not is_file:
        gate.refuse_for_pipe()
        takes_counts = action == "replace" and gate.gate is None and proposer != "generate"
        takes_items = action == "replace" and records.catalog is None
        _refuse_pipe(dry_run=dry_run, resume=resume, takes_items=takes_items, takes_counts=takes_counts)
    if is_file:
        with LineReader.open(source):  # what is wrong with it should show now
            pass
    scratch = None if target is None or source == "-" else scratch_name(target)
    if scratch is None:
        if resume:
            raise OptionError(
                "--resume needs regular files, OUT not compressed",
                remedy="leave it out, or write to files and read them",
            )
    elif is_file:
        check_part(scratch, resume=resume)
    record_format = records.record_format()
    keep_fields = action == "replace" and records.catalog is not None and may_hold_objects(source)
    catalog = records.load_catalog(source, console, keep_fields=keep_fields)

    def read(reader: LineReader, on_error: OnError | None) -> Iterator[list[Record]]:
        return read_records(reader, BATCH_RECORDS, record_format, catalog, on_error)

    def counted() -> Iterator[ItemSequence]:
        console.say(f"counting {inputs['IN']} ...")
        # A later pass tells of what is skipped.
        quietly: OnError | None = (lambda error, line: None) if errors.on_error == "skip" else None
        with LineReader.open(source) as reader:
            for batch in read(reader, quietly):
                for record in batch:
                    yield record.sequence(user_field)

    proposes = cast("ProposerName", proposer or "counts")
    counts = counts_data(settings, gate=gate_file is not None, catalog=catalog is not None, proposer=proposes)
    with (
        nullcontext() if outputs is None else outputs.told_of_interrupts(),
        Cleaning.load(
            catalog=catalog,
            gate=gate_file,
            counted=counted() if is_file and counts else None,
            **said,
            proposer=proposes,
            record_format=record_format,
            user_field=user_field,
            **model.arguments(),
            say=console.say,
        ) as cleaning,
    ):
        if is_file:
            return clean_file(
                source,
                cleaning,
                read,
                outputs,
                errors,
                console,
                scratch=scratch,
                state={} if scratch is None else scoring_state(source, records, cast("Denoiser", cleaning.scorer)),
                resume=resume,
                examples=run.show,
            )
        assert outputs is not None
        with LineReader.open(source) as reader:
            cleaner: Cleaner[Record] = Cleaner(cleaning, outputs.annotate)
            return outputs.run(reader, cleaner, lambda on_error: read(reader, on_error), console)


def _refuse_pipe(*, dry_run: bool, resume: bool, takes_items: bool, takes_counts: bool) -> None:
    """Refuse what takes two passes over the input."""
    for name, value in (("--dry-run", dry_run), ("--resume", resume)):
        if value:
            raise OptionError(
                f"{name} is for a file, and a pipe can be read once", remedy="give a file, or leave it out"
            )
    if takes_items:
        raise OptionError(
            "--action replace without a catalog reads the input twice, and a pipe can be read once",
            remedy="give --catalog, or a file",
        )
    if takes_counts:
        raise OptionError(
            "--proposer counts counts the input before it cleans it, and a pipe can be read once",
            remedy="give a file, counts with --gate, or --proposer generate",
        )
