"""Loading: a denoiser's file, the base model that it names, and the runtime that both are merged into."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from llm4dsr_cli.cache import file_sha256, open_to_others
from llm4dsr_cli.errors import MissingExtraError, ModelError, OptionError
from llm4dsr_cli.model.adapter import Part
from llm4dsr_cli.model.base_model import find_base, is_file
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.merged_model import cached_runtime, check_weights, runtime_model
from llm4dsr_cli.model.metadata import DenoiserMetadata
from llm4dsr_cli.model.registry import Registry, find_denoiser
from llm4dsr_cli.text import shortened

# Who multiplies.
ENGINES = ("llama", "torch")
# llama.cpp crashes the process where it cannot start so many.
MOST_THREADS = 512
# Folders of the cache that others may write to, of which this process has been told.
_told: set[tuple[Path, str]] = set()


def read_denoiser(model: str | Path | None) -> tuple[Path, DenoiserMetadata, bool]:
    """A denoiser's file, what it says of itself, and whether it is an adapter, that takes a base model.

    Raises:
        ModelError: it is missing, damaged or no denoiser.
    """
    path = find_denoiser(model, Registry.load())
    file = open_gguf(path)
    return path, DenoiserMetadata.read(file, path), file.value("general.type") == "adapter"


def find_runtime(
    path: str | Path,
    metadata: DenoiserMetadata,
    *,
    base: str | Path | None,
    weights: str,
    offline: bool,
    say: Callable[[str], None],
    part: Part = "detector",
    threads: int | None = None,
    gpu_layers: int | None = None,
) -> Path:
    """The merged model of one part of a denoiser's adapter, made and kept on first use.

    Args are those of ``Denoiser.load`` and ``runtime_model``.

    Raises:
        ModelError: adapter or base cannot be used.
        OutputError: the cache folder cannot be written.
    """
    if (others := open_to_others()) is not None and others not in _told:
        _told.add(others)
        say(f"others may write to {others[0]}, and so choose the model that runs: {others[1]}")
    if base is None and (found := cached_runtime(path, metadata, weights, part, say)) is not None:
        return found
    base_path = _find_base(base, metadata, path, Registry.load(), offline, say)
    return runtime_model(
        path,
        metadata,
        base_path,
        weights=weights,
        say=say,
        part=part,
        threads=threads,
        gpu_layers=gpu_layers,
    )


def no_numbers(where: Path) -> ModelError:
    """The error of a model that gives NaN or infinity where a log-probability should be."""
    return ModelError(
        "its log-probabilities are not all finite numbers",
        where=str(where),
        remedy="it may be damaged: fetch or make it again, or choose another denoiser",
    )


def check_options(weights: str, threads: int | None, gpu_layers: int | None, engine: str = "llama") -> None:
    """Before anything is loaded: raises OptionError for an unknown weight type or engine, or a number out of range, and
    MissingExtraError for an engine that is not installed."""
    check_weights(weights)
    if engine not in ENGINES:
        raise OptionError(f"`engine` is {engine}: no such engine", remedy=f"choose {' or '.join(ENGINES)}")
    if engine == "torch":
        if gpu_layers is not None:
            raise OptionError("`gpu_layers` is of llama.cpp, which does not run", remedy="leave out `gpu_layers`")
        for package in ("torch", "transformers"):
            if find_spec(package) is None:
                raise MissingExtraError("finetune", package)
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise OptionError(
            f"`threads` is {threads}: it goes from 1 to {MOST_THREADS}", remedy="leave it out, or give one of these"
        )
    if gpu_layers is not None and gpu_layers < 0:
        raise OptionError(f"`gpu_layers` is {gpu_layers}: it begins at 0", remedy="leave it out for all layers")


def _find_base(
    base: str | Path | None,
    metadata: DenoiserMetadata,
    denoiser: str | Path,
    registry: Registry,
    offline: bool,
    say: Callable[[str], None],
) -> Path:
    """The file of the base model that a denoiser was trained on; pulled when need be."""
    name = metadata.base_name
    if not (base or name in registry.bases or name.startswith("hf:") or is_file(name)):
        raise ModelError(
            f"its base model, {shortened(name, 300)}, is not in the registry",
            where=str(denoiser),
            remedy="give its file as `base`",
        )
    path = find_base(base or name, registry=registry, offline=offline, say=say)
    found = file_sha256(path)
    if found != metadata.base_sha256:
        again = "leave out `base`, or give the one it was trained on" if base else "give that one as `base`"
        raise ModelError(
            f"it was trained on {shortened(metadata.base_name, 300)} (sha256 {metadata.base_sha256[:12]}...), "
            f"and {path} is another base model ({found[:12]}...)",
            where=str(denoiser),
            remedy=again,
        )
    return path
