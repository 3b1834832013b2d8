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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np

from llm4dsr_cli.cache import CACHE_REMEDY, cache_folder, cache_subfolder, file_sha256, mark_used, tidy
from llm4dsr_cli.errors import ModelError, OptionError, OutputError
from llm4dsr_cli.files import atomic_path
from llm4dsr_cli.locks import exclusive
from llm4dsr_cli.model.adapter import Part, read_alpha, read_pairs
from llm4dsr_cli.model.architecture import Hyperparameters, check_model
from llm4dsr_cli.model.engine import Engine, Request
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.llama import Model, open_files
from llm4dsr_cli.model.metadata import DenoiserMetadata
from llm4dsr_cli.text import shortened

WEIGHTS = ("auto", "bf16", "q8_0", "q4_0")
_TYPES = {
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}
# The weight types that "auto" times against each other: those that leave the scores as they are.
_FAITHFUL = ("bf16", "q8_0")
# Timings vary by as much, and a tie should not be chance's. With bf16 scores move least with those scored beside them.
MARGIN = 1.15
_DIGITS = 16  # of a merged file's hash, in its name
# Raised when the merged files of earlier versions should no longer be used.
_LAYOUT = 2


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
        weights: "bf16", "q8_0" or "q4_0"; "auto" makes bf16 and q8_0 and keeps bf16, unless q8_0 runs faster here by
            more than MARGIN, with the ``threads`` and ``gpu_layers`` that it is going to run with.
        say: told in one line when a file has to be made, or made again because it was damaged.

    Raises:
        OptionError: an unknown weight type.
        ModelError: base or adapter cannot be read or do not fit together.
        OutputError: the cache folder cannot be written.
    """
    check_weights(weights)
    if (found := cached_runtime(adapter, metadata, weights, part, say)) is not None:
        return found
    folder, stem = cache_folder() / "runtime", _stem(adapter, metadata, part)
    what = metadata.name if part == "detector" else f"the suggestions of {metadata.name}"
    cache_subfolder("runtime")
    with _alone(folder / f".{stem}.lock", lambda: say(f"waiting for another run, which merges {what} ...")):
        # What that run has chosen is for all: scores depend on the weights.
        found = cached_runtime(adapter, metadata, weights, part, say)
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
    run = secrets.token_hex(4)
    kinds = _FAITHFUL if weights == "auto" else (weights,)
    candidates = {kind: folder / f".{stem}-{kind}-{run}.gguf" for kind in kinds}
    try:
        for kind, candidate in candidates.items():
            merge(adapter, base, candidate, kind, part)
        chosen, told = weights, ""
        if weights == "auto":
            seconds = {kind: _seconds_a_batch(candidate, threads, gpu_layers) for kind, candidate in candidates.items()}
            ratio = seconds["bf16"] / seconds["q8_0"]
            kind = "q8_0" if ratio > MARGIN else "bf16"
            chosen = f"auto-{kind}"
            told = f"weights: {kind}, {ratio if kind == 'q8_0' else 1 / ratio:.1f}x as fast as the other type here"
        candidate = candidates[chosen.removeprefix("auto-")]
        path = folder / f"{stem}-{chosen}-{file_sha256(candidate)[:_DIGITS]}.gguf"
        candidate.replace(path)
    finally:
        for candidate in candidates.values():
            candidate.unlink(missing_ok=True)
    tidy("runtime", spared=open_files())
    if told:
        say(told)
    return path


def check_weights(weights: str) -> None:
    """Raises OptionError for an unknown weight type."""
    if weights not in WEIGHTS:
        raise OptionError(f"`weights` is {weights}: no such type", remedy=f"choose {', '.join(WEIGHTS)}")


def cached_runtime(
    adapter: str | Path,
    metadata: DenoiserMetadata,
    weights: str,
    part: Part = "detector",
    say: Callable[[str], None] = lambda line: None,
) -> Path | None:
    """The merged model if an earlier use has made it; base and adapter are known by the hashes of their content.

    Its own hash is in its name. One that is damaged is removed, and ``say`` is told so in one line.
    """
    folder, stem = cache_folder() / "runtime", _stem(adapter, metadata, part)
    # Two first uses at once may each have made a choice: all that follow should make the same one. What was chosen is
    # what may be asked for by its type.
    those = [*folder.glob(f"{stem}-{weights}-*.gguf"), *folder.glob(f"{stem}-auto-{weights}-*.gguf")]
    for found in sorted(those):
        if file_sha256(found)[:_DIGITS] == found.stem.rpartition("-")[2]:
            mark_used(found)
            return found
        say(f"{found} is damaged: it is made again")
        with suppress(OSError):  # Windows removes no file that is in use
            found.unlink()
    return None


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
        ModelError: base or adapter is damaged; or the adapter adapts tensors that the base does not have, or of another
            shape.
    """
    base_file, adapter_file = open_gguf(base), open_gguf(adapter)
    metadata = DenoiserMetadata.read(adapter_file, adapter)
    _check_pair(check_model(base_file), metadata, adapter, part)
    layers = metadata.layers if part == "detector" else None
    pairs, alpha = read_pairs(adapter_file, part), read_alpha(adapter_file, metadata, part)
    weight_type, file_type = _TYPES[weights]
    with atomic_path(target) as temporary:
        writer = gguf.GGUFWriter(temporary, metadata.base_architecture)
        for name, field in base_file.fields.items():
            replaced = name in _REPLACED or (layers is not None and name.endswith(".block_count"))
            is_array = len(field.types) > 1
            empty = is_array and not len(field.value)  # the writer has no empty arrays
            if not (name.startswith("llm4dsr.") or replaced or empty):
                writer.add_key_value(name, field.contents(), field.types[0], field.types[1] if is_array else None)
        writer.add_file_type(file_type)
        if layers is not None:
            writer.add_block_count(layers)
        if part == "detector":
            replace(metadata, suggestion_alpha=None).write(writer)
        for tensor in base_file.tensors:
            if layers is not None and _layer(tensor.name) >= layers:
                continue
            with np.errstate(all="ignore"):  # what is no number is refused below
                values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
                pair = pairs.pop(tensor.name, None)
                if pair is not None:
                    if (len(pair.b), pair.a.shape[1]) != values.shape:
                        raise ModelError(
                            f"{tensor.name} is {values.shape} in the base, ({len(pair.b)}, {pair.a.shape[1]}) in the "
                            "adapter",
                            where=str(adapter),
                            remedy=f"use it with its own base model, {shortened(metadata.base_name, 300)}",
                        )
                    values = values + alpha / pair.rank * (pair.b @ pair.a)
                if not max(values.max(), -values.min()) < _LARGEST:  # NaN is not, either
                    raise ModelError(
                        f"some of {tensor.name} is no number that a model has",
                        where=str(base if pair is None else adapter),
                        remedy="fetch or make it again",
                    )
            kind = weight_type if values.ndim > 1 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(tensor.name, gguf.quantize(values, kind), raw_dtype=kind)
        if pairs:
            raise ModelError(
                f"it adapts {shortened(next(iter(pairs)))}, which the base does not have",
                where=str(adapter),
                remedy=f"use it with its own base model, {shortened(metadata.base_name, 300)}",
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _check_pair(base: Hyperparameters, metadata: DenoiserMetadata, adapter: str | Path, part: Part) -> None:
    what = None
    if metadata.base_architecture != base.architecture:
        what = f"it adapts a {shortened(metadata.base_architecture)}, the base is a {base.architecture}"
    elif part == "detector" and metadata.layers is not None and metadata.layers > base.layers:
        what = f"it uses {metadata.layers} layers, the base has {base.layers}"
    if what is not None:
        raise ModelError(
            what, where=str(adapter), remedy=f"use it with its own base model, {shortened(metadata.base_name, 300)}"
        )


def _layer(tensor_name: str) -> int:
    """Number of the layer that a tensor belongs to; -1 for those of none."""
    match = re.match(r"blk\.(\d+)\.", tensor_name)
    return int(match[1]) if match else -1


# Keys that the merged file has of its own. Its tensors lie where the writer puts them, not as the base's were aligned.
_REPLACED = (
    "general.architecture",
    "general.file_type",
    "general.name",
    "general.license",
    "general.alignment",
)
# Weights are far smaller; 16-bit floats end here, of which the scales of Q8_0 and Q4_0 are.
_LARGEST = 65_504


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
