"""``llm4dsr clean``"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm4dsr_cli.commands.inputs import may_hold_objects
from llm4dsr_cli.commands.options import (
    EditedRecordOptions,
    GateOptions,
    ModelOptions,
    OutputOptions,
    RejectOptions,
    RunOptions,
)
from llm4dsr_cli.commands.outputs import Outputs
from llm4dsr_cli.commands.parameters import option_sets
from llm4dsr_cli.errors import OptionError

if TYPE_CHECKING:
    from llm4dsr_cli.records.record import OnError, Record
    from llm4dsr_cli.sequences import ItemSequence


@option_sets
def clean(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="JSONL, one sequence a line, oldest item first; - for standard input.")
    ],
    target: Annotated[str, typer.Argument(metavar="OUT", help="Where the records go; - for standard output.")],
    records: EditedRecordOptions,
    gate: GateOptions,
    output: OutputOptions,
    errors: RejectOptions,
    model: ModelOptions,
    run: RunOptions,
    action: Annotated[
        str | None,
        typer.Option(
            "--action",
            metavar="ACTION",
            help="replace: put what belongs in the place of flagged items. drop: take flagged items out. "
            "mark: flag them in noise_flag. [default: replace; drop on a pipe, unless --gate and --catalog say "
            "what may replace]",
        ),
    ] = None,
    proposer: Annotated[
        str | None,
        typer.Option(
            "--proposer",
            metavar="counts|generate",
            help="What replaces: items that others have beside those of the sequence, or titles that the model names. "
            "[default: counts]",
        ),
    ] = None,
    fallback: Annotated[
        str | None,
        typer.Option(
            "--fallback",
            metavar="drop|keep",
            help="What replace does with a flagged item for which it finds nothing that belongs. [default: drop]",
        ),
    ] = None,
) -> int:
    """Find the items that do not belong, and replace, drop or mark them.

    Example: llm4dsr clean sequences.jsonl cleaned.jsonl --catalog catalog.jsonl --audit edits.jsonl
    """
    from llm4dsr_cli.cleaning.cleaner import Cleaner
    from llm4dsr_cli.cleaning.run import Cleaning
    from llm4dsr_cli.cleaning.settings import CleaningSettings, check_choice
    from llm4dsr_cli.records.reader import LineReader, can_be_read_twice, read_records
    from llm4dsr_cli.scores import BATCH_RECORDS

    twice = can_be_read_twice(source)
    asked = action is not None or proposer is not None or fallback is not None
    reads_twice = records.catalog is None or (gate.gate is None and proposer != "generate")
    action = action or ("replace" if asked or twice or not reads_twice else "drop")
    if action != "replace":
        for name, value in (("--proposer", proposer), ("--fallback", fallback)):
            if value is not None:
                raise OptionError(f"{name} says how to replace", remedy="give --action replace, or leave it out")
    said: dict[str, Any] = {"action": action, "fallback": fallback or "drop", **gate.arguments()}
    CleaningSettings(**said)
    check_choice("proposer", proposer or "counts", ("counts", "generate"))
    inputs = {"IN": source, **records.inputs(), **gate.inputs(), **model.inputs()}
    outputs = Outputs(target, output, errors, inputs, gate.gate)
    if action == "replace" and reads_twice and not twice:
        _refuse_pipe(records.catalog)
    console = run.console()
    gate_file, record_format = gate.load(), records.format()
    keep_fields = action == "replace" and records.catalog is not None and may_hold_objects(source)
    catalog = records.load_catalog(source, console, keep_fields=keep_fields)
    user_field = gate.user_field_of(gate_file)

    def read(reader: LineReader, on_error: OnError | None) -> Iterator[list[Record]]:
        return read_records(reader, BATCH_RECORDS, record_format, catalog, on_error)

    def counted() -> Iterator[ItemSequence]:
        console.say(f"reading {source} for the items that may replace others ...")
        # The second pass tells of what is skipped.
        quietly: OnError | None = (lambda error, line: None) if outputs.rejects else None
        with LineReader.open(source) as reader:
            for batch in read(reader, quietly):
                for record in batch:
                    yield record.sequence(user_field)

    with (
        outputs.told_of_interrupts("`llm4dsr score` keeps what it has done, and can be resumed"),
        LineReader.open(source) as reader,
    ):
        if action == "drop" and not asked:
            console.say("a pipe is read once: flagged items are dropped; with --gate and --catalog they are replaced")
        with Cleaning.load(
            catalog=catalog,
            gate=gate_file,
            counted=counted(),
            **said,
            proposer=proposer or "counts",  # type: ignore[arg-type]  # checked above
            record_format=record_format,
            user_field=user_field,
            **model.arguments(),
            say=console.say,
        ) as cleaning:
            cleaner: Cleaner[Record] = Cleaner(cleaning, outputs.annotate)
            return outputs.run(reader, cleaner, lambda on_error: read(reader, on_error), console)


def _refuse_pipe(catalog: str | None) -> None:
    if catalog is None:
        raise OptionError(
            "--action replace without a catalog reads the input twice, and a pipe can be read once",
            remedy="give --catalog, or a file",
        )
    raise OptionError(
        "--proposer counts counts the input before it cleans it, and a pipe can be read once",
        remedy="give a file, counts with --gate, or --proposer generate",
    )
