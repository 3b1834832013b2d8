"""A llama.cpp that does not load, gives up, or has too little memory, told by real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import PATIENCE, Call, Outcome, call, preceded_by, run, sequences, write
from conftest import write_tiny_adapter, write_tiny_base

from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.model.library import check_layers

pytestmark = pytest.mark.usefixtures("warm_environment")


@pytest.fixture
def llm4dsr(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """``llm4dsr("clean", ...)`` in this process."""
    return lambda *arguments: call(monkeypatch, capfdbinary, *arguments)


NO_LIBGOMP = (
    "Failed to load shared library '/x/libllama.so': libgomp.so.1: cannot open shared object file: No such file or "
    "directory"
)
IMPORTS = {
    "no libgomp": (f"RuntimeError({NO_LIBGOMP!r})", ["does not load", "libgomp.so.1", "apt-get install libgomp1"]),
    "another library": (
        "OSError('libcudart.so.12: cannot open shared object file: No such file or directory')",
        ["does not load", "the system's package that holds libcudart.so.12"],
    ),
    "an old system": (
        "RuntimeError('/lib/libc.so.6: version GLIBC_2.38 not found (required by /x/libggml.so)')",
        ["does not load", "--no-binary llama-cpp-python"],
    ),
    "no memory": (
        "OSError('libggml-cpu.so: failed to map segment from shared object')",
        ["out of memory", "close other programs"],
    ),
    "a module is missing": (
        "ModuleNotFoundError('No module named diskcache', name='diskcache')",
        ["does not load (No module named diskcache)", "pip install --force-reinstall"],
    ),
    "two lines": ("RuntimeError('one\\ntwo')", ["does not load (one two)", "pip install --force-reinstall"]),
    "too old": (None, ["llama-cpp-python 0.2.20 is too old", "pip install -U"]),
}


@pytest.mark.parametrize(("error", "said"), IMPORTS.values(), ids=IMPORTS)
def test_a_llama_cpp_that_does_not_load_is_one_sentence(tmp_path: Path, error: str | None, said: list[str]) -> None:
    """Guards: a traceback of 35 lines in a slim image, which lacks libgomp."""
    package = tmp_path / "shim" / "llama_cpp"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "0.2.20"' if error is None else f"raise {error}")
    source = write(tmp_path / "in.jsonl", [{"items": ["Alien"]}])
    path = os.pathsep.join([str(package.parent), *sys.path])
    outcome = run("clean", source, tmp_path / "out", "--action", "drop", env=os.environ | {"PYTHONPATH": path})
    outcome.failed(1, *said)


@pytest.mark.parametrize(
    ("version", "architecture", "layers", "runs"),
    [
        ("0.3.23", "gemma3", 5, False),
        ("0.3.24", "gemma3", 5, True),
        ("0.4.0", "gemma3", 1, True),
        ("0.3.17", "gemma3", 6, True),
        ("0.3.17", "llama", 2, True),
    ],
)
def test_a_llama_cpp_that_a_model_would_end_is_told_to_be_too_old(
    version: str, architecture: str, layers: int, runs: bool
) -> None:
    """Guards: "GGML_ASSERT(buffer) failed: the model's file may be damaged" for a Gemma that was cut to few layers."""
    if runs:
        check_layers(version, architecture, layers)
        return
    with pytest.raises(ModelError, match=r"0\.3\.23 is too old for a Gemma 3 of 5 layers: pip .*>=0\.3\.24'"):
        check_layers(version, architecture, layers)


linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
# As much memory as there is at that moment, and a little more.
LIMITED = """
import resource
def limit(megabytes):
    pages = int(open("/proc/self/statm").read().split()[0])
    size = pages * resource.getpagesize() + megabytes * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
"""


def error_of(statements: str, *arguments: object) -> str:
    """The error that a program ends with, as the last line of its traceback tells it."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED + statements, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 1, done.stderr
    return done.stderr.splitlines()[-1]


@linux
def test_too_little_memory_for_a_model_is_told_as_such(tmp_path: Path) -> None:
    """Guards: "the file may be damaged; fetch or make it again"."""
    base = write_tiny_base(tmp_path / "base.gguf", layers=150)
    said = error_of("import sys\nfrom llm4dsr_cli.model.llama import Model\nlimit(3)\nModel(sys.argv[1])", base)
    assert said.startswith(f"llm4dsr_cli.errors.OutOfMemoryError: {base}: out of memory (")


@linux
def test_too_little_memory_for_a_context_is_told_as_such(tiny_base: Path) -> None:
    said = error_of(
        "import sys\n"
        "from llm4dsr_cli.model.llama import Context, Model\n"
        "model = Model(sys.argv[1])\n"
        "limit(60)\n"
        "Context(model, causal=True, cells=1_000_000, batch_tokens=512, threads=1)",
        tiny_base,
    )
    assert said.startswith("llm4dsr_cli.errors.OutOfMemoryError: out of memory (llama.cpp cannot make a context of 10")
    assert "insufficient memory" in said


