"""``llm4dsr models``"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm4dsr_cli.commands.command import Command, Group
from llm4dsr_cli.commands.completion import bases, denoisers
from llm4dsr_cli.commands.options import Quiet
from llm4dsr_cli.commands.text import aligned, outline
from llm4dsr_cli.streams import write_out
from llm4dsr_cli.text import printable_json

if TYPE_CHECKING:
    from llm4dsr_cli.model.metadata import DenoiserMetadata

models = typer.Typer(help="List, fetch, describe and check models.", cls=Group)


@models.command("list", cls=Command)
def list_() -> None:
    """List base models and denoisers that are known by name.

    Example: llm4dsr models list
    """
    from llm4dsr_cli.console import width_of
    from llm4dsr_cli.model.base_model import list_models
    from llm4dsr_cli.model.registry import Registry

    rows = [["name", "kind", "licence", "size", "here"]]
    for model in list_models(Registry.load()):
        size = "" if model.size is None else f"{model.size / 1e6:.1f} MB"
        rows.append([model.name, model.kind, model.licence or "", size, "yes" if model.present else "no"])
    write_out(aligned(rows, width_of(sys.stdout), right=(3,)))


@models.command(cls=Command)
def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", autocompletion=bases, help="A base model: a name, or hf:ORG/REPO/FILE.gguf[@REVISION]."
        ),
    ],
    force: Annotated[bool, typer.Option("--force", help="Fetch it again even if it is here.")] = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a base model into the cache, and check its hash.

    One that is there already is checked, too, and fetched again where it is damaged.

    Example: llm4dsr models pull smollm2-135m-instruct
    """
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.model.base_model import pull as pull_base
    from llm4dsr_cli.model.registry import Registry

    path = pull_base(name, registry=Registry.load(), say=Console(quiet=quiet).say, force=force)
    write_out(f"{path}\n")


@models.command(cls=Command)
def show(
    model: Annotated[
        str, typer.Argument(metavar="NAME|FILE", autocompletion=denoisers, help="A denoiser: a name, or a GGUF file.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Describe a denoiser by the metadata in its file.

    Example: llm4dsr models show my-denoiser.gguf
    """
    from llm4dsr_cli.console import width_of
    from llm4dsr_cli.model.gguf_file import open_gguf
    from llm4dsr_cli.model.metadata import DenoiserMetadata
    from llm4dsr_cli.model.registry import Registry, find_denoiser

    path = find_denoiser(model, Registry.load())
    description = _describe(DenoiserMetadata.read(open_gguf(path), path), path)
    if json:
        import orjson

        write_out(printable_json(orjson.dumps(description, option=orjson.OPT_INDENT_2).decode()) + "\n")
        return
    write_out(outline(description, width_of(sys.stdout)))


@models.command(cls=Command)
def verify(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=bases, help="A base model of the registry.")],
) -> None:
    """Read a base model whole and compare its hash with the registry's.

    Example: llm4dsr models verify smollm2-135m-instruct
    """
    from llm4dsr_cli.model.base_model import verify as verify_base
    from llm4dsr_cli.model.registry import Registry

    write_out(f"{verify_base(name, registry=Registry.load())}: ok\n")


@models.command(cls=Command)
def prune(
    keep: Annotated[
        int, typer.Option("--keep", min=0, metavar="N", help="Keep the N of each kind that were used last.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    quiet: Quiet = False,
) -> None:
    """Free the cache of what can be made again without a network.

    These are merged models and tries of catalogs. What killed runs left half-written goes, too. Base models stay.

    Example: llm4dsr models prune --keep 1
    """
    import datetime

    from llm4dsr_cli.cache import cached_files, remove, surplus
    from llm4dsr_cli.console import Console, width_of

    freed = 0
    rows = [["kind", "size", "last used", "", "file"]]
    for folder, kind in {"runtime": "merged model", "tries": "trie", "base": "base model"}.items():
        files = [file for file in cached_files(folder) if folder != "base" or not file.whole]
        goes = surplus(folder, keep, recent_s=0) if files else []
        for file in files:
            done = "kept"
            if file in goes:
                done = "would go" if dry_run else "removed" if remove(file) else "in use"
            freed += file.size if done in ("would go", "removed") else 0
            used = datetime.datetime.fromtimestamp(file.used).strftime("%Y-%m-%d %H:%M")
            name = kind if file.whole else "unfinished"
            rows.append([name, f"{file.size / 1e6:.1f} MB", used, done, f"{folder}/{file.path.name}"])
    if len(rows) > 1:
        write_out(aligned(rows, width_of(sys.stdout), right=(1,)))
    Console(quiet=quiet).say(f"{'would free' if dry_run else 'freed'} {freed / 1e6:.1f} MB")


def _describe(metadata: DenoiserMetadata, path: Path) -> dict[str, Any]:
    import numpy as np

    from llm4dsr_cli.cache import file_sha256
    from llm4dsr_cli.scores import probability

    calibration: dict[str, Any] | str = "none"
    if metadata.calibration is not None:
        thresholds = {
            f"threshold at false-edit rate {rate:g}": round(
                float(probability(np.array(metadata.calibration.threshold(rate)))), 4
            )
            for rate in (0.005, 0.01, 0.02, 0.05, 0.1)
            if rate >= metadata.calibration.rates[0]
        }
        calibration = {"items that belong": metadata.calibration.n_items, **thresholds}
    return {
        "name": metadata.name,
        "file": str(path),
        "sha256": file_sha256(path),
        "licence": metadata.licence or "not stated",
        "prompt format": f"{metadata.form.name} version {metadata.form.version}",
        "attention": "causal" if metadata.form.causal else "bidirectional",
        "probe": f"log-odds of {metadata.form.noise!r} over {metadata.form.belongs!r}",
        "largest window": metadata.max_window,
        "title tokens": metadata.max_title_tokens,
        "base": {
            "name": metadata.base_name,
            "architecture": metadata.base_architecture,
            "sha256": metadata.base_sha256,
        },
        "calibration": calibration,
        "suggests titles": "no" if metadata.suggestion_alpha is None else "yes",
        "training": metadata.training,
    }
