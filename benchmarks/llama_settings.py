"""What llama.cpp's settings do to its speed on this machine: tokens a second of a denoiser's layers, as markdown.

    python benchmarks/llama_settings.py --rounds 3

Batches of sequences of 64 random tokens, of which one each is read, as scoring has them. Settings are taken in turn,
and the median of the rounds is shown. To try another build of llama-cpp-python, put it first on PYTHONPATH; a BLAS
library takes its number of threads from OPENBLAS_NUM_THREADS or the like.
"""

from __future__ import annotations

import argparse
import itertools
import time
from statistics import median
from typing import Any

import llama_cpp
import numpy as np

from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.model.llama import Model

LENGTH = 64
KINDS = {"f16": llama_cpp.GGML_TYPE_F16, "f32": llama_cpp.GGML_TYPE_F32}


class Bare:
    """A context of llama.cpp without this project's own settings."""

    def __init__(self, model: Model, batch: int, flash: bool, kind: str, threads: int) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = batch
        params.n_seq_max = max(1, batch // LENGTH)
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = threads
        on, off = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED, llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.flash_attn_type = on if flash else off
        params.type_k = params.type_v = KINDS[kind]
        self._context = llama_cpp.llama_init_from_model(model.handle, params)
        llama_cpp.llama_set_causal_attn(self._context, False)
        self._batch: Any = llama_cpp.llama_batch_init(batch, 0, 1)
        self._size, self._n_vocab = batch, model.n_vocab

    def tokens_a_second(self, tokens: int, rng: np.random.Generator) -> float:
        batches = max(1, tokens // self._size)
        began = time.perf_counter()
        for _ in range(batches):
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)
            self._batch.n_tokens = self._size
            for place, token in enumerate(rng.integers(100, self._n_vocab - 100, self._size).tolist()):
                self._batch.token[place], self._batch.pos[place] = token, place % LENGTH
                self._batch.n_seq_id[place], self._batch.seq_id[place][0] = 1, place // LENGTH
                self._batch.logits[place] = place % LENGTH == LENGTH - 1
            assert llama_cpp.llama_decode(self._context, self._batch) == 0
        return batches * self._size / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=["bf16", "q8_0", "q4_0"])
    parser.add_argument("--batches", type=int, nargs="+", default=[512, 128])
    parser.add_argument("--flash", nargs="+", default=["on", "off"], choices=["on", "off"])
    parser.add_argument("--kinds", nargs="+", default=["f16", "f32"], choices=[*KINDS], help="of keys and values")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    said = parser.parse_args()
    models = {}
    for weights in said.weights:
        with Denoiser.load(weights=weights, threads=said.threads) as denoiser:
            models[weights] = Model(denoiser.runtime)
    settings = list(itertools.product(said.weights, said.batches, said.flash, said.kinds))
    contexts = {one: Bare(models[one[0]], one[1], one[2] == "on", one[3], said.threads) for one in settings}
    found: dict[Any, list[float]] = {one: [] for one in settings}
    rng = np.random.default_rng(0)
    for turn in range(said.rounds + 1):
        for one, context in contexts.items():
            speed = context.tokens_a_second(said.tokens, rng)
            if turn:  # the first one warms up
                found[one].append(speed)
    print(f"{llama_cpp.__version__} in {llama_cpp.__file__}\n")
    print("| weights | batch | flash attention | keys, values | tokens/s |\n| --- | ---: | --- | --- | ---: |")
    for one in settings:
        print(f"| {one[0]} | {one[1]} | {one[2]} | {one[3]} | {median(found[one]):.0f} |")


if __name__ == "__main__":
    main()
