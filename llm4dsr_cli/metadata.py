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
from numpy.typing import NDArray

from llm4dsr_cli.errors import ModelError, OptionError
from llm4dsr_cli.prompts import PromptFormat, find_format

FILE_VERSION = 2  # 1 is a denoiser that suggests nothing
# In front of the names of the tensors by which a denoiser suggests titles.
SUGGESTER = "suggester."
MAKE_ONE = "make a denoiser with: llm4dsr finetune TRAIN.jsonl --output my-denoiser.gguf"


@dataclass(frozen=True)
class Calibration:
    """A threshold curve: scores of items that belong, on windows that training did not see.

    Attributes:
        rates: false-edit rates between 0 and 1, ascending, shape (n,).
        log_odds: at most the share ``rates[i]`` of the items that belong scored above ``log_odds[i]``; shape (n,).
        n_items: how many items that belong were scored.
    """

    rates: NDArray[np.float32]
    log_odds: NDArray[np.float32]
    n_items: int

    def __post_init__(self) -> None:
        """Raises ValueError for what is no threshold curve: a file may come from a stranger."""
        rates, log_odds = self.rates, self.log_odds
        if rates.ndim != 1 or rates.shape != log_odds.shape or {rates.dtype.kind, log_odds.dtype.kind} != {"f"}:
            raise ValueError("a threshold curve without a log-odds for each rate")
        if not ((rates > 0) & (rates < 1)).all() or (rates[1:] <= rates[:-1]).any():
            raise ValueError("a threshold curve whose rates do not ascend between 0 and 1")
        if not np.isfinite(log_odds).all() or (log_odds[1:] > log_odds[:-1]).any():
            raise ValueError("a threshold curve whose log-odds rise or are not finite")
        if type(self.n_items) is not int or self.n_items < 0:
            raise ValueError("a threshold curve of no number of items")

    @classmethod
    def fit(cls, belonging: NDArray[np.floating[Any]], users: NDArray[np.integer[Any]] | None = None) -> Calibration:
        """From the noise log-odds of items that belong, shape (n_items,), and whose items they are.

        The threshold for a rate is the hierarchical conformal quantile (Lee, Barber and Willett, arXiv 2306.06342):
        every user weighs the same, shared among the user's items, and one user's weight more is put at infinity. A
        random item of a new user, exchangeable with these, exceeds it with at most that probability, however alike the
        items of one user are. With an item a user, and when ``users`` is None, that is the ceil((n + 1)(1 - rate))-th
        smallest score (Angelopoulos and Bates, arXiv 2107.07511, section 1). Rates too small for the users are left
        out.
        """
        scores = np.asarray(belonging, dtype=np.float32)
        owner = np.arange(len(scores)) if users is None else np.unique(users, return_inverse=True)[1]
        items_of = np.bincount(owner)
        order = np.argsort(scores, kind="stable")
        below = np.cumsum(1 / items_of[owner[order]]) if len(scores) else np.zeros(0)
        wanted = np.unique(np.concatenate([np.geomspace(0.0005, 0.5, 120), [0.001, 0.005, 0.01, 0.02, 0.05, 0.1]]))
        # A little less, since the sum of weights is not exact.
        rank = np.searchsorted(below, (len(items_of) + 1) * (1 - wanted) - 1e-6)
        kept = rank < len(scores)
        return cls(wanted[kept].astype(np.float32), scores[order][rank[kept]], len(scores))

    def threshold(self, rate: float) -> float:
        """The noise log-odds above which at most the share ``rate`` of the items that belong lies.

        Raises:
            ModelError: the calibration is too small to promise so low a rate.
        """
        usable = np.flatnonzero(self.rates <= rate * (1 + 1e-6))
        if not len(usable):
            raise ModelError(
                f"its calibration on {self.n_items} items cannot promise a false-edit rate of {rate:g}",
                remedy="give a higher rate, or --threshold, or calibrate on more sequences",
            )
        return float(self.log_odds[usable[-1]])


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
    calibration: Calibration | None = None
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
            raise ModelError(f"{self.name} carries no calibration", remedy="give --threshold")
        return self.calibration.threshold(false_edit_rate)

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
    def read(cls, reader: GGUFReader, where: Path) -> DenoiserMetadata:
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
                calibration = Calibration(
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


def check_rate(false_edit_rate: float) -> None:
    """Raises OptionError unless a false-edit rate lies between 0 and 1."""
    if not 0 < false_edit_rate < 1:
        raise OptionError(f"--false-edit-rate {false_edit_rate:g}", remedy="give a share between 0 and 1")


def open_gguf(path: Path) -> GGUFReader:
    """Map a GGUF file.

    Raises:
        ModelError: it is missing, no GGUF, or cut short.
    """
    if not path.is_file():
        raise ModelError("no such model file", where=str(path), remedy="check the path")
    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise ModelError(
            f"this is no whole GGUF file ({error})", where=str(path), remedy="fetch or make it again"
        ) from None
    return reader


def _text(reader: GGUFReader, key: str) -> str:
    field = reader.fields.get(key)
    return str(field.contents()) if field is not None and field.types[0] == GGUFValueType.STRING else ""
