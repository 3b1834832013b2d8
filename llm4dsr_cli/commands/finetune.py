"""``llm4dsr finetune``"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm4dsr_cli.commands import single_options as options
from llm4dsr_cli.commands.inputs import exit_code, leaving_out
from llm4dsr_cli.errors import MissingExtraError, OptionError

if TYPE_CHECKING:
    from llm4dsr_cli.console import Advance
    from llm4dsr_cli.finetune.run import Finetuned
    from llm4dsr_cli.finetune.settings import Settings
    from llm4dsr_cli.finetune.start import Start
    from llm4dsr_cli.finetune.suggestion import SuggestionSettings

UNITS = {"s": 1, "m": 60, "h": 3600}
# Of the time or of the windows, what goes to the training in suggestions when both parts are trained.
SUGGESTION_SHARE = 0.2
# What the extra brings; another module that is missing is a bug, and should look like one.
EXTRA = ("torch", "transformers", "peft", "safetensors")


def finetune(
    train: Annotated[
        list[str], typer.Argument(metavar="TRAIN...", help="JSONL of sequences; several files may be given.")
    ],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE.gguf", help="The denoiser to write.")],
    catalog: Annotated[
        list[str] | None,
        typer.Option("--catalog", metavar="FILE", help="Titles by id: one for all files, or one for each, in order."),
    ] = None,
    items_field: options.ItemsField = "items",
    titles_field: options.TitlesField = None,
    item_id_field: options.ItemIdField = None,
    item_title_field: options.ItemTitleField = None,
    user_field: Annotated[
        str,
        typer.Option(
            "--user-field", metavar="NAME", help="Whose sequence it is; held-out sequences are of other users."
        ),
    ] = "user_id",
    on_error: options.OnError = "fail",
    windows: Annotated[
        int | None,
        typer.Option(
            "--windows",
            metavar="N",
            help="Windows to train the detector on; suggestions take a quarter more. "
            "[default: 20000, or what the time budget allows]",
        ),
    ] = None,
    time_budget: Annotated[
        str | None, typer.Option("--time-budget", metavar="TIME", help="Training time, such as 90s, 60m or 2h.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            metavar="NAME|FILE",
            help="Denoiser to start from; none for the base model alone. [default: the one that ships]",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="NAME|FILE",
            envvar="LLM4DSR_BASE",
            help="Base model to adapt. [default: that of the denoiser to start from]",
        ),
    ] = None,
    train_only: Annotated[
        str | None,
        typer.Option(
            "--train-only",
            metavar="PART",
            help="detector or suggester: train one part only, the other stays as the start has it. "
            "[default: both; suggestions take a fifth of the time]",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            metavar="X",
            help="Peak learning rate of the detector. [default: 5e-4 from a denoiser, else 1e-3]",
        ),
    ] = None,
    early_stop: Annotated[
        bool | None,
        typer.Option(
            "--early-stop/--no-early-stop", help="Stop when validation gains nothing any more. [default: early-stop]"
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            "--layers",
            metavar="N",
            help="Keep only the base's first N layers: faster, smaller. [default: as the start, else all]",
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", metavar="N", help="Rank of the adapter. [default: as the start, else 16]")
    ] = None,
    max_window: Annotated[
        int | None, typer.Option("--max-window", metavar="N", help="Items of the largest window. [default: 20]")
    ] = None,
    max_title_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-title-tokens",
            metavar="N",
            help="Longer titles are cut to this many tokens. [default: as the start, else 16]",
        ),
    ] = None,
    batch_windows: Annotated[
        int | None,
        typer.Option("--batch-windows", metavar="N", help="Windows of one step. [default: 16, for suggestions 8]"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Fixes data and initial weights.")] = 0,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="FILE", help="Draw the training curve: a .png, .svg or .pdf file."),
    ] = None,
    licence: Annotated[str, typer.Option("--licence", metavar="NAME", help="Licence of the denoiser.")] = "",
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or mps.")] = "auto",
    compile_layers: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Compile the layers: a minute's wait, then faster. [default: when a C++ compiler is there]",
        ),
    ] = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_color: options.NoColor = False,
) -> int:
    """Train a denoiser on your own sequences, by self-supervision; no labels are needed.

    Needs the extra: pip install 'llm4dsr-cli[finetune]'

    Example: llm4dsr finetune train.jsonl --catalog catalog.jsonl --output my-denoiser.gguf --time-budget 60m
    """
    if not output.endswith(".gguf"):
        raise OptionError(f"--output {output}: a denoiser is a .gguf file", remedy=f"name it {output}.gguf")
    catalogs = catalog or []
    if len(catalogs) not in (0, 1, len(train)):
        raise OptionError(
            f"{len(catalogs)} catalogs for {len(train)} training files", remedy="give one for all, or one for each"
        )
    if train_only not in (None, "detector", "suggester"):
        raise OptionError(f"--train-only {train_only}: no such part", remedy="choose detector or suggester")
    if train_only == "suggester":
        of_detector = {"--learning-rate": learning_rate, "--layers": layers, "--rank": rank, "--plot": plot}
        of_detector |= {"--max-title-tokens": max_title_tokens, "--licence": licence or None}
        of_detector |= {"--max-window": max_window, "--early-stop or --no-early-stop": early_stop}
        for name, value in of_detector.items():
            if value is not None:
                raise OptionError(f"{name} is of the detector, which stays as it is", remedy=f"leave out {name}")
    budget = None if time_budget is None else seconds_of(time_budget)
    share = {None: SUGGESTION_SHARE, "detector": 0.0, "suggester": 1.0}[train_only]

    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.finetune.curve import check_plot, plot_training
    from llm4dsr_cli.finetune.start import find_start
    from llm4dsr_cli.records.record import RecordFormat
    from llm4dsr_cli.records.writer import OutputFile, check_paths

    inputs = {"TRAIN": train, "--catalog": catalogs, "--base": [base] if base else [], "--init": [init] if init else []}
    outputs = {"--output": output, **({"--plot": plot} if plot else {})}
    for name, paths in inputs.items():
        for path in paths:
            check_paths({name: path}, outputs)
    OutputFile(output)  # what is wrong with it should show now, not after the training
    if plot is not None:
        check_plot(Path(plot))
        OutputFile(plot)

    console = Console(quiet=quiet, verbose=verbose, color=not no_color)
    counts = RunCounts()
    on_record_error = leaving_out(on_error, counts, console)
    start = find_start(init, base, say=console.say)
    if start.denoiser is not None:
        check_paths({"--init": str(start.denoiser)}, outputs)
    settings = start.settings(
        windows=windows,
        time_budget=budget if budget is None or share == 1 else budget * (1 - share),
        learning_rate=learning_rate,
        layers=layers,
        rank=rank,
        max_window=max_window,
        max_title_tokens=max_title_tokens,
        batch_windows=batch_windows,
        early_stop=early_stop,
        seed=seed,
    )
    # Other libraries' progress bars would write over ours.
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        from llm4dsr_cli.commands.domains import read_domains
        from llm4dsr_cli.finetune.outputs import Outputs
        from llm4dsr_cli.finetune.run import finetune as run
        from llm4dsr_cli.finetune.suggestion import SuggestionSettings
        from llm4dsr_cli.finetune.suggestion_run import finetune_suggestions
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise MissingExtraError("finetune", str(error.name)) from None
    form = RecordFormat(items_field, titles_field, item_id_field=item_id_field, item_title_field=item_title_field)
    domains = read_domains(train, catalogs, form, user_field, on_record_error, console)
    suggestions = None
    if share:
        # As many more windows as make the share of all of them.
        more = None
        if settings.windows is not None:
            more = max(1, round(settings.windows * (share / (1 - share) if share < 1 else 1)))
        suggestions = SuggestionSettings(
            windows=more,
            time_budget=None if budget is None else budget * share,
            seed=seed,
            **({} if batch_windows is None else {"batch_windows": batch_windows}),
        )
        if share < 1:
            console.say(_shares(settings, suggestions))
    common: dict[str, Any] = {
        "resume": resume,
        "device": device,
        "compile_layers": compile_layers,
        "offline": offline,
        "say": console.say,
    }

    def tell(row: dict[str, float]) -> None:
        console.say(_suggestion_line(row))

    try:
        with console.progress() as advance:
            suggestion_step = _suggestion_reporter(advance, suggestions)
            if share == 1:
                assert suggestions is not None
                finetune_suggestions(
                    domains,
                    Path(output),
                    start,
                    settings,
                    suggestions,
                    **common,
                    on_step=suggestion_step,
                    on_validation=tell,
                )
                return exit_code(counts, None, console)
            done = run(
                domains,
                Path(output),
                start,
                settings,
                suggestions,
                licence=licence,
                **common,
                on_validation=lambda row: console.say(_validation_line(row)),
                on_step=_reporter(advance, settings.total_steps, settings.time_budget),
                on_suggestion_step=suggestion_step,
                on_suggestion_validation=tell,
            )
    except KeyboardInterrupt:
        kept = Outputs(Path(output))
        if not (kept.checkpoint.exists() or kept.suggestion_checkpoint.exists()):
            raise
        raise KeyboardInterrupt(f"interrupted; the run is kept in {kept.folder}: go on with --resume") from None
    for line in _summary(output, start, done):
        console.say(line)
    if plot is not None:
        plot_training(done, Path(plot))
    return exit_code(counts, None, console)


def seconds_of(text: str) -> float:
    """Seconds of a time such as ``90s``, ``60m`` or ``1.5h``.

    Raises:
        OptionError: it is no such time.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not match or float(match[1]) == 0:
        raise OptionError(f"--time-budget {text}: no such time", remedy="write 90s, 60m or 2h")
    return float(match[1]) * UNITS[match[2]]


