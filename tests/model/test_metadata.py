"""A denoiser's metadata come back as written, and what is no denoiser is refused in one sentence."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from conftest import write_tiny_adapter
from gguf_mutants import ARRAY, FLOAT32, STRING, UINT32, Value, take_apart

from llm4dsr_cli.errors import ModelError, OptionError
from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.metadata import DenoiserMetadata
from llm4dsr_cli.model.prompts import DEFAULT_FORMAT
from llm4dsr_cli.thresholds import ThresholdCurve

INT32 = 5
METADATA = DenoiserMetadata(
    name='films & books "v1" 映画',
    form=DEFAULT_FORMAT,
    max_window=20,
    max_title_tokens=16,
    base_name="smollm2-135m-instruct",
    base_sha256="ab" * 32,
    base_architecture="llama",
    licence="CC-BY-NC-4.0",
    calibration=ThresholdCurve.fit(np.random.default_rng(0).standard_normal(2000)),
    training={"domains": [{"name": "films", "users": 3}], "seconds": 1.5, "note": "é\n"},
)


def write_file(path: Path, change: Callable[[gguf.GGUFWriter], None]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    change(writer)
    writer.add_tensor("x", np.zeros((2, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(path: Path) -> DenoiserMetadata:
    return DenoiserMetadata.read(open_gguf(path), path)


class Without(gguf.GGUFWriter):  # type: ignore[misc]
    """A writer that forgets or changes one key."""

    def __init__(self, path: Path, key: str, value: Any = None) -> None:
        self.key, self.value = key, value
        super().__init__(path, "llama")

    def add_key_value(self, key: str, val: Any, *rest: Any) -> None:
        if key != self.key:
            super().add_key_value(key, val, *rest)
        elif self.value is not None:
            super().add_key_value(key, self.value, *rest)


def write_changed(path: Path, key: str, value: Any = None) -> Path:
    writer = Without(path, key, value)
    METADATA.write(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize(("layers", "alpha"), [(None, None), (20, None), (None, 16.0), (20, 0.5)])
def test_what_is_written_is_read_back(
    tmp_path: Path, calibrated: bool, layers: int | None, alpha: float | None
) -> None:
    """Guards fields forgotten, rounded, or of another type on one of the two sides."""
    calibration = METADATA.calibration if calibrated else None
    metadata = dataclasses.replace(METADATA, calibration=calibration, layers=layers, suggestion_alpha=alpha)
    found = read(write_file(tmp_path / "d.gguf", metadata.write))
    for field in dataclasses.fields(DenoiserMetadata):
        if field.name != "calibration":
            value = getattr(found, field.name)
            assert value == getattr(metadata, field.name)
            assert type(value) is type(getattr(metadata, field.name))
    if not calibrated:
        assert found.calibration is None
        return
    assert found.calibration is not None
    assert found.calibration.n_items == 2000
    for side in ("rates", "log_odds"):
        before, after = getattr(METADATA.calibration, side), getattr(found.calibration, side)
        assert after.dtype == np.float32
        assert np.array_equal(before, after)
    assert found.threshold(0.01) == METADATA.threshold(0.01)


def test_a_gguf_without_metadata_is_refused_with_the_command_that_makes_one(tiny_base: Path) -> None:
    """Guards any model of the world run as a denoiser; the sentence says what to do."""
    for load in (read, lambda path: Denoiser.load(str(path))):
        with pytest.raises(ModelError) as caught:
            load(tiny_base)
        assert str(caught.value).startswith(f"{tiny_base}: this GGUF is no denoiser")
        assert "llm4dsr finetune" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("alpha", "version"), [(None, 1), (8.0, 2)])
def test_only_a_denoiser_that_suggests_needs_a_newer_llm4dsr(tmp_path: Path, alpha: float | None, version: int) -> None:
    """Guards suggestions that an older llm4dsr would add to the detector, and files that it refuses for nothing."""
    path = write_file(tmp_path / "d.gguf", dataclasses.replace(METADATA, suggestion_alpha=alpha).write)
    assert open_gguf(path).fields["llm4dsr.version"].contents() == version


def test_a_newer_file_version_is_refused(tmp_path: Path) -> None:
    """Guards a file of a later version read as if nothing had changed."""
    path = write_changed(tmp_path / "d.gguf", "llm4dsr.version", 3)
    with pytest.raises(ModelError, match=r"file version 3: pip install -U"):
        read(path)


def test_a_newer_prompt_is_refused(tmp_path: Path) -> None:
    """Guards scores of a prompt that the denoiser was not trained with."""
    path = write_changed(tmp_path / "d.gguf", "llm4dsr.prompt.version", 99)
    with pytest.raises(ModelError, match="version 99 is not known"):
        read(path)


@pytest.mark.parametrize(
    "key",
    [
        "prompt.format",
        "prompt.version",
        "max_window",
        "max_title_tokens",
        "base.name",
        "base.sha256",
        "base.architecture",
        "training",
        "calibration.rates",
        "calibration.log_odds",
    ],
)
def test_incomplete_metadata_are_refused(tmp_path: Path, key: str) -> None:
    """Guards a missing key that ends in a traceback, or in a default that training did not use."""
    path = write_changed(tmp_path / "d.gguf", f"llm4dsr.{key}")
    with pytest.raises(ModelError, match="metadata is incomplete or damaged") as caught:
        read(path)
    assert f"llm4dsr.{key}" in str(caught.value)


@pytest.mark.parametrize("value", ["", "{", "\x00"])
def test_a_training_summary_that_is_no_json_is_refused(tmp_path: Path, value: str) -> None:
    """Guards a JSON error that ends in a traceback."""
    path = write_changed(tmp_path / "d.gguf", "llm4dsr.training", value)
    with pytest.raises(ModelError, match="metadata is incomplete or damaged"):
        read(path)


def test_metadata_of_the_wrong_type_are_refused(tmp_path: Path) -> None:
    """Guards a text where a number belongs that ends in a traceback."""
    for key in ("llm4dsr.max_window", "llm4dsr.version"):

        def write(writer: gguf.GGUFWriter, key: str = key) -> None:
            METADATA.write(writer)
            writer.kv_data[0][key] = gguf.gguf_writer.GGUFValue("many", gguf.GGUFValueType.STRING)

        with pytest.raises(ModelError, match="incomplete or damaged"):
            read(write_file(tmp_path / "d.gguf", write))


DAMAGES = [
    # of the wrong type
    ("llm4dsr.base.name", UINT32, 7),
    ("llm4dsr.base.sha256", UINT32, 7),
    ("llm4dsr.base.architecture", FLOAT32, 7.0),
    ("llm4dsr.prompt.format", UINT32, 1),
    ("llm4dsr.prompt.version", STRING, b"1"),
    ("llm4dsr.prompt.version", ARRAY, [1]),
    ("llm4dsr.training", UINT32, 7),
    ("llm4dsr.base.layers", STRING, b"2"),
    ("llm4dsr.suggestion.alpha", STRING, b"2"),
    ("general.name", UINT32, 7),
    ("general.license", ARRAY, [1]),
    ("llm4dsr.version", FLOAT32, 1.0),
    # numbers that are none, or that no file has
    ("llm4dsr.max_window", FLOAT32, math.inf),
    ("llm4dsr.max_window", INT32, -1),
    ("llm4dsr.max_window", UINT32, 2**32 - 1),
    ("llm4dsr.max_title_tokens", UINT32, 1001),
    ("llm4dsr.max_window", UINT32, 1000),
    ("llm4dsr.base.layers", UINT32, 0),
    ("llm4dsr.suggestion.alpha", FLOAT32, math.nan),
    ("llm4dsr.suggestion.alpha", FLOAT32, 0.0),
    ("llm4dsr.calibration.n_items", INT32, -1),
    ("llm4dsr.calibration.n_items", FLOAT32, math.inf),
    ("llm4dsr.calibration.rates", UINT32, 1),
    ("llm4dsr.calibration.rates", ARRAY, [1, 2]),
    # texts that are none, or too long
    ("llm4dsr.base.name", STRING, b"x" * 100_000),
    ("llm4dsr.base.sha256", STRING, b"ab"),
    ("llm4dsr.base.sha256", STRING, b"\x1b" * 64),
    ("general.name", STRING, b"x" * 100_000),
    ("llm4dsr.training", STRING, b"[1]"),
    ("llm4dsr.training", STRING, b'{"a":' + b"[" * 300 + b"]" * 300 + b"}"),
    ("llm4dsr.training", STRING, b"[" * 5_000),
    ("llm4dsr.training", STRING, b'"' + b"x" * (2 << 20) + b'"'),
]


@pytest.mark.parametrize(("key", "kind", "content"), DAMAGES)
def test_damaged_metadata_are_one_sentence(
    tiny_denoiser: Path, tmp_path: Path, key: str, kind: int, content: Any
) -> None:
    """Guards tracebacks for a stranger's file: of Path, of numpy, of orjson, when it is shown or when it is used."""
    file = take_apart(tiny_denoiser)
    file.values = [(name, value) for name, value in file.values if name != key.encode()]
    file.values.append((key.encode(), Value(kind, content)))
    path = tmp_path / "damaged.gguf"
    path.write_bytes(file.encoded())
    with pytest.raises(ModelError) as caught:
        read(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: its llm4dsr metadata is incomplete or damaged (")
    assert sentence.isprintable()
    assert len(sentence) < 500 + len(str(path))


@pytest.mark.parametrize("name", ["x" * 4096, "a/" * 2000, "\x00", "none.gguf", "/dev/null", "hf:", "\x1b[2J"])
def test_a_base_that_is_no_file_is_one_sentence(tiny_denoiser: Path, tmp_path: Path, name: str) -> None:
    """Guards an OSError for a name that no file system takes."""
    file = take_apart(tiny_denoiser)
    file.values = [(k, Value(STRING, name.encode()) if k == b"llm4dsr.base.name" else v) for k, v in file.values]
    path = tmp_path / "damaged.gguf"
    path.write_bytes(file.encoded())
    with pytest.raises(ModelError) as caught:
        Denoiser.load(path, offline=True)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_truncated_adapters_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    """Guards a download that broke off: an error of the reader's insides, or worse, scores of half an adapter."""
    whole = write_tiny_adapter(tmp_path / "whole.gguf", tiny_base).read_bytes()
    path = tmp_path / "cut.gguf"
    sizes = [0, 2, 4, 8, 23, 24, *range(100, 6000, 650), len(whole) // 2, len(whole) - 4096, len(whole) - 40]
    for size in sizes:
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"cut.gguf: .*(no whole GGUF|no denoiser|incomplete)"):
            Denoiser.load(str(path), base=str(tiny_base))
    with pytest.raises(ModelError, match="no such model file"):
        open_gguf(tmp_path / "none.gguf")
    path.write_bytes(b"PK\x03\x04" + b"\0" * 4096)
    with pytest.raises(ModelError, match="no whole GGUF"):
        open_gguf(path)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.0, 2.0, float("nan")])
