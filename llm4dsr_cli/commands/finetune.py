"""``llm4dsr finetune``"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from llm4dsr_cli.commands.completion import bases, denoisers, one_of
from llm4dsr_cli.commands.inputs import exit_code
from llm4dsr_cli.commands.options import ErrorOptions, Offline, RunOptions
from llm4dsr_cli.commands.parameters import OptionSet, option_sets
from llm4dsr_cli.commands.record_options import DataOptions
from llm4dsr_cli.defaults import FALSE_EDIT_RATE, USER_FIELD
from llm4dsr_cli.errors import MissingExtraError, OptionError

if TYPE_CHECKING:
    from llm4dsr_cli.console import Advance
    from llm4dsr_cli.finetune.run import Finetuned
    from llm4dsr_cli.finetune.settings import Schedule, Settings, SuggestionSettings
    from llm4dsr_cli.finetune.start import Start
    from llm4dsr_cli.finetune.tasks import Row
    from llm4dsr_cli.finetune.trainer import Progress
    from llm4dsr_cli.model.adapter import Part

UNITS = {"s": 1, "m": 60, "h": 3600}
# Of the time or of the windows, what goes to the training in suggestions when both parts are trained.
SUGGESTION_SHARE = 0.2
# What the extra brings; another module that is missing is a bug, and should look like one.
EXTRA = ("torch", "transformers", "safetensors")


@dataclass(frozen=True, kw_only=True)
class StartOptions(OptionSet):
    """What is trained, and from which weights on."""

    heading: ClassVar[str] = "Model"

    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            metavar="NAME|FILE",
            autocompletion=denoisers,
            help="Denoiser to start from; none for the base model alone. [default: the one that ships]",
        ),
    ] = None
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="NAME|FILE",
            autocompletion=bases,
            envvar="LLM4DSR_BASE",
            help="Base model to adapt. [default: that of the denoiser to start from]",
        ),
    ] = None
    layers: Annotated[
        int | None,
        typer.Option(
            "--layers",
            metavar="N",
            help="Keep only the base's first N layers: faster, smaller. [default: as the start, else all]",
        ),
    ] = None
    adapted_layers: Annotated[
        int | None,
        typer.Option(
            "--adapted-layers",
            metavar="N",
            help="Train adapters in the upper N layers alone: faster; those below stay as the start has them. "
            "[default: all]",
        ),
    ] = None
    rank: Annotated[
        int | None, typer.Option("--rank", metavar="N", help="Rank of the adapter. [default: as the start, else 16]")
    ] = None
    max_window: Annotated[
        int | None, typer.Option("--max-window", metavar="N", help="Items of the largest window. [default: 20]")
    ] = None
    max_title_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-title-tokens",
            metavar="N",
            help="Longer titles are cut to this many tokens. [default: of 16, 24, 32, 48 and 64 the fewest that tell "
            "the catalog's titles]",
        ),
    ] = None
    licence: Annotated[str, typer.Option("--licence", metavar="NAME", help="Licence of the denoiser.")] = ""
    offline: Offline = False

    def inputs(self) -> dict[str, str]:
        paths = {"--base": self.base, "--init": self.init}
        return {name: path for name, path in paths.items() if path}


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(OptionSet):
    """How it is trained."""

    heading: ClassVar[str] = "Training"

    part: Annotated[
        str,
        typer.Option(
            "--train",
            autocompletion=one_of("detector", "suggester", "both"),
            metavar="detector|suggester|both",
            help="What is trained; the other part stays as the start has it. Of both, suggestions take a fifth of the "
            "time.",
        ),
    ] = "detector"
    windows: Annotated[
        int | None,
        typer.Option(
            "--windows",
            metavar="N",
            help="Windows to train on; of both, suggestions take a quarter more. "
            "[default: 20000, or what the time budget allows]",
        ),
    ] = None
    time_budget: Annotated[
        str | None, typer.Option("--time-budget", metavar="TIME", help="Training time, such as 90s, 60m or 2h.")
    ] = None
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            metavar="X",
            help="Peak learning rate of the detector. [default: 5e-4 from a denoiser, else 1e-3]",
        ),
    ] = None
    noise: Annotated[
        str | None,
        typer.Option(
            "--noise",
            metavar="uniform|mixed",
            autocompletion=one_of("uniform", "mixed"),
            help="What the detector learns to find: any title, or popular and like titles among them. "
            "[default: uniform]",
        ),
    ] = None
    early_stop: Annotated[
        bool | None,
        typer.Option(
            "--early-stop/--no-early-stop", help="Stop when validation gains nothing any more. [default: early-stop]"
        ),
    ] = None
    batch_windows: Annotated[
        int | None,
        typer.Option("--batch-windows", metavar="N", help="Windows of one step. [default: 16, for suggestions 8]"),
    ] = None
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Fixes data and initial weights.")] = 0
    device: Annotated[
        str,
        typer.Option(
            "--device",
            metavar="NAME",
            autocompletion=one_of("auto", "cpu", "cuda", "mps"),
            help="auto, cpu, cuda or mps.",
        ),
    ] = "auto"
    compile_layers: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Compile the layers: a minute's wait, then faster. [default: when a C++ compiler is there]",
        ),
    ] = None

    def check(self, start: StartOptions, plot: str | None) -> None:
        """Refuse what contradicts itself, before torch is loaded. Raises OptionError."""
        if self.part not in ("detector", "suggester", "both"):
            raise OptionError(f"--train {self.part}: no such part", remedy="choose detector, suggester or both")
        if self.part == "suggester":
            of_detector: dict[str, Any] = {"--learning-rate": self.learning_rate, "--plot": plot}
            of_detector |= {"--early-stop or --no-early-stop": self.early_stop, "--layers": start.layers}
            of_detector |= {"--rank": start.rank, "--max-window": start.max_window}
            of_detector |= {"--adapted-layers": start.adapted_layers, "--noise": self.noise}
            of_detector |= {"--max-title-tokens": start.max_title_tokens, "--licence": start.licence or None}
            for name, value in of_detector.items():
                if value is not None:
                    raise OptionError(f"{name} is of the detector, which stays as it is", remedy=f"leave out {name}")
        if self.time_budget is not None:
            seconds_of(self.time_budget)

    def settings(self, options: StartOptions, start: Start) -> Settings:
        """Of the detector; of a suggester that is trained alone, the same time or windows. Raises OptionError."""
        budget = None if self.time_budget is None else seconds_of(self.time_budget)
        if budget is not None and self.part == "both":
            budget *= 1 - SUGGESTION_SHARE
        of_start = ("layers", "adapted_layers", "rank", "max_window", "max_title_tokens")
        of_training = ["windows", "learning_rate", "noise", "early_stop", "seed"]
        if self.part != "suggester":  # whose batches may be odd
            of_training.append("batch_windows")
        return start.settings(
            time_budget=budget,
            **{name: getattr(options, name) for name in of_start},
            **{name: getattr(self, name) for name in of_training},
        )

    def suggestions(self, settings: Settings) -> SuggestionSettings | None:
        """Of the suggester; None trains none."""
        from llm4dsr_cli.finetune.settings import SuggestionSettings

        if self.part == "detector":
            return None
        # As many more as make the share of all of them.
        times = SUGGESTION_SHARE / (1 - SUGGESTION_SHARE) if self.part == "both" else 1.0
        suggestions = SuggestionSettings(
            windows=None if settings.windows is None else max(1, round(settings.windows * times)),
            time_budget=None if settings.time_budget is None else settings.time_budget * times,
            seed=self.seed,
        )
        return suggestions if self.batch_windows is None else replace(suggestions, batch_windows=self.batch_windows)


@option_sets
def finetune(
    train: Annotated[
        list[str],
        typer.Argument(metavar="TRAIN...", help="JSONL of sequences, oldest item first; several files may be given."),
    ],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE.gguf", help="The denoiser to write.")],
    fields: DataOptions,
    training: TrainingOptions,
    model: StartOptions,
    errors: ErrorOptions,
    run: RunOptions,
    catalog: Annotated[
        list[str] | None,
        typer.Option("--catalog", metavar="FILE", help="Titles by id: one for all files, or one for each, in order."),
    ] = None,
    user_field: Annotated[
        str,
        typer.Option(
            "--user-field", metavar="NAME", help="Whose sequence it is; held-out sequences are of other users."
        ),
    ] = USER_FIELD,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="FILE", help="Draw the training curve: a .png, .svg or .pdf file."),
    ] = None,
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
    training.check(model, plot)

    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.evaluation.picture import check_plot
    from llm4dsr_cli.finetune.curve import plot_training
    from llm4dsr_cli.finetune.start import find_start
    from llm4dsr_cli.records.writer import OutputFile, check_paths

    outputs = {"--output": output, **({"--plot": plot} if plot else {})}
    for path in train:
        check_paths({"TRAIN": path}, outputs)
    for path in catalogs:
        check_paths({"--catalog": path}, outputs)
    check_paths(model.inputs(), outputs)
    OutputFile(output)  # what is wrong with it should show now, not after the training
    if plot is not None:
        check_plot(Path(plot))
        OutputFile(plot)

    console = run.console()
    counts = RunCounts()
    start = find_start(model.init, model.base, say=console.say)
    if start.denoiser is not None:
        check_paths({"--init": str(start.denoiser)}, outputs)
    settings = training.settings(model, start)
    suggestions = training.suggestions(settings)
    # Other libraries' progress bars would write over ours.
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        from llm4dsr_cli.commands.domains import read_domains
        from llm4dsr_cli.finetune.outputs import Outputs
        from llm4dsr_cli.finetune.run import finetune as learn
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise MissingExtraError("finetune", str(error.name)) from None
    domains = read_domains(train, catalogs, fields, user_field, errors, counts, console)
    console.say(_parts(training.part, start, settings, suggestions))
    try:
        with console.progress() as advance:
            done = learn(
                domains,
                Path(output),
                start,
                settings,
                suggestions,
                detector=training.part != "suggester",
                resume=training.resume,
                device=training.device,
                compile_layers=training.compile_layers,
                offline=model.offline,
                licence=model.licence,
                say=console.say,
                on_step=_reporter(advance, {"detector": settings, "suggester": suggestions or settings}),
                on_validation=lambda part, row: console.say(_validation_line(part, row)),
            )
    except KeyboardInterrupt:
        kept = Outputs(Path(output))
        if not (kept.checkpoint("detector").exists() or kept.checkpoint("suggester").exists()):
            raise
        raise KeyboardInterrupt(f"interrupted; the run is kept in {kept.folder}: go on with --resume") from None
    if done.history:
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


def _parts(part: str, start: Start, detector: Settings, suggestions: SuggestionSettings | None) -> str:
    """What is trained, and what of a run goes to which part; the pace that is said next is the detector's."""
    from llm4dsr_cli.finetune.pace import duration

    if suggestions is None:
        if start.suggester is None:
            return "trains the detector alone (--train both trains a suggester too)"
        return "trains the detector; the suggester stays as it is (--train both trains it too)"
    if part == "suggester":
        return "trains the suggester; the detector stays as it is"
    if detector.time_budget is not None and suggestions.time_budget is not None:
        shares = duration(detector.time_budget), duration(suggestions.time_budget)
    else:
        shares = f"{detector.windows:,} windows", f"{suggestions.windows:,}"
    return f"{shares[0]} for the detector, then {shares[1]} for suggestions"


