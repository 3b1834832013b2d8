"""llama.cpp, by its low-level interface: a model, and a context that runs token batches.

No other module touches it.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.closing import Closing
from llm4dsr_cli.errors import ModelError, OptionError, OutOfMemoryError
from llm4dsr_cli.model.architecture import check_model
from llm4dsr_cli.model.cores import FreeCores
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.library import check_layers, check_version, does_not_load
from llm4dsr_cli.signals import give_up, held

try:
    import llama_cpp
except (ImportError, OSError, RuntimeError) as error:  # RuntimeError is what it makes of an OSError
    raise does_not_load(error) from error
check_version(llama_cpp.__version__)

Tokens = NDArray[np.int32]

log = logging.getLogger("llm4dsr.llama_cpp")
# Without a handler of its own, logging would print warnings to standard error.
log.addHandler(logging.NullHandler())

# llama.cpp refuses contexts with more sequences than this (LLAMA_MAX_SEQ).
MAX_SEQUENCES = 256
# ggml_log_level of ggml.h; llama_cpp._logger still has the numbers of an older one.
_GGML_ERROR = 4
_GGML_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, _GGML_ERROR: logging.ERROR}
# Of the call in hand: the first names the cause, later ones what failed in consequence.
_last_errors: list[str] = []
_SHORT_OF_MEMORY = re.compile(
    "insufficient memory|cannot allocate memory|bad_alloc|out of memory|failed to allocate|unable to allocate", re.I
)
# More layers than any model has: all of them.
_ALL_LAYERS = 999
_open_files: list[Path] = []  # one entry for each model that has it open
# The process in which llama.cpp started threads. OpenMP, with which it is built on Linux, waits in a forked process for
# the threads of the first one.
_process_of_threads: int | None = None


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    line = text.decode("utf-8", "replace").rstrip("\n")
    if level == _GGML_ERROR:
        _last_errors.append(line)
    if line:
        log.log(_GGML_LEVELS.get(level, logging.DEBUG), line)


@ctypes.CFUNCTYPE(None, ctypes.c_char_p)  # type: ignore[untyped-decorator]
def _on_abort(message: bytes) -> None:
    """llama.cpp is about to abort the process, which it does where it asserts something and where memory is short."""
    said = message.decode("utf-8", "replace").rpartition("/")[2]
    if "mem_buffer" in said:
        error: ModelError = OutOfMemoryError(said)
    else:
        remedy = "the model's file may be damaged or too new; fetch or make it again, or give it more memory"
        error = ModelError(f"llama.cpp gave up ({said})", remedy=remedy)
    give_up(str(error))


# Without a callback llama.cpp writes its log to file descriptor 2; llama_cpp's own callback prints errors there.
llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(0))
# llama_cpp does not declare it; on Windows it is in another library.
with contextlib.suppress(AttributeError):
    llama_cpp.llama_cpp._lib.ggml_set_abort_callback(_on_abort)


def _call(function: Callable[..., Any], *arguments: object) -> Any:
    """A call of llama.cpp that may log, during which no signal's handler raises; it would raise in ``_on_log``."""
    _last_errors.clear()
    with held():
        return function(*arguments)


@contextlib.contextmanager
def _closed_on_error(loading: Model | Context) -> Iterator[None]:
    """Free what the block makes when a signal's handler raises as soon as it is made."""
    try:
        with held():
            yield
    except BaseException:
        loading.close()
        raise


def _failure(what: str, *, where: str | None = None, remedy: str | None = None) -> ModelError:
    """What went wrong in the call in hand, by llama.cpp's own words if it has said any."""
    if any(_SHORT_OF_MEMORY.search(line) for line in _last_errors):
        return OutOfMemoryError(f"{what}: {_last_errors[0]}", where=where)
    return ModelError(f"{what} ({_last_errors[0] if _last_errors else 'unknown reason'})", where=where, remedy=remedy)


def open_files() -> tuple[Path, ...]:
    """The files of the models that this process has loaded and not closed."""
    return tuple(_open_files)


