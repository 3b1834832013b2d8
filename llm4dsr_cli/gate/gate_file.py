"""The gate file: what ``llm4dsr calibrate`` learned of a denoiser on a user's own data.

File format: NPZ, one array for each field below; texts are JSON in a uint8 array. It holds no titles and no user ids,
only their 64-bit hashes.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.files import atomic_path
from llm4dsr_cli.gate.evidence import Evidence, user_hash
from llm4dsr_cli.gate.fusion import N_FEATURES, Fusion, fusion_features
from llm4dsr_cli.scores import Scores
from llm4dsr_cli.thresholds import Calibration, check_rate

FILE_VERSION = 1
MAKE_ONE = "make one with: llm4dsr calibrate DATA --output my.gate"
EVIDENCE = ("items", "users", "starts", "held", "words", "titles_with")


@dataclass(frozen=True)
class GateFile:
    """A calibration on one's own data.

    Attributes:
        model_name, model_sha256: the denoiser whose scores it fits.
        alone: thresholds for the denoiser's own log-odds.
        fused: thresholds for the fused log-odds.
        fusion: the fused log-odds' weights.
        evidence: counts from the data.
        calibration_users: uint64, ascending: hashes of the users on whose sequences noise was injected.
        summary: reliability, expected precision and recall, settings: for people and reports.
        user_field: the records' field that says whose sequence it is; None if the data named nobody.
        protect_last: so many items at a sequence's end were left out.
    """

    model_name: str
    model_sha256: str
    alone: Calibration
    fused: Calibration
    fusion: Fusion
    evidence: Evidence
    calibration_users: NDArray[np.uint64]
    summary: dict[str, Any]
    user_field: str | None = None
    protect_last: int = 1

    def __post_init__(self) -> None:
        """Raises ValueError for arrays that do not fit together: a file may come from a stranger."""
        evidence, fusion = self.evidence, self.fusion
        ends = evidence.starts
        if (
            len(ends) != len(evidence.users) + 1
            or (np.diff(ends) < 0).any()
            or (ends[0], ends[-1]) != (0, len(evidence.held))
            or (len(evidence.held) and not 0 <= evidence.held.min() <= evidence.held.max() < len(evidence.items))
            or evidence.words.shape != evidence.titles_with.shape
        ):
            raise ValueError("counts that do not fit together")
        if {fusion.weights.shape, fusion.mean.shape, fusion.deviation.shape} != {(N_FEATURES,)}:
            raise ValueError("weights of another number of features")
        for calibration in (self.alone, self.fused):
            if calibration.rates.shape != calibration.log_odds.shape:
                raise ValueError("a calibration that is no curve")

    def check_model(self, sha256: str, where: str) -> None:
        """Raises ModelError when scores come from another denoiser than the one this gate was calibrated for."""
        if sha256 != self.model_sha256:
            raise ModelError(
                f"this gate was calibrated for {self.model_name} (sha256 {self.model_sha256[:12]}...), "
                f"not for the denoiser in use ({sha256[:12]}...)",
                where=where,
                remedy="give that denoiser with --model, or calibrate again",
            )

    def threshold(self, false_edit_rate: float, *, fusion: bool = True) -> float:
        """Log-odds above which at most this share of the items that belong lies; of the fused ones, or the model's.

        Raises:
            OptionError: the rate is out of range.
            ModelError: the calibration is too small to promise so low a rate.
        """
        check_rate(false_edit_rate)
        return (self.fused if fusion else self.alone).threshold(false_edit_rate)

    def fuse(self, titles: Sequence[str], user: Hashable | None, log_odds: Scores) -> Scores:
        """Fused log-odds of a sequence's items, shape (n_items,), from the denoiser's.

        ``user`` is left out of the counts; None when the record names none.
        """
        if not len(titles):
            return log_odds
        return self.fusion.log_odds(fusion_features(log_odds, self.evidence.features(titles, user)))

    def holds_calibration_user(self, user: Hashable) -> bool:
        """Whether this user's sequences served for calibration, and should not serve for measuring."""
        wanted = np.uint64(user_hash(user))
        at = int(np.searchsorted(self.calibration_users, wanted))
        return at < len(self.calibration_users) and bool(self.calibration_users[at] == wanted)

    def save(self, path: Path) -> None:
        """Write it, atomically."""
        about = {
            "version": FILE_VERSION,
            "model_name": self.model_name,
            "model_sha256": self.model_sha256,
            "bias": self.fusion.bias,
            "user_field": self.user_field,
            "protect_last": self.protect_last,
            "n_items": {"alone": self.alone.n_items, "fused": self.fused.n_items},
            "summary": self.summary,
        }
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            about=np.frombuffer(orjson.dumps(about), dtype=np.uint8),
            rates=self.alone.rates,
            alone=self.alone.log_odds,
            fused_rates=self.fused.rates,
            fused=self.fused.log_odds,
            weights=self.fusion.weights,
            mean=self.fusion.mean,
            deviation=self.fusion.deviation,
            **{name: getattr(self.evidence, name) for name in EVIDENCE},
            calibration_users=self.calibration_users,
        )
        with atomic_path(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    @classmethod
    def load(cls, path: Path) -> GateFile:
        """Read a gate file.

        Raises:
            ModelError: it is missing, no gate file, or of a newer version.
        """
        if not path.is_file():
            raise ModelError("no such gate file", where=str(path), remedy=MAKE_ONE)
        try:
            # By way of memory: numpy leaves a damaged file open.
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            about = orjson.loads(arrays["about"].tobytes())
            if about["version"] > FILE_VERSION:
                raise ModelError(
                    f"this gate is of file version {about['version']}",
                    where=str(path),
                    remedy="pip install -U llm4dsr-cli",
                )
            return cls(
                model_name=about["model_name"],
                model_sha256=about["model_sha256"],
                alone=Calibration(arrays["rates"], arrays["alone"], about["n_items"]["alone"]),
                fused=Calibration(arrays["fused_rates"], arrays["fused"], about["n_items"]["fused"]),
                fusion=Fusion(about["bias"], arrays["weights"], arrays["mean"], arrays["deviation"]),
                evidence=Evidence(**{name: arrays[name] for name in EVIDENCE}),
                calibration_users=arrays["calibration_users"],
                summary=about["summary"],
                user_field=about["user_field"],
                protect_last=about["protect_last"],
            )
        except (KeyError, TypeError, ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise ModelError(f"this is no whole gate file ({error})", where=str(path), remedy=MAKE_ONE) from None