def test_false_edit_rates_lie_between_zero_and_one(rate: float) -> None:
    """Guards a percentage taken for a share."""
    with pytest.raises(OptionError, match="`false_edit_rate`"):
        METADATA.threshold(rate)


def test_an_uncalibrated_denoiser_promises_no_rate() -> None:
    """Guards a threshold made up where nothing was measured."""
    with pytest.raises(ModelError, match="carries no calibration: give `threshold`"):
        dataclasses.replace(METADATA, calibration=None).threshold(0.01)


@pytest.mark.parametrize(
    "change",
    [
        {"max_window": 0},
        {"max_window": 10**9},
        {"max_title_tokens": 0},
        {"layers": 0},
        {"layers": 10**6},
    ],
)
def test_values_that_no_training_could_give_are_refused(tiny_denoiser: Path, change: dict[str, Any]) -> None:
    """Guards a stranger's file whose empty windows leave scores that nobody computed."""
    with pytest.raises(ValueError):
        dataclasses.replace(DenoiserMetadata.read(open_gguf(tiny_denoiser), tiny_denoiser), **change)


@pytest.mark.parametrize(
    ("rates", "log_odds", "n_items"),
    [
        ([0.1, 0.2], [1.0], 9),
        ([[0.1, 0.2]], [[1.0, 0.5]], 9),
        ([0.2, 0.1], [1.0, 0.5], 9),
        ([0.1, 0.1], [1.0, 0.5], 9),
        ([0.1, np.nan], [1.0, 0.5], 9),
        ([0.0, 0.1], [1.0, 0.5], 9),
        ([0.1, 1.0], [1.0, 0.5], 9),
        ([0.1, 0.2], [0.5, 1.0], 9),
        ([0.1, 0.2], [1.0, np.nan], 9),
        ([0.1, 0.2], [np.inf, 0.5], 9),
        ([0.1, 0.2], [1.0, -np.inf], 9),
        ([0.1, 0.2], [1, 0], 9),
        ([0.1, 0.2], ["1.0", "0.5"], 9),
        ([0.1, 0.2], [1.0, 0.5], -1),
        ([0.1, 0.2], [1.0, 0.5], 9.0),
        ([0.1, 0.2], [1.0, 0.5], True),
        ([0.1, 0.2], [1.0, 0.5], None),
    ],
)
def test_what_is_no_threshold_curve_is_refused(rates: Any, log_odds: Any, n_items: Any) -> None:
    """Guards a stranger's curve by which everything, or nothing, is noise; denoisers and gate files share the check."""
    with pytest.raises(ValueError, match="threshold curve"):
        ThresholdCurve(np.array(rates), np.array(log_odds), n_items)


def test_every_curve_that_is_fitted_is_one() -> None:
    """Guards a check that refuses what calibration makes: of nobody's items, of one item, of items that tie."""
    for n_items, spread in ((0, 1), (1, 1), (50, 0), (5_000, 1)):
        scores = np.random.default_rng(n_items).normal(0, spread, n_items)
        assert ThresholdCurve.fit(scores).n_items == n_items
