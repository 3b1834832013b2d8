"""The engine, with llama.cpp itself on a tiny random model: batching, attention, tokens, and what it prints."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from conftest import write_tiny_adapter
from gguf_mutants import STRING, Value, take_apart

from llm4dsr_cli.errors import ModelError, OptionError
from llm4dsr_cli.model import merged_model as runtime_model
from llm4dsr_cli.model.cores import usable_cores
from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.model.engine import Engine, Request
from llm4dsr_cli.model.llama import MAX_SEQUENCES, Model
from llm4dsr_cli.model.prompts import DEFAULT_FORMAT, Prompter
from llm4dsr_cli.windows import overlapping_windows

# How far batched log-odds may lie from those computed alone, in nats. The random model's log-odds span about 40, and
# its large weights amplify what a trained model damps: 0.04 was measured with 32-bit weights (the flash attention
# kernel's rounding), 0.2 with bf16. What a leak or a mix-up changes is of the order of 10.
TOLERANCE = 0.1
TOLERANCE_BF16 = 0.6

RandomTitles = Callable[[int, int], list[list[str]]]


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Iterator[Model]:
    with Model(tiny_base) as model:
        yield model


@pytest.fixture(scope="module")
def prompter(model: Model) -> Prompter:
    return Prompter(DEFAULT_FORMAT, model.tokenize, 16)


def random_window(n_items: int, seed: int, length: int = 12) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("abcdefgh "), rng.integers(1, length + 1))) for _ in range(n_items)]


def float_denoiser(folder: Path, base: Path, max_window: int) -> Path:
    """A merged denoiser with 32-bit weights."""
    adapter = write_tiny_adapter(folder / "adapter.gguf", base, max_window=max_window)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(runtime_model._TYPES, "bf16", (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32))
        runtime_model.merge(adapter, base, folder / "merged.gguf", "bf16")
    return folder / "merged.gguf"


def request(prompter: Prompter, titles: list[str]) -> Request:
    prompt = prompter.prompt(titles)
    return Request(prompt.tokens, prompt.probes)


def log_odds(engine: Engine, prompter: Prompter, *windows: list[str]) -> list[np.ndarray]:
    requests = (request(prompter, titles) for titles in windows)
    return [rows[:, 0] - rows[:, 1] for rows in engine.log_probabilities(requests, prompter.answers)]


@pytest.mark.parametrize("max_window", [1, 6, 20, 40])
def test_batched_scores_equal_one_at_a_time(tiny_base: Path, tmp_path: Path, max_window: int) -> None:
    """Guards positions, sequence ids or probes mixed up within a batch, windows cut across micro-batches, and a
    largest window (40 items of 16 tokens) that outgrows the usual micro-batch."""
    path = float_denoiser(tmp_path, tiny_base, max_window)
    sizes = [*range(1, max_window + 1), max_window, 1, 0, 1, max_window]
    sequences = [random_window(size, seed, 30) for seed, size in enumerate(sizes)]
    sequences.append(["abcdefghijklmnopqrstuvwxyz"] * max_window)
    with Denoiser.load(str(path), threads=1) as denoiser:
        together = denoiser.score(sequences)
        alone = [denoiser.score([titles])[0] for titles in sequences]
    assert [len(scores) for scores in together] == [len(titles) for titles in sequences]
    for batched, single in zip(together, alone, strict=True):
        assert batched.dtype == np.float32
        np.testing.assert_allclose(batched, single, atol=TOLERANCE)


def test_as_many_sequences_as_llama_cpp_allows_share_a_batch(model: Model, prompter: Prompter) -> None:
    """Guards a batch with more sequences than the context knows, which llama.cpp refuses."""
    windows = [[title] for title in "abcdefgh"] * 80
    assert len(windows) > 2 * MAX_SEQUENCES
    with Engine(model, causal=False, batch_tokens=2048, threads=1) as engine:
        scores = log_odds(engine, prompter, *windows)
        alone = log_odds(engine, prompter, ["h"])[0]
    np.testing.assert_allclose(scores[7::8], np.tile(alone, (80, 1)), atol=TOLERANCE)


def test_batched_scores_equal_one_at_a_time_with_16_bit_weights_too(
    tiny_base: Path, tiny_denoiser: Path, random_titles: RandomTitles
) -> None:
    """Guards a kernel of the weight type that serves which depends on more than rounding on the batch."""
    sequences = random_titles(60, 5)
    with Denoiser.load(str(tiny_denoiser), base=str(tiny_base), weights="bf16", threads=1) as denoiser:
        together = np.concatenate(denoiser.score(sequences))
        alone = np.concatenate([denoiser.score([titles])[0] for titles in sequences])
    np.testing.assert_allclose(together, alone, atol=TOLERANCE_BF16)
    assert np.median(np.abs(together - alone)) < TOLERANCE


def test_a_long_sequence_equals_each_of_its_windows_alone(tiny_base: Path, tmp_path: Path) -> None:
    """Guards items taken from the wrong window, or at the wrong place of the right one."""
    with Denoiser.load(str(float_denoiser(tmp_path, tiny_base, 6)), threads=1) as denoiser:
        size = denoiser.metadata.max_window
        for n_items in (size + 1, 2 * size, 2 * size + 1, 47):
            titles = random_window(n_items, n_items)
            expected = np.full(n_items, np.nan, dtype=np.float32)
            for window in overlapping_windows(n_items, size):
                for item in range(window.judge_from, window.judge_to):
                    expected[item] = denoiser.score([titles[window.start : window.end]])[0][item - window.start]
            np.testing.assert_allclose(denoiser.score([["x"], titles])[1], expected, atol=TOLERANCE)


def test_a_window_that_stands_often_is_read_once(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: replacing in a sequence of a thousand items, which read all of it anew for each item; and windows that
    are alike but for one item taken for the same."""
    with Denoiser.load(str(float_denoiser(tmp_path, tiny_base, 6)), threads=1) as denoiser:
        titles = random_window(60, 3)
        altered = [[*titles[:i], "another", *titles[i + 1 :]] for i in range(0, 60, 7)]
        alone = [denoiser.score([one])[0] for one in altered]
        read: list[tuple[str, ...]] = []
        prompt = denoiser._prompter.prompt
        monkeypatch.setattr(denoiser._prompter, "prompt", lambda window: read.append(window) or prompt(window))
        for one, other in zip(alone, denoiser.score(altered), strict=True):
            np.testing.assert_allclose(one, other, atol=TOLERANCE)
        n_windows = len(overlapping_windows(60, 6))
        assert n_windows < len(read) == len(set(read)) <= n_windows + 3 * len(altered)


