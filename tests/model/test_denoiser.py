"""The denoiser as a library: what it refuses, threads, processes, and its end. Its scores: see test_engine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from conftest import write_tiny_adapter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm4dsr_cli.errors import ModelError, OptionError
from llm4dsr_cli.model import merged_model
from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.model.llama import open_files
from llm4dsr_cli.model.registry import Registry, find_denoiser
from llm4dsr_cli.replacing.generate.suggester import Suggester

TITLES = [["abc def", "x y z", "foo", "abc"], ["q"] * 6, ["one", "two", "three", "four", "five"]]


@pytest.fixture(scope="module")
def suggesting(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_adapter(tmp_path_factory.mktemp("suggesting") / "suggesting.gguf", tiny_base, suggests=True)


def damaged(folder: Path, base: Path, adapter: Path, tensor: str, value: float, part: merged_model.Part) -> Path:
    """A merged model with 32-bit weights, and one of its tensors filled with a value."""
    path = folder / "damaged.gguf"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(merged_model._TYPES, "bf16", (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32))
        merged_model.merge(adapter, base, path, "bf16", part)
    reader = gguf.GGUFReader(path, "r+")
    (found,) = (one for one in reader.tensors if one.name == tensor)
    found.data[...] = value
    reader.data.flush()
    return path


# Finite, all of them: what is no number is refused on loading.
DAMAGES = [("blk.0.ffn_down.weight", 3e38), ("output_norm.weight", 1e38)]


@pytest.mark.parametrize(("tensor", "value"), DAMAGES)
def test_a_model_that_gives_no_numbers_is_refused_by_name(
    tiny_base: Path, suggesting: Path, tmp_path: Path, tensor: str, value: float
) -> None:
    """Guards NaN, of which every comparison is false, taken for "belongs"; an IndexError while NaN is rounded; and
    logits that overflow in the middle of good weights."""
    path = damaged(tmp_path, tiny_base, suggesting, tensor, value, "detector")
    with Denoiser.load(path, threads=1) as denoiser:
        with pytest.raises(ModelError) as caught:
            denoiser.score(TITLES)
        assert str(caught.value).startswith(f"{path}: its log-probabilities are not all finite numbers: ")
        assert denoiser.score([[]])[0].shape == (0,)


@pytest.mark.parametrize(("tensor", "value"), DAMAGES)
def test_a_suggester_that_gives_no_numbers_is_refused_by_name(
    tiny_base: Path, suggesting: Path, tmp_path: Path, tensor: str, value: float
) -> None:
    """Guards a beam search among NaN, which names any title."""
    path = damaged(tmp_path, tiny_base, suggesting, tensor, value, "suggester")
    with Denoiser.load(suggesting, base=tiny_base, threads=1, weights="q8_0") as denoiser:
        metadata = denoiser.metadata
    with Suggester(metadata, path, threads=1) as suggester, pytest.raises(ModelError, match="are not all finite"):
        suggester.continuations(suggester.trie(["abc", "x"]), [["foo"]], [1], [[]])


@pytest.mark.parametrize(
    ("sequences", "words"),
    [
        ("Alien", "'Alien' is no list of sequences"),
        (b"Alien", "b'Alien' is no list of sequences"),
        ({"items": ["Alien"]}, "is no list of sequences"),
        (["Alien", "Aliens"], "sequence 1 is 'Alien', no list of titles"),
        ([["Alien"], "Aliens"], "sequence 2 is 'Aliens', no list of titles"),
        ([["Alien"], {"title": "Aliens"}], "sequence 2 is {'title': 'Aliens'}, no list of titles"),
        ([["Alien"], None], "sequence 2 is None, no list of titles"),
        ([[], ["Alien"], ["Alien", None, ""]], "sequence 3, item 2 is None, no title"),
        ([["Alien"], [float("nan"), "Alien"]], "sequence 2, item 1 is nan, no title"),
        ([["Alien", 7]], "sequence 1, item 2 is 7, no title"),
        ([[b"Alien"]], "sequence 1, item 1 is b'Alien', no title"),
        ([[["Alien"]]], "sequence 1, item 1 is ['Alien'], no title"),
    ],
)
def test_what_is_no_list_of_titles_is_refused_by_its_place(denoiser: Denoiser, sequences: object, words: str) -> None:
    """Guards the letters of a title scored as titles of their own, and a traceback that names no record."""
    with pytest.raises(OptionError) as caught:
        denoiser.score(sequences)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert "give" in str(caught.value)


def test_sequences_of_every_kind_are_scored_alike(denoiser: Denoiser) -> None:
    """Guards: lists only; titles come from arrays and generators, too."""
    expected = denoiser.score(TITLES)
    for kind in (tuple, iter, np.array, lambda titles: np.array(titles, dtype=object)):
        for found, scores in zip(denoiser.score(kind(titles) for titles in TITLES), expected, strict=True):
            assert np.array_equal(found, scores)


@pytest.fixture
def denoiser(tiny_denoiser: Path, tiny_base: Path, warm_environment: None) -> Iterator[Denoiser]:
    with Denoiser.load(tiny_denoiser, base=tiny_base, weights="q8_0", threads=1) as denoiser:
        yield denoiser


def test_a_denoiser_that_cannot_be_made_leaves_no_model_in_memory(tiny_base: Path, tiny_denoiser: Path) -> None:
    """Guards hundreds of megabytes held by each failed attempt of a service that tries again."""
    others = open_files()
    with Denoiser.load(tiny_denoiser, base=tiny_base, weights="q8_0", threads=1) as denoiser:
        assert open_files() == (*others, denoiser.runtime)
    form = replace(denoiser.metadata.form, noise="no single token")
    with pytest.raises(ModelError, match="are not single tokens"):
        Denoiser(tiny_denoiser, replace(denoiser.metadata, form=form), denoiser.runtime, threads=1)
    assert open_files() == others


# Threads and processes, each in a process of its own: what fails aborts it, or never ends.

BEGIN = """
import os, sys, threading
import numpy as np
from llm4dsr_cli import Denoiser, Suggester
from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.model.turns import Turns

