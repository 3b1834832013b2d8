"""A fine-tuning run from sequences to a calibrated denoiser file."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson
import torch

from llm4dsr_cli.base_model import find_base
from llm4dsr_cli.cache import atomic_path, file_sha256
from llm4dsr_cli.denoiser import Denoiser
from llm4dsr_cli.engine import Model
from llm4dsr_cli.errors import ModelError, OptionError, OutputError
from llm4dsr_cli.finetune.data import Domain, LabelledWindow, Sampler, split_users
from llm4dsr_cli.finetune.export import Shape, from_gguf, to_gguf, write_adapter
from llm4dsr_cli.finetune.lora import add_lora, load_lora_state, lora_layers, lora_state, save_peft
from llm4dsr_cli.finetune.model import NoiseModel, load_base, pick_device, pick_dtype
from llm4dsr_cli.finetune.settings import Settings
from llm4dsr_cli.finetune.trainer import Progress, Trainer
from llm4dsr_cli.metadata import Calibration, DenoiserMetadata, open_gguf
from llm4dsr_cli.prompts import DEFAULT_FORMAT, Prompter
from llm4dsr_cli.registry import Registry
from llm4dsr_cli.runtime_model import merge

# Validation and calibration mimic data to be cleaned, where noise is rarer than in training.
HELD_OUT_RATE = 0.1


@dataclass(frozen=True)
class Outputs:
    """Where a run's files go: the denoiser, and beside it a folder with everything else."""

    denoiser: Path

    @property
    def folder(self) -> Path:
        return self.denoiser.with_suffix(".run")

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def peft(self) -> Path:
        return self.folder / "peft"

    @property
    def history(self) -> Path:
        return self.folder / "history.jsonl"


def finetune(
    domains: Sequence[Domain],
    output: Path,
    settings: Settings,
    *,
    base: str = "smollm2-135m-instruct",
    init: str | None = None,
    resume: bool = False,
    device: str = "auto",
    compile_layers: bool | None = None,
    offline: bool = False,
    licence: str = "",
    say: Callable[[str], None] = lambda line: None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    on_validation: Callable[[dict[str, float]], None] = lambda row: None,
) -> list[dict[str, float]]:
    """Train, export and calibrate a denoiser.

    Args:
        domains: the data, one domain for each catalog.
        output: the denoiser GGUF to write; ``OUTPUT.run/`` beside it holds checkpoint, history and PEFT folder.
        base: base model by registry name, path or ``hf:`` reference.
        init: adapter GGUF to start from, of the same base and rank.
        resume: go on from the checkpoint in ``OUTPUT.run/``.
        device: "auto", "cpu", "cuda" or "mps".
        compile_layers: compile the model's layers with torch.compile, which takes a C++ compiler and about a minute;
            None does it on a CPU where there is a compiler.
        licence: of the denoiser, for its metadata.

    Returns:
        A row for each validation: step, windows, seconds, loss, auroc, average_precision.

    Raises:
        OptionError: an unfinished run is in the way, or the data are too few.
        ModelError: base or init cannot be used.
        KeyboardInterrupt: after Ctrl-C, with the checkpoint saved.
    """
    outputs = Outputs(output)
    if outputs.checkpoint.exists() and not resume:
        raise OptionError(
            "an earlier run is here", where=str(outputs.folder), remedy="go on with --resume, or remove the folder"
        )
    base_path = find_base(base, registry=Registry.load(), offline=offline, say=say)
    architecture = str(open_gguf(base_path).fields["general.architecture"].contents())
    split = split_users(domains, validation=settings.validation, calibration=settings.calibration)
    for domain in domains:
        longest = min(settings.max_window, max(len(sequence) for sequence in domain.sequences))
        if len(domain.titles) < 2 * longest:
            raise OptionError(
                f"{domain.name}: {len(domain.titles)} titles are too few to draw noise for windows of {longest} items",
                remedy="give the whole catalog, or a smaller --max-window",
            )
    train = _sampler(split.train, settings, settings.rates, settings.shorten, stream=0)
    validation = _sampler(split.validation, settings, (HELD_OUT_RATE,), 0, stream=1)
    calibration = _sampler(split.calibration, settings, (HELD_OUT_RATE,), 0, stream=2)

    tokenizer = Model(base_path, vocab_only=True)
    prompter = Prompter(DEFAULT_FORMAT, tokenizer.tokenize, settings.max_title_tokens)
    torch.manual_seed(settings.seed)
    where = pick_device(device)
    causal_lm = load_base(base_path, architecture, pick_dtype(where))
    model = NoiseModel(causal_lm, prompter.answers)
    add_lora(model.backbone, settings.rank, settings.alpha)
    shape = Shape.of(causal_lm, architecture)
    if init is not None:
        load_lora_state(model.backbone, _initial_state(init, base_path, model, shape, settings))
    model.to(where)
    if compile_layers is None:
        compile_layers = where.type == "cpu" and _has_compiler()
    if compile_layers:
        for layer in model.backbone.layers:
            layer.compile(dynamic=True)

    _make_folder(outputs.folder)
    trainer = Trainer(
        model,
        prompter,
        train,
        list(validation.windows(min(settings.validation_windows, validation.n_sequences))),
        settings,
        checkpoint=outputs.checkpoint,
        identity={
            "base": file_sha256(base_path),
            "data": _fingerprint(domains),
            "init": file_sha256(Path(init)) if init else "",
        },
        on_step=on_step,
        on_validation=on_validation,
    )
    if resume:
        trainer.resume()
    say(
        f"training on {train.n_sequences:,} sequences, validating on {len(trainer.validation):,} windows of other users"
    )
    trainer.run()

    state = lora_state(model.backbone)
    save_peft(state, outputs.peft, rank=settings.rank, alpha=settings.alpha, base_name=base)
    with atomic_path(outputs.history) as path:
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in trainer.progress.history))
    tensors = to_gguf(state, shape)
    metadata = DenoiserMetadata(
        name=output.stem,
        form=DEFAULT_FORMAT,
        max_window=train.longest_window,
        max_title_tokens=settings.max_title_tokens,
        base_name=base_path.name if base.endswith(".gguf") and not base.startswith("hf:") else base,
        base_sha256=file_sha256(base_path),
        base_architecture=architecture,
        licence=licence,
        training=_summary(split.train, settings, trainer.progress),
    )
    # Calibrated by the engine that will serve it, not by the model in training.
    windows = list(calibration.windows(calibration.n_sequences))
    say(f"calibrating on {len(windows):,} windows of other users")
    with TemporaryDirectory(dir=outputs.folder) as folder:
        adapter, merged = Path(folder, "adapter.gguf"), Path(folder, "merged.gguf")
        write_adapter(adapter, tensors, settings.alpha, metadata)
        merge(adapter, base_path, merged, "bf16")
        with Denoiser.load(str(merged)) as denoiser:
            belonging = _belonging_scores(denoiser, windows)
    write_adapter(output, tensors, settings.alpha, replace(metadata, calibration=Calibration.fit(belonging)))
    return trainer.progress.history