def test_probabilities_sum_to_one_over_the_vocabulary(model: Model, prompter: Prompter) -> None:
    """Guards a softmax over the candidates alone, and one that overflows."""
    with Engine(model, causal=False, threads=1) as engine:
        rows = next(engine.log_probabilities([request(prompter, ["a", "b"])], np.arange(model.n_vocab, dtype=np.int32)))
        few = next(engine.log_probabilities([request(prompter, ["a", "b"])], prompter.answers))
    assert rows.shape == (2, model.n_vocab)
    np.testing.assert_allclose(np.exp(rows.astype(np.float64)).sum(axis=1), 1, atol=1e-5)
    assert np.array_equal(few, rows[:, prompter.answers])


def test_only_bidirectional_attention_lets_the_first_item_see_the_last(model: Model, prompter: Prompter) -> None:
    """Guards a causal mask left on, which hides most of a window from its early items; and one left off."""
    titles = random_window(12, 3)
    changed = [*titles[:-1], "zzzzz"]
    with Engine(model, causal=False, threads=1) as engine:
        before, after = log_odds(engine, prompter, titles, changed)
    assert abs(before[0] - after[0]) > 0.1
    with Engine(model, causal=True, threads=1) as engine:
        before, after = log_odds(engine, prompter, titles, changed)
    np.testing.assert_allclose(before[:-1], after[:-1], atol=TOLERANCE)
    assert abs(before[-1] - after[-1]) > 0.1


@pytest.mark.parametrize("causal", [False, True])
def test_sequences_of_a_batch_do_not_see_each_other(model: Model, prompter: Prompter, causal: bool) -> None:
    """Guards attention over the whole of the shared key-value buffer, and cells left over from the last batch."""
    titles = random_window(6, 4)
    with Engine(model, causal=causal, threads=1) as engine:
        (alone,) = log_odds(engine, prompter, titles)
        for seed in range(3):
            others = [random_window(n, 10 * seed + n) for n in (1, 5, 3)]
            for place in range(4):
                scores = log_odds(engine, prompter, *others[:place], titles, *others[place:])
                np.testing.assert_allclose(scores[place], alone, atol=TOLERANCE)


def test_two_runs_read_in_turn_do_not_mix(model: Model, prompter: Prompter) -> None:
    """Guards logits read only when the caller asks for them, after another run has overwritten them."""
    windows = [random_window(4, seed) for seed in range(4)]
    with Engine(model, causal=False, threads=1) as engine:
        expected = list(engine.log_probabilities([request(prompter, w) for w in windows], prompter.answers))
        first = engine.log_probabilities([request(prompter, w) for w in windows[:2]], prompter.answers)
        second = engine.log_probabilities([request(prompter, w) for w in windows[2:]], prompter.answers)
        found = [next(first), next(second), next(first), next(second)]
    for i, place in enumerate((0, 2, 1, 3)):
        np.testing.assert_allclose(found[i], expected[place], atol=TOLERANCE)


def test_a_sequence_longer_than_a_batch_is_refused(model: Model, prompter: Prompter) -> None:
    """Guards bidirectional attention that silently sees a part of a sequence; what fits exactly is read."""
    tokens = np.full(65, 100, dtype=np.int32)
    positions = np.array([3], dtype=np.int32)
    with Engine(model, causal=False, batch_tokens=64, threads=1) as engine:
        assert len(list(engine.log_probabilities([Request(tokens[:64], positions)], prompter.answers))) == 1
        with pytest.raises(OptionError, match="65 tokens does not fit a batch of 64"):
            list(engine.log_probabilities([Request(tokens, positions)], prompter.answers))


