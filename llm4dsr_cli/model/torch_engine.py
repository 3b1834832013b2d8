"""The engine on torch: the same log-probabilities, for machines on which torch is faster (docs/speed.md)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.closing import Closing
from llm4dsr_cli.errors import MissingExtraError, ModelError, OptionError, OutOfMemoryError
from llm4dsr_cli.model.engine import Request
from llm4dsr_cli.model.llama import Tokens

try:
    import torch

    from llm4dsr_cli.model.torch_model import last_hidden, load_base, pick_device, pick_dtype, room
except ModuleNotFoundError as error:
    if error.name not in ("torch", "transformers"):
        raise
    raise MissingExtraError("finetune", error.name) from None

# So many sequences are sorted by length together, so that a batch holds little padding.
_SORTED = 256
# Tokens of a batch, padding among them: on a CPU larger ones fall out of its caches.
_BATCH_TOKENS = {"cpu": 2_048}
_BATCH_TOKENS_OF_A_GPU = 65_536


class TorchEngine(Closing):
    """Runs many token sequences at once through a transformers model.

    On a GPU where there is one, else on the CPU: products are in bfloat16 where the device multiplies it faster.

    Args:
        path: the model's GGUF; its weights are dequantized.
        architecture: as GGUF calls it.
        causal: False lets every token see the whole sequence.
        threads: CPU threads; None is torch's own choice.

    Raises:
        OptionError: transformers cannot load it, or would leave something out.
        OutOfMemoryError: there is too little memory for it, or for a batch.
    """

    def __init__(self, path: Path, architecture: str, *, causal: bool, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        device = pick_device()
        # Products alone are in 16 bits; what layers add up stays in 32, as with llama.cpp.
        self._products = pick_dtype(device)
        if device.type == "cpu" and not torch.cpu._is_amx_tile_supported():
            self._products = torch.float32  # without tiles 16 bits are slower
        try:
            causal_lm = load_base(path, architecture, torch.float32).eval()
        except OutOfMemoryError:
            raise
        except ModelError as error:  # which llama.cpp may run all the same
            raise OptionError(f"`engine` is torch: {error.what}", where=str(path), remedy="leave it out") from None
        for module in causal_lm.model.modules():
            if isinstance(module, torch.nn.Linear):
                module.to(self._products)  # once, not in every batch
        with room(path):
            causal_lm.to(device)
        self._backbone = causal_lm.model
        self._head = causal_lm.get_output_embeddings().weight
        self._causal = causal
        self._path = path
        self._batch_tokens = _BATCH_TOKENS.get(device.type, _BATCH_TOKENS_OF_A_GPU)

    def log_probabilities(self, requests: Iterable[Request], candidates: Tokens) -> Iterator[NDArray[np.float32]]:
        """As ``Engine.log_probabilities``; a sequence may be of any length."""
        waiting = iter(requests)
        while some := list(itertools.islice(waiting, _SORTED)):
            order = sorted(range(len(some)), key=lambda i: len(some[i].tokens))
            found: dict[int, NDArray[np.float32]] = {}
            for numbers in self._batches([len(some[i].tokens) for i in order]):
                chosen = [order[number] for number in numbers]
                found.update(zip(chosen, self._run([some[i] for i in chosen], candidates), strict=True))
            yield from (found[i] for i in range(len(some)))

    def _batches(self, lengths: Sequence[int]) -> Iterator[range]:
        """Stretches of ascending lengths; padded to its longest each has at most as many tokens as a batch holds."""
        start = 0
        for end in range(1, len(lengths) + 1):
            if end == len(lengths) or lengths[end] * (end + 1 - start) > self._batch_tokens:
                yield range(start, end)
                start = end

    def _run(self, requests: Sequence[Request], candidates: Tokens) -> list[NDArray[np.float32]]:
        sizes = [len(request.tokens) for request in requests]
        tokens = np.zeros((len(requests), max(sizes)), dtype=np.int64)
        present = np.arange(max(sizes)) < np.array(sizes)[:, None]
        for row, request in zip(tokens, requests, strict=True):
            row[: len(request.tokens)] = request.tokens
        rows = np.repeat(np.arange(len(requests)), [len(request.positions) for request in requests])
        columns = np.concatenate([request.positions for request in requests]).astype(np.int64)
        to = self._head.device
        in_16_bit = self._products != torch.float32
        with torch.no_grad(), torch.autocast(to.type, self._products, enabled=in_16_bit), room(self._path):
            hidden = last_hidden(
                self._backbone, torch.from_numpy(tokens).to(to), torch.from_numpy(present).to(to), causal=self._causal
            )
            read = hidden[torch.from_numpy(rows).to(to), torch.from_numpy(columns).to(to)]
            every = torch.nn.functional.linear(read, self._head).float()
            with torch.autocast(to.type, enabled=False):  # 16 bits would round what is compared
                asked = self._head[torch.from_numpy(candidates.astype(np.int64)).to(to)]
                chosen = torch.nn.functional.linear(read.float(), asked.float())
            flat = (chosen - every.logsumexp(dim=1, keepdim=True)).cpu().numpy()
        bounds = np.cumsum([len(request.positions) for request in requests])[:-1]
        return np.split(flat, bounds)

    def close(self) -> None:
        """Free the weights."""
        del self._backbone, self._head
