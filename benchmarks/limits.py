"""How far scoring is from what llama.cpp, and what this machine can do: ratios as a markdown table.

    python benchmarks/limits.py --threads 2 --official 8

Sequences are those of the example, in orders drawn anew so that no window stands twice. In turn, several rounds, and
the median of each: `clean` from end to end (a process, less one that cleans a single record); the engine alone on the
same windows; llama.cpp on 512 random tokens, of which one is read; and the machine: the matrix products of the model's
layers for 512 tokens, in torch (oneDNN), which leaves out attention, norms and all else. With --official, the paper's
way on some of the windows: the same base model in transformers, a prompt of the paper's form and three suggestions of
16 tokens.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scoring_speed import example_titles

from llm4dsr_cli.model.base_model import find_base
from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.model.engine import Engine, Request
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.llama import Context, Model
from llm4dsr_cli.model.registry import Registry

TOKENS = 512
SUGGESTED = 16  # tokens of a suggestion
PAPER = (
    "### Instruction:\nThe user has interacted with the following items in order. Find the one item that does not "
    "belong, and suggest three items that fit better.\n### Input:\n{items}\n### Response:\n"
)


def sequences(n: int) -> list[list[str]]:
    rng = np.random.default_rng(0)
    own = [titles for titles in example_titles() if len(titles) > 4]
    return [[own[i % len(own)][j] for j in rng.permutation(len(own[i % len(own)]))] for i in range(n)]


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def clean(path: Path, threads: int) -> Callable[[], object]:
    words = ["clean", str(path), str(path.with_suffix(".out.jsonl")), "--threshold", ".5", "--no-fusion", "--no-config"]
    command = [sys.executable, "-m", "llm4dsr_cli", *words, "--quiet", "--threads", str(threads)]
    return lambda: subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def random_tokens(model: Model, threads: int, batches: int) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    context = Context(model, causal=False, cells=TOKENS, batch_tokens=TOKENS, threads=threads)

    def work() -> None:
        for _ in range(batches):
            tokens = rng.integers(100, model.n_vocab - 100, TOKENS, dtype=np.int32)
            context.clear()
            context.decode([tokens], [0], [0], [np.array([TOKENS - 1], dtype=np.int32)])

    return work


def products(path: Path, kind: str, threads: int, batches: int) -> Callable[[], object]:
    """The products of a model's matrices with those of 512 tokens."""
    import torch

    torch.set_num_threads(threads)
    shapes = [
        tuple(int(n) for n in tensor.shape)
        for tensor in open_gguf(path).tensors
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2
    ]
    if kind == "int8":
        made = [torch.randint(-9, 9, shape, dtype=torch.int8) for shape in shapes]
        inputs = {n: torch.randint(-9, 9, (TOKENS, n), dtype=torch.int8) for n in {shape[0] for shape in shapes}}
        multiply: Any = torch._int_mm
    else:
        dtype = getattr(torch, kind)
        made = [torch.randn(shape).to(dtype) for shape in shapes]
        inputs = {n: torch.randn(TOKENS, n).to(dtype) for n in {shape[0] for shape in shapes}}
        multiply = torch.matmul

    def work() -> None:
        with torch.inference_mode():
            for _ in range(batches):
                for matrix in made:
                    multiply(inputs[matrix.shape[0]], matrix)

    return work


def official(base: Path, windows: list[list[str]], threads: int) -> Callable[[], object]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(base.parent, gguf_file=base.name)
    model = AutoModelForCausalLM.from_pretrained(base.parent, gguf_file=base.name, dtype=torch.float32)

    def work() -> None:
        for titles in windows:
            text = PAPER.format(items="\n".join(titles))
            given = tokenizer(text, return_tensors="pt")
            model.generate(
                **given, num_beams=3, num_return_sequences=3, max_new_tokens=SUGGESTED, min_new_tokens=SUGGESTED,
                pad_token_id=tokenizer.eos_token_id,
            )  # fmt: skip

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--official", type=int, default=0, metavar="WINDOWS", help="the paper's way on so many windows")
    said = parser.parse_args()
    titles = sequences(said.windows)
    denoiser = Denoiser.load(threads=said.threads, weights=said.weights)
    prompts = [denoiser._prompter.prompt(one) for one in titles]
    n_tokens = sum(len(prompt.tokens) for prompt in prompts)
    a_window = n_tokens / len(prompts)
    batches = max(1, n_tokens // TOKENS)
    requests = [Request(prompt.tokens, prompt.probes) for prompt in prompts]
    with tempfile.TemporaryDirectory() as folder, Model(denoiser.runtime) as model:
        many, one = Path(folder, "many.jsonl"), Path(folder, "one.jsonl")
        many.write_text("".join(json.dumps({"items": items}) + "\n" for items in titles))
        one.write_text(json.dumps({"items": titles[0]}) + "\n")
        engine = Engine(model, causal=False, batch_tokens=TOKENS, threads=said.threads)
        two = np.array([0, 1], dtype=np.int32)
        works: dict[str, tuple[Callable[[], object], float]] = {
            "`clean`, one record": (clean(one, said.threads), 0),
            "`clean`, end to end": (clean(many, said.threads), n_tokens),
            "the engine alone": (lambda: list(engine.log_probabilities(requests, two)), n_tokens),
            f"llama.cpp, {TOKENS} random tokens": (random_tokens(model, said.threads, batches), batches * TOKENS),
        }
        for kind in ("float32", "bfloat16", "int8"):
            work = products(denoiser.runtime, kind, said.threads, batches)
            works[f"torch, the products alone, {kind}"] = (work, batches * TOKENS)
        if said.official:
            base = find_base(denoiser.metadata.base_name, registry=Registry.load(), offline=True, say=print)
            some = int(sum(len(prompt.tokens) for prompt in prompts[: said.official]))
            works["the paper's way"] = (official(base, titles[: said.official], said.threads), some)
        found: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(said.rounds + 1):
            for name, (work, _) in works.items():
                taken = seconds(work)
                if turn:  # the first one warms up
                    found[name].append(taken)
    start = median(found["`clean`, one record"])
    bare = batches * TOKENS / median(found[f"llama.cpp, {TOKENS} random tokens"])
    print(f"{len(titles)} windows of {a_window:.0f} tokens, {denoiser.runtime.name}, {said.threads} threads")
    print(f"\n`clean` of one record takes {start:.2f} s\n")
    print("| | windows/s | tokens/s | of llama.cpp's bare speed |\n| --- | ---: | ---: | ---: |")
    for name, (_, tokens) in works.items():
        if tokens:
            less = start if name == "`clean`, end to end" else 0
            rate = tokens / (median(found[name]) - less)
            print(f"| {name} | {rate / a_window:.1f} | {rate:,.0f} | {rate / bare:.2f} |")


if __name__ == "__main__":
    main()
