"""``llm4dsr evaluate``"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from llm4dsr_cli.commands.inputs import exit_code, tell_cut, tell_unjudged, warn_of_nameless
from llm4dsr_cli.commands.options import ErrorOptions, ModelOptions, RunOptions, ThresholdOptions
from llm4dsr_cli.commands.parameters import OptionSet, option_sets
from llm4dsr_cli.commands.record_options import RecordOptions
from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.streams import check_out, write_out

if TYPE_CHECKING:
    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.evaluation.labelled_data import LabelledData
    from llm4dsr_cli.records.record import OnError

DEFAULT_INJECTED = 0.1


@dataclass(frozen=True, kw_only=True)
class MeasuredGateOptions(ThresholdOptions):
    """Which gate is measured."""

    heading: ClassVar[str] = "The gate that is measured"

    gate: Annotated[
        str | None,
        typer.Option(
            "--gate",
            metavar="FILE",
            help="Gate file of `llm4dsr calibrate`; users that it was calibrated on are left out.",
        ),
    ] = None
    protect_last: Annotated[
        int, typer.Option("--protect-last", metavar="N", help="Leave the last N items of a sequence out of measuring.")
    ] = 1


@dataclass(frozen=True, kw_only=True)
class NoiseOptions(OptionSet):
    """Where the noise is that is to be found."""

    heading: ClassVar[str] = "Noise"

    labels_field: Annotated[
        str | None,
        typer.Option(
            "--labels-field",
            metavar="NAME",
            help="List of labels, one an item: 1 or true for noise, 0 or false for the rest.",
        ),
    ] = None
    inject: Annotated[
        float | None,
        typer.Option(
            "--inject",
            metavar="RATE",
            help=f"Replace this share of the items by random titles. [default: {DEFAULT_INJECTED}]",
        ),
    ] = None
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Fixes injected noise and intervals.")] = 0

    def check(self) -> None:
        """Raises OptionError for options that contradict each other."""
        if self.labels_field is not None and self.inject is not None:
            raise OptionError("--labels-field and --inject contradict each other", remedy="give one of them")

    def load(
        self,
        source: str,
        records: RecordOptions,
        user_field: str,
        on_error: OnError | None,
        counts: RunCounts,
        console: Console,
    ) -> LabelledData:
        """The records of ``source`` with labels, of their own or of noise that is injected; ``counts`` are kept."""
        from llm4dsr_cli.evaluation.labelled_data import LabelledData, labels_of
        from llm4dsr_cli.records.parsing import parse_record
        from llm4dsr_cli.records.reader import LineReader, read_parsed
        from llm4dsr_cli.records.record import Record

        record_format, catalog = records.record_format(), records.load_catalog(source, console)

        def parse(line: bytes, where: str) -> Record:
            record = parse_record(line, where, record_format, catalog)
            if self.labels_field is not None:
                labels_of(record, self.labels_field)  # a line without labels is one that --on-error is about
            counts.add(record)
            return record

        with LineReader.open(source) as reader:
            read = (record for batch in read_parsed(reader, 1024, parse, on_error) for record in batch)
            if self.labels_field is not None:
                data = LabelledData.read(read, self.labels_field, user_field=user_field)
            else:
                titles = None if catalog is None else [title for _, title in catalog if title is not None]
                rate = DEFAULT_INJECTED if self.inject is None else self.inject
                data = LabelledData.inject(read, rate, seed=self.seed, catalog=titles, user_field=user_field)
        tell_unjudged(counts, catalog, console)
        return data


@option_sets
def evaluate(
    source: Annotated[
        str, typer.Argument(metavar="DATA", help="JSONL, one sequence a line, oldest item first; - for standard input.")
    ],
    records: RecordOptions,
    noise: NoiseOptions,
    gate: MeasuredGateOptions,
    errors: ErrorOptions,
    model: ModelOptions,
    run: RunOptions,
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
) -> int:
    """Measure how well noise is found, on labelled data or on noise that is injected.

    Extras: pip install 'llm4dsr-cli[benchmark]' for --baselines, 'llm4dsr-cli[plot]' for --plot

    Example: llm4dsr evaluate sequences.jsonl --catalog catalog.jsonl --inject 0.1 --seed 0 --plot quality.png
    """
    noise.check()
    gate.check()
    gate.check_fusion()

    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.commands.evaluation_tables import print_tables
    from llm4dsr_cli.evaluation.measure import EvaluationSettings
    from llm4dsr_cli.evaluation.measure import evaluate as measure
    from llm4dsr_cli.evaluation.picture import check_plot
    from llm4dsr_cli.evaluation.plots import plot_evaluation
    from llm4dsr_cli.evaluation.reference_scores import check_baselines
    from llm4dsr_cli.records.writer import OutputFile, check_paths
    from llm4dsr_cli.scores import log_odds_of

    check_out()
    console = run.console()
    counts = RunCounts()
    on_record_error = errors.leaving_out(counts, console)
    settings = EvaluationSettings(
        false_edit_rate=gate.false_edit_rate,
        threshold=None if gate.threshold is None else log_odds_of(gate.threshold),
        fusion=not gate.no_fusion,
        protect_last=gate.protect_last,
        limit=limit,
        baselines=baselines,
        bootstrap=bootstrap,
        seed=noise.seed,
    )
    model.check()
    # All that can be wrong with options, paths and data is found before the model is loaded.
    if baselines:
        check_baselines()
    if plot is not None:
        check_plot(Path(plot))
        check_paths({"DATA": source, **records.inputs(), **gate.inputs(), **model.inputs()}, {"--plot": plot})
        OutputFile(plot)
    gate_file = gate.load()
    user_field = gate.user_field_of(gate_file)
    labels = [] if noise.labels_field is None else [noise.labels_field]
    source, records = records.gathered(source, console, user_field, errors, counts, labels)
    data = noise.load(source, records, user_field, on_record_error, counts, console)
    if data.nameless and gate_file is not None and gate_file.user_field is not None:
        raise OptionError(
            f'{data.nameless:,} records have no "{user_field}", by which the gate knows whose counts to leave out',
            remedy="name the field with --user-field",
        )
    warn_of_nameless(console, data.nameless, user_field, "the intervals will be too narrow")
    with model.load(console.say) as denoiser:
        if gate_file is not None:
            gate_file.check_model(denoiser.sha256, str(gate.gate))
        with console.progress() as advance:
            found = measure(data, denoiser, settings, gate=gate_file, say=console.warn, advance=advance)
        tell_cut(denoiser.cut_titles, console)
    if not found.overall.detection.n_noise:
        console.warn("none of the judged items is noise: what needs noise is not measured")
    if plot is not None:
        plot_evaluation(found, Path(plot))
        console.say(f"plot: {plot}")
    if as_json:
        import orjson

        # NaN, for what is undefined, becomes null.
        write_out(orjson.dumps(found.as_dict(), option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        print_tables(found, color=console.color)
    return exit_code(counts, None, console)