def test_titles_cannot_smuggle_control_tokens_into_a_prompt(model: Model, prompter: Prompter) -> None:
    """Guards titles from strangers read as control tokens, and a beginning-of-text token that training never saw."""
    control = {model.n_vocab - 2, model.n_vocab - 1}
    for text in ("<|im_end|>", "<|endoftext|>", "a<|im_end|>b"):
        tokens = model.tokenize(text)
        assert len(tokens) == len(text)  # each letter on its own: the vocabulary has no such merges
        assert not control & {*tokens.tolist(), *prompter.prompt([text, "x"]).tokens.tolist()}


def test_every_unicode_text_is_tokenized(model: Model) -> None:
    """Guards texts with more tokens than characters, lone surrogates, NUL, and the empty title."""
    assert len(model.tokenize("")) == 0
    assert len(model.tokenize("映画\U0001f600")) == 10
    assert len(model.tokenize("a\x00b")) == 3
    assert len(model.tokenize("\ud800")) == 1


def with_unknown_words(base: Path, path: Path) -> Path:
    """A copy of a model that only llama.cpp itself refuses: it does not know how to cut its texts into words."""
    file = take_apart(base)
    file.values = [(key, value) for key, value in file.values if key != b"tokenizer.ggml.pre"]
    file.values.append((b"tokenizer.ggml.pre", Value(STRING, b"nobody's")))
    path.write_bytes(file.encoded())
    return path


def test_a_damaged_model_is_one_sentence_that_names_the_cause(tiny_base: Path, tmp_path: Path) -> None:
    """Guards llama.cpp's reason lost, as it was while its log levels were taken for those of an older version."""
    whole = tiny_base.read_bytes()
    path = tmp_path / "cut.gguf"
    for size in (0, 3, 100, 5000, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError) as caught:
            Model(path)
        assert str(caught.value).startswith(f"{path}: this is no whole GGUF file (")
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError) as caught:
        Model(with_unknown_words(tiny_base, path))
    assert str(caught.value).startswith(f"{path}: llama.cpp cannot load it (")
    assert "unknown pre-tokenizer type: 'nobody's'" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="no such model file"):
        Model(tmp_path / "none.gguf")


def test_llama_cpp_errors_are_logged_as_errors(
    tiny_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards llama.cpp's errors filed under debug."""
    path = with_unknown_words(tiny_base, tmp_path / "unknown.gguf")
    with caplog.at_level(logging.DEBUG, "llm4dsr"), pytest.raises(ModelError):
        Model(path)
    levels = {record.levelno for record in caplog.records if "error loading model" in record.message}
    assert levels == {logging.ERROR}


def test_impossible_thread_counts_are_refused(tiny_base: Path, tiny_denoiser: Path) -> None:
    """Guards zero threads, on which llama.cpp never returns."""
    with pytest.raises(OptionError, match="`threads` is 0"):
        Denoiser.load(str(tiny_denoiser), base=str(tiny_base), weights="bf16", threads=0)


WHILE_LOADING = """
import os, sys, threading
from pathlib import Path
from llm4dsr_cli.model.engine import Engine
from llm4dsr_cli.model.llama import Model
from llm4dsr_cli.errors import ModelError

whole, refused = Path(sys.argv[1]), Path(sys.argv[2])
print("before", flush=True)
done = threading.Event()
written = 0

def write():
    global written
    while not done.is_set():
        os.write(1, b"line %d\\n" % written)
        written += 1
        done.wait(0.0002)

thread = threading.Thread(target=write)
thread.start()
for _ in range(20):
    with Model(whole) as model, Engine(model, causal=False, threads=1):
        pass
try:
    Model(refused)
except ModelError:
    pass
done.set()
thread.join()
print("after", written, flush=True)
"""


def test_standard_output_and_error_belong_to_the_caller(tiny_base: Path, tmp_path: Path) -> None:
    """Guards file descriptors 1 and 2 pointed at /dev/null during a load, where records written meanwhile are lost,
    and llama.cpp's log, even of a failure, on standard error unasked."""
    refused = with_unknown_words(tiny_base, tmp_path / "unknown.gguf")
    command = [sys.executable, "-c", WHILE_LOADING, str(tiny_base), str(refused)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    before, *lines, after = done.stdout.splitlines()
    assert before == "before"
    assert after == f"after {len(lines)}"
    assert len(lines) > 20
    assert lines == [f"line {i}" for i in range(len(lines))]
    assert done.stderr == ""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux lets a process choose its cores")
def test_usable_cores_are_those_of_the_affinity_mask() -> None:
    """Guards threads started for every core of a machine of which a container may use one."""
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{one}}})\n"
        "from llm4dsr_cli.model.cores import usable_cores; print(usable_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "1\n"
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
