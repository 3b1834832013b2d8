"""``llm4dsr clean``"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
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
from llm4dsr_cli.defaults import EDIT, FALSE_EDIT_RATE
from llm4dsr_cli.errors import OptionError

if TYPE_CHECKING:
    from llm4dsr_cli.commands.cleaned_file import CleanedFile
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.records.catalog import Catalog
    from llm4dsr_cli.records.record import Record
    from llm4dsr_cli.replacing.replacer import ProposerName
    from llm4dsr_cli.sequences import ItemSequence


@option_sets
def clean(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="IN... OUT",
            help="IN: JSONL, one sequence a line, oldest item first, or a log of interactions; - for standard input. "
            "OUT: where the records go; - for standard output. Of several INs a folder, which gets a file for each; "
            "so are --audit, --report and --rejects then. Of one IN with --dry-run there need be no OUT.",
        ),
    ],
    records: EditedRecordOptions,
    gate: GateOptions,
    output: OutputOptions,
    errors: RejectOptions,
    model: ModelOptions,
    run: EditingRunOptions,
    cluster: RayOptions,
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
        bool,
        typer.Option(
            "--dry-run",
            help="Score a file and say what would be edited; write nothing but, if OUT is named, scores for --resume.",
        ),
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
    from llm4dsr_cli.commands.cleaned_file import CleanedFile
    from llm4dsr_cli.commands.destinations import destinations
    from llm4dsr_cli.commands.two_passes import clean_files
    from llm4dsr_cli.records.edits import FLAG_FIELD, PROBABILITY_FIELD
    from llm4dsr_cli.records.reader import LineReader

    console = run.console()
    gate_file = gate.load()
    user_field = gate.user_field_of(gate_file)
    if action != "replace":
        for name, value in (("--proposer", proposer), ("--fallback", fallback)):
            if value is not None:
                raise OptionError(f"{name} says how to replace", remedy="give --action replace, or leave it out")
    said: dict[str, Any] = {"action": action, "fallback": fallback or "drop", **gate.arguments()}
    cluster.check()
    if cluster.ray is not None:
        if len(paths) != 2:
            raise OptionError(
                "--ray cleans one folder into another",
                remedy="name both, OUT with --dry-run, too, where scores are kept",
            )
        source, target = paths
        return clean_on_ray(
            source, target, records, gate, output, errors, model, cluster, console, said, proposer, dry_run=dry_run
        )
    found = destinations(paths, output, errors, dry_run=dry_run)
    inputs = {f"IN {one.source}" if len(found) > 1 else "IN": one.source for one in found}
    inputs |= {**records.inputs(), **gate.inputs(), **model.inputs()}
    written = [
        None if one.target is None or dry_run else Outputs(one.target, one.output, one.errors, inputs, gate.gate)
        for one in found
    ]
    adds = [PROBABILITY_FIELD] * output.annotate + [FLAG_FIELD] * (action == "mark")
    files = [
        CleanedFile.of(one, outputs, records, console, user_field, errors, adds)
        for one, outputs in zip(found, written, strict=True)
    ]
    is_file = all(file.is_file for file in files)
    if is_file and not gate.says_how_many:
        said["edit"] = EDIT
    settings = CleaningSettings(**said)
    check_choice("proposer", proposer or "counts", ("counts", "generate"))
    if not is_file:
        if len(files) > 1:
            raise OptionError("one of the inputs is a pipe", remedy="clean it alone")
        gate.refuse_for_pipe()
        takes_counts = action == "replace" and gate.gate is None and proposer != "generate"
        takes_items = action == "replace" and files[0].records.catalog is None
        _refuse_pipe(dry_run=dry_run, resume=resume, takes_items=takes_items, takes_counts=takes_counts)
    for file in files:
        file.check(resume=resume)
    catalog = _load_catalog(files, console, replaces=action == "replace")

    def counted() -> Iterator[ItemSequence]:
        for file in files:
            console.say(f"counting {file.name} ...")
            yield from file.unscored(user_field, skips=errors.on_error == "skip")

    proposes = cast("ProposerName", proposer or "counts")
    counts = counts_data(settings, gate=gate_file is not None, catalog=catalog is not None, proposer=proposes)
    with ExitStack() as stack:
        for outputs in written:
            if outputs is not None:
                stack.enter_context(outputs.told_of_interrupts())
        cleaning = stack.enter_context(
            Cleaning.load(
                catalog=catalog,
                gate=gate_file,
                counted=counted() if is_file and counts else None,
                **said,
                proposer=proposes,
                record_format=files[0].records.record_format(),
                user_field=user_field,
                **model.arguments(),
                say=console.say,
            )
        )
        if is_file:
            return clean_files(files, cleaning, errors, console, resume=resume, examples=run.show)
        (file,), (outputs,) = files, written
        assert outputs is not None
        with LineReader.open(file.source) as reader:
            cleaner: Cleaner[Record] = Cleaner(cleaning, outputs.annotate)
            tells = console.say if not gate.says_how_many else lambda line: None
            return outputs.run(reader, cleaner, lambda on_error: _telling(file.read(reader, on_error), tells), console)


def _telling(batches: Iterator[list[Record]], say: Callable[[str], None]) -> Iterator[list[Record]]:
    """The same batches; with the first of them, what edits so little of a pipe is told."""
    for number, batch in enumerate(batches):
        if number == 0:
            say(f"a pipe is read once: the denoiser judges alone, at a false-edit rate of {FALSE_EDIT_RATE:g}")
            say(f"in a file, counts of all users judge, too, and {EDIT:.0%} of the items are edited")
        yield batch


def _load_catalog(files: Sequence[CleanedFile], console: Console, *, replaces: bool) -> Catalog | None:
    """The catalog of all files, which learn of it.

    Raises:
        OptionError: the files take different catalogs, or have their items in different places.
    """
    first = files[0]
    for file in files[1:]:
        if file.records != first.records:
            raise OptionError(
                f"{first.name} and {file.name} differ in where their items or titles are",
                remedy="clean them one by one, or name one `--catalog`",
            )
    keep_fields = (
        replaces and first.records.catalog is not None and any(may_hold_objects(file.source) for file in files)
    )
    catalog = first.records.load_catalog(first.source, console, keep_fields=keep_fields)
    for file in files:
        file.catalog = catalog
    return catalog


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
