"""The denoiser's layers in torch, in the place of llama.cpp, for benchmarks that score a lot.

    python benchmarks/torch_engine.py --windows 256

prints how fast both are here, and how far their noise log-odds lie apart (needs the extra ``finetune``).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from trial_data import read_domain

from llm4dsr_cli.finetune.batch import Batch, Example
from llm4dsr_cli.finetune.model import NoiseModel, compile_backbone, load_base, pick_device, pick_dtype
from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.model.engine import Request

# Windows of one forward pass.
SIZE = 16


class TorchEngine:
    """What ``Engine`` is to a denoiser. Of its log-probabilities the differences alone mean something."""

    def __init__(self, denoiser: Denoiser, compiled: bool = True) -> None:
        device = pick_device()
        causal_lm = load_base(denoiser.runtime, denoiser.metadata.base_architecture, pick_dtype(device))
        self._model = NoiseModel(causal_lm, denoiser._prompter.answers).to(device).eval()
        if compiled:
            compile_backbone(self._model)

    def log_probabilities(
        self, requests: Iterable[Request], candidates: NDArray[np.int32]
    ) -> Iterator[NDArray[np.float32]]:
        examples = [
            Example(one.tokens, one.positions, np.zeros(len(one.positions), dtype=np.float32)) for one in requests
        ]
        found: list[NDArray[np.float32]] = [np.empty((0, 2), dtype=np.float32)] * len(examples)
        with torch.no_grad():
            for numbers, batch in Batch.by_length(examples, SIZE):
                flat = self._model(batch.to(self._model.device)).float().cpu().numpy()
                bounds = np.cumsum([len(examples[i].places) for i in numbers])[:-1]
                for i, part in zip(numbers, np.split(flat, bounds), strict=True):
                    found[i] = np.column_stack([part, np.zeros_like(part)])
        yield from found

    def close(self) -> None:
        del self._model


def with_torch(denoiser: Denoiser) -> Denoiser:
    """The denoiser, read by torch from now on; it should have been loaded with 16-bit weights."""
    denoiser._engine.close()
    denoiser._engine = TorchEngine(denoiser)  # type: ignore[assignment]
    return denoiser


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--domain", default="toy")
    parser.add_argument("--windows", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    domain = read_domain(arguments.data / arguments.domain)
    windows = [[domain.titles[i] for i in one] for one in domain.sequences[: arguments.windows]]
    scores = []
    print(f"{arguments.threads} threads\n\n| engine | windows/s |\n| --- | ---: |")
    for name in ("llama.cpp", "torch"):
        with Denoiser.load(weights="bf16", threads=arguments.threads) as denoiser:
            if name == "torch":
                with_torch(denoiser)
            denoiser.score(windows)  # compiles
            began = time.perf_counter()
            scores.append(np.concatenate(denoiser.score(windows)))
            print(f"| {name} | {len(windows) / (time.perf_counter() - began):.1f} |", flush=True)
    apart = np.abs(scores[0] - scores[1])
    print(f"\nlog-odds lie {np.mean(apart):.3f} apart on average, {np.quantile(apart, 0.99):.3f} at the .99 quantile")


if __name__ == "__main__":
    main()
