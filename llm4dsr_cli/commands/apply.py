"""``llm4dsr apply``"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm4dsr_cli.commands import options
from llm4dsr_cli.commands.completion import one_of
from llm4dsr_cli.commands.options import EditingRunOptions, GateOptions, OutputOptions, RejectOptions
from llm4dsr_cli.commands.outlook import surveyed
from llm4dsr_cli.commands.outputs import Outputs
from llm4dsr_cli.commands.parameters import option_sets
from llm4dsr_cli.commands.record_options import EditedRecordOptions
from llm4dsr_cli.defaults import EDIT
from llm4dsr_cli.errors import OptionError

if TYPE_CHECKING:
    from llm4dsr_cli.records.reader import LineReader
    from llm4dsr_cli.records.record import OnError
    from llm4dsr_cli.records.scored_line import ScoredRecord
    from llm4dsr_cli.sequences import ItemSequence


@option_sets
def apply(
    source: Annotated[
        str, typer.Argument(metavar="SCORED", help="JSONL that `llm4dsr score` wrote; - for standard input.")
    ],
    target: Annotated[str, typer.Argument(metavar="OUT", help="Where the records go; - for standard output.")],
    records: EditedRecordOptions,
    gate: GateOptions,
    output: OutputOptions,
    errors: RejectOptions,
    run: EditingRunOptions,
    action: Annotated[
        str,
        typer.Option(
            "--action",
            metavar="ACTION",
            autocompletion=one_of("drop", "mark"),
            help="drop: take flagged items out. mark: flag them in noise_flag.",
        ),
    ] = "drop",
    model: options.Model = None,
) -> int:
    """Gate and edit records that `llm4dsr score` has scored, without a model; with counts if --gate has them.

    Example: llm4dsr apply scored.jsonl cleaned.jsonl --catalog catalog.jsonl --edit 2%
    """
    if action == "replace":
        raise OptionError(
            "--action replace scores sequences anew, with what it puts in them",
            remedy="use `llm4dsr clean --action replace` on the records that were scored",
        )

    from llm4dsr_cli.cleaning.cleaner import Cleaner
    from llm4dsr_cli.cleaning.run import Cleaning
    from llm4dsr_cli.cleaning.scoring import KeptScores
    from llm4dsr_cli.cleaning.settings import CleaningSettings
    from llm4dsr_cli.records.reader import LineReader, can_be_read_twice, read_parsed
    from llm4dsr_cli.records.scored_line import parse_scored
    from llm4dsr_cli.scores import BATCH_RECORDS

    gate.check_fusion()
    said: dict[str, Any] = {"action": action, **gate.arguments()}
    is_file = can_be_read_twice(source)
    if is_file and not gate.says_how_many:
        said["edit"] = EDIT
    settings = CleaningSettings(**said)
    inputs = {"SCORED": source, **records.inputs(), **gate.inputs(), **options.given({"--model": model})}
    outputs = Outputs(target, output, errors, inputs, gate.gate)
    outputs.take_back_to(source)
    if not is_file:
        gate.refuse_for_pipe()
    console = run.console()
    gate_file, catalog = gate.load(), records.load_catalog(source, console)
    record_format = replace(records.record_format(), ids_for_titles=catalog is None)
    kept = KeptScores.of(model, gate_file, by_rate=settings.rate(gate_file) is not None)
    cleaning = Cleaning(
        kept,
        settings,
        gate_file=gate_file,
        catalog=catalog,
        record_format=record_format,
        user_field=gate.user_field,
    )

    def scored(reader: LineReader, on_error: OnError | None) -> Iterator[list[ScoredRecord]]:
        for batch in read_parsed(
            reader,
            BATCH_RECORDS,
            lambda line, where: parse_scored(line, where, record_format, catalog),
            on_error,
            takes_logs=False,
        ):
            kept.check(batch)
            yield batch

    def sequences() -> Iterator[ItemSequence]:
        # The last pass tells of what is skipped.
        quietly: OnError | None = (lambda error, line: None) if outputs.rejects else None
        with LineReader.open(source) as reader:
            for batch in scored(reader, quietly):
                yield from map(cleaning.sequence, batch)

    if is_file:
        cleaning = surveyed(cleaning, sequences, console, run.show)
    if is_file and gate_file is None:
        console.say("the scores judge alone: `llm4dsr calibrate` makes a gate file with counts, for --gate")
    with outputs.told_of_interrupts(), LineReader.open(source) as reader:
        cleaner: Cleaner[ScoredRecord] = Cleaner(cleaning, outputs.annotate)
        return outputs.run(reader, cleaner, lambda on_error: scored(reader, on_error), console)
