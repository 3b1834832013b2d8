"""The options that several commands share, in sets; each knows how to load what its options name.

A command takes a set by an annotation, under ``@option_sets``. Nothing heavy is imported before a loader is called, so
that help comes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from llm4dsr_cli.commands.command import in_flags
from llm4dsr_cli.commands.completion import bases, denoisers, one_of
from llm4dsr_cli.commands.inputs import leaving_out, rejects_path
from llm4dsr_cli.commands.parameters import OptionSet
from llm4dsr_cli.defaults import EDIT, FALSE_EDIT_RATE, USER_FIELD
from llm4dsr_cli.errors import OptionError

if TYPE_CHECKING:
    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.gate.gate_file import GateFile
    from llm4dsr_cli.model.denoiser import Denoiser
    from llm4dsr_cli.records.record import OnError

# Options that some command takes without the rest of their set.
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|FILE",
        autocompletion=denoisers,
        envvar="LLM4DSR_MODEL",
        help="Denoiser: a name from `llm4dsr models list`, or a GGUF file. [default: the one that ships]",
    ),
]
Offline = Annotated[
    bool, typer.Option("--offline", envvar="LLM4DSR_OFFLINE", help="Never use the network to get a base model.")
]
ProtectLast = Annotated[
    int, typer.Option("--protect-last", metavar="N", help="Never edit the newest N items of a sequence.")
]


def share(text: str) -> float:
    """A share as people write it: 5% or 0.05. Raises typer.BadParameter."""
    number, percent = (text[:-1], 100) if text.endswith("%") else (text, 1)
    try:
        return float(number) / percent
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no share; give one such as 5% or 0.05") from None


MaxEdits = Annotated[
    float | None,
    typer.Option("--max-edits", metavar="N", help="Most edits a sequence: a number, or a share below 1."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colours; NO_COLOR and TERM=dumb work as well.")]


def given(paths: Mapping[str, str | None]) -> dict[str, str]:
    """The paths that are not None."""
    return {name: path for name, path in paths.items() if path is not None}


@dataclass(frozen=True, kw_only=True)
class ModelOptions(OptionSet):
    """Which denoiser scores, on what."""

    heading: ClassVar[str] = "Model"

    model: Model = None
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="NAME|FILE",
            autocompletion=bases,
            envvar="LLM4DSR_BASE",
            help="Base model: a name, a GGUF file, or hf:ORG/REPO/FILE. [default: the one the denoiser names]",
        ),
    ] = None
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            metavar="TYPE",
            autocompletion=one_of("auto", "bf16", "q8_0", "q4_0"),
            help="Runtime weights: auto, bf16, q8_0 or q4_0.",
        ),
    ] = "auto"
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="llama|torch",
            envvar="LLM4DSR_ENGINE",
            autocompletion=one_of("llama", "torch"),
            help="Who multiplies: llama.cpp; or torch, faster on a GPU and on CPUs with AMX (extra finetune).",
        ),
    ] = "llama"
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            metavar="N",
            envvar="LLM4DSR_THREADS",
            help="CPU threads, at most 512. [default: as many as other programs leave cores free]",
        ),
    ] = None
    gpu_layers: Annotated[
        int | None,
        typer.Option("--gpu-layers", metavar="N", help="Layers to keep on a GPU. [default: all, where there is one]"),
    ] = None
    offline: Offline = False

    def inputs(self) -> dict[str, str]:
        return given({"--model": self.model, "--base": self.base})

    def check(self) -> None:
        """Refuse what ``load`` would refuse, before anything is read. Raises OptionError."""
        from llm4dsr_cli.model.loading import check_options

        check_options(self.weights, self.threads, self.gpu_layers, self.engine)

    def arguments(self) -> dict[str, Any]:
        """By keyword, for whatever loads a denoiser: ``Denoiser.load``, ``Suggester.load``."""
        return asdict(self)

    def load(self, say: Callable[[str], None], *, known_bytes: int = 0) -> Denoiser:
        """The denoiser; ``say`` is told what takes time. Raises what ``Denoiser.load`` raises."""
        from llm4dsr_cli.model.denoiser import Denoiser

        return Denoiser.load(**self.arguments(), say=say, known_bytes=known_bytes)


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(OptionSet):
    """Who judges, and whose sequence a record is."""

    heading: ClassVar[str] = "Gate"

    gate: Annotated[
        str | None,
        typer.Option(
            "--gate",
            metavar="FILE",
            help="Gate file of `llm4dsr calibrate`: judge by the denoiser and by counts of your data together.",
        ),
    ] = None
    no_fusion: Annotated[
        bool,
        typer.Option("--no-fusion", help="Judge by the denoiser alone; of a gate file, use the thresholds only."),
    ] = False
    user_field: Annotated[
        str | None,
        typer.Option(
            "--user-field",
            metavar="NAME",
            help=f"Whose sequence a record is. [default: the gate file's, else {USER_FIELD}]",
        ),
    ] = None

    def inputs(self) -> dict[str, str]:
        return given({"--gate": self.gate})

    def load(self) -> GateFile | None:
        """The gate file; None where there is none. Raises what ``GateFile.load`` raises."""
        from llm4dsr_cli.gate.gate_file import GateFile

        return None if self.gate is None else GateFile.load(Path(self.gate))

    def user_field_of(self, gate: GateFile | None) -> str:
        """The records' field that says whose sequence it is."""
        return self.user_field or (gate and gate.user_field) or USER_FIELD


