"""What a denoiser file says about itself: all that inference needs, as GGUF metadata.

A denoiser is a LoRA adapter in GGUF (or a merged model) with the keys below, all prefixed ``llm4dsr.``. Numbers and
texts are stored as GGUF values of their own type, the training summary as a JSON text.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from gguf import GGUFValueType, GGUFWriter

from llm4dsr_cli.errors import ModelError, OptionError
from llm4dsr_cli.model.gguf_file import GgufFile
from llm4dsr_cli.model.prompts import PromptFormat, find_format
from llm4dsr_cli.text import shortened
from llm4dsr_cli.thresholds import ThresholdCurve, check_rate

FILE_VERSION = 2  # 1 is a denoiser that suggests nothing
# In front of the names of the tensors by which a denoiser suggests titles.
SUGGESTER = "suggester."
MAKE_ONE = "make a denoiser with: llm4dsr finetune TRAIN.jsonl --output my-denoiser.gguf"
# A window is one batch of llama.cpp's, whose memory grows with the square of it.
MAX_WINDOW_TOKENS = 1 << 14
_LONGEST = 1_000  # items, and tokens of a title
_INTEGERS = (GGUFValueType.UINT32, GGUFValueType.INT32, GGUFValueType.UINT64, GGUFValueType.INT64)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_window(items: int, title_tokens: int) -> None:
    """Raise OptionError where no denoiser could read windows of so many items, whose titles have so many tokens."""
    if not _can_be_read(items, title_tokens):
        raise OptionError(
            f"windows of {items} items of {title_tokens} tokens are too long",
            remedy=f"give a smaller `max_window` or `max_title_tokens`, each up to {_LONGEST:,}: items times one token "
            f"more may be {MAX_WINDOW_TOKENS:,}",
        )


def _can_be_read(items: int, title_tokens: int) -> bool:
    return 1 <= items <= _LONGEST and 1 <= title_tokens <= _LONGEST and items * (title_tokens + 1) <= MAX_WINDOW_TOKENS


@dataclass(frozen=True)
class DenoiserMetadata:
    """A denoiser's description of itself.

    Attributes:
        max_window: items of the largest window it was trained on.
        max_title_tokens: longer titles are cut to so many tokens.
        base_name, base_sha256: the base model's registry name (or file name) and the hash of its file.
        calibration: None in an adapter that was never calibrated.
        training: summary of data and settings, for people to read.
        layers: how many of the base's layers its detector uses, from the first; None uses all.
        suggestion_alpha: the scale times the rank of its second adapter, by which the whole base suggests titles; its
            tensors' names begin with SUGGESTER. None in a denoiser that has none.
    """

    name: str
    form: PromptFormat
    max_window: int
    max_title_tokens: int
    base_name: str
    base_sha256: str
    base_architecture: str
    licence: str
    calibration: ThresholdCurve | None = None
    training: dict[str, Any] = field(default_factory=dict)
    layers: int | None = None
    suggestion_alpha: float | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for values that no training could give: a file may come from a stranger."""
        if not _can_be_read(self.max_window, self.max_title_tokens):
            raise ValueError(f"windows of {self.max_window} items of {self.max_title_tokens} tokens")
        if self.layers is not None and not 1 <= self.layers <= 1000:
            raise ValueError(f"{self.layers} layers")
        if self.suggestion_alpha is not None and not 0 < self.suggestion_alpha < math.inf:
            raise ValueError(f"a scale of suggestions of {self.suggestion_alpha:g}")

    def threshold(self, false_edit_rate: float) -> float:
        """Noise log-odds above which at most this share of the items that belong lies, by its own calibration.

        Raises:
            OptionError: the rate is out of range.
            ModelError: the denoiser was never calibrated, or on too few items for this rate.
        """
        check_rate(false_edit_rate)
        if self.calibration is None:
            raise ModelError(f"{self.name} carries no calibration", remedy="give `threshold`")
        return self.calibration.threshold(false_edit_rate)

    def description(self, sha256: str) -> dict[str, Any]:
        """Name and hashes, for reports; ``sha256`` is that of the denoiser's file."""
        return {"name": self.name, "sha256": sha256, "base": self.base_name, "base_sha256": self.base_sha256}

    def write(self, writer: GGUFWriter) -> None:
        """Add all keys to a GGUF that is being written."""
        writer.add_string("general.name", self.name)
        writer.add_string("general.license", self.licence)
        writer.add_uint32("llm4dsr.version", 1 if self.suggestion_alpha is None else FILE_VERSION)
        writer.add_string("llm4dsr.prompt.format", self.form.name)
        writer.add_uint32("llm4dsr.prompt.version", self.form.version)
        writer.add_string("llm4dsr.attention", "causal" if self.form.causal else "bidirectional")
        writer.add_string("llm4dsr.probe.noise", self.form.noise)
        writer.add_string("llm4dsr.probe.belongs", self.form.belongs)
        writer.add_uint32("llm4dsr.max_window", self.max_window)
        writer.add_uint32("llm4dsr.max_title_tokens", self.max_title_tokens)
        writer.add_string("llm4dsr.base.name", self.base_name)
        writer.add_string("llm4dsr.base.sha256", self.base_sha256)
        writer.add_string("llm4dsr.base.architecture", self.base_architecture)
        if self.layers is not None:
            writer.add_uint32("llm4dsr.base.layers", self.layers)
        if self.suggestion_alpha is not None:
            writer.add_float32("llm4dsr.suggestion.alpha", self.suggestion_alpha)
        writer.add_string("llm4dsr.training", orjson.dumps(self.training).decode())
        if self.calibration is not None:
            writer.add_uint32("llm4dsr.calibration.n_items", self.calibration.n_items)
            writer.add_array("llm4dsr.calibration.rates", self.calibration.rates.tolist())
            writer.add_array("llm4dsr.calibration.log_odds", self.calibration.log_odds.tolist())

    @classmethod
    def read(cls, file: GgufFile, where: str | Path) -> DenoiserMetadata:
        """From an open GGUF.

        Raises:
            ModelError: the GGUF is no denoiser, or one of a newer version, or its metadata are damaged.
        """
        if "llm4dsr.version" not in file.fields:
            raise ModelError(
                "this GGUF is no denoiser: it carries no llm4dsr metadata", where=str(where), remedy=MAKE_ONE
            )
        values = _Values(file)
        try:
            version = values.integer("llm4dsr.version")
            if version > FILE_VERSION:
                raise ModelError(
                    f"this denoiser is of file version {version}", where=str(where), remedy="pip install -U llm4dsr-cli"
                )
            return cls(
                name=values.text("general.name", 200) if "general.name" in file.fields else "",
                form=find_format(values.text("llm4dsr.prompt.format", 200), values.integer("llm4dsr.prompt.version")),
                max_window=values.integer("llm4dsr.max_window"),
                max_title_tokens=values.integer("llm4dsr.max_title_tokens"),
                base_name=values.text("llm4dsr.base.name", 4096),  # it may be a path
                base_sha256=values.sha256("llm4dsr.base.sha256"),
                base_architecture=values.text("llm4dsr.base.architecture", 200),
                licence=values.text("general.license", 1000) if "general.license" in file.fields else "",
                calibration=values.calibration() if "llm4dsr.calibration.n_items" in file.fields else None,
                training=values.json_object("llm4dsr.training", 1 << 20),
                layers=values.integer("llm4dsr.base.layers") if "llm4dsr.base.layers" in file.fields else None,
                suggestion_alpha=(
                    values.number("llm4dsr.suggestion.alpha") if "llm4dsr.suggestion.alpha" in file.fields else None
                ),
            )
        except ValueError as error:
            raise ModelError(
                f"its llm4dsr metadata is incomplete or damaged ({error})", where=str(where), remedy=MAKE_ONE
            ) from None


