"""Tokens a second of a training step, for each way to compute it: markdown on standard output.

    python benchmarks/training_speed.py --repeat 5

Needs the extra ``finetune``. A batch of 16 windows of 80 random tokens on the shipped denoiser's base model; medians
over repeated steps. Rows "PEFT" use PEFT's layers under autocast, the others ours.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable

import numpy as np
import torch

from llm4dsr_cli.base_model import find_base
from llm4dsr_cli.finetune.lora import TARGETS, add_lora
from llm4dsr_cli.finetune.model import NoiseModel, collate, load_base, pick_dtype
from llm4dsr_cli.llama import Model
from llm4dsr_cli.prompts import DEFAULT_FORMAT, Prompt, Prompter
from llm4dsr_cli.registry import Registry

WINDOWS, LENGTH, ITEMS = 16, 80, 10


def peft_model(model: NoiseModel) -> Callable[[], contextlib.AbstractContextManager[None]]:
    from peft import LoraConfig, inject_adapter_in_model

    model.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=16, lora_alpha=32, target_modules=list(TARGETS)), model.backbone)
    return lambda: torch.autocast("cpu", torch.bfloat16)


def our_model(model: NoiseModel) -> Callable[[], contextlib.AbstractContextManager[None]]:
    add_lora(model.backbone, 16, 32.0)
    return contextlib.nullcontext


def compiled_model(model: NoiseModel) -> Callable[[], contextlib.AbstractContextManager[None]]:
    context = our_model(model)
    for layer in model.backbone.layers:
        layer.compile(dynamic=True)
    return context


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    base = find_base("smollm2-135m-instruct", registry=Registry.load(), offline=False, say=lambda line: None)
    prompter = Prompter(DEFAULT_FORMAT, Model(base, vocab_only=True).tokenize, 16)
    rng = np.random.default_rng(0)
    probes = np.arange(1, ITEMS + 1, dtype=np.int32) * (LENGTH // ITEMS) - 1
    prompts = [Prompt(rng.integers(100, 40_000, LENGTH).astype(np.int32), probes) for _ in range(WINDOWS)]
    batch = collate(prompts, [rng.integers(0, 2, ITEMS).astype(np.int8) for _ in range(WINDOWS)])
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
                loss = torch.nn.functional.binary_cross_entropy_with_logits(model(batch), batch.labels)
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


if __name__ == "__main__":
    main()
