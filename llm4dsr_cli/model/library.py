"""What to say when llama-cpp-python does not load, or is too old."""

from __future__ import annotations

import re

from llm4dsr_cli.errors import ModelError, OutOfMemoryError

_OLDEST = (0, 3, 17)  # as pyproject.toml has it
# Every sixth layer of Gemma 3 sees all, the others a window. Before 0.3.24 llama.cpp ends the process where one kind of
# layers is missing: llm_graph_input_attn_kv_iswa::set_input writes into the buffer of a cache that has none.
_GEMMA3_PERIOD = 6
_OLDEST_FOR_FEW_LAYERS = (0, 3, 24)
_PACKAGES = {
    "libgomp.so.1": "apt-get install libgomp1 (Debian, Ubuntu), or dnf install libgomp (Fedora, Red Hat)",
    "libstdc++.so.6": "apt-get install libstdc++6 (Debian, Ubuntu), or dnf install libstdc++ (Fedora, Red Hat)",
}


def does_not_load(error: Exception) -> ModelError:
    """The error to raise for the one that the import raised."""
    reason = " ".join(str(error).split())
    if "failed to map segment" in reason or "Cannot allocate memory" in reason:
        return OutOfMemoryError(reason)
    missing = re.search(r"(lib[\w.+-]+): cannot open shared object file", reason)
    if missing:
        remedy = _PACKAGES.get(missing[1], f"install the system's package that holds {missing[1]}")
    elif "GLIBC" in reason:  # older than the one that the wheel was built with
        remedy = "pip install --force-reinstall --no-binary llama-cpp-python llama-cpp-python"
    else:
        remedy = "pip install --force-reinstall --no-cache-dir llama-cpp-python"
    return ModelError(f"llama-cpp-python does not load ({reason})", remedy=remedy)


def check_version(version: str) -> None:
    """Raises ModelError for a llama-cpp-python that lacks what is called here."""
    _check(version, _OLDEST, f"llama-cpp-python {version} is too old")


def check_layers(version: str, architecture: str, layers: int) -> None:
    """Raises ModelError for a model of which that llama-cpp-python would end the process."""
    if architecture == "gemma3" and layers < _GEMMA3_PERIOD:
        what = f"llama-cpp-python {version} is too old for a Gemma 3 of {layers} layers"
        _check(version, _OLDEST_FOR_FEW_LAYERS, what)


def _check(version: str, oldest: tuple[int, int, int], what: str) -> None:
    if tuple(map(int, re.findall(r"\d+", version)[:3])) < oldest:
        raise ModelError(what, remedy=f"pip install -U 'llama-cpp-python>={'.'.join(map(str, oldest))}'")
