"""What a small set transformer, trained on the file that is cleaned, adds to its counts: markdown on standard output.

    python benchmarks/learned_counts.py --scores scores/ --domains movie toy office steam --minutes 4

It reads the different items of a sequence as vectors (one learned for the item, and one for each word of its title),
in no order, and learns as the denoiser does: items replaced by random ones of the catalog, binary cross-entropy.
``--folds`` of them are trained, each without a part of the users, and judge that part, so that no item vouches for
itself. Files, judged items and the sample with noise put in, which weighs the features, are those of
``default_fusion.py``. Cells: AUROC / average precision / precision of the most suspicious 5%.

"boosted" takes gradient-boosted trees, of which more of the denoiser's log-odds, or of the set transformer's, is never
less noise, instead of the weighted sum.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import torch
from default_fusion import LONGEST, File, cell, figures, read_file
from engines import load_denoiser
from gate import REPOSITORY, score
from numpy.typing import NDArray
from torch import nn

from llm4dsr_cli.gate.calibration import CalibrationSettings, NoisySequence, ScoredItems, noisy_sequences, scored_items
from llm4dsr_cli.gate.counting import user_hash, word_hashes
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.gate.fusion import Fusion
from llm4dsr_cli.noise import inject_noise
from llm4dsr_cli.sequences import IndexedSequences

WIDTH, HEADS, LAYERS, BATCH, WINDOW = 96, 4, 2, 128, 20
RATES = (0.1, 0.2, 0.3)
PEAK = 2e-3

Ints = NDArray[np.int64]


class SetTransformer(nn.Module):
    """Noise log-odds of the items of sets; an item is the sum of its own vector and the mean of its words'."""

    def __init__(self, titles: Sequence[str]) -> None:
        super().__init__()
        words = [word_hashes(title) for title in titles]
        known = {word: number for number, word in enumerate(sorted({w for title in words for w in title}), start=1)}
        most = max(1, min(12, max(map(len, words))))
        table = torch.zeros(len(titles) + 1, most, dtype=torch.int64)
        for row, title in enumerate(words):
            table[row, : min(most, len(title))] = torch.tensor([known[w] for w in title[:most]], dtype=torch.int64)
        counts = torch.bincount(table.flatten(), minlength=len(known) + 1)
        weight = torch.log(1 + len(titles) / counts.clamp(min=1).float())
        weight[0] = 0.0
        of_title = weight[table]
        self.register_buffer("words", table)
        self.register_buffer("weights", of_title / of_title.norm(dim=1, keepdim=True).clamp(min=1e-6))
        self.word = nn.Embedding(len(known) + 1, WIDTH, padding_idx=0)
        self.item = nn.Embedding(len(titles) + 1, WIDTH, padding_idx=len(titles))
        nn.init.normal_(self.word.weight, std=0.3)
        nn.init.normal_(self.item.weight, std=0.1)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 1))
        self.dropout = nn.Dropout(0.3)
        self.nothing = len(titles)

    def forward(self, sets: torch.Tensor) -> torch.Tensor:
        vectors = (self.word(self.words[sets]) * self.weights[sets][..., None]).sum(dim=2)
        vectors = vectors + self.dropout(self.item(sets))
        return self.head(self.encoder(vectors, src_key_padding_mask=sets == self.nothing)).squeeze(-1)


def padded(sets: Sequence[Ints], nothing: int) -> torch.Tensor:
    found = torch.full((len(sets), max(map(len, sets))), nothing, dtype=torch.int64)
    for row, one in enumerate(sets):
        found[row, : len(one)] = torch.from_numpy(one)
    return found