class Model(Closing):
    """A GGUF model in llama.cpp's hands: its weights (or only its vocabulary), and its tokenizer.

    Raises:
        OutOfMemoryError: there is too little memory for it.
        ModelError: the file is missing, damaged, or of an architecture that llama.cpp does not know.
    """

    def __init__(self, path: str | Path, *, gpu_layers: int | None = None, vocab_only: bool = False) -> None:
        path = Path(path)
        sizes = check_model(open_gguf(path))  # llama.cpp would end the process for much of what is refused here
        check_layers(llama_cpp.__version__, sizes.architecture, sizes.layers)
        self.cores = FreeCores()  # measured while the model loads
        params = llama_cpp.llama_model_default_params()
        offload = bool(_call(llama_cpp.llama_supports_gpu_offload))
        params.n_gpu_layers = (_ALL_LAYERS if offload else 0) if gpu_layers is None else min(gpu_layers, _ALL_LAYERS)
        if params.n_gpu_layers and not offload:
            raise OptionError(
                f"`gpu_layers` is {gpu_layers}: this llama-cpp-python was built without a GPU back end",
                remedy="reinstall it with CMAKE_ARGS=-DGGML_CUDA=on (or GGML_METAL, GGML_VULKAN)",
            )
        params.vocab_only = vocab_only
        # llama.cpp's AMX kernels crash on the first decode with quantized weights (ggml-org/llama.cpp issue 20824).
        params.use_extra_bufts = b"AMX_INT8 = 1" not in _call(llama_cpp.llama_print_system_info)
        self._path = path
        self._model = None
        with _closed_on_error(self):
            self._model = _call(llama_cpp.llama_model_load_from_file, os.fsencode(path), params)
            if self._model:
                _open_files.append(path)
        if not self._model:
            raise _failure(
                "llama.cpp cannot load it", where=str(path), remedy="the file may be damaged; fetch or make it again"
            )
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)

    @property
    def handle(self) -> object:
        return self._model

    @property
    def n_vocab(self) -> int:
        return int(llama_cpp.llama_vocab_n_tokens(self._vocab))

    def tokenize(self, text: str) -> Tokens:
        """Token ids of ``text`` as plain text: no special token is added, and none is read out of the text.

        Returns: int32 array of shape (n_tokens,).
        """
        raw = text.encode("utf-8", "replace")
        buffer = (llama_cpp.llama_token * (len(raw) + 8))()
        n = llama_cpp.llama_tokenize(self._vocab, raw, len(raw), buffer, len(buffer), False, False)
        if n < 0:
            raise ModelError(f"llama.cpp cannot tokenize a text of {len(raw)} bytes")
        return np.frombuffer(buffer, dtype=np.int32, count=n).copy()

    def close(self) -> None:
        model, self._model = self._model, None
        if model:
            _open_files.remove(self._path)
            _call(llama_cpp.llama_model_free, model)