kind, model, base, threads = sys.argv[1:]
load = {"Denoiser": Denoiser, "Suggester": Suggester}[kind].load
loaded = load(model, base=base, weights="q8_0", threads=int(threads))

if kind == "Denoiser":
    def ask(seed):
        words = [f"{seed} {i} {'x' * (i * seed % 12)}" for i in range(40)]
        return [scores.tolist() for scores in loaded.score([words[i : i + 1 + i % 7] for i in range(30)])]
else:
    trie = loaded.trie(["abc", "abd", "zebra", "x y", "the end"])
    def ask(seed):
        found = loaded.continuations(trie, [[f"{seed}"], ["x", f"{seed}"]], [1, 2], [[], [0]])
        return [[(beam.rows, beam.means) for beam in beams] for beams in found]
"""

FOUR_THREADS = """
alone = [ask(seed) for seed in range(4)]
together = [[] for _ in range(4)]
def work(seed):
    for _ in range(5):
        together[seed].append(ask(seed))
workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
for worker in workers: worker.start()
for worker in workers: worker.join()
assert all(found == [alone[seed]] * 5 for seed, found in enumerate(together))
assert alone[0] != alone[1]
print("alike")
"""

CLOSED = """
def ask_in_time():
    try:
        ask(1)
    except ModelError:
        pass  # closed before its turn
asking = threading.Thread(target=ask_in_time)
asking.start()
loaded.close()
asking.join()
loaded.close()
try:
    ask(1)
except ModelError as error:
    print(error)
"""

FORKED = """
ask(1)
def in_a_child(act):
    child = os.fork()
    if child == 0:
        try:
            act()
        except ModelError as error:
            print(error, flush=True)
        finally:
            loaded.close()
            os._exit(0)
    os.waitpid(child, 0)
in_a_child(lambda: ask(1))
turns = Turns("a.gguf")
with turns.one():  # as when another thread scores
    in_a_child(lambda: turns.one().__enter__())
