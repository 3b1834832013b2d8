"""A run's circumstances, and what its two parts, the detector's training and the suggester's, do alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import orjson
import torch

from llm4dsr_cli.cache import file_sha256
from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.finetune.adapter import Adapter, Shape, from_gguf, to_gguf
from llm4dsr_cli.finetune.data import Split
from llm4dsr_cli.finetune.lora import add_lora, fold_lower_layers, load_lora_state, lora_layers, lora_state
from llm4dsr_cli.finetune.model import NoiseModel, check_prompts
from llm4dsr_cli.finetune.outputs import Outputs
from llm4dsr_cli.finetune.settings import Schedule
from llm4dsr_cli.finetune.start import Start
from llm4dsr_cli.finetune.tasks import Row, Task
from llm4dsr_cli.finetune.trainer import Progress, Trainer
from llm4dsr_cli.model.adapter import Part
from llm4dsr_cli.model.llama import Model
from llm4dsr_cli.model.prompts import DEFAULT_FORMAT, Prompter
from llm4dsr_cli.model.torch_architectures import ARCHITECTURES
from llm4dsr_cli.model.torch_model import compile_layers, load_base, pick_device, pick_dtype


@dataclass(frozen=True)
class Trained:
    """What a training brought.

    Attributes:
        before, after: the adapter that there was, and what it became.
        state: the latter under PEFT's names (``lora_state``).
        progress: how far the run came.
        chosen: the row of its history that is about ``after``.
    """

    before: Adapter
    after: Adapter
    state: dict[str, torch.Tensor]
    progress: Progress
    chosen: Row


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

    def train(
        self,
        part: Part,
        settings: Schedule,
        first: Adapter | None,
        task: Callable[[Prompter], Task],
        *,
        max_title_tokens: int,
        longest_window: int,
        layers: int | None = None,
        adapted_layers: int | None = None,
        beginning: str,
    ) -> Trained:
        """Train an adapter to the end; its checkpoint and history are kept on the way.

        Args:
            first: its first weights; None adapts nothing yet.
            longest_window: items of the longest window that will be read.
            layers: keep only so many of the base's layers.
            adapted_layers: train the adapters of the upper so many alone.
            beginning: what to say when all is ready.

        Raises:
            OptionError: the base does not fit the other arguments, or the run to resume had other ones.
            ModelError: the base cannot be trained, or ``first`` does not fit it.
            KeyboardInterrupt: after Ctrl-C, with the checkpoint saved.
        """
        checkpoint, history = self.outputs.checkpoint(part), self.outputs.history(part)

        def keep(row: Row) -> None:
            with history.open("ab") as file:
                file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            self.on_validation(part, row)

        with Model(self.base, vocab_only=True) as vocabulary:
            prompter = Prompter(DEFAULT_FORMAT, vocabulary.tokenize, max_title_tokens)
            torch.manual_seed(settings.seed)
            device = pick_device(self.device)
            causal_lm = load_base(self.base, self.architecture, pick_dtype(device), layers)
            check_prompts(causal_lm, prompter.max_tokens(longest_window))
            model = NoiseModel(causal_lm, prompter.answers)
            add_lora(model.backbone, settings.rank, settings.alpha, ARCHITECTURES[self.architecture].targets)
            shape, denoiser = Shape.of(causal_lm, self.architecture), self.start.denoiser
            if first is not None:
                names = [name for name, _ in lora_layers(model.backbone)]
                try:
                    load_lora_state(model.backbone, from_gguf(first, names, shape, settings.alpha))
                except KeyError as error:
                    remedy = "start from another denoiser"
                    raise ModelError(f"it does not adapt {error}", where=str(denoiser), remedy=remedy) from None
            before = lora_state(model.backbone)
            fold_lower_layers(model.backbone, adapted_layers)
            model.to(device)
            compile_layers(model.backbone, self.compile_layers)
            self.outputs.make_folder()
            trainer = Trainer(
                model,
                task(prompter),
                settings,
                checkpoint=checkpoint,
                identity={
                    "base": file_sha256(self.base),
                    "data": self.data,
                    "init": "" if denoiser is None else file_sha256(denoiser),
                },
                say=self.say,
                on_step=partial(self.on_step, part),
                on_validation=keep,
            )
            if self.resume and checkpoint.is_file():
                trainer.resume()
            # Rows after the checkpoint are measured again.
            rows = (orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in trainer.progress.history)
            history.write_bytes(b"".join(rows))
            self.say(beginning)
            trainer.run()
            after = lora_state(model.backbone)
        gguf = [to_gguf(state, shape, settings.alpha) for state in (before, after)]
        return Trained(gguf[0], gguf[1], after, trainer.progress, trainer.chosen)
