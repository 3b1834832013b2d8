"""What a denoiser file says about itself: all that inference needs, as GGUF metadata.

A denoiser is a LoRA adapter in GGUF (or a merged model) with the keys below, all prefixed ``llm4dsr.``. Numbers and
texts are stored as GGUF values of their own type, the training summary as a JSON text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from gguf import GGUFReader, GGUFValueType, GGUFWriter

from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.model.prompts import PromptFormat, find_format
from llm4dsr_cli.thresholds import ThresholdCurve, check_rate

FILE_VERSION = 2  # 1 is a denoiser that suggests nothing
# In front of the names of the tensors by which a denoiser suggests titles.
SUGGESTER = "suggester."
MAKE_ONE = "make a denoiser with: llm4dsr finetune TRAIN.jsonl --output my-denoiser.gguf"


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
        if not (1 <= self.max_window <= 1000 and 1 <= self.max_title_tokens <= 1000):
            raise ValueError(f"windows of {self.max_window} items of {self.max_title_tokens} tokens")
        if self.layers is not None and not 1 <= self.layers <= 1000:
            raise ValueError(f"{self.layers} layers")

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
    def read(cls, reader: GGUFReader, where: str | Path) -> DenoiserMetadata:
        """From an open GGUF.

        Raises:
            ModelError: the GGUF is no denoiser, or one of a newer version.
        """
        values = {name: field.contents() for name, field in reader.fields.items() if name.startswith("llm4dsr.")}
        version = values.get("llm4dsr.version")
        if version is None:
            raise ModelError(
                "this GGUF is no denoiser: it carries no llm4dsr metadata", where=str(where), remedy=MAKE_ONE
            )
        try:
            if version > FILE_VERSION:
                raise ModelError(
                    f"this denoiser is of file version {version}", where=str(where), remedy="pip install -U llm4dsr-cli"
                )
            calibration = None
            if "llm4dsr.calibration.n_items" in values:
                calibration = ThresholdCurve(
                    np.array(values["llm4dsr.calibration.rates"], dtype=np.float32),
                    np.array(values["llm4dsr.calibration.log_odds"], dtype=np.float32),
                    int(values["llm4dsr.calibration.n_items"]),
                )
            return cls(
                name=_text(reader, "general.name"),
                form=find_format(values["llm4dsr.prompt.format"], values["llm4dsr.prompt.version"]),
                max_window=int(values["llm4dsr.max_window"]),
                max_title_tokens=int(values["llm4dsr.max_title_tokens"]),
                base_name=values["llm4dsr.base.name"],
                base_sha256=values["llm4dsr.base.sha256"],
                base_architecture=values["llm4dsr.base.architecture"],
                licence=_text(reader, "general.license"),
                calibration=calibration,
                training=orjson.loads(values["llm4dsr.training"]),
                layers=values.get("llm4dsr.base.layers"),
                suggestion_alpha=values.get("llm4dsr.suggestion.alpha"),
            )
        except (KeyError, TypeError, ValueError) as error:  # ValueError: orjson.JSONDecodeError is one
            raise ModelError(
                f"its llm4dsr metadata is incomplete or damaged ({error})", where=str(where), remedy=MAKE_ONE
            ) from None


def _text(reader: GGUFReader, key: str) -> str:
    field = reader.fields.get(key)
    return str(field.contents()) if field is not None and field.types[0] == GGUFValueType.STRING else ""
