"""The runtime model: base and adapter merged into one GGUF, re-typed for this machine, made once and kept.

The merged weight is W + (alpha / rank) * B A, with A and B as the adapter holds them (gguf's order of rows and
columns, as llama.cpp itself would apply them). Matrices get the chosen weight type, everything else stays 32-bit.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.cache import CACHE_REMEDY, cache_folder, cache_subfolder, file_sha256, mark_used, tidy
from llm4dsr_cli.errors import ModelError, OptionError, OutputError
from llm4dsr_cli.files import atomic_path
from llm4dsr_cli.locks import exclusive
from llm4dsr_cli.model.engine import Engine, Request
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.llama import Model, open_files
from llm4dsr_cli.model.metadata import SUGGESTER, DenoiserMetadata

# A denoiser file holds two adapters: one finds noise, the other suggests what belongs.
Part = Literal["detector", "suggester"]
WEIGHTS = ("auto", "bf16", "q8_0", "q4_0")
_TYPES = {
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}
# The weight types that "auto" times against each other: those that leave the scores as they are.
_FAITHFUL = ("bf16", "q8_0")
# Raised when the merged files of earlier versions should no longer be used.
_LAYOUT = 1


def runtime_model(
    adapter: str | Path,
    metadata: DenoiserMetadata,
    base: str | Path,
    *,
    weights: str,
    say: Callable[[str], None],
    part: Part = "detector",
    threads: int | None = None,
    gpu_layers: int | None = None,
) -> Path:
    """The merged model for this adapter, base and weight type, from the cache or made now.

    When one is made, those that were not used for longest leave the cache (``cache.KEPT``).

    Args:
        part: which of the file's two adapters is merged.
        base: the file that ``metadata.base_sha256`` names; the caller has checked it.
        weights: "bf16", "q8_0" or "q4_0"; "auto" makes bf16 and q8_0 and keeps the one that runs faster here, with
            the ``threads`` and ``gpu_layers`` that it is going to run with.
        say: told in one line when a file has to be made.

    Raises:
        OptionError: an unknown weight type.
        ModelError: base or adapter cannot be read or do not fit together.
        OutputError: the cache folder cannot be written.
    """
    check_weights(weights)
    if (found := cached_runtime(adapter, metadata, weights, part)) is not None:
        return found
    folder, stem = cache_folder() / "runtime", _stem(adapter, metadata, part)
    what = metadata.name if part == "detector" else f"the suggestions of {metadata.name}"
    cache_subfolder("runtime")
    with _alone(folder / f".{stem}.lock", lambda: say(f"waiting for another run, which merges {what} ...")):
        # What that run has chosen is for all: scores depend on the weights.
        found = cached_runtime(adapter, metadata, weights, part)
        if found is None:
            say(f"first use of {what}: merging it with {metadata.base_name} for this machine ...")
            found = _made(adapter, base, folder, stem, weights, part, say, threads, gpu_layers)
        return found


@contextmanager
def _alone(lock: Path, waiting: Callable[[], None]) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(lock, waiting))
        except OSError as error:
            raise OutputError(
                f"the cache folder cannot be written ({error.strerror})", where=str(lock.parent), remedy=CACHE_REMEDY
            ) from None
        yield


def _made(
    adapter: str | Path,
    base: str | Path,
    folder: Path,
    stem: str,
    weights: str,
    part: Part,
    say: Callable[[str], None],
    threads: int | None,
    gpu_layers: int | None,
) -> Path:
    if weights != "auto":
        path = folder / f"{stem}-{weights}.gguf"
        merge(adapter, base, path, weights, part)
        tidy("runtime", spared=open_files())
        return path
    run = secrets.token_hex(4)
    candidates = {kind: folder / f".{stem}-{kind}-{run}.gguf" for kind in _FAITHFUL}
    try:
        for kind, candidate in candidates.items():
            merge(adapter, base, candidate, kind, part)
        seconds = {kind: _seconds_a_batch(candidate, threads, gpu_layers) for kind, candidate in candidates.items()}
        fastest = min(seconds, key=lambda kind: seconds[kind])
        path = folder / f"{stem}-auto-{fastest}.gguf"
        candidates[fastest].replace(path)
    finally:
        for candidate in candidates.values():
            candidate.unlink(missing_ok=True)
    tidy("runtime", spared=open_files())
    say(f"weights: {fastest}, {max(seconds.values()) / seconds[fastest]:.1f}x as fast as the other type here")
    return path


def check_weights(weights: str) -> None:
    """Raises OptionError for an unknown weight type."""
    if weights not in WEIGHTS:
        raise OptionError(f"`weights` is {weights}: no such type", remedy=f"choose {', '.join(WEIGHTS)}")


def cached_runtime(
    adapter: str | Path, metadata: DenoiserMetadata, weights: str, part: Part = "detector"
) -> Path | None:
    """The merged model if an earlier use has made it; base and adapter are known by the hashes of their content."""
    folder, stem = cache_folder() / "runtime", _stem(adapter, metadata, part)
    if weights == "auto":
        # Two first uses at once may each have made a choice: all that follow should make the same one.
        found = min(folder.glob(f"{stem}-auto-*.gguf"), default=None)
    else:
        path = folder / f"{stem}-{weights}.gguf"
        found = path if path.is_file() else None
    if found is not None:
        mark_used(found)
    return found


def _stem(adapter: str | Path, metadata: DenoiserMetadata, part: Part) -> str:
    merged = f"{_LAYOUT}/{metadata.base_sha256}/{file_sha256(adapter)}"
    if part != "detector":
        merged += f"/{part}"
    key = hashlib.sha256(merged.encode()).hexdigest()[:16]
    # A name may come from a stranger: it must be no path, no glob pattern, and not too long.
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', metadata.name)[:60]}-{key}"


def merge(adapter: str | Path, base: str | Path, target: str | Path, weights: str, part: Part = "detector") -> None:
    """Write base + adapter as one GGUF, atomically.

    With the part "detector" it is a denoiser itself, that suggests nothing; with "suggester" it is a plain language
    model of all the base's layers, without a denoiser's metadata.

    Raises:
        ModelError: the adapter adapts tensors that the base does not have, or of another shape.
    """
    base_file, adapter_file = open_gguf(base), open_gguf(adapter)
    metadata = DenoiserMetadata.read(adapter_file, adapter)
    there = base_file.fields.get(f"{metadata.base_architecture}.block_count")
    layers = metadata.layers if part == "detector" else None
    if layers is not None and there is not None and layers > there.contents():
        raise ModelError(
            f"it uses {layers} layers, the base has {there.contents()}",
            where=str(adapter),
            remedy=f"use it with its own base model, {metadata.base_name}",
        )
    deltas = _deltas(adapter_file, adapter, metadata, part)
    weight_type, file_type = _TYPES[weights]
    with atomic_path(target) as temporary:
        writer = gguf.GGUFWriter(temporary, metadata.base_architecture)
        for name, field in base_file.fields.items():
            replaced = name in _REPLACED or (layers is not None and name.endswith(".block_count"))
            if not name.startswith(("GGUF.", "llm4dsr.")) and not replaced:
                sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(name, field.contents(), field.types[0], sub_type)
        writer.add_file_type(file_type)
        if layers is not None:
            writer.add_block_count(layers)
        if part == "detector":
            replace(metadata, suggestion_alpha=None).write(writer)
        for tensor in base_file.tensors:
            if layers is not None and _layer(tensor.name) >= layers:
                continue
            values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
            delta = deltas.pop(tensor.name, None)
            if delta is not None:
                b, a, scale = delta
                if (b.shape[0], a.shape[1]) != values.shape:
                    raise ModelError(
                        f"{tensor.name} is {values.shape} in the base, ({b.shape[0]}, {a.shape[1]}) in the adapter",
                        where=str(adapter),
                        remedy=f"use it with its own base model, {metadata.base_name}",
                    )
                values = values + scale * (b @ a)
            kind = weight_type if values.ndim > 1 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(tensor.name, gguf.quantize(values, kind), raw_dtype=kind)
        if deltas:
            raise ModelError(
                f"it adapts {next(iter(deltas))}, which the base does not have",
                where=str(adapter),
                remedy=f"use it with its own base model, {metadata.base_name}",
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _layer(tensor_name: str) -> int:
    """Number of the layer that a tensor belongs to; -1 for those of none."""
    match = re.match(r"blk\.(\d+)\.", tensor_name)
    return int(match[1]) if match else -1


_REPLACED = ("general.architecture", "general.file_type", "general.name", "general.license")


def _deltas(
    adapter: gguf.GGUFReader, where: str | Path, metadata: DenoiserMetadata, part: Part
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32], float]]:
    """(B, A, scale) for each tensor that this part adapts; B (out, rank), A (rank, in)."""
    sides: dict[str, dict[str, NDArray[np.float32]]] = {}
    for tensor in adapter.tensors:
        if tensor.name.startswith(SUGGESTER) == (part == "suggester"):
            name, _, side = tensor.name.removeprefix(SUGGESTER).rpartition(".")
            sides.setdefault(name, {})[side] = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    field = adapter.fields.get("adapter.lora.alpha")
    alpha = metadata.suggestion_alpha if part == "suggester" else field and field.contents()
    if alpha is None or not all(pair.keys() == {"lora_a", "lora_b"} for pair in sides.values()):
        raise ModelError("this is no whole LoRA adapter", where=str(where), remedy="fetch or make it again")
    scale = float(alpha)
    return {name: (pair["lora_b"], pair["lora_a"], scale / pair["lora_a"].shape[0]) for name, pair in sides.items()}


def _seconds_a_batch(path: Path, threads: int | None, gpu_layers: int | None) -> float:
    """Time of one full batch, the better of three."""
    with Model(path, gpu_layers=gpu_layers) as model, Engine(model, causal=False, threads=threads) as engine:
        tokens = np.arange(64, dtype=np.int32) + 100
        requests = [Request(tokens, np.array([63], dtype=np.int32))] * (engine.batch_tokens // 64)
        best = float("inf")
        for _ in range(3):
            began = time.perf_counter()
            list(engine.log_probabilities(requests, tokens[:2]))
            best = min(best, time.perf_counter() - began)
    return best
