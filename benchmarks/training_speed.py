"""Tokens a second of a training step, for each way to compute it: markdown on standard output.

    python benchmarks/training_speed.py --repeat 5

Needs the extra ``finetune``. A batch of 16 windows of 80 random tokens on the shipped denoiser's base model; medians
over repeated steps. Rows "PEFT" use PEFT's layers under autocast, the others ours.

The second table is of 64 windows of 24 to 240 tokens, 16 a step, padding not counted: as they come; sorted by length,
each step a batch of short ones and one of long ones, as ``Trainer`` does it; or packed, several windows to a row.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from llm4dsr_cli.finetune.batch import Batch, Example
from llm4dsr_cli.finetune.lora import add_lora
from llm4dsr_cli.finetune.model import NoiseModel
from llm4dsr_cli.model.base_model import find_base
from llm4dsr_cli.model.llama import Model
from llm4dsr_cli.model.prompts import DEFAULT_FORMAT, Prompt, Prompter
from llm4dsr_cli.model.registry import Registry
from llm4dsr_cli.model.torch_architectures import Architecture
from llm4dsr_cli.model.torch_model import load_base, pick_dtype

WINDOWS, LENGTH, ITEMS = 16, 80, 10
SHORTEST, LONGEST, STEPS = 24, 240, 4


def peft_model(model: NoiseModel) -> Callable[[], contextlib.AbstractContextManager[None]]:
    from peft import LoraConfig, inject_adapter_in_model

    model.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=16, lora_alpha=32, target_modules=list(Architecture.targets)), model.backbone)
    return lambda: torch.autocast("cpu", torch.bfloat16)


def our_model(model: NoiseModel) -> Callable[[], contextlib.AbstractContextManager[None]]:
    add_lora(model.backbone, 16, 32.0)
    return contextlib.nullcontext


def compiled_model(model: NoiseModel) -> Callable[[], contextlib.AbstractContextManager[None]]:
    context = our_model(model)
    for layer in model.backbone.layers:
        layer.compile(dynamic=True)
    return context


@dataclass(frozen=True)
class Packed:
    """A step's windows, several to a row: a token sees those of its own window, and positions start anew with each.

    Attributes:
        batch: as if each row were one window.
        window: which window each token is of, -1 at padding, shape (n_rows, length).
        positions: within the window, the same shape.
    """

    batch: Batch
    window: torch.Tensor
    positions: torch.Tensor

    @classmethod
    def of(cls, prompts: list[Prompt], labels: list[NDArray[np.int8]]) -> Packed:
        """Each window into the first row that still has room, the longest first."""
        rows: list[list[int]] = []
        for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i].tokens)):
            size = len(prompts[i].tokens)
            room = (row for row in rows if size + sum(len(prompts[j].tokens) for j in row) <= LONGEST)
            row = next(room, None)
            if row is None:
                rows.append(row := [])
            row.append(i)
        joined, window, positions = [], [], []
        for row in rows:
            sizes = [len(prompts[i].tokens) for i in row]
            starts = np.cumsum([0, *sizes[:-1]])
            probes = np.concatenate([prompts[i].probes + start for i, start in zip(row, starts, strict=True)])
            joined.append(Prompt(np.concatenate([prompts[i].tokens for i in row]), probes))
            window.append(np.repeat(row, sizes))
            positions.append(np.concatenate([np.arange(size) for size in sizes]))
        # A row's labels are those of its windows, in the order of their probes.
        of_row = [np.concatenate([labels[i] for i in row]) for row in rows]
        batch = batch_of(joined, of_row)
        of_token, place = torch.full_like(batch.tokens, -1), torch.zeros_like(batch.tokens)
        for number, (ids, at) in enumerate(zip(window, positions, strict=True)):
            of_token[number, : len(ids)] = torch.from_numpy(ids)
            place[number, : len(at)] = torch.from_numpy(at)
        return cls(batch, of_token, place)

    def log_odds(self, model: NoiseModel) -> torch.Tensor:
        sees = self.window[:, None, :, None] == self.window[:, None, None, :]
        dtype = next(model.backbone.parameters()).dtype
        mask = torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)
        hidden = model.backbone(
            input_ids=self.batch.tokens, attention_mask=mask, position_ids=self.positions, use_cache=False
        ).last_hidden_state
        return hidden[self.batch.rows, self.batch.columns].float() @ model.direction


def batch_of(prompts: list[Prompt], labels: list[NDArray[np.int8]]) -> Batch:
    return Batch.of([Example.of_noise(prompt, label) for prompt, label in zip(prompts, labels, strict=True)])


def steps_of(way: str, prompts: list[Prompt], labels: list[NDArray[np.int8]]) -> list[list[Batch | Packed]]:
    """The windows as the batches of each step."""
    order = list(range(len(prompts)))
    if way == "sorted by length":
        order.sort(key=lambda i: len(prompts[i].tokens))
        half = WINDOWS // 2
        parts = [order[at : at + half] for at in range(0, len(order), half)]
        batches = [batch_of([prompts[i] for i in part], [labels[i] for i in part]) for part in parts]
        return [[batches[i], batches[-1 - i]] for i in range(STEPS)]
    parts = [order[at : at + WINDOWS] for at in range(0, len(order), WINDOWS)]
    make = batch_of if way == "as they come" else Packed.of
    return [[make([prompts[i] for i in part], [labels[i] for i in part])] for part in parts]


def batching(model: NoiseModel, rng: np.random.Generator, repeat: int) -> None:
    """Print the second table; the model is trained in, and compiled."""
    prompts, labels_of = [], []
    for length in rng.integers(SHORTEST, LONGEST + 1, WINDOWS * STEPS).tolist():
        probes = np.linspace(length // ITEMS, length - 1, ITEMS).astype(np.int32)
        prompts.append(Prompt(rng.integers(100, 40_000, length).astype(np.int32), probes))
        labels_of.append(rng.integers(0, 2, ITEMS).astype(np.int8))
    tokens = sum(len(prompt.tokens) for prompt in prompts)
    print("\n| batches | padding | forward + backward |\n| --- | ---: | ---: |")
    for way in ("as they come", "sorted by length", "packed"):
        steps = steps_of(way, prompts, labels_of)
        seconds = []
        for _ in range(repeat + 1):
            began = time.perf_counter()
            for batches in steps:
                for part in batches:
                    batch, found = (
                        (part, model(part)) if isinstance(part, Batch) else (part.batch, part.log_odds(model))
                    )
                    torch.nn.functional.binary_cross_entropy_with_logits(found, batch.targets).backward()
            seconds.append(time.perf_counter() - began)
        cells = [part if isinstance(part, Batch) else part.batch for batches in steps for part in batches]
        padding = 1 - tokens / sum(batch.tokens.numel() for batch in cells)
        print(f"| {way} | {padding:.0%} | {tokens / float(np.median(seconds[1:])):,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    base = find_base("smollm2-135m-instruct", registry=Registry.load(), offline=False, say=lambda line: None)
    prompter = Prompter(DEFAULT_FORMAT, Model(base, vocab_only=True).tokenize, 16)
    rng = np.random.default_rng(0)
    probes = np.arange(1, ITEMS + 1, dtype=np.int32) * (LENGTH // ITEMS) - 1
    prompts = [Prompt(rng.integers(100, 40_000, LENGTH).astype(np.int32), probes) for _ in range(WINDOWS)]
    batch = batch_of(prompts, [rng.integers(0, 2, ITEMS).astype(np.int8) for _ in range(WINDOWS)])
    dtype = pick_dtype(torch.device("cpu"))
    print(f"{WINDOWS} windows of {LENGTH} tokens, {dtype}, {torch.get_num_threads()} threads\n")
    print("| variant | forward + backward | forward |\n| --- | ---: | ---: |")
    for name, prepare in (("PEFT", peft_model), ("ours", our_model), ("ours, layers compiled", compiled_model)):
        model = NoiseModel(load_base(base, "llama", dtype), prompter.answers)
        context = prepare(model)
        both, forward = [], []
        for _ in range(arguments.repeat + 2):
            began = time.perf_counter()
            with context():
                loss = torch.nn.functional.binary_cross_entropy_with_logits(model(batch), batch.targets)
            loss.backward()
            both.append(time.perf_counter() - began)
        for _ in range(arguments.repeat + 2):
            began = time.perf_counter()
            with torch.no_grad(), context():
                model(batch)
            forward.append(time.perf_counter() - began)
        # The first two runs compile and warm up.
        rates = [WINDOWS * LENGTH / float(np.median(seconds[2:])) for seconds in (both, forward)]
        print(f"| {name} | {rates[0]:,.0f} | {rates[1]:,.0f} |", flush=True)
    batching(model, rng, arguments.repeat)


if __name__ == "__main__":
    main()
