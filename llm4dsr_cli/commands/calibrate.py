"""``llm4dsr calibrate``"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm4dsr_cli.commands.inputs import (
    exit_code,
    is_pipe,
    read_sequences,
    tell_cut,
    tell_unjudged,
    warn_of_nameless,
)
from llm4dsr_cli.commands.options import ErrorOptions, ModelOptions, ProtectLast, RunOptions
from llm4dsr_cli.commands.parameters import option_sets
from llm4dsr_cli.commands.record_options import RecordOptions
from llm4dsr_cli.defaults import FALSE_EDIT_RATE, USER_FIELD
from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.streams import check_out, write_out

if TYPE_CHECKING:
    from llm4dsr_cli.console import Console


@option_sets
def calibrate(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="JSONL of your sequences, oldest item first; - for standard input.")
    ],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="The gate file to write.")],
    records: RecordOptions,
    errors: ErrorOptions,
    model: ModelOptions,
    run: RunOptions,
    user_field: Annotated[
        str,
        typer.Option(
            "--user-field",
            metavar="NAME",
            help="Field that says whose sequence it is: the gate file's counts are taken without that user.",
        ),
    ] = USER_FIELD,
    sequences: Annotated[
        int, typer.Option("--sequences", metavar="N", help="Score at most N sequences, each of another user.")
    ] = 2_000,
    noise_rate: Annotated[
        float, typer.Option("--noise-rate", metavar="SHARE", help="Share of their items that are replaced.")
    ] = 0.1,
    protect_last: ProtectLast = 1,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Fixes users and noise.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was learned as JSON on standard output.")] = False,
) -> int:
    """Fit the gate to your own data: thresholds that keep a stated false-edit rate, and counts that help the model.

    No labels are needed: noise of known place is put into some sequences, and what is learned from it serves
    `llm4dsr clean --gate FILE`. It takes one scoring of those sequences.

    Example: llm4dsr calibrate sequences.jsonl --catalog catalog.jsonl --output my.gate
    """
    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.gate.calibration import CalibrationSettings
    from llm4dsr_cli.gate.calibration import calibrate as fit
    from llm4dsr_cli.records.writer import OutputFile, check_paths

    console = run.console()
    if as_json:
        check_out()
    counts = RunCounts()
    on_record_error = errors.leaving_out(counts, console)
    check_paths({"DATA": data, **records.inputs(), **model.inputs()}, {"--output": output})
    if is_pipe(output):
        raise OptionError(f"--output {output}: a gate is written to a file", remedy="name one")
    OutputFile(output)  # what is wrong with it should show now
    model.check()
    settings = CalibrationSettings(sequences=sequences, noise_rate=noise_rate, protect_last=protect_last, seed=seed)
    data, records = records.gathered(data, console, user_field, errors, counts)
    titles = records.load_catalog(data, console)
    read, nameless = read_sequences(data, records.record_format(), titles, user_field, on_record_error, counts)
    tell_unjudged(counts, titles, console)
    warn_of_nameless(console, nameless, user_field, "the gate will promise too much")
    with ExitStack() as stack:
        denoiser = stack.enter_context(model.load(console.say))
        advance = stack.enter_context(console.progress())
        gate = fit(
            read,
            denoiser,
            user_field=None if nameless == len(read) else user_field,
            settings=settings,
            advance=advance,
        )
    tell_cut(denoiser.cut_titles, console)
    gate.save(Path(output))
    if as_json:
        import orjson

        write_out(orjson.dumps(gate.summary, option=orjson.OPT_INDENT_2).decode() + "\n")
    _show(gate.summary, gate.fused.promised(FALSE_EDIT_RATE), console)
    console.say(f"{output}: use it with --gate {output}")
    return exit_code(counts, None, console)


def _show(summary: dict[str, Any], lowest: float, console: Console) -> None:
    fused, alone = summary["fused"], summary["alone"]
    console.say(
        f"calibrated on {summary['sequences']:,} sequences, {alone['items']:,} items, {alone['noise']:,} of them "
        "random items put in; share of these found, and precision if so much of your data were such noise:"
    )
    console.say("false-edit rate  (95% bound)   found  model alone  2% noise  5% noise  10% noise")
    found_alone = {row["false_edit_rate"]: row["recall"] for row in alone["rates"]}
    for row in fused["rates"]:
        precision = row["precision"]
        console.say(
            f"{row['false_edit_rate']:>15.3f}  {row['at_most']:>11.4f}  {row['recall']:>6.1%}  "
            f"{found_alone.get(row['false_edit_rate'], float('nan')):>11.1%}  "
            f"{precision['0.02']:>8.0%}  {precision['0.05']:>8.0%}  {precision['0.1']:>9.0%}"
        )
    if lowest > FALSE_EDIT_RATE:
        console.warn(
            f"too few sequences to promise a false-edit rate of {FALSE_EDIT_RATE:g}: the lowest is {lowest:.3g}, which "
            "--gate keeps to by itself"
        )
    said = "   ".join(f"{row['said']:.2f}: {row['found']:.2f}" for row in fused["reliability"] if row["items"] >= 30)
    console.say(f"  noise probability said: share that was noise   {said}")
