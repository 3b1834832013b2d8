"""Gate files from strangers: damaged in any way, a gate loads whole or the user is told in one sentence."""

from __future__ import annotations

import io
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest

from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.gate.fusion import N_FEATURES, Fusion
from llm4dsr_cli.gate.gate_file import GateFile
from llm4dsr_cli.thresholds import ThresholdCurve

TITLES = [f"{name} {kind}" for name in ("red", "blue", "big", "old") for kind in ("ball", "book", "boat", "brick")]
Arrays = dict[str, np.ndarray]


def make_gate() -> GateFile:
    rng = np.random.default_rng(0)
    data = [(user, [TITLES[i] for i in rng.integers(0, len(TITLES), 6)]) for user in range(12)]
    return GateFile(
        model_name="model",
        model_sha256="0" * 64,
        alone=ThresholdCurve.fit(rng.normal(size=300)),
        fused=ThresholdCurve.fit(rng.normal(size=200)),
        fusion=Fusion(-1.0, rng.normal(size=N_FEATURES), rng.normal(size=N_FEATURES), np.ones(N_FEATURES)),
        evidence=Evidence.count(data),
        calibration_users=Evidence.count(data).users[:5],
        summary={"sequences": 12},
        user_field="user",
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gate") / "whole.gate"
    make_gate().save(path)
    return path.read_bytes()


def members(gate: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(gate)) as archive:
        return {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def with_arrays(gate: bytes, **arrays: np.ndarray) -> bytes:
    return packed({**members(gate), **{name: npy(array) for name, array in arrays.items()}})


def arrays_of(gate: bytes) -> Arrays:
    return {name: np.load(io.BytesIO(content)) for name, content in members(gate).items()}


def with_about(gate: bytes, change: Callable[[dict[str, object]], object]) -> bytes:
    about = orjson.loads(arrays_of(gate)["about"].tobytes())
    change(about)
    return with_arrays(gate, about=np.frombuffer(orjson.dumps(about), dtype=np.uint8))


def flipped(content: bytes, n: int, rng: np.random.Generator, first: int = 0) -> bytes:
    changed = bytearray(content)
    for place in rng.integers(first, len(content), n):
        changed[place] ^= int(rng.integers(1, 256))
    return bytes(changed)


# What an array may be replaced by.
WRONG_ARRAYS: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda array: array[::-1],
    lambda array: array[:-1],
    lambda array: array[:0],
    lambda array: np.repeat(array, 2),
    lambda array: array[None],
    lambda array: array.sum(),
    lambda array: np.zeros_like(array),
    lambda array: -array,
    lambda array: array + 1,
    lambda array: np.full_like(array, np.inf if array.dtype.kind == "f" else np.iinfo(array.dtype).max),
    lambda array: np.full_like(array, -np.inf if array.dtype.kind == "f" else np.iinfo(array.dtype).min),
    lambda array: np.where(np.arange(len(array)) == len(array) // 2, np.nan, array).astype(array.dtype),
    lambda array: array.astype(np.float64) * np.nan,
    lambda array: array.astype(np.float16),
    lambda array: array.astype(np.complex128),
    lambda array: array.astype(np.int8),
    lambda array: array.astype(array.dtype.newbyteorder(">")),
    lambda array: array.astype(str),
    lambda array: array > 0,
    lambda array: array.astype("M8[s]") if array.dtype.kind == "i" else array.astype(np.int64),
]
WRONG_VALUES = [None, True, -1, 1.5, 1e300, 2**63, "text", "", [], [1], {}, {"alone": None}]


def mutant(gate: bytes, rng: np.random.Generator) -> bytes:
    """The gate with one thing wrong, of a kind drawn at random."""
    files = members(gate)
    name = str(rng.choice(list(files)))
    match rng.integers(7):
        case 0:
            return gate[: rng.integers(len(gate))]
        case 1:
            return flipped(gate, int(rng.integers(1, 6)), rng)
        case 2:  # numbers that differ, in a file whose checksums are right
            return packed({**files, name: flipped(files[name], 1, rng, first=128)})
        case 3:
            return packed({**files, name: flipped(files[name], 1, rng)})
        case 4:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of casts that make no sense
                array = np.asarray(WRONG_ARRAYS[rng.integers(len(WRONG_ARRAYS))](arrays_of(gate)[name]))
            return with_arrays(gate, **{name: array})
        case 5:
            return packed({other: content for other, content in files.items() if other != name})
        case _:
            value = WRONG_VALUES[rng.integers(len(WRONG_VALUES))]

            def change(about: dict[str, object]) -> None:
                key = str(rng.choice([*about, "alone", "fused"]))
                if key in about:
                    about[key] = value
                else:
                    about["n_items"] = {"alone": 300, "fused": 200, key: value}

            return with_about(gate, change)


def use(gate: GateFile) -> None:
    """Whatever it is asked, a gate that loads gives numbers."""
    scores = np.array([-20.0, 0.0, 0.5, 20.0], dtype=np.float32)
    for user in (None, 0, "nobody"):
        fused = gate.fuse([TITLES[0], TITLES[5], "never counted", TITLES[0]], user, scores)
        assert fused.shape == (4,) and np.isfinite(fused).all()
        assert gate.holds_calibration_user(user) in (True, False)
    for curve, fusion in ((gate.alone, False), (gate.fused, True)):
        if (curve.rates <= 0.05).any():
            assert np.isfinite(gate.threshold(0.05, fusion=fusion))


@pytest.mark.parametrize("seed", range(300))
def test_a_damaged_gate_loads_whole_or_is_refused_in_one_sentence(whole: bytes, tmp_path: Path, seed: int) -> None:
    """Guards tracebacks at the first record, and a NaN by which everything, or nothing, is noise."""
    path = tmp_path / "my.gate"
    path.write_bytes(mutant(whole, np.random.default_rng(seed)))
    try:
        gate = GateFile.load(path)
    except ModelError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
        assert "no whole gate file" in str(error) or "file version" in str(error)
    else:
        use(gate)


@pytest.mark.parametrize(
    "arrays",
    [
        {"items": [[3, 1, 2]]},
        {"users": np.arange(12, dtype=np.uint64)[::-1]},
        {"starts": np.array([0, 2**62, *[2**62] * 11], dtype=np.int64)},
        {"held": np.zeros(1, dtype=np.int32)},
        {"titles_with": np.zeros(8, dtype=np.int32)},
        {"titles_with": np.full(8, 2**31 - 1, dtype=np.int32)},
        {"deviation": np.zeros(N_FEATURES)},
        {"deviation": np.full(N_FEATURES, np.nan)},
        {"weights": np.full(N_FEATURES, 1e300)},
        {"weights": np.zeros(3), "mean": np.zeros(3), "deviation": np.ones(3)},
        {"rates": np.array([0.1, 0.2], dtype=np.float32), "alone": np.array([0.5, 1.0], dtype=np.float32)},
        {"calibration_users": np.array([2, 1], dtype=np.uint64)},
    ],
)
def test_counts_weights_and_curves_that_no_calibration_gives_are_refused(
    whole: bytes, tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    """Guards look-ups in what does not ascend, divisions by nothing, and sums beyond a float."""
    path = tmp_path / "my.gate"
    path.write_bytes(with_arrays(whole, **{name: np.asarray(array) for name, array in arrays.items()}))
    with pytest.raises(ModelError, match="no whole gate file"):
        GateFile.load(path)


def test_a_user_holds_an_item_once(whole: bytes, tmp_path: Path) -> None:
    """Guards counts below zero, where a user is left out of what they held twice."""
    path = tmp_path / "my.gate"
    arrays = arrays_of(whole)
    held = arrays["held"].copy()
    held[1] = held[0]
    path.write_bytes(with_arrays(whole, held=held))
    with pytest.raises(ModelError, match="do not ascend"):
        GateFile.load(path)


def test_nothing_of_the_packing_matters(whole: bytes, tmp_path: Path) -> None:
    """Guards gates that an older numpy, or a tool that repacks archives, wrote."""
    path = tmp_path / "my.gate"
    with path.open("wb") as file:
        np.savez(file, **arrays_of(whole), another=np.zeros((2, 2)))
    use(GateFile.load(path))


@pytest.mark.parametrize("declared", [2**25, 2**50])
def test_a_small_file_takes_little_memory(whole: bytes, tmp_path: Path, declared: int) -> None:
    """Guards a file of some kilobytes that fills the memory: by its header, or by what it unpacks to."""
    path = tmp_path / "my.gate"
    header = npy(np.zeros(0, dtype=np.int32)).replace(b"(0,)", f"({declared},)".encode())
    unpacked = [header, header + bytes(4 * declared if declared < 2**30 else 400)]
    for content in unpacked:
        path.write_bytes(packed({**members(whole), "held": content}))
        tracemalloc.start()
        with pytest.raises(ModelError, match="no whole gate file"):
            GateFile.load(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10_000_000
