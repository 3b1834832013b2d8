"""``llm4dsr evaluate``"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm4dsr_cli.commands import single_options as options
from llm4dsr_cli.commands.inputs import exit_code, leaving_out, warn_of_nameless
from llm4dsr_cli.errors import OptionError

if TYPE_CHECKING:
    from llm4dsr_cli.evaluation.labelled_data import LabelledData
    from llm4dsr_cli.records.record import OnError, RecordFormat


def evaluate(
    source: Annotated[str, typer.Argument(metavar="DATA", help="JSONL, one sequence a line; - for standard input.")],
    catalog: options.Catalog = None,
    items_field: options.ItemsField = "items",
    titles_field: options.TitlesField = None,
    item_id_field: options.ItemIdField = None,
    item_title_field: options.ItemTitleField = None,
    user_field: options.GateUserField = None,
    labels_field: Annotated[
        str | None,
        typer.Option(
            "--labels-field", metavar="NAME", help="List of labels, one an item: 1 for noise, 0 for the rest."
        ),
    ] = None,
    on_error: options.OnError = "fail",
    inject: Annotated[
        float | None,
        typer.Option(
            "--inject", metavar="RATE", help="Replace this share of the items by random titles. [default: 0.1]"
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Fixes injected noise and intervals.")] = 0,
    false_edit_rate: Annotated[
        float | None,
        typer.Option(
            "--false-edit-rate",
            metavar="RATE",
            help="Measure the gate that is calibrated for this share of the items that belong. [default: 0.01]",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", metavar="P", help="Measure the gate that edits above this noise probability."),
    ] = None,
    gate: Annotated[
        str | None,
        typer.Option(
            "--gate",
            metavar="FILE",
            help="Gate file of `llm4dsr calibrate`; users that it was calibrated on are left out.",
        ),
    ] = None,
    no_fusion: options.NoFusion = False,
    protect_last: Annotated[
        int, typer.Option("--protect-last", metavar="N", help="Leave the last N items of a sequence out of measuring.")
    ] = 1,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="Measure N records, evenly spaced. [default: all]")
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines", help="Measure simple baselines too, each counted on other users of DATA; wants an extra."
        ),
    ] = False,
    bootstrap: Annotated[
        int, typer.Option("--bootstrap", metavar="N", help="Draws for the 95% intervals; 0 makes none.")
    ] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="FILE", help="Draw the figures: .png, .svg or .pdf; wants an extra."),
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
    """Measure how well noise is found, on labelled data or on noise that is injected.

    Extras: pip install 'llm4dsr-cli[benchmark]' for --baselines, 'llm4dsr-cli[plot]' for --plot

    Example: llm4dsr evaluate sequences.jsonl --catalog catalog.jsonl --inject 0.1 --seed 0 --plot quality.png
    """
    if labels_field is not None and inject is not None:
        raise OptionError("--labels-field and --inject contradict each other", remedy="give one of them")
    if threshold is not None and false_edit_rate is not None:
        raise OptionError("--threshold and --false-edit-rate contradict each other", remedy="give one of them")
    if no_fusion and gate is None:
        raise OptionError("--no-fusion says how to use a gate file", remedy="give one with --gate, or leave it out")

    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.commands.evaluation_tables import print_tables
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.evaluation.measure import EvaluationSettings
    from llm4dsr_cli.evaluation.measure import evaluate as measure
    from llm4dsr_cli.evaluation.plots import check_plot, plot_evaluation
    from llm4dsr_cli.evaluation.reference_scores import check_baselines
    from llm4dsr_cli.gate.gate_file import GateFile
    from llm4dsr_cli.model.denoiser import Denoiser, check_options
    from llm4dsr_cli.records.record import RecordFormat
    from llm4dsr_cli.records.writer import OutputFile, check_paths
    from llm4dsr_cli.scores import log_odds_of

    console = Console(quiet=quiet, verbose=verbose, color=not no_color)
    counts = RunCounts()
    on_record_error = leaving_out(on_error, counts, console)
    settings = EvaluationSettings(
        false_edit_rate=0.01 if false_edit_rate is None else false_edit_rate,
        threshold=None if threshold is None else log_odds_of(threshold),
        fusion=not no_fusion,
        protect_last=protect_last,
        limit=limit,
        baselines=baselines,
        bootstrap=bootstrap,
        seed=seed,
    )
    check_options(weights, threads)
    # All that can be wrong with options, paths and data is found before the model is loaded.
    if baselines:
        check_baselines()
    if plot is not None:
        check_plot(Path(plot))
        inputs = {"DATA": source, "--catalog": catalog, "--gate": gate, "--model": model, "--base": base}
        check_paths({name: path for name, path in inputs.items() if path is not None}, {"--plot": plot})
        OutputFile(plot)
    gate_file = None if gate is None else GateFile.load(Path(gate))
    by_gate = None if gate_file is None else gate_file.user_field
    user_field = user_field or by_gate or "user_id"
    form = RecordFormat(items_field, titles_field, item_id_field=item_id_field, item_title_field=item_title_field)
    rate = 0.1 if inject is None else inject
    data = _read(source, catalog, form, user_field, labels_field, rate, seed, on_record_error)
    if data.nameless and by_gate is not None:
        raise OptionError(
            f'{data.nameless:,} records have no "{user_field}", by which the gate knows whose counts to leave out',
            remedy="name the field with --user-field",
        )
    warn_of_nameless(console, data.nameless, user_field, "the intervals will be too narrow")
    with Denoiser.load(
        model, base=base, weights=weights, threads=threads, gpu_layers=gpu_layers, offline=offline, say=console.say
    ) as denoiser:
        if gate_file is not None:
            gate_file.check_model(denoiser.sha256, str(gate))
        with console.progress() as advance:
            found = measure(data, denoiser, settings, gate=gate_file, say=console.warn, advance=advance)
    if not found.overall.detection.n_noise:
        console.warn("none of the judged items is noise: what needs noise is not measured")
    if plot is not None:
        plot_evaluation(found, Path(plot))
        console.say(f"plot: {plot}")
    if as_json:
        import orjson

        # NaN, for what is undefined, becomes null.
        sys.stdout.write(orjson.dumps(found.as_dict(), option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        print_tables(found, color=console.color)
    return exit_code(counts, None, console)


def _read(
    source: str,
    catalog_path: str | None,
    form: RecordFormat,
    user_field: str,
    labels_field: str | None,
    rate: float,
    seed: int,
    on_error: OnError | None,
) -> LabelledData:
    from llm4dsr_cli.evaluation.labelled_data import LabelledData, labels_of
    from llm4dsr_cli.records.reader import LineReader, read_parsed
    from llm4dsr_cli.records.record import Record, load_catalog, parse_record

    catalog = load_catalog(catalog_path, form)

    def parse(line: bytes, where: str) -> Record:
        record = parse_record(line, where, form, catalog)
        if labels_field is not None:
            labels_of(record, labels_field)  # a line without labels is one that --on-error is about
        return record

    with LineReader.open(source) as reader:
        records = (record for batch in read_parsed(reader, 1024, parse, on_error) for record in batch)
        if labels_field is not None:
            return LabelledData.read(records, labels_field, user_field=user_field)
        titles = None if catalog is None else [title for _, title in catalog if title is not None]
        return LabelledData.inject(records, rate, seed=seed, catalog=titles, user_field=user_field)