def _sampler(
    domains: list[Domain], settings: Settings, rates: tuple[float, ...], shorten: float, *, stream: int
) -> Sampler:
    return Sampler(
        domains, max_window=settings.max_window, rates=rates, shorten=shorten, seed=settings.seed * 3 + stream
    )


def _belonging_scores(denoiser: Denoiser, windows: list[LabelledWindow]) -> np.ndarray:
    """Noise log-odds of the items that were left as they were, the last item of each window left out."""
    scores = denoiser.score(window.titles for window in windows)
    return np.concatenate([score[:-1][window.labels[:-1] == 0] for score, window in zip(scores, windows, strict=True)])


def _initial_state(
    init: str, base_path: Path, model: NoiseModel, shape: Shape, settings: Settings
) -> dict[str, torch.Tensor]:
    path = Path(init)
    reader = open_gguf(path)
    metadata = DenoiserMetadata.read(reader, path)
    if metadata.base_sha256 != file_sha256(base_path):
        raise ModelError(
            f"it adapts another base model, {metadata.base_name}",
            where=init,
            remedy=f"give --base {metadata.base_name}, or another --init",
        )
    try:
        state = from_gguf(reader, [name for name, _ in lora_layers(model.backbone)], shape)
        alpha = float(reader.fields["adapter.lora.alpha"].contents())
    except KeyError as error:
        raise ModelError(f"it does not adapt {error}", where=init, remedy="give another --init") from None
    rank = next(len(tensor) for name, tensor in state.items() if name.endswith("lora_A.weight"))
    if rank != settings.rank:
        raise ModelError(
            f"its rank is {rank}, that of this run {settings.rank}", where=init, remedy=f"give --rank {rank}"
        )
    # The same weights under this run's scale, alpha / rank.
    return {
        name: tensor * (alpha / settings.alpha) if name.endswith("lora_B.weight") else tensor
        for name, tensor in state.items()
    }


def _fingerprint(domains: Sequence[Domain]) -> str:
    digest = hashlib.sha256()
    for domain in domains:
        digest.update("\n".join(domain.titles).encode())
        for user, sequence in zip(domain.users, domain.sequences, strict=True):
            digest.update(f"{user!r}:".encode() + sequence.tobytes())
    return digest.hexdigest()


def _summary(domains: list[Domain], settings: Settings, progress: Progress) -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "domains": [
            {
                "name": domain.name,
                "sequences": len(domain.sequences),
                "users": len(set(domain.users)),
                "titles": len(domain.titles),
            }
            for domain in domains
        ],
        "windows": progress.windows,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds),
        "settings": {key: value for key, value in asdict(settings).items() if value is not None},
        "validation": progress.history[-1],
    }


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++"))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=False, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the run's folder cannot be made ({error.strerror})", where=str(folder), remedy="choose another --output"
        ) from None
