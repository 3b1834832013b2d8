"""The options of the commands that do not take the sets of ``options`` yet."""

from __future__ import annotations

from typing import Annotated

import typer

Catalog = Annotated[
    str | None,
    typer.Option(
        "--catalog",
        metavar="FILE",
        help="Item titles by id: JSONL, CSV or TSV with a header, or RecBole's .item; .gz works.",
    ),
]
ItemsField = Annotated[str, typer.Option("--items-field", metavar="NAME", help="Field that holds the items.")]
TitlesField = Annotated[
    str | None, typer.Option("--titles-field", metavar="NAME", help="Field with a parallel list of titles.")
]
ItemIdField = Annotated[
    str | None,
    typer.Option(
        "--item-id-field",
        metavar="NAME",
        help="Field of an item's id, in the catalog and in items that are objects. [default: id]",
    ),
]
ItemTitleField = Annotated[
    str | None,
    typer.Option("--item-title-field", metavar="NAME", help="Field of an item's title, likewise. [default: title]"),
]
ParallelField = Annotated[
    list[str] | None,
    typer.Option(
        "--parallel-field", metavar="NAME", help="List that runs parallel to the items, as ratings do. Repeatable."
    ),
]
_WHAT_ACTIONS_DO = "drop: take flagged items out. mark: flag them in noise_flag."
Action = Annotated[str, typer.Option("--action", metavar="ACTION", help=_WHAT_ACTIONS_DO)]
CleaningAction = Annotated[
    str | None,
    typer.Option(
        "--action",
        metavar="ACTION",
        help=f"replace: put what belongs in the place of flagged items. {_WHAT_ACTIONS_DO} "
        "[default: replace; drop on a pipe, unless --gate and --catalog say what may replace]",
    ),
]
Proposer = Annotated[
    str | None,
    typer.Option(
        "--proposer",
        metavar="counts|generate",
        help="What replaces: items that others have beside those of the sequence, or titles that the model names. "
        "[default: counts]",
    ),
]
Fallback = Annotated[
    str | None,
    typer.Option(
        "--fallback",
        metavar="drop|keep",
        help="What replace does with a flagged item for which it finds nothing that belongs. [default: drop]",
    ),
]
FalseEditRate = Annotated[
    float | None,
    typer.Option(
        "--false-edit-rate",
        metavar="RATE",
        help="Edit at most this share of the items that belong, by the calibration of the gate file, or of the "
        "denoiser. [default: 0.01]",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", metavar="P", help="Edit items above this noise probability, whatever the rate."),
]
MaxEdits = Annotated[
    float | None,
    typer.Option("--max-edits", metavar="N", help="Most edits a sequence: a number, or a share below 1."),
]
ProtectLast = Annotated[
    int, typer.Option("--protect-last", metavar="N", help="Never edit the last N items of a sequence.")
]
GateFile = Annotated[
    str | None,
    typer.Option(
        "--gate",
        metavar="FILE",
        help="Gate file of `llm4dsr calibrate`: judge by the denoiser and by counts of your data together.",
    ),
]
NoFusion = Annotated[
    bool,
    typer.Option("--no-fusion", help="Of the gate file, use the thresholds only, and judge by the denoiser alone."),
]
GateUserField = Annotated[
    str | None,
    typer.Option(
        "--user-field",
        metavar="NAME",
        help="Whose sequence a record is. [default: the gate file's, else user_id]",
    ),
]
Audit = Annotated[
    str | None,
    typer.Option("--audit", metavar="FILE", help="Write a line for every edit, enough to undo it."),
]
Annotate = Annotated[bool, typer.Option("--annotate", help="Add each item's noise_probability to its record.")]
Report = Annotated[
    str | None, typer.Option("--report", metavar="FILE", help="Write counts, gate and versions as JSON.")
]
OnError = Annotated[
    str, typer.Option("--on-error", metavar="fail|skip", help="What to do with a line that is no record.")
]
Rejects = Annotated[
    str | None,
    typer.Option("--rejects", metavar="FILE", help="Where skipped lines go. [default: OUT.rejects.jsonl]"),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|FILE",
        envvar="LLM4DSR_MODEL",
        help="Denoiser: a name from `llm4dsr models list`, or a GGUF file. [default: the one that ships]",
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="NAME|FILE",
        envvar="LLM4DSR_BASE",
        help="Base model: a name, a GGUF file, or hf:ORG/REPO/FILE. [default: the one the denoiser names]",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", envvar="LLM4DSR_THREADS", help="CPU threads. [default: usable cores]"),
]
GpuLayers = Annotated[
    int | None,
    typer.Option("--gpu-layers", metavar="N", help="Layers to keep on a GPU. [default: all, where there is one]"),
]
Weights = Annotated[str, typer.Option("--weights", metavar="TYPE", help="Runtime weights: auto, bf16, q8_0 or q4_0.")]
Offline = Annotated[
    bool, typer.Option("--offline", envvar="LLM4DSR_OFFLINE", help="Never use the network to get a base model.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print llama.cpp's log too.")]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colours; NO_COLOR and TERM=dumb work as well.")]