class Context:
    """A llama.cpp context: one buffer of key-value cells for many sequences, and batches of tokens run into it.

    A context is not thread-safe: use one a thread.

    Args:
        causal: False lets every token see its whole sequence (llama.cpp's non-causal mode), which needs each sequence
            to lie within one batch.
        cells: tokens that it can hold.
        batch_tokens: most tokens of a batch.
        threads: CPU threads; None is as many as other processes leave cores free, at every moment.

    Raises:
        OutOfMemoryError: there is too little memory for it.
        ModelError: llama.cpp cannot make it; or its threads would wait for ever, in a forked process.
    """

    def __init__(
        self, model: Model, *, causal: bool, cells: int, batch_tokens: int, threads: int | None = None
    ) -> None:
        self._cores = model.cores if threads is None else None
        self._threads = model.cores.threads() if threads is None else threads
        if self._threads > 1 and _process_of_threads not in (None, os.getpid()):
            raise ModelError(
                "llama.cpp ran with threads before this process was forked, and would wait for them for ever",
                remedy="start processes by spawn, or give `threads` 1",
            )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = cells, batch_tokens, batch_tokens
        # llama.cpp aborts the process if each sequence could not have an output in one batch.
        params.n_seq_max = min(MAX_SEQUENCES, cells, batch_tokens)
        # One buffer for all sequences: with separate streams, sequences of unequal length would be cut across
        # micro-batches, and bidirectional attention would silently see only a part of them.
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = self._threads
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.no_perf = True
        self._context = None
        self._batch: Any = None
        with _closed_on_error(self):
            self._context = _call(llama_cpp.llama_init_from_model, model.handle, params)
        if not self._context:
            raise _failure(f"llama.cpp cannot make a context of {cells} tokens")
        llama_cpp.llama_set_causal_attn(self._context, causal)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(batch_tokens, 0, 1)
        self._n_vocab = model.n_vocab
        self.batch_tokens = batch_tokens
        self.cells = cells
        self.max_sequences = int(params.n_seq_max)

    @property
    def handle(self) -> object:
        return self._context

    def clear(self) -> None:
        """Forget all sequences."""
        llama_cpp.llama_memory_clear(self._memory, False)

    def share(self, sequence: int, other: int) -> None:
        """Let ``other`` begin with all the cells of ``sequence``, without a copy of them."""
        llama_cpp.llama_memory_seq_cp(self._memory, sequence, other, -1, -1)

    def forget(self, sequence: int) -> None:
        """Free the cells that no other sequence has."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def decode(
        self, tokens: Sequence[Tokens], sequences: Sequence[int], starts: Sequence[int], reads: Sequence[Tokens]
    ) -> list[NDArray[np.float32]]:
        """Run pieces of sequences, all in one batch.

        Args:
            tokens: of each piece, shape (n_tokens,).
            sequences: which sequence each piece continues, 0 to ``max_sequences`` - 1.
            starts: the position of each piece's first token in its sequence.
            reads: where in each piece predictions are read, shape (n_positions,), possibly none.

        Returns:
            For each piece the log-probabilities of all tokens of the vocabulary to come next, in nats: float32, shape
            (n_positions, n_vocab). A row is NaN where the model gives no numbers, which is the caller's to refuse.

        Raises:
            ModelError: llama.cpp fails.
        """
        batch = self._batch
        lengths = [len(piece) for piece in tokens]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        total = int(offsets[-1])
        batch.n_tokens = total
        _fill(batch.token, np.concatenate(tokens))
        _fill(batch.pos, np.concatenate([np.arange(at, at + n) for at, n in zip(starts, lengths, strict=True)]))
        wanted = np.zeros(total, dtype=np.int8)
        for positions, offset in zip(reads, offsets, strict=False):
            wanted[offset + positions] = 1
        _fill(batch.logits, wanted, np.int8)
        for i, sequence in enumerate(np.repeat(np.asarray(sequences), lengths).tolist()):
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
        self._use_free_cores()
        if self._threads > 1:
            global _process_of_threads
            _process_of_threads = os.getpid()
        status = _call(llama_cpp.llama_decode, self._context, batch)
        if status != 0:
            raise _failure(f"llama.cpp failed on a batch of {total} tokens, status {status}")
        # All read at once: the next decode, which may be another caller's, overwrites the logits.
        results = []
        for positions, offset in zip(reads, offsets, strict=False):
            rows = np.empty((len(positions), self._n_vocab), dtype=np.float32)
            for row, position in zip(rows, positions, strict=True):
                pointer = llama_cpp.llama_get_logits_ith(self._context, int(offset + position))
                row[:] = np.ctypeslib.as_array(pointer, shape=(self._n_vocab,))
            with np.errstate(invalid="ignore"):  # NaN or infinity among the logits makes a whole row NaN
                rows -= rows.max(axis=1, keepdims=True, initial=-np.inf)
                rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
            results.append(rows)
        return results

    def _use_free_cores(self) -> None:
        if self._cores is None or _process_of_threads not in (None, os.getpid()):
            return
        if (threads := self._cores.threads()) != self._threads:
            llama_cpp.llama_set_n_threads(self._context, threads, threads)
            self._threads = threads

    def close(self) -> None:
        """Free the context; the model stays the caller's."""
        context, self._context = self._context, None
        if self._batch is not None:
            llama_cpp.llama_batch_free(self._batch)
            self._batch = None
        if context:
            _call(llama_cpp.llama_free, context)


def _fill(pointer: object, values: NDArray[np.integer], dtype: type[np.integer] = np.int32) -> None:
    """Copy ``values`` into an array of llama.cpp's; ``dtype`` is the type of that array."""
    exact = np.ascontiguousarray(values, dtype=dtype)
    ctypes.memmove(pointer, exact.ctypes.data, exact.nbytes)  # type: ignore[arg-type]
