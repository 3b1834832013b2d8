"""A run's circumstances, and what its two parts, the detector's training and the suggester's, do alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from llm4dsr_cli.cache import file_sha256
from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.finetune.adapter import Adapter
from llm4dsr_cli.finetune.architectures import find_architecture
from llm4dsr_cli.finetune.data import Domain, Split, fingerprint, split_users
from llm4dsr_cli.finetune.export import Shape, from_gguf
from llm4dsr_cli.finetune.lora import add_lora, load_lora_state, lora_layers
from llm4dsr_cli.finetune.model import NoiseModel, check_prompts, compile_backbone, load_base, pick_device, pick_dtype
from llm4dsr_cli.finetune.outputs import Outputs
from llm4dsr_cli.finetune.settings import Schedule, Settings
from llm4dsr_cli.finetune.start import Start
from llm4dsr_cli.finetune.tasks import Row, Task
from llm4dsr_cli.finetune.trainer import Progress, Trainer
from llm4dsr_cli.model.base_model import find_base
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.llama import Model
from llm4dsr_cli.model.merged_model import Part
from llm4dsr_cli.model.prompts import Prompter, PromptFormat
from llm4dsr_cli.model.registry import Registry


@dataclass(frozen=True)
class Job:
    """What a run works on, and whom it tells.

    Attributes:
        base, architecture: the base model's file, and its architecture as GGUF calls it.
        start: base model and first weights.
        split: the data, by user.
        data: their fingerprint, so that a run is resumed with the same ones.
        outputs: where everything is written.
        resume, device, compile_layers, say, on_step, on_validation: as for ``finetune``.
    """

    base: Path
    architecture: str
    start: Start
    split: Split
    data: str
    outputs: Outputs
    resume: bool
    device: str
    compile_layers: bool | None
    say: Callable[[str], None]
    on_step: Callable[[Part, Progress], None]
    on_validation: Callable[[Part, Row], None]

    @classmethod
    def begin(
        cls, domains: Sequence[Domain], outputs: Outputs, start: Start, settings: Settings, offline: bool, **others: Any
    ) -> Job:
        """Find the base model and split the users; ``others`` are the attributes from ``resume`` on.

        Raises:
            OptionError: the data are too few, or the start adapts another base model.
            ModelError: there is no such base model.
        """
        shares = {"validation": settings.validation, "calibration": settings.calibration, "test": settings.test}
        split = split_users(domains, **shares)
        base = find_base(start.base, registry=Registry.load(), offline=offline, say=others["say"])
        start.check_base(base)
        architecture = str(open_gguf(base).fields["general.architecture"].contents())
        return cls(base, architecture, start, split, fingerprint(domains), outputs, **others)

    @contextmanager
    def adapted(
        self,
        settings: Schedule,
        first: Adapter | None,
        *,
        form: PromptFormat,
        max_title_tokens: int,
        longest_window: int,
        layers: int | None = None,
    ) -> Iterator[tuple[NoiseModel, Prompter, Shape]]:
        """The base model with an adapter to train, the prompts that it reads, and how its adapter is exported.

        Args:
            first: the adapter's first weights; None adapts nothing yet.
            longest_window: items of the longest window that it will read.
            layers: keep only so many of the base's layers.

        Raises:
            OptionError: the base has fewer layers, does not see such windows whole, or there is no such device.
            ModelError: the base cannot be trained, or ``first`` does not fit it.
        """
        with Model(self.base, vocab_only=True) as vocabulary:
            prompter = Prompter(form, vocabulary.tokenize, max_title_tokens)
            torch.manual_seed(settings.seed)
            device = pick_device(self.device)
            causal_lm = load_base(self.base, self.architecture, pick_dtype(device), layers)
            check_prompts(causal_lm, prompter.max_tokens(longest_window))
            model = NoiseModel(causal_lm, prompter.answers)
            targets = find_architecture(self.architecture, self.base).targets
            add_lora(model.backbone, settings.rank, settings.alpha, targets)
            shape = Shape.of(causal_lm, self.architecture)
            if first is not None:
                names = [name for name, _ in lora_layers(model.backbone)]
                try:
                    load_lora_state(model.backbone, from_gguf(first, names, shape, settings.alpha))
                except KeyError as error:
                    where, remedy = str(self.start.denoiser), "start from another denoiser"
                    raise ModelError(f"it does not adapt {error}", where=where, remedy=remedy) from None
            model.to(device)
            compile_backbone(model, self.compile_layers)
            yield model, prompter, shape

    def trainer(self, part: Part, model: NoiseModel, task: Task, settings: Schedule, checkpoint: Path) -> Trainer:
        """One that is ready to run, from where it was interrupted if it is to be resumed.

        Raises:
            OptionError: the run to resume had other settings, data, base model or start.
        """
        denoiser = self.start.denoiser
        trainer = Trainer(
            model,
            task,
            settings,
            checkpoint=checkpoint,
            identity={
                "base": file_sha256(self.base),
                "data": self.data,
                "init": "" if denoiser is None else file_sha256(denoiser),
            },
            say=self.say,
            on_step=partial(self.on_step, part),
            on_validation=partial(self.on_validation, part),
        )
        if self.resume and checkpoint.is_file():
            trainer.resume()
        return trainer