def _validation_line(part: Part, row: Row) -> str:
    from llm4dsr_cli.finetune.pace import duration

    began = f"{row['windows']:,} windows, {duration(row['seconds'])}" if row["step"] else "before"
    if part == "suggester":
        return f"suggestions, {began}: {row['held_out_loss']:.3f} nats a token on held-out users"
    loss = f"loss {row['loss']:.3f}, " if row["step"] else ""
    return (
        f"{began}: {loss}on held-out users AUROC {row['auroc']:.3f}, average precision {row['average_precision']:.3f}"
    )


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
    at = f"--false-edit-rate {FALSE_EDIT_RATE}"
    if done.power is None:
        yield f"its calibration is too small for {at}: give more sequences, or --threshold"
    else:
        found, lost = done.power.recall, done.power.false_edit_rate
        yield f"at {at} it finds {found:.0%} of the injected noise and edits {lost:.1%} of the items that belong"


def _reporter(advance: Advance, settings: Mapping[Part, Schedule]) -> Callable[[Part, Progress], None]:
    def report(part: Part, progress: Progress) -> None:
        text, last = f"{progress.windows:,} windows, loss {progress.loss:.3f}", progress.history[-1]
        if part == "suggester":
            text = f"suggestions: {text}, {last['held_out_loss']:.3f} nats a token"
        else:
            text += f", AUROC {last['auroc']:.3f}, AP {last['average_precision']:.3f}"
        advance(text, settings[part].fraction(progress.step, progress.seconds))

    return report
