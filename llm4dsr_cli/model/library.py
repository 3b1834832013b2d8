"""What to say when llama-cpp-python does not load, or is too old."""

from __future__ import annotations

import re

from llm4dsr_cli.errors import ModelError, OutOfMemoryError

_OLDEST = (0, 3, 35)  # as pyproject.toml has it
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
    if tuple(map(int, re.findall(r"\d+", version)[:3])) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise ModelError(
            f"llama-cpp-python {version} is too old", remedy=f"pip install -U 'llama-cpp-python>={oldest}'"
        )
