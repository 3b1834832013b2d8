"""The merged runtime file: made once, right, whole or not at all, and a denoiser itself."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from conftest import LAYERS, RANK, SUGGESTER_ALPHA, SUGGESTER_RANK, write_tiny_adapter, write_tiny_base

from llm4dsr_cli.cache import KEPT, file_sha256
from llm4dsr_cli.errors import ModelError, OptionError, OutputError
from llm4dsr_cli.model import merged_model as module
from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.llama import open_files
from llm4dsr_cli.model.merged_model import merge, runtime_model
from llm4dsr_cli.model.metadata import SUGGESTER, DenoiserMetadata
from llm4dsr_cli.replacing.generate.suggester import Suggester

TITLES = [["abc def", "x y z", "foo", "abc"], ["q"] * 6, ["one", "two", "three", "four", "five"]]


def silent(_: str) -> None:
    pass


def make(adapter: Path, base: Path, weights: str = "bf16") -> Path:
    metadata = DenoiserMetadata.read(open_gguf(adapter), adapter)
    return runtime_model(adapter, metadata, base, weights=weights, say=silent)


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {t.name: gguf.dequantize(t.data, t.tensor_type).astype(np.float32) for t in open_gguf(path).tensors}


def changed_adapter(source: Path, target: Path, renamed: dict[str, str], *, width: int | None = None) -> Path:
    """A copy of an adapter with tensors renamed, or (``width``) their A matrices cut."""
    reader = open_gguf(source)
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    DenoiserMetadata.read(reader, source).write(writer)
    for tensor in reader.tensors:
        name = tensor.name
        for old, new in renamed.items():
            name = name.replace(old, new)
        data = tensor.data[:, :width].copy() if width and name.endswith("lora_a") else tensor.data
        if name != "gone":
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.parametrize("weights", ["bf16", "auto"])
def test_the_merged_file_is_made_once(tiny_base: Path, tiny_denoiser: Path, own_cache: Path, weights: str) -> None:
    """Guards a merge at every start, and leftovers of the types that lost against each other."""
    said: list[str] = []
    metadata = DenoiserMetadata.read(open_gguf(tiny_denoiser), tiny_denoiser)
    paths, files = set(), set()
    for _ in range(3):
        path = runtime_model(tiny_denoiser, metadata, tiny_base, weights=weights, say=said.append)
        paths.add(path)
        files.add(path.stat().st_ino)
    assert len(paths) == len(files) == 1
    assert sum("first use of tiny-denoiser" in line for line in said) == 1
    assert list((own_cache / "runtime").iterdir()) == [*paths]


def test_the_cache_is_keyed_by_content(tiny_base: Path, tmp_path: Path) -> None:
    """Guards the old merge served for an adapter, or a base, that was replaced under the same name."""
    adapter = write_tiny_adapter(tmp_path / "a.gguf", tiny_base, seed=1)
    first = make(adapter, tiny_base)
    write_tiny_adapter(adapter, tiny_base, seed=2)
    second = make(adapter, tiny_base)
    assert first != second
    assert not np.array_equal(tensors(first)["blk.0.attn_q.weight"], tensors(second)["blk.0.attn_q.weight"])
    other_base = write_tiny_base(tmp_path / "base.gguf", seed=5)
    write_tiny_adapter(adapter, other_base, seed=2)
    assert make(adapter, other_base) not in (first, second)
    assert make(adapter, tiny_base, "q8_0") not in (first, second)
    write_tiny_adapter(adapter, tiny_base, seed=1)
    assert make(adapter, tiny_base) == first


def test_a_merged_weight_is_the_base_plus_the_scaled_product(tiny_base: Path, tiny_denoiser: Path) -> None:
    """Guards A and B swapped, transposed, or scaled by anything but alpha / rank; and tensors left as they were."""
    base, adapter, merged = tensors(tiny_base), tensors(tiny_denoiser), tensors(make(tiny_denoiser, tiny_base))
    assert merged.keys() == base.keys()
    adapted = {name.removesuffix(".lora_a") for name in adapter if name.endswith(".lora_a")}
    assert len(adapted) == 14
    for name, before in base.items():
        expected = before.astype(np.float64)
        if name in adapted:
            expected += 8.0 / RANK * adapter[f"{name}.lora_b"].astype(np.float64) @ adapter[f"{name}.lora_a"]
            assert np.abs(expected - before).mean() > 0.05
        # bfloat16 keeps 8 significant bits.
        np.testing.assert_allclose(merged[name], expected, rtol=2**-8 if expected.ndim > 1 else 0, atol=1e-6)


def test_the_two_parts_of_a_denoiser_are_merged_apart(tiny_base: Path, tmp_path: Path) -> None:
    """Guards one adapter's weights, scale or layers in the other's merged file, where all shapes fit."""
    both = write_tiny_adapter(tmp_path / "both.gguf", tiny_base, layers=1, suggests=True)
    alone = write_tiny_adapter(tmp_path / "alone.gguf", tiny_base, layers=1)
    for adapter, target in ((both, "detector.gguf"), (alone, "same.gguf")):
        merge(adapter, tiny_base, tmp_path / target, "bf16")
    assert (tmp_path / "detector.gguf").read_bytes() == (tmp_path / "same.gguf").read_bytes()
    merge(both, tiny_base, tmp_path / "suggester.gguf", "bf16", "suggester")
    base, adapter, merged = tensors(tiny_base), tensors(both), tensors(tmp_path / "suggester.gguf")
    assert open_gguf(tmp_path / "suggester.gguf").fields["llama.block_count"].contents() == LAYERS
    assert merged.keys() == base.keys()
    for name, before in base.items():
        expected = before.astype(np.float64)
        if f"{SUGGESTER}{name}.lora_a" in adapter:
            a, b = (adapter[f"{SUGGESTER}{name}.lora_{side}"].astype(np.float64) for side in "ab")
            expected += SUGGESTER_ALPHA / SUGGESTER_RANK * b @ a
            assert np.abs(expected - before).mean() > 0.02
        np.testing.assert_allclose(merged[name], expected, rtol=2**-8 if expected.ndim > 1 else 0, atol=1e-6)


def test_a_merged_detector_suggests_nothing_and_a_merged_suggester_is_no_denoiser(
    tiny_base: Path, tmp_path: Path
) -> None:
    """Guards a file that promises what it has not got, and noise scored by a model that was never asked for it."""
    both = write_tiny_adapter(tmp_path / "both.gguf", tiny_base, suggests=True)
    detector, suggester = tmp_path / "detector.gguf", tmp_path / "suggester.gguf"
    merge(both, tiny_base, detector, "q8_0")
    merge(both, tiny_base, suggester, "q8_0", "suggester")
    with Denoiser.load(str(detector), threads=1) as denoiser:
        assert denoiser.metadata.suggestion_alpha is None
        assert [len(scores) for scores in denoiser.score(TITLES)] == [4, 6, 5]
    with pytest.raises(ModelError, match="suggests no titles"):
        Suggester.load(str(detector), threads=1)
    for load in (Denoiser.load, Suggester.load):
        with pytest.raises(ModelError, match="this GGUF is no denoiser"):
            load(str(suggester), threads=1)


def test_the_base_keeps_its_tokenizer_and_shape(tiny_base: Path, tiny_denoiser: Path) -> None:
    """Guards metadata lost or changed in the merge, such as token types or merges."""
    base, merged = open_gguf(tiny_base), open_gguf(make(tiny_denoiser, tiny_base))
    for name, field in base.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.name", "general.license", "general.file_type"):
            assert merged.fields[name].contents() == field.contents()
            assert merged.fields[name].types == field.types


def test_a_denoiser_of_fewer_layers_is_merged_without_the_others(tiny_base: Path, tmp_path: Path) -> None:
    """Guards layers that the denoiser was trained without, scoring all the same; and the file that holds them."""
    merged = open_gguf(make(write_tiny_adapter(tmp_path / "one.gguf", tiny_base, layers=1), tiny_base))
    assert merged.fields["llama.block_count"].contents() == 1
    assert {tensor.name.split(".")[1] for tensor in merged.tensors if tensor.name.startswith("blk.")} == {"0"}
    assert {"token_embd.weight", "output_norm.weight"} < {tensor.name for tensor in merged.tensors}


def test_more_layers_than_the_base_has_are_refused(tmp_path: Path) -> None:
    """Guards a merged file that promises layers it does not hold, refused by llama.cpp with no word of why."""
    base = write_tiny_base(tmp_path / "base.gguf", layers=1)
    adapter = write_tiny_adapter(tmp_path / "two.gguf", base, layers=2)
    with pytest.raises(ModelError, match="it uses 2 layers, the base has 1"):
        make(adapter, base)


def test_weight_types_give_scores_near_each_other(tiny_base: Path, tiny_denoiser: Path) -> None:
    """Guards a weight type that is written, or read, as another one."""
    rng = np.random.default_rng(0)
    titles = [["".join(rng.choice(list("abcdefghij"), 6)) for _ in range(6)] for _ in range(30)]
    scores = {}
    for weights in ("bf16", "q8_0", "q4_0", "auto"):
        with Denoiser.load(str(tiny_denoiser), base=str(tiny_base), weights=weights, threads=1) as denoiser:
            scores[weights] = np.concatenate(denoiser.score(titles))
    for weights, least in (("q8_0", 0.99), ("q4_0", 0.5), ("auto", 0.99)):
        assert np.corrcoef(scores["bf16"], scores[weights])[0, 1] > least
        assert not np.array_equal(scores["bf16"], scores[weights]) or weights == "auto"


def test_unknown_weight_types_are_refused(tiny_base: Path, tiny_denoiser: Path, own_cache: Path) -> None:
    """Guards a traceback, or files made, for a mistyped --weights."""
    with pytest.raises(OptionError, match="`weights` is q5_k: no such type: choose auto, bf16, q8_0, q4_0"):
        make(tiny_denoiser, tiny_base, "q5_k")
    assert not (own_cache / "runtime").exists()


def test_another_base_is_refused_by_name(tiny_base: Path, tiny_denoiser: Path, tmp_path: Path) -> None:
    """Guards an adapter added to weights that it was not trained on: shapes fit, scores are noise."""
    other = write_tiny_base(tmp_path / "other.gguf", seed=9)
    with pytest.raises(ModelError) as caught:
        Denoiser.load(str(tiny_denoiser), base=str(other))
    sentence = str(caught.value)
    assert sentence.startswith(f"{tiny_denoiser}: it was trained on {tiny_base}")
    assert str(other) in sentence
    assert "leave out `base`" in sentence


@pytest.mark.parametrize(
    ("renamed", "width", "message"),
    [
        ({"blk.1.ffn_down": "blk.7.ffn_down"}, None, "adapts blk.7.ffn_down.weight, which the base does not have"),
        ({}, 32, r"attn_q.weight is \(64, 64\) in the base, \(64, 32\) in the adapter"),
        ({"blk.1.ffn_down.weight.lora_b": "gone"}, None, "no whole LoRA adapter"),
    ],
)
@pytest.mark.parametrize("weights", ["bf16", "auto"])
def test_a_merge_that_fails_leaves_nothing(
    tiny_base: Path,
    tiny_denoiser: Path,
    tmp_path: Path,
    own_cache: Path,
    renamed: dict[str, str],
    width: int | None,
    message: str,
    weights: str,
) -> None:
    """Guards half a merge taken for a whole one at the next start, and an adapter of which a part is ignored."""
    adapter = changed_adapter(tiny_denoiser, tmp_path / "changed.gguf", renamed, width=width)
    for _ in range(2):
        with pytest.raises(ModelError, match=message):
            make(adapter, tiny_base, weights)
        assert list((own_cache / "runtime").iterdir()) == []


def test_an_interrupted_merge_leaves_nothing(
    tiny_base: Path, tiny_denoiser: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards Ctrl-C in the middle of a merge, and the disk filling up with what it left."""
    quantize, calls = gguf.quantize, itertools.count()

    def interrupted(*arguments: object) -> object:
        if next(calls) == 30:  # in the second file of "auto"
            raise KeyboardInterrupt
        return quantize(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(gguf, "quantize", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(tiny_denoiser, tiny_base, "auto")
    assert list((own_cache / "runtime").iterdir()) == []
    assert make(tiny_denoiser, tiny_base, "auto").is_file()


def test_a_merged_file_is_a_denoiser_itself(tiny_base: Path, tiny_denoiser: Path) -> None:
    """Guards a merged file that lacks metadata, or asks for a base; its base has no general.type to inherit."""
    with Denoiser.load(str(tiny_denoiser), base=str(tiny_base), weights="bf16", threads=1) as denoiser:
        expected = denoiser.score(TITLES)
        merged = denoiser.runtime
    with Denoiser.load(str(merged), threads=1) as denoiser:
        assert denoiser.runtime == merged
        assert denoiser.metadata.name == "tiny-denoiser"
        assert denoiser.metadata.calibration is not None
        for found, scores in zip(denoiser.score(TITLES), expected, strict=True):
            assert np.array_equal(found, scores)


@pytest.mark.parametrize("name", ["films [v1]", "../../films", "a/b", "f*lms?", "x" * 300])
def test_a_name_from_a_stranger_stays_in_the_cache_folder(
    tiny_base: Path, tiny_denoiser: Path, own_cache: Path, name: str
) -> None:
    """Guards a name read as a path, as a pattern that never matches its own file, or too long for a file."""
    metadata = DenoiserMetadata.read(open_gguf(tiny_denoiser), tiny_denoiser)
    object.__setattr__(metadata, "name", name)
    said: list[str] = []
    for _ in range(2):
        path = runtime_model(tiny_denoiser, metadata, tiny_base, weights="auto", say=said.append)
        assert [path] == list((own_cache / "runtime").iterdir())
    assert sum("first use" in line for line in said) == 1


@pytest.mark.parametrize(("q8_0", "kind"), [(1.0, "bf16"), (0.95, "bf16"), (1.3, "bf16"), (0.5, "q8_0")])
def test_a_tie_of_weight_types_is_no_matter_of_chance(
    tiny_base: Path, tiny_denoiser: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, q8_0: float, kind: str
) -> None:
    """Guards: one machine that makes bf16 today and q8_0 tomorrow, after which other items are edited."""
    monkeypatch.setattr(module, "_seconds_a_batch", lambda path, *_: q8_0 if "-q8_0-" in path.name else 1.0)
    said: list[str] = []
    metadata = DenoiserMetadata.read(open_gguf(tiny_denoiser), tiny_denoiser)
    path = runtime_model(tiny_denoiser, metadata, tiny_base, weights="auto", say=said.append)
    assert f"-auto-{kind}-" in path.name and said[-1].startswith(f"weights: {kind}, ")


def test_a_cache_that_cannot_be_written_is_one_sentence(
    tiny_base: Path, tiny_denoiser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a traceback on a read-only home folder."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLM4DSR_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="set LLM4DSR_CACHE"):
        make(tiny_denoiser, tiny_base)


def test_merged_models_that_were_not_used_for_longest_leave_the_cache(
    tiny_base: Path, tmp_path: Path, own_cache: Path
) -> None:
    """Guards 200 MB for each denoiser that was ever tried, and one removed while this process runs it."""
    n = KEPT["runtime"]
    adapters = [write_tiny_adapter(tmp_path / f"{seed}.gguf", tiny_base, seed=seed) for seed in range(n + 3)]
    paths: list[Path] = []

    def made(adapter: Path) -> None:
        """Make it, and let two hours pass."""
        paths.append(make(adapter, tiny_base, "q8_0" if len(paths) % 2 else "auto"))
        for path in (own_cache / "runtime").iterdir():
            os.utime(path, (path.stat().st_mtime - 7200,) * 2)

    made(adapters[0])
    with Denoiser.load(adapters[0], base=tiny_base, threads=1) as used:
        assert used.runtime == paths[0]
        assert time.time() - paths[0].stat().st_mtime < 60, "a use is noted"
        for adapter in adapters[1 : n + 1]:
            made(adapter)
        make(adapters[1], tiny_base, "q8_0")  # used again
        made(adapters[n + 1])
        assert {*(own_cache / "runtime").iterdir()} == {paths[0], paths[1], *paths[-(n - 1) :]}
        assert [len(scores) for scores in used.score(TITLES)] == [4, 6, 5]
    made(adapters[n + 2])
    assert {*(own_cache / "runtime").iterdir()} == {paths[1], *paths[-(n - 1) :]}


def test_the_choice_of_a_weight_type_is_timed_as_it_is_going_to_run(
    tiny_base: Path, tiny_denoiser: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a choice made with all cores for a run with one, or without the GPU for a run on it; and models that were
    timed and stay in memory."""
    asked: list[tuple[int | None, int | None]] = []

    class Timed(module.Engine):
        def __init__(self, model: module.Model, **options: Any) -> None:
            super().__init__(model, **options)
            asked.append((gpu_layers[-1], options.get("threads")))

    class Loaded(module.Model):
        def __init__(self, path: Path, **options: Any) -> None:
            gpu_layers.append(options.get("gpu_layers"))
            super().__init__(path, **options)

    gpu_layers: list[int | None] = []
    monkeypatch.setattr(module, "Engine", Timed)
    monkeypatch.setattr(module, "Model", Loaded)
    others = open_files()
    with Denoiser.load(tiny_denoiser, base=tiny_base, weights="auto", threads=1, gpu_layers=0) as denoiser:
        assert open_files() == (*others, denoiser.runtime)
    assert asked == [(0, 1), (0, 1)]
    assert open_files() == others


def test_every_weight_type_can_be_asked_for() -> None:
    """Guards a type that is offered and not known."""
    assert {*module.WEIGHTS} == {"auto", *module._TYPES}
    assert {*module._FAITHFUL} <= {*module._TYPES}


@pytest.mark.parametrize("weights", ["q8_0", "auto"])
def test_a_flipped_bit_of_the_merged_model_is_noticed(
    tiny_base: Path, tiny_denoiser: Path, own_cache: Path, weights: str
) -> None:
    """Guards a disk that forgets: wrong scores for ever, of a file whose size and times are as they were."""
    metadata = DenoiserMetadata.read(open_gguf(tiny_denoiser), tiny_denoiser)
    said: list[str] = []

    def make() -> Path:
        return runtime_model(tiny_denoiser, metadata, tiny_base, weights=weights, say=said.append, threads=1)

    path = make()
    whole = path.read_bytes()
    for place in (0, 0.1, 0.5, 1):  # "auto" may make a file of another size
        state = path.stat()
        data = bytearray(whole)
        data[int(place * (len(whole) - 1))] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        said.clear()
        path_then, path = path, make()
        assert said[0] == f"{path_then} is damaged: it is made again"
        assert sum("damaged" in line for line in said) == 1
        assert [path] == list((own_cache / "runtime").iterdir())
        assert path.suffix == ".gguf" and file_sha256(path)[:16] in path.stem
        whole = path.read_bytes()
    said.clear()
    assert make() == path
    assert said == []


def test_a_damaged_merged_model_and_no_base_is_an_error(
    tiny_base: Path, tiny_denoiser: Path, own_cache: Path, tmp_path: Path
) -> None:
    """Guards a damaged file that is used because nothing better is there."""
    base = Path(shutil.copy(tiny_base, tmp_path / "base.gguf"))
    adapter = write_tiny_adapter(tmp_path / "adapter.gguf", base)
    with Denoiser.load(adapter, weights="bf16", threads=1):
        (path,) = (own_cache / "runtime").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    base.unlink()
    with pytest.raises(ModelError, match=r"its base model, .*, is not in the registry: give its file"):
        Denoiser.load(adapter, weights="bf16", threads=1)


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
@pytest.mark.parametrize("name", [".", "runtime", "base", "tries"])
@pytest.mark.parametrize("mode", [0o770, 0o777, 0o702])
def test_a_cache_that_others_may_write_to_is_told_once(
    tiny_base: Path, tiny_denoiser: Path, own_cache: Path, name: str, mode: int
) -> None:
    """Guards a model that another user of the machine has chosen; what this program makes is for this user alone."""
    said: list[str] = []

    def load() -> list[str]:
        said.clear()
        with Denoiser.load(tiny_denoiser, base=tiny_base, weights="bf16", threads=1, say=said.append):
            return [line for line in said if "others" in line]

    own_cache.rmdir()
    old = os.umask(0o002)
    try:
        assert load() == []
    finally:
        os.umask(old)
    folder = own_cache / name
    folder.mkdir(exist_ok=True)
    folder.chmod(mode)
    assert load() == [
        f"others may write to {own_cache / name}, and so choose the model that runs: chmod go-w {own_cache / name}"
    ]
    assert load() == []


def test_merging_is_repeatable(tiny_base: Path, tiny_denoiser: Path, tmp_path: Path) -> None:
    """Guards a merged file that differs from run to run."""
    for name in ("a.gguf", "b.gguf"):
        merge(tiny_denoiser, tiny_base, tmp_path / name, "q8_0")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
