"""``llm4dsr clean``"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm4dsr_cli.commands import options
from llm4dsr_cli.errors import OptionError, RecordError

if TYPE_CHECKING:
    from llm4dsr_cli.clean import Cleaner

BATCH_RECORDS = 64
SHOWN_REJECTS = 10
SKIPPED = 3


def clean(
    source: Annotated[str, typer.Argument(metavar="IN", help="JSONL, one sequence a line; - for standard input.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="Where the records go; - for standard output.")],
    catalog: options.Catalog = None,
    items_field: options.ItemsField = "items",
    titles_field: options.TitlesField = None,
    parallel_field: Annotated[
        list[str] | None,
        typer.Option(
            "--parallel-field", metavar="NAME", help="List that runs parallel to the items, as ratings do. Repeatable."
        ),
    ] = None,
    action: Annotated[
        str,
        typer.Option("--action", metavar="ACTION", help="drop: take flagged items out. mark: flag them in noise_flag."),
    ] = "drop",
    false_edit_rate: Annotated[
        float | None,
        typer.Option(
            "--false-edit-rate",
            metavar="RATE",
            help="Edit at most this share of the items that belong, by the denoiser's calibration. [default: 0.01]",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", metavar="P", help="Edit items above this noise probability, whatever the rate."),
    ] = None,
    max_edits: Annotated[
        float | None,
        typer.Option("--max-edits", metavar="N", help="Most edits a sequence: a number, or a share below 1."),
    ] = None,
    protect_last: Annotated[
        int, typer.Option("--protect-last", metavar="N", help="Never edit the last N items of a sequence.")
    ] = 1,
    audit: Annotated[
        str | None,
        typer.Option("--audit", metavar="FILE", help="Write a line for every edit, enough to undo it."),
    ] = None,
    annotate: Annotated[
        bool, typer.Option("--annotate", help="Add each item's noise_probability to its record.")
    ] = False,
    report: Annotated[
        str | None, typer.Option("--report", metavar="FILE", help="Write counts, gate and versions as JSON.")
    ] = None,
    on_error: Annotated[
        str, typer.Option("--on-error", metavar="fail|skip", help="What to do with a line that is no record.")
    ] = "fail",
    rejects: Annotated[
        str | None,
        typer.Option("--rejects", metavar="FILE", help="Where skipped lines go. [default: OUT.rejects.jsonl]"),
    ] = None,
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
    """Find the items that do not belong, and drop or mark them.

    Example: llm4dsr clean sequences.jsonl cleaned.jsonl --catalog catalog.jsonl --audit edits.jsonl
    """
    began = time.monotonic()
    if action == "replace":
        raise OptionError("--action replace is not there yet", remedy="use --action drop or --action mark")
    if action not in ("drop", "mark"):
        raise OptionError(f"--action {action}: no such action", remedy="choose drop or mark")
    if on_error not in ("fail", "skip"):
        raise OptionError(f"--on-error {on_error}: no such way", remedy="choose fail or skip")
    if threshold is not None and false_edit_rate is not None:
        raise OptionError("--threshold and --false-edit-rate contradict each other", remedy="give one of them")
    if on_error == "fail":
        rejects = None
    elif rejects is None:
        if target == "-":
            raise OptionError("skipped lines have no place to go", remedy="give --rejects FILE")
        rejects = f"{target}.rejects.jsonl"

    from llm4dsr_cli.catalog import Catalog
    from llm4dsr_cli.clean import Cleaner
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.denoiser import Denoiser, check_options
    from llm4dsr_cli.gate import Gate, log_odds_of
    from llm4dsr_cli.metadata import check_rate
    from llm4dsr_cli.reader import LineReader, read_records
    from llm4dsr_cli.records import RecordFormat
    from llm4dsr_cli.writer import OutputFile, check_paths

    console = Console(quiet=quiet, verbose=verbose, color=not no_color)
    check_paths(
        _given({"IN": source, "--catalog": catalog, "--model": model, "--base": base}),
        _given({"OUT": target, "--audit": audit, "--report": report, "--rejects": rejects}),
    )
    # All that can be wrong with paths and options is found before the model is loaded.
    outputs = {
        name: OutputFile(path)
        for name, path in _given({"out": target, "audit": audit, "report": report, "rejects": rejects}).items()
    }
    check_options(weights, threads)
    if false_edit_rate is not None:
        check_rate(false_edit_rate)
    gate_options = {"max_edits": max_edits, "protect_last": protect_last}
    Gate(0.0 if threshold is None else log_odds_of(threshold), **gate_options)  # type: ignore[arg-type]
    titles = None if catalog is None else Catalog.load(Path(catalog))
    form = RecordFormat(items_field=items_field, titles_field=titles_field, parallel_fields=tuple(parallel_field or ()))

    with ExitStack() as stack:
        reader = stack.enter_context(LineReader.open(source))
        denoiser = stack.enter_context(
            Denoiser.load(
                model,
                base=base,
                weights=weights,
                threads=threads,
                gpu_layers=gpu_layers,
                offline=offline,
                say=console.say,
            )
        )
        rate = 0.01 if false_edit_rate is None else false_edit_rate
        cut = denoiser.metadata.threshold(rate) if threshold is None else log_odds_of(threshold)
        cleaner = Cleaner(denoiser, Gate(cut, **gate_options), action, annotate)  # type: ignore[arg-type]
        out = stack.enter_context(outputs["out"])
        audit_file = stack.enter_context(outputs["audit"]) if audit else None
        report_file = stack.enter_context(outputs["report"]) if report else None
        # Made even if nothing is rejected: the rejects of an earlier run must not pass for this one's.
        rejects_file = stack.enter_context(outputs["rejects"]) if rejects else None

        def skip(error: RecordError, line: bytes) -> None:
            cleaner.counts.skipped += 1
            if rejects_file:
                rejects_file.write(line)
            if cleaner.counts.skipped <= SHOWN_REJECTS:
                console.warn(f"skipped {error}")

        on_record_error = skip if on_error == "skip" else None
        batches = read_records(reader, BATCH_RECORDS, form, titles, on_record_error)
        advance = stack.enter_context(console.progress())
        scoring = time.monotonic()
        for edited in cleaner.clean(batches, on_record_error):
            for result in edited:
                out.write(result.line)
                if audit_file:
                    for line in result.audit:
                        audit_file.write(line)
            out.flush()
            if audit_file:
                audit_file.flush()
            rate_now = cleaner.counts.records / max(1e-6, time.monotonic() - scoring)
            advance(f"{cleaner.counts.records:,} records, {rate_now:.0f}/s", reader.fraction)
        if report_file:
            report_file.write(_report(cleaner, rate if threshold is None else None, time.monotonic() - began))
    console.say(_summary(cleaner, time.monotonic() - began))
    if cleaner.counts.skipped:
        console.warn(f"skipped {cleaner.counts.skipped:,} lines that are no records; they are in {rejects}")
        return SKIPPED
    return 0


def _given(paths: dict[str, str | None]) -> dict[str, str]:
    return {name: path for name, path in paths.items() if path is not None}


def _summary(cleaner: Cleaner, seconds: float) -> str:
    counts = cleaner.counts
    share = counts.edited_items / counts.items if counts.items else 0
    done = {"drop": "dropped", "mark": "marked"}[cleaner.action]
    return (
        f"{counts.records:,} records, {counts.items:,} items: {done} {counts.edited_items:,} items ({share:.1%}) "
        f"in {counts.edited_records:,} records, {seconds:.1f} s"
    )


def _report(cleaner: Cleaner, false_edit_rate: float | None, seconds: float) -> bytes:
    from dataclasses import asdict
    from importlib.metadata import version

    import numpy as np
    import orjson

    from llm4dsr_cli.denoiser import probability
    from llm4dsr_cli.version import __version__

    denoiser = cleaner.denoiser
    contents: dict[str, Any] = {
        "counts": asdict(cleaner.counts),
        "action": cleaner.action,
        "gate": {
            "threshold": float(probability(np.array(cleaner.gate.threshold))),
            "false_edit_rate": false_edit_rate,
            "max_edits": cleaner.gate.max_edits,
            "protect_last": cleaner.gate.protect_last,
        },
        "model": {
            "name": denoiser.metadata.name,
            "sha256": denoiser.sha256,
            "base": denoiser.metadata.base_name,
            "base_sha256": denoiser.metadata.base_sha256,
            "runtime": denoiser.runtime.name,
        },
        "versions": {"llm4dsr-cli": __version__, "llama-cpp-python": version("llama-cpp-python")},
        "seconds": round(seconds, 3),
    }
    return orjson.dumps(contents, option=orjson.OPT_INDENT_2)