def _shares(detector: Settings, suggestions: SuggestionSettings) -> str:
    """What of a run goes to which part; the pace that is said next is the detector's."""
    from llm4dsr_cli.finetune.pace import duration

    if detector.time_budget is not None and suggestions.time_budget is not None:
        parts = duration(detector.time_budget), duration(suggestions.time_budget)
    else:
        parts = f"{detector.windows:,} windows", f"{suggestions.windows:,}"
    return f"{parts[0]} for the detector, then {parts[1]} for suggestions"


def _validation_line(row: dict[str, float]) -> str:
    from llm4dsr_cli.finetune.pace import duration

    began = "before" if "loss" not in row else f"{row['windows']:,} windows, {duration(row['seconds'])}"
    loss = f"loss {row['loss']:.3f}, " if "loss" in row else ""
    return (
        f"{began}: {loss}on held-out users AUROC {row['auroc']:.3f}, average precision {row['average_precision']:.3f}"
    )


def _suggestion_line(row: dict[str, float]) -> str:
    from llm4dsr_cli.finetune.pace import duration

    began = "before" if not row["windows"] else f"{row['windows']:,} windows, {duration(row['seconds'])}"
    return f"suggestions, {began}: {row['loss']:.3f} nats a token on held-out users"


def _summary(output: str, start: Start, done: Finetuned) -> Iterator[str]:
    """What came out, for people: the weights kept, the comparison, and what the gate can do."""
    from llm4dsr_cli.finetune.comparison import AFTER, BEFORE, table
    from llm4dsr_cli.finetune.pace import duration

    last, chosen = done.history[-1], done.chosen
    best = "" if chosen is last or chosen["step"] == last["step"] else f", best after {chosen['windows']:,} of them"
    yield f"{output}: {last['windows']:,} windows in {duration(last['seconds'])}{best}"
    names = {BEFORE: f"before ({start.metadata.name if start.metadata else 'untrained'})", AFTER: "after"}
    yield ""
    yield from table([replace(line, scorer=names.get(line.scorer, line.scorer)) for line in done.comparison])
    yield ""
    if done.power is None:
        yield "its calibration is too small for a false-edit rate of 0.01: give more sequences, or --threshold"
    else:
        yield (
            f"at --false-edit-rate {done.power.rate:g} it finds {done.power.found:.0%} of the injected noise "
            f"and edits {done.power.false_edits:.1%} of the items that belong"
        )


def _suggestion_reporter(advance: Advance, settings: Any) -> Any:
    def report(progress: Any) -> None:
        budget = settings.time_budget
        fraction = max(progress.step / settings.total_steps, progress.seconds / budget if budget else 0.0)
        advance(f"suggestions: {progress.windows:,} windows, {progress.history[-1]['loss']:.3f} nats a token", fraction)

    return report


def _reporter(advance: Advance, total_steps: float, budget: float | None) -> Any:
    def report(progress: Any) -> None:
        fraction = max(progress.step / total_steps, progress.seconds / budget if budget else 0.0)
        text = f"{progress.windows:,} windows, loss {progress.loss:.3f}"
        if progress.history:
            last = progress.history[-1]
            text += f", AUROC {last['auroc']:.3f}, AP {last['average_precision']:.3f}"
        advance(text, fraction)

    return report