class _Values:
    """The values of a GGUF's keys, whose types are checked as they are taken; raises ValueError with the reason."""

    def __init__(self, file: GgufFile) -> None:
        self._fields = file.fields

    def _take(self, key: str, *types: GGUFValueType) -> Any:
        if key not in self._fields:
            raise ValueError(f"it lacks {key}")
        field = self._fields[key]
        if tuple(field.types) != types:
            raise ValueError(f"{key} is of the type {field.types[0].name}")
        return field.value

    def text(self, key: str, longest: int) -> str:
        """A text of at most ``longest`` characters."""
        text: str = self._take(key, GGUFValueType.STRING)
        if len(text) > longest:
            raise ValueError(f"{key} is {len(text)} characters long")
        return text

    def sha256(self, key: str) -> str:
        """A hash in lower-case hex."""
        text = self.text(key, 1000)
        if not _SHA256.fullmatch(text):
            raise ValueError(f"{key} is {shortened(text)}")
        return text

    def integer(self, key: str) -> int:
        return int(self._take(key, GGUFValueType.UINT32))

    def number(self, key: str) -> float:
        return float(self._take(key, GGUFValueType.FLOAT32))

    def json_object(self, key: str, longest: int) -> dict[str, Any]:
        """A JSON object that can be written again."""
        try:
            value = orjson.loads(self.text(key, longest))
            orjson.dumps(value)  # which takes fewer levels than loads
        except (orjson.JSONDecodeError, orjson.JSONEncodeError) as error:
            raise ValueError(f"{key}: {error}") from None
        if not isinstance(value, dict):
            raise ValueError(f"{key} is no object")
        return value

    def calibration(self) -> ThresholdCurve:
        rates, log_odds = (
            np.array(self._take(f"llm4dsr.calibration.{name}", GGUFValueType.ARRAY, GGUFValueType.FLOAT32))
            for name in ("rates", "log_odds")
        )
        return ThresholdCurve(rates, log_odds, self.integer("llm4dsr.calibration.n_items"))
