"""Options that several commands share."""

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