def trained(titles: Sequence[str], sequences: Sequence[Ints], seconds: float, seed: int) -> tuple[SetTransformer, int]:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = SetTransformer(titles)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.01)
    began, seen = time.monotonic(), 0
    while (spent := (time.monotonic() - began) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = PEAK * min(1.0, 20 * spent, 1.5 * (1 - spent))
        sets, labels = [], []
        for number in rng.integers(0, len(sequences), BATCH).tolist():
            items = sequences[number]
            start = int(rng.integers(0, max(0, len(items) - WINDOW) + 1))
            items = np.unique(items[start : start + WINDOW])
            noisy, label = inject_noise(items, len(titles), float(rng.choice(RATES)), rng)
            sets.append(noisy)
            labels.append(label)
        batch = padded(sets, model.nothing)
        there = batch != model.nothing
        loss = nn.functional.binary_cross_entropy_with_logits(
            model(batch)[there], torch.from_numpy(np.concatenate(labels)).float()
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen += BATCH
    return model.eval(), seen


class Learned:
    """Models of a file, each of which judges the users that it did not learn from."""

    def __init__(self, file: File, seconds: float, folds: int) -> None:
        indexed = IndexedSequences.build(file.data, file.titles)
        self._number = {title: number for number, title in enumerate(indexed.titles)}
        self._folds = folds
        learned_from: list[list[Ints]] = [[] for _ in range(folds)]
        for user, items in zip(indexed.users, indexed.sequences, strict=True):
            if 2 < len(items) < len(indexed.titles) // 2:
                for fold in range(folds):
                    if fold != self.fold(user):
                        learned_from[fold].append(items)
        found = [trained(indexed.titles, part, seconds / folds, seed) for seed, part in enumerate(learned_from)]
        self._models, self.windows = [model for model, _ in found], sum(seen for _, seen in found)

    def fold(self, user: Hashable) -> int:
        return int(user_hash(user) % self._folds)

    def log_odds(self, sequences: Sequence[NoisySequence]) -> NDArray[np.float64]:
        """Of all items of the sequences but the last of each."""
        found = []
        for one in sequences:
            items = np.array([self._number[title] for title in one.titles])
            kept, place = np.unique(items, return_inverse=True)
            with torch.no_grad():
                scores = self._models[self.fold(one.user)](torch.from_numpy(kept[None])).numpy()[0]
            found.append(scores[place][:-1])
        return np.concatenate(found).astype(np.float64)


def boosted(sample: ScoredItems, judged: ScoredItems, rising: Sequence[int]) -> NDArray[np.float64]:
    from sklearn.ensemble import HistGradientBoostingClassifier

    n = sample.features.shape[1]
    model = HistGradientBoostingClassifier(
        max_iter=80, learning_rate=0.06, max_leaf_nodes=8, min_samples_leaf=30, l2_regularization=5.0,
        monotonic_cst=[1 if i in rising else 0 for i in range(n)], random_state=0,
    ).fit(sample.features, sample.labels)  # fmt: skip
    return figures(model.decision_function(judged.features), judged.labels)


def weighed(sample: ScoredItems, judged: ScoredItems) -> NDArray[np.float64]:
    return figures(Fusion.fit(sample.features, sample.labels).log_odds(judged.features), judged.labels)


def with_column(items: ScoredItems, column: NDArray[np.float64]) -> ScoredItems:
    return ScoredItems(np.column_stack([items.features, column]), items.labels, items.user)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument("--domains", nargs="+", default=["movie", "toy", "office", "steam"])
    parser.add_argument("--judged", type=int, default=800, help="judge so many sequences of a file")
    parser.add_argument("--sample", type=int, default=600, help="sequences with noise put in, which weigh the features")
    parser.add_argument("--minutes", type=float, default=4, help="of training, of both halves together")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--scores", type=Path, help="folder that keeps the denoiser's scores between runs")
    parser.add_argument("--denoiser", help="GGUF file; default: the one that ships")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    names = [
        "denoiser",
        "set transformer",
        "counts",
        "denoiser + counts",
        "boosted",
        "with the set transformer",
        "boosted",
    ]
    print("| data | windows learned from | " + " | ".join(names) + " |\n| --- | ---: |" + " --- |" * len(names))
    with load_denoiser(arguments.denoiser, threads=arguments.threads) as denoiser:
        for name in arguments.domains:
            print(f"{name} ...", file=sys.stderr, flush=True)
            file = read_file(arguments.data / name, arguments.judged)
            evidence = Evidence.count(file.data)
            short = [(user, titles[-LONGEST:]) for user, titles in file.data]
            noisy = noisy_sequences(short, file.titles, evidence, CalibrationSettings(sequences=arguments.sample))
            judged, sample = (
                scored_items(those, score(denoiser, [one.titles for one in those], arguments.scores), evidence, 1)
                for those in (file.judged, noisy)
            )
            learned = Learned(file, 60 * arguments.minutes, arguments.folds)
            columns = [learned.log_odds(those) for those in (file.judged, noisy)]
            counts = [ScoredItems(part.features[:, 1:], part.labels, part.user) for part in (sample, judged)]
            more = [with_column(part, column) for part, column in zip((judged, sample), columns, strict=True)]
            n = judged.features.shape[1]
            cells = [
                figures(judged.features[:, 0], judged.labels),
                figures(columns[0], judged.labels),
                weighed(*counts),
                weighed(sample, judged),
                boosted(sample, judged, [0]),
                weighed(more[1], more[0]),
                boosted(more[1], more[0], [0, n]),
            ]
            print(f"| {name} | {learned.windows:,} | " + " | ".join(map(cell, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
