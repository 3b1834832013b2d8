"""Where a run starts: from a denoiser that is there, or from the base model alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm4dsr_cli.cache import file_sha256
from llm4dsr_cli.errors import ModelError, OptionError
from llm4dsr_cli.finetune.adapter import Adapter, read_adapters
from llm4dsr_cli.finetune.settings import Settings
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.metadata import DenoiserMetadata
from llm4dsr_cli.model.prompts import DEFAULT_FORMAT
from llm4dsr_cli.model.registry import Registry, find_denoiser

DEFAULT_BASE = "smollm2-135m-instruct"
# From a denoiser, 1e-3 first lost .04 AUROC, and a longer warm-up is needed (docs/experiments.md).
COLD = {"learning_rate": 1e-3, "warmup_steps": 30, "layers": None, "rank": 16}
WARM = {"learning_rate": 5e-4, "warmup_steps": 100}


@dataclass(frozen=True)
class Start:
    """What a run adapts, and from which weights.

    Attributes:
        base: base model, by registry name, path or ``hf:`` reference.
        denoiser: adapter GGUF whose weights are the first ones; None starts from the base alone.
        metadata: that denoiser's; None without one.
        detector, suggester: its adapters; None without one.
    """

    base: str = DEFAULT_BASE
    denoiser: Path | None = None
    metadata: DenoiserMetadata | None = None
    detector: Adapter | None = None
    suggester: Adapter | None = None

    def settings(self, **given: Any) -> Settings:
        """Settings of a run from here.

        Args:
            given: fields of ``Settings``. What is left out, or None, of ``learning_rate``, ``warmup_steps``,
                ``layers``, ``rank`` and ``alpha`` follows from the start; without ``windows`` the time budget alone
                ends the run, and without that 20,000 windows.

        Raises:
            OptionError: a value contradicts the denoiser, or makes no sense.
        """
        follows: dict[str, Any] = dict(COLD)
        if self.metadata is not None and self.detector is not None:
            rank = self.detector.rank
            self._agree("rank", given.get("rank"), rank, given.get("rank") in (None, rank))
            layers, there = given.get("layers"), self.metadata.layers
            # Fewer layers than the denoiser has are a choice; more it cannot fill.
            self._agree("layers", layers, there, layers is None or there is None or layers <= there)
            follows |= {**WARM, "rank": rank, "layers": there}
        if given.get("time_budget") is not None:
            follows["windows"] = None
        chosen = {**follows, **{name: value for name, value in given.items() if value is not None}}
        return Settings(**{"alpha": 2.0 * chosen["rank"], **chosen})

    def _agree(self, name: str, given: Any, there: Any, agrees: bool) -> None:
        if not agrees:
            raise OptionError(
                f"`{name}` is {given}: the denoiser to start from, {self.denoiser}, has {there}",
                remedy=f"leave out `{name}`, or start from the base model alone with `init` none",
            )

    def check_base(self, base_path: Path) -> None:
        """Raises OptionError when the denoiser to start from adapts another base model than this file."""
        if self.metadata is not None and self.metadata.base_sha256 != file_sha256(base_path):
            raise OptionError(
                f"`init` is {self.denoiser}: it adapts another base model, {self.metadata.base_name}",
                remedy="leave out `base`, or start from the base model alone with `init` none",
            )


def window_seed(seed: int, denoiser: Path | None) -> int:
    """The seed that training windows are drawn with: another one for each denoiser that a run starts from.

    With the same data and the same seed a second run would show the denoiser the very noise that the first one did.
    """
    if denoiser is None:
        return seed
    return int(hashlib.sha256(f"{seed}/{file_sha256(denoiser)}".encode()).hexdigest()[:12], 16)


def find_start(
    init: str | None = None,
    base: str | None = None,
    *,
    registry: Registry | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Start:
    """The start that ``init`` and ``base`` name.

    Args:
        init: a denoiser by registry name or path; "none" for the base model alone; None for the denoiser that ships,
            or for the base alone where ``base`` is another one than it adapts.
        base: by registry name, path or ``hf:`` reference; None takes the denoiser's.
        say: told in one line when the default start cannot be used.

    Raises:
        ModelError: the denoiser is missing, damaged, or of a form that cannot be trained on.
    """
    registry = registry or Registry.load()
    if init == "none":
        return Start(base or DEFAULT_BASE)
    path = find_denoiser(init, registry)
    if init is None and not path.is_file():
        say(f"starting from the base model alone: {path} is not there")
        return Start(base or DEFAULT_BASE)
    start = _start(path, base)
    assert start.metadata is not None
    if init is None and base is not None and not _is_base(base, start.metadata):
        say(f"starting from {base} alone: {start.metadata.name}, the denoiser that ships, adapts another base model")
        return Start(base)
    if base is None and not (
        start.base in registry.bases or start.base.startswith("hf:") or Path(start.base).is_file()
    ):
        raise ModelError(
            f"its base model, {start.base}, is not in the registry", where=str(path), remedy="give its file with `base`"
        )
    return start


def _start(path: Path, base: str | None) -> Start:
    metadata = DenoiserMetadata.read(open_gguf(path), path)
    detector, suggester = read_adapters(path)
    if metadata.form != DEFAULT_FORMAT:
        raise ModelError(
            f"its prompt format, {metadata.form.name} version {metadata.form.version}, is no longer trained",
            where=str(path),
            remedy="start from the base model alone with `init` none",
        )
    return Start(base or metadata.base_name, path, metadata, detector, suggester)


def _is_base(base: str, metadata: DenoiserMetadata) -> bool:
    """Whether ``base`` is what a denoiser adapts: by name, or by content where the file is here."""
    path = Path(base).expanduser()
    return base == metadata.base_name or (path.is_file() and file_sha256(path) == metadata.base_sha256)
