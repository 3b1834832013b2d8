"""A training in suggestions from sequences to a second adapter in a denoiser's file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from llm4dsr_cli.cache import file_sha256
from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.finetune.data import Domain, Sampler, Split, fingerprint, split_users
from llm4dsr_cli.finetune.export import Shape, detector_tensors, from_gguf, suggester_tensors, to_gguf, write_adapter
from llm4dsr_cli.finetune.lora import add_lora, load_lora_state, lora_layers, lora_state
from llm4dsr_cli.finetune.model import NoiseModel, check_prompts, compile_backbone, load_base, pick_device, pick_dtype
from llm4dsr_cli.finetune.outputs import Outputs
from llm4dsr_cli.finetune.settings import Settings
from llm4dsr_cli.finetune.start import Start, window_seed
from llm4dsr_cli.finetune.suggestion import SuggestionProgress, SuggestionSettings, SuggestionTrainer
from llm4dsr_cli.model.base_model import find_base
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.llama import Model
from llm4dsr_cli.model.metadata import DenoiserMetadata
from llm4dsr_cli.model.prompts import Prompter
from llm4dsr_cli.model.registry import Registry

# Share of the windows cut to a random length, as for the detector.
SHORTEN = 0.25


def add_suggestions(
    denoiser: Path,
    output: Path,
    split: Split,
    settings: SuggestionSettings,
    *,
    base: Path,
    start: Path | None = None,
    data: str = "",
    checkpoint: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    compile_layers: bool | None = None,
    say: Callable[[str], None] = lambda line: None,
    on_step: Callable[[SuggestionProgress], None] = lambda progress: None,
    on_validation: Callable[[dict[str, float]], None] = lambda row: None,
) -> list[dict[str, float]]:
    """Train a denoiser's suggestions, and write it with them; its detector stays as it is, to the bit.

    Args:
        denoiser: the adapter GGUF whose detector is kept.
        output: the GGUF to write, which may be the same.
        split: the data, of which training and validation parts are used.
        base: the base model's file; the caller has checked that it is the denoiser's.
        start: a denoiser whose suggestions are trained on, if it has any; None starts from the base alone.
        data: their fingerprint, so that a run is resumed with the same ones.
        checkpoint: where an interrupted run is kept.

    Returns:
        A row for each validation: windows, seconds, loss (nats a token on windows of held-out users).

    Raises:
        OptionError: the run to resume had other settings or data.
        ModelError: denoiser or base cannot be used.
        KeyboardInterrupt: after Ctrl-C, with the checkpoint saved.
    """
    reader = open_gguf(denoiser)
    metadata = DenoiserMetadata.read(reader, denoiser)
    tokenizer = Model(base, vocab_only=True)
    prompter = Prompter(metadata.form, tokenizer.tokenize, metadata.max_title_tokens)
    torch.manual_seed(settings.seed)
    where = pick_device(device)
    causal_lm = load_base(base, metadata.base_architecture, pick_dtype(where))
    check_prompts(causal_lm, prompter.max_tokens(metadata.max_window))
    model = NoiseModel(causal_lm, prompter.answers)
    shape = Shape.of(causal_lm, metadata.base_architecture)
    known = {} if start is None else suggester_tensors(open_gguf(start))
    if known:
        rank = next(len(tensor) for name, tensor in known.items() if name.endswith(".lora_a"))
        alpha = float(DenoiserMetadata.read(open_gguf(start), start).suggestion_alpha or 0) if start else 0.0
        settings = replace(settings, rank=rank, alpha=alpha)
    add_lora(model.backbone, settings.rank, settings.alpha)
    if known:
        load_lora_state(model.backbone, from_gguf(known, [name for name, _ in lora_layers(model.backbone)], shape))
    untrained = lora_state(model.backbone)
    model.to(where)
    compile_backbone(model, compile_layers)

    def sampler(domains: Sequence[Domain], seed: int, stream: int) -> Sampler:
        return Sampler(domains, max_window=metadata.max_window, rates=(0.0,), shorten=SHORTEN, seed=seed * 4 + stream)

    trainer = SuggestionTrainer(
        model,
        prompter,
        sampler(split.train, window_seed(settings.seed, start if known else None), 0),
        sampler(split.validation, settings.seed, 1),
        settings,
        checkpoint=checkpoint,
        identity={"base": file_sha256(base), "data": data, "init": file_sha256(start) if start else ""},
        on_step=on_step,
        on_validation=on_validation,
    )
    if resume and checkpoint is not None and checkpoint.is_file():
        trainer.resume()
    say(f"learning to suggest titles: {'on from what it knows' if known else 'from the base model alone'}")
    history = trainer.run().history
    state, progress = lora_state(model.backbone), trainer.progress
    summary = {"windows": progress.windows, "tokens": progress.tokens, "validation": history[-1], "rank": settings.rank}
    if history[-1]["loss"] > history[0]["loss"]:
        say("the suggestions did not get better: those of the start are kept")
        state, summary = untrained, metadata.training.get("suggestions", {})
    alpha_of_detector = float(reader.fields["adapter.lora.alpha"].contents())
    write_adapter(
        output,
        detector_tensors(reader),
        alpha_of_detector,
        replace(
            metadata,
            name=output.stem,
            suggestion_alpha=settings.alpha,
            training={**metadata.training, "suggestions": summary},
        ),
        to_gguf(state, shape),
    )
    return history


def finetune_suggestions(
    domains: Sequence[Domain],
    output: Path,
    start: Start,
    settings: Settings,
    suggestions: SuggestionSettings,
    *,
    resume: bool = False,
    device: str = "auto",
    compile_layers: bool | None = None,
    offline: bool = False,
    say: Callable[[str], None] = lambda line: None,
    on_step: Callable[[SuggestionProgress], None] = lambda progress: None,
    on_validation: Callable[[dict[str, float]], None] = lambda row: None,
) -> list[dict[str, float]]:
    """Train a denoiser's suggestions alone; its detector and calibration stay as they are.

    Args:
        start: the denoiser.
        settings: of these, the shares of the users that are held out.
        others: as for ``finetune``.

    Returns:
        A row for each validation, as ``add_suggestions`` gives them.

    Raises:
        OptionError: the start is no denoiser, an unfinished run is in the way, or there is none to resume.
    """
    outputs = Outputs(output)
    if start.denoiser is None:
        raise OptionError("suggestions alone take a denoiser to add them to", remedy="name it with --init")
    outputs.check([outputs.suggestion_checkpoint], resume)
    base_path = find_base(start.base, registry=Registry.load(), offline=offline, say=say)
    start.check_base(base_path)
    outputs.make_folder()
    return add_suggestions(
        start.denoiser,
        output,
        split_users(domains, validation=settings.validation, calibration=settings.calibration, test=settings.test),
        suggestions,
        base=base_path,
        start=start.denoiser,
        data=fingerprint(domains),
        checkpoint=outputs.suggestion_checkpoint,
        resume=resume,
        device=device,
        compile_layers=compile_layers,
        say=say,
        on_step=on_step,
        on_validation=on_validation,
    )
