"""The gate file: what ``llm4dsr calibrate`` learned of a denoiser on a user's own data.

File format: NPZ, one array of one dimension for each name in TYPES; texts are JSON in a uint8 array. It holds no titles
and no user ids, only their 64-bit hashes. A file may come from a stranger: whatever is in it, it loads whole, or the
user is told in one sentence, and reading it takes memory in proportion to its size.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from llm4dsr_cli.archives import ARCHIVE_ERRORS
from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.files import atomic_path
from llm4dsr_cli.gate.counting import user_hash
from llm4dsr_cli.gate.evidence import Evidence, ascends
from llm4dsr_cli.gate.fusion import LARGEST, N_FEATURES, Fusion, fusion_features
from llm4dsr_cli.gate.survey import KnownNoise
from llm4dsr_cli.scores import Scores
from llm4dsr_cli.thresholds import ThresholdCurve, check_rate

FILE_VERSION = 3  # 1 knew items by titles as they are written; 2 weighed the positive part of log-odds apart
MAKE_ONE = "make one with: llm4dsr calibrate DATA --output my.gate"
CROSS_FITTED = "cross_fitted"  # in the summary of a gate that was fitted to the data of one run
EVIDENCE = ("items", "users", "starts", "held", "words", "titles_with")
TYPES = {
    "about": "|u1",
    "rates": "<f4",
    "alone": "<f4",
    "fused_rates": "<f4",
    "fused": "<f4",
    "weights": "<f8",
    "mean": "<f8",
    "deviation": "<f8",
    "items": "<u8",
    "users": "<u8",
    "starts": "<i8",
    "held": "<i4",
    "words": "<u8",
    "titles_with": "<i4",
    "calibration_users": "<u8",
}
# Users' hashes do not compress, and even of users who all have the same items they are a fortieth of what is stored.
_MOST_COMPRESSED = 100
# A file of numpy.lib.format, version 1.0, with an array of one dimension: its type and its length.
_NPY = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([^']*)', 'fortran_order': False, 'shape': \((\d+),\), \} *\n", re.DOTALL
)


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
    alone: ThresholdCurve
    fused: ThresholdCurve
    fusion: Fusion
    evidence: Evidence
    calibration_users: NDArray[np.uint64]
    summary: dict[str, Any]
    user_field: str | None = None
    protect_last: int = 1

    def __post_init__(self) -> None:
        """Raises ValueError for values that no calibration gives; the parts check themselves."""
        users = self.calibration_users
        if self.fusion.weights.shape != (N_FEATURES,):
            raise ValueError("weights of another number of features")
        if not (isinstance(self.model_name, str) and isinstance(self.model_sha256, str)):
            raise ValueError("a denoiser without a name or a hash")
        if not (self.user_field is None or isinstance(self.user_field, str)):
            raise ValueError("a user field that is no name")
        if type(self.protect_last) is not int or self.protect_last < 0:
            raise ValueError("a number of protected items that is none")
        if not isinstance(self.summary, dict):
            raise ValueError("a summary that is none")
        if users.ndim != 1 or users.dtype != np.uint64 or not ascends(users):
            raise ValueError("calibration users that do not ascend")

    @property
    def cross_fitted(self) -> bool:
        """Whether it was fitted to the very data that it judges, for one run over them."""
        return self.summary.get(CROSS_FITTED) is True

    def known_noise(self, *, fusion: bool = True) -> KnownNoise | None:
        """Scores of the items that were put in; None where the file does not tell, or what it tells is none."""
        found = self.summary.get("fused" if fusion else "alone")
        found = found if isinstance(found, dict) else {}
        quantiles, n_items = found.get("noise_log_odds"), found.get("noise")
        if not isinstance(quantiles, list) or len(quantiles) < 2 or type(n_items) is not int or n_items < 1:
            return None
        if not all(type(value) in (int, float) and abs(value) <= LARGEST for value in quantiles):
            return None
        return KnownNoise(quantiles, n_items) if (np.diff(quantiles) >= 0).all() else None

    def check_model(self, sha256: str, where: str) -> None:
        """Raises ModelError when scores come from another denoiser than the one this gate was calibrated for."""
        if sha256 != self.model_sha256:
            raise ModelError(
                f"this gate was calibrated for {self.model_name} (sha256 {self.model_sha256[:12]}...), "
                f"not for the denoiser in use ({sha256[:12]}...)",
                where=where,
                remedy="give that denoiser with `model`, or calibrate again",
            )

    def curve(self, *, fusion: bool = True) -> ThresholdCurve:
        """Thresholds for the fused log-odds, or for the denoiser's."""
        return self.fused if fusion else self.alone

    def threshold(self, false_edit_rate: float, *, fusion: bool = True) -> float:
        """Log-odds above which at most this share of the items that belong lies; of the fused ones, or the model's.

        Raises:
            OptionError: the rate is out of range.
            ModelError: the calibration is too small to promise so low a rate.
        """
        check_rate(false_edit_rate)
        return self.curve(fusion=fusion).threshold(false_edit_rate)

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

    def save(self, path: str | Path) -> None:
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
        arrays = {
            "about": np.frombuffer(orjson.dumps(about), dtype=np.uint8),
            "rates": self.alone.rates,
            "alone": self.alone.log_odds,
            "fused_rates": self.fused.rates,
            "fused": self.fused.log_odds,
            "weights": self.fusion.weights,
            "mean": self.fusion.mean,
            "deviation": self.fusion.deviation,
            **{name: getattr(self.evidence, name) for name in EVIDENCE},
            "calibration_users": self.calibration_users,
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{name: arrays[name].astype(TYPES[name]) for name in TYPES})
        with atomic_path(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    @classmethod
    def load(cls, path: str | Path) -> GateFile:
        """Read a gate file.

        Raises:
            ModelError: it is missing, no gate file, damaged, or of another version.
        """
        path = Path(path)
        if not path.is_file():
            raise ModelError("no such gate file", where=str(path), remedy=MAKE_ONE)
        try:
            arrays = _read_arrays(path)
            about = orjson.loads(arrays["about"].tobytes())
            version = about["version"]
            if type(version) is not int or version < 1:
                raise ValueError("no version")
            if version != FILE_VERSION:
                raise ModelError(
                    f"this gate is of file version {version}, where {FILE_VERSION} is read",
                    where=str(path),
                    remedy="pip install -U llm4dsr-cli" if version > FILE_VERSION else MAKE_ONE,
                )
            return cls(
                model_name=about["model_name"],
                model_sha256=about["model_sha256"],
                alone=ThresholdCurve(arrays["rates"], arrays["alone"], about["n_items"]["alone"]),
                fused=ThresholdCurve(arrays["fused_rates"], arrays["fused"], about["n_items"]["fused"]),
                fusion=Fusion(about["bias"], arrays["weights"], arrays["mean"], arrays["deviation"]),
                evidence=Evidence(**{name: arrays[name] for name in EVIDENCE}),
                calibration_users=arrays["calibration_users"],
                summary=about["summary"],
                user_field=about["user_field"],
                protect_last=about["protect_last"],
            )
        except (KeyError, TypeError, *ARCHIVE_ERRORS) as error:
            raise ModelError(f"this is no whole gate file ({error})", where=str(path), remedy=MAKE_ONE) from None


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of TYPES.

    Raises KeyError or one of ARCHIVE_ERRORS where the file is not whole.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        members = {name: archive.getinfo(f"{name}.npy") for name in TYPES}
        if sum(member.file_size for member in members.values()) > _MOST_COMPRESSED * path.stat().st_size:
            raise ValueError("more is declared than so small a file can hold")
        return {name: _array(archive.read(member), TYPES[name], name) for name, member in members.items()}


def _array(npy: bytes, descr: str, name: str) -> NDArray[Any]:
    """The array of an .npy file; ValueError unless it has this type and one dimension.

    Not by numpy's reader: that evaluates the header, and makes room for as much as it declares.
    """
    header = _NPY.match(npy)
    if (
        header is None
        or header[1] != descr.encode()
        or int(header[2]) * np.dtype(descr).itemsize != len(npy) - header.end()
    ):
        raise ValueError(f"{name} is no such array")
    return np.frombuffer(npy, descr, offset=header.end())
