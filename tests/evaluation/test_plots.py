"""Plots of an evaluation: files that can be opened, that say what was measured, and that disturb nothing."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llm4dsr_cli.errors import MissingExtraError, OptionError, OutputError
from llm4dsr_cli.evaluation.measure import Evaluation, JudgedItems, Measurement
from llm4dsr_cli.evaluation.metrics import detection_quality, edit_quality
from llm4dsr_cli.evaluation.plots import plot_evaluation

matplotlib = pytest.importorskip("matplotlib")


def evaluation(n: int = 400, *, noise: float = 0.1, threshold: float = 1.0) -> Evaluation:
    """As ``evaluate`` would make it, of scores that find noise."""
    rng = np.random.default_rng(0)
    labels = (rng.random(n) < noise).astype(np.int8)
    log_odds = (2 * labels - 2 + rng.normal(size=n)).astype(np.float32)
    edited = log_odds > threshold
    chance = rng.normal(size=n)
    items = JudgedItems(
        log_odds=log_odds,
        labels=labels,
        edited=edited,
        users=rng.permutation(n) // 4,
        lengths=np.full(n, 5),
        popularity=np.arange(n),
        repetitions=np.ones(n, dtype=np.int64),
        baselines={"popularity": chance},
    )
    return Evaluation(
        items=items,
        threshold=threshold,
        overall=Measurement(detection_quality(log_odds, labels), edit_quality(edited, labels), {}),
        by_length=[],
        by_popularity=[],
        by_repetition=[],
        baselines={"popularity": Measurement(detection_quality(chance, labels), None, {})},
        model={},
        protocol={"fusion": False},
    )


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml"), ("a.pdf", b"%PDF")])
def test_the_name_says_which_kind_of_picture_it_becomes(tmp_path: Path, name: str, magic: bytes) -> None:
    """Guards: PNG bytes under another name, temporary files left, and pictures that differ from run to run."""
    first, again = tmp_path / name, tmp_path / f"again-{name}"
    plot_evaluation(evaluation(), first)
    plot_evaluation(evaluation(), again)
    assert first.read_bytes().startswith(magic)
    assert first.read_bytes() == again.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {first.name, again.name}


def test_axes_curves_and_the_gate_are_named(tmp_path: Path) -> None:
    """Guards: a picture that needs its maker to explain it, or states figures that were not measured."""
    found = evaluation()
    plot_evaluation(found, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    edits, detection = found.overall.edits, found.overall.detection
    assert edits is not None
    for label in (
        "recall",
        "precision",
        "noise probability",
        "share that is noise",
        "noise log-odds",
        f"denoiser, AP {detection.average_precision:.2f}",
        f"popularity, AP {found.baselines['popularity'].detection.average_precision:.2f}",
        f"gate: {edits.precision:.0%} right, {edits.recall:.0%} found",
        f"noise ({detection.n_noise})",
        f"belongs ({detection.n_items - detection.n_noise})",
    ):
        assert f">{label}<" in text, label


@pytest.mark.parametrize(
    "found",
    [
        evaluation(noise=0),
        evaluation(threshold=np.inf),
        evaluation(threshold=-np.inf),
        evaluation(n=1),
        dataclasses.replace(
            evaluation(), items=dataclasses.replace(evaluation().items, log_odds=np.zeros(400, np.float32))
        ),
    ],
    ids=["no noise", "nothing edited", "all edited", "one item", "equal scores"],
)
def test_odd_data_is_drawn_all_the_same(tmp_path: Path, found: Evaluation) -> None:
    """Guards: a traceback, or a warning, after all the work is done."""
    plot_evaluation(found, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_the_callers_matplotlib_stays_as_it_is(tmp_path: Path) -> None:
    """Guards: a window system asked for where there is none, and styles that leak into a notebook."""
    before = dict(matplotlib.rcParams)
    plot_evaluation(evaluation(), tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before
    program = "import sys; from test_plots import *; plot_evaluation(evaluation(50), Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; assert 'matplotlib.pyplot' not in sys.modules", tmp_path / "b.png"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_another_kind_of_picture_and_a_missing_folder_are_one_sentence(tmp_path: Path) -> None:
    """Guards: matplotlib's own traceback."""
    with pytest.raises(OptionError, match=r"\.png, \.svg, \.pdf"):
        plot_evaluation(evaluation(), tmp_path / "a.jpg")
    with pytest.raises(OutputError):
        plot_evaluation(evaluation(), tmp_path / "missing" / "a.png")


def test_without_matplotlib_the_pip_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: an ImportError for people who installed the core only."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'llm4dsr-cli\[plot\]'"):
        plot_evaluation(evaluation(), tmp_path / "a.png")