in_a_child(lambda: load(model, base=base, weights="q8_0", threads=2))
def anew():
    global loaded
    loaded = load(model, base=base, weights="q8_0", threads=1)
    print(len(ask(1)) > 0, flush=True)
in_a_child(anew)
assert ask(1) == ask(1)
print("the parent goes on")
"""


def run(program: str, kind: str, model: Path, base: Path, threads: int) -> list[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", BEGIN + program, kind, str(model), str(base), str(threads)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.splitlines()


KINDS = pytest.mark.parametrize("kind", ["Denoiser", "Suggester"])


@KINDS
def test_four_threads_are_answered_as_one_is(kind: str, tiny_base: Path, suggesting: Path) -> None:
    """Guards a process that llama.cpp aborts, or scores of another thread's records, in a web service."""
    assert run(FOUR_THREADS, kind, suggesting, tiny_base, 1) == ["alike"]


@KINDS
def test_what_is_closed_says_so(kind: str, tiny_base: Path, suggesting: Path) -> None:
    """Guards SIGABRT after ``close``, or in a thread that scores meanwhile."""
    (line,) = run(CLOSED, kind, suggesting, tiny_base, 1)
    assert line.endswith(".gguf: it is closed: load it again")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
@KINDS
def test_a_forked_process_is_told_instead_of_waiting_for_ever(kind: str, tiny_base: Path, suggesting: Path) -> None:
    """Guards data loaders and worker pools that fork, and wait for llama.cpp's threads, or for a lock, for ever."""
    *told, anew, alone, last = run(FORKED, kind, suggesting, tiny_base, 2)
    assert len(told) == 2
    assert all(
        "loaded before this process was forked" in line and "by spawn, and load it in each" in line for line in told
    )
    assert "ran with threads before this process was forked" in anew and "by spawn, or give `threads` 1" in anew
    assert (alone, last) == ("True", "the parent goes on")


def test_every_path_may_be_a_path_or_a_text(
    tiny_base: Path, tiny_denoiser: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards ``'PosixPath' object has no attribute 'startswith'``; and a ``Path`` taken for a name of the registry."""
    found = []
    for kind in (str, Path):
        with Denoiser.load(kind(tiny_denoiser), base=kind(tiny_base), weights="q8_0", threads=1) as denoiser:
            found.append(denoiser.score(TITLES))
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other)
    registry = Registry.load(str(Registry.load().path))
    name = registry.default_denoiser
    assert name is not None
    assert find_denoiser(name, registry) == registry.denoisers[name].path
    assert find_denoiser(Path(name), registry) == Path(name)
    for argument in (
        {"model": Path("missing.gguf")},
        {"model": tiny_denoiser, "base": Path(next(iter(registry.bases)))},
    ):
        with pytest.raises(ModelError, match=r"no such (base )?model file"):
            Denoiser.load(**argument)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(st.sampled_from(["Alien", "Aliens ", " Aliens", "Heat", "Up"]), min_size=1, max_size=6))
def test_equal_titles_of_a_window_are_read_once(denoiser: Denoiser, titles: list[str]) -> None:
    """Guards: an item that a log holds twice vouching for itself (.777 fell to .019)."""
    different = list(dict.fromkeys(title.strip() for title in titles))
    (found,), (once,) = denoiser.score([titles]), denoiser.score([different])
    assert found.tolist() == [once[different.index(title.strip())] for title in titles]


def test_titles_that_differ_beyond_the_cut_do_not_vouch_for_each_other(denoiser: Denoiser) -> None:
    """Guards: titles in scripts of many tokens, which all look alike once they are cut, believed for sure."""
    long = "x" * denoiser.metadata.max_title_tokens
    (found,) = denoiser.score([[f"{long} one", "Heat", f"{long} two", "Up", f"{long} three"]])
    (once,) = denoiser.score([[long, "Heat", "Up"]])
    assert found.tolist() == [once[place] for place in (0, 1, 0, 2, 0)]