@linux
def test_no_file_is_to_be_deleted_for_want_of_memory(tmp_path: Path, tiny_base: Path) -> None:
    """Guards: "delete this file, which the next run makes again", where that run fails as this one did."""
    denoiser = write_tiny_adapter(tmp_path / "wide.gguf", tiny_base, max_window=950)
    source = write(tmp_path / "in.jsonl", [{"items": ["Alien"]}])
    outcome = run(
        *("clean", source, tmp_path / "out", "--action", "drop", "--quiet"),
        *("--model", denoiser, "--weights", "q8_0", "--threads", 1),
        program=preceded_by("import resource; resource.setrlimit(resource.RLIMIT_AS, (550 << 20, 550 << 20))"),
    )
    outcome.failed(1, "out of memory", "`ulimit -v`")
    assert "delete" not in outcome.err


# llama.cpp's own way to end a process, from where it would compute.
ABORTING = (
    "import llama_cpp\n"
    "from llm4dsr_cli.model import llama\n"
    "def decode(*_):\n"
    '    llama_cpp.llama_cpp._lib.ggml_abort(b"/src/ggml.c", 7, b"GGML_ASSERT(%s) failed", b"SAID")\n'
    "llama_cpp.llama_decode = decode\n"
)


@linux
@pytest.mark.parametrize(
    ("asserted", "said"),
    [
        ("rows > 0", "llama.cpp gave up (ggml.c:7: GGML_ASSERT(rows > 0) failed): the model's file may be damaged"),
        ("ctx->mem_buffer != NULL", "out of memory (ggml.c:7: GGML_ASSERT(ctx->mem_buffer != NULL) failed): close"),
    ],
)
def test_llama_cpp_gives_up_in_one_sentence(tmp_path: Path, engine: list[str], asserted: str, said: str) -> None:
    """Guards: SIGABRT with 60 lines of gdb's, where llama.cpp asserts what is not so; and parts that stay then."""
    source = write(tmp_path / "in.jsonl", [{"items": titles} for titles in sequences(3)])
    folder = tmp_path / "results"
    folder.mkdir()
    words = ["clean", source, folder / "out.jsonl", "--action", "drop", "--quiet", *engine]
    run(*words, program=preceded_by(ABORTING.replace("SAID", asserted))).failed(1, said)
    assert [*folder.iterdir()] == []


@linux
def test_a_catalog_that_memory_does_not_hold_is_one_sentence(tmp_path: Path, engine: list[str]) -> None:
    """Guards: a MemoryError's traceback."""
    catalog = tmp_path / "catalog.jsonl"
    catalog.write_bytes(b'{"id": 1, "title": "' + b"a" * 60_000_000 + b'"}\n')
    source = write(tmp_path / "in.jsonl", [{"items": [1]}])
    program = preceded_by(LIMITED + "import numpy, orjson\nlimit(40)")
    words = ["clean", source, tmp_path / "out", "--catalog", catalog, "--action", "drop", *engine]
    run(*words, program=program).failed(1, "out of memory", "close other programs")


@pytest.mark.parametrize("threads", ["0", "-1", "513", "100000", "2147483648", "99999999999999999999"])
@pytest.mark.parametrize("way", ["option", "variable"])
def test_threads_have_a_bound(
    tmp_path: Path, tiny_denoiser: Path, monkeypatch: pytest.MonkeyPatch, threads: str, way: str, llm4dsr: Call
) -> None:
    """Guards: a segmentation fault, or std::bad_alloc, without a word."""
    source = write(tmp_path / "in.jsonl", [{"items": ["Alien"]}])
    words: list[object] = ["clean", source, tmp_path / "out", "--action", "drop", "--model", tiny_denoiser]
    if way == "option":
        words += ["--threads", threads]
    else:
        monkeypatch.setenv("LLM4DSR_THREADS", threads)
    llm4dsr(*words).failed(2, f"--threads is {threads}: it goes from 1 to 512")


def test_more_threads_than_cores_work(tmp_path: Path, tiny_denoiser: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"items": ["Alien", "Heat"]}])
    words = ["clean", source, "-", "--action", "drop", "--quiet", "--model", tiny_denoiser, "--weights", "q8_0"]
    outcome = run(*words, "--threads", 512)
    assert outcome == Outcome(0, run(*words, "--threads", 1).out, "")


@pytest.mark.parametrize("layers", ["-1", "-99999999999999999999"])
def test_layers_on_a_gpu_begin_at_none(tmp_path: Path, llm4dsr: Call, layers: str) -> None:
    source = write(tmp_path / "in.jsonl", [{"items": ["Alien"]}])
    outcome = llm4dsr("clean", source, tmp_path / "out", "--action", "drop", "--gpu-layers", layers)
    outcome.failed(2, f"--gpu-layers is {layers}: it begins at 0")


def test_more_layers_than_there_are_is_no_overflow(tmp_path: Path, tiny_denoiser: Path, llm4dsr: Call) -> None:
    """Guards: a number that ctypes wraps into a negative one."""
    source = write(tmp_path / "in.jsonl", [{"items": ["Alien"]}])
    words = ["clean", source, tmp_path / "out", "--action", "drop", "--quiet", "--model", tiny_denoiser, "--gpu-layers"]
    some, many = llm4dsr(*words, 999), llm4dsr(*words, 99_999_999_999_999_999_999)
    # Without a GPU back end both are refused.
    assert (some.code, some.err.replace("999", "N", 1)) == (many.code, many.err.replace("9" * 20, "N", 1))