@dataclass(frozen=True, kw_only=True)
class ThresholdOptions(JudgeOptions):
    """Which items are confidently noise."""

    false_edit_rate: Annotated[
        float | None,
        typer.Option(
            "--false-edit-rate",
            metavar="RATE",
            help="Edit at most this share of the items that belong, by the calibration of the gate file, or of the "
            f"denoiser. [default of a gate, of a pipe and of an evaluation: {FALSE_EDIT_RATE}]",
        ),
    ] = None
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", metavar="P", help="Edit items above this noise probability, whatever the rate."),
    ] = None
    protect_last: ProtectLast = 1

    def check(self) -> None:
        """Refuse options that contradict each other; raises OptionError."""
        if self.threshold is not None and self.false_edit_rate is not None:
            raise OptionError("--threshold and --false-edit-rate contradict each other", remedy="give one of them")

    def check_fusion(self) -> None:
        """Refuse --no-fusion where nothing but a gate file could be fused; raises OptionError."""
        if self.no_fusion and self.gate is None:
            raise OptionError("--no-fusion says how to use a gate file", remedy="give one with --gate, or leave it out")


@dataclass(frozen=True, kw_only=True)
class GateOptions(ThresholdOptions):
    """Which items are edited."""

    edit: Annotated[
        float | None,
        typer.Option(
            "--edit",
            "--budget",
            metavar="SHARE",
            parser=share,
            help="Edit at most this share of all items, the most suspicious ones: 5% or 0.05. The input is a file, "
            f"which is read twice. [default for a file, where no other option says how many: {EDIT:.0%}]",
        ),
    ] = None
    max_edits: MaxEdits = None

    @property
    def says_how_many(self) -> bool:
        """Whether one of the options says how many items are edited."""
        return any(value is not None for value in (self.edit, self.threshold, self.false_edit_rate, self.gate))

    def refuse_for_pipe(self) -> None:
        """Refuse what takes a file; raises OptionError."""
        if self.edit is not None:
            raise OptionError("--edit reads its input twice, and a pipe can be read once", remedy="give a file")
        self.check_fusion()

    def arguments(self) -> dict[str, Any]:
        """By keyword, what these options and ``CleaningSettings have in common. Raises OptionError."""
        self.check()
        names = ("threshold", "false_edit_rate", "edit", "max_edits", "protect_last")
        return {"fusion": not self.no_fusion, **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True, kw_only=True)
class OutputOptions(OptionSet):
    """What is written beside the records, and into them."""

    heading: ClassVar[str] = "Output"

    audit: Annotated[
        str | None,
        typer.Option("--audit", metavar="FILE", help="Write a line for every edit, for report, show and undo."),
    ] = None
    annotate: Annotated[bool, typer.Option("--annotate", help="Add each item's noise_probability to its record.")] = (
        False
    )
    report: Annotated[
        str | None, typer.Option("--report", metavar="FILE", help="Write counts, gate and versions as JSON.")
    ] = None

    def outputs(self) -> dict[str, str]:
        """Path by option."""
        return given({"--audit": self.audit, "--report": self.report})


@dataclass(frozen=True, kw_only=True)
class ErrorOptions(OptionSet):
    """What happens to lines that are no records."""

    heading: ClassVar[str] = "Lines that are no records"

    on_error: Annotated[
        str,
        typer.Option(
            "--on-error",
            metavar="fail|skip",
            autocompletion=one_of("fail", "skip"),
            help="What to do with a line that is no record; skip lets a row of a log stay as it is.",
        ),
    ] = "fail"

    def leaving_out(self, counts: RunCounts, console: Console) -> OnError | None:
        """For ``on_error`` of a command that writes no records; see ``inputs.leaving_out``."""
        return leaving_out(self.on_error, counts, console)


@dataclass(frozen=True, kw_only=True)
class RejectOptions(ErrorOptions):
    """The same for commands that write records, where such lines need a place."""

    rejects: Annotated[
        str | None,
        typer.Option("--rejects", metavar="FILE", help="Where skipped lines go. [default: OUT.rejects.jsonl]"),
    ] = None

    def path(self, target: str) -> str | None:
        """Where skipped lines go; None when none are skipped. Raises OptionError: see ``inputs.rejects_path``."""
        return rejects_path(self.on_error, self.rejects, target)


@dataclass(frozen=True, kw_only=True)
class RayOptions(OptionSet):
    """Whether Ray does the work, and where."""

    heading: ClassVar[str] = "Past one machine"

    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="[ADDRESS]",
            help="Clean a folder of JSONL or Parquet on Ray, into a folder: on this machine, or on its cluster, at "
            "auto or HOST:PORT. --threads is of each worker, --audit and --rejects name folders. What is finished is "
            "not done again.",
        ),
    ] = None
    ray_workers: Annotated[
        int | None,
        typer.Option("--ray-workers", metavar="N", help="Workers that hold a model. [default: all that have room]"),
    ] = None

    def check(self) -> None:
        """Refuse options that say how without saying that; raises OptionError."""
        if self.ray is None and self.ray_workers is not None:
            raise OptionError("--ray-workers says how many workers --ray has", remedy="add --ray, or leave it out")


@dataclass(frozen=True, kw_only=True)
class RunOptions(OptionSet):
    """What a person is told while a command runs."""

    heading: ClassVar[str] = "Messages"

    quiet: Quiet = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print llama.cpp's log too.")] = False
    no_color: NoColor = False

    def console(self) -> Console:
        """Where messages go; those of the library name the command's flags."""
        from llm4dsr_cli.console import Console

        return Console(quiet=self.quiet, verbose=self.verbose, color=not self.no_color, reword=in_flags)


@dataclass(frozen=True, kw_only=True)
class EditingRunOptions(RunOptions):
    """The same of a command that edits."""

    show: Annotated[
        int, typer.Option("--show", metavar="N", min=0, help="Show N of the edits before they are made.")
    ] = 10
