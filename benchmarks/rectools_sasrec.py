"""The SASRec of ``llm4dsr trial`` beside that of RecTools, on the same sequences and targets: a markdown table.

RecTools wants other versions of numpy than this project, so the two run in environments of their own:

    python benchmarks/rectools_sasrec.py ours FOLDER --domain office      # this project's
    pip install 'rectools[torch]'                                         # in another environment
    python benchmarks/rectools_sasrec.py theirs FOLDER                    # in that one; prints both

Each user's last two items are the targets; all other items are ranked for the last one. Both have 64 factors, two
blocks of two heads, dropout .3, batches of 128 users, the softmax over all items and no weight decay; both stop five
epochs after the best NDCG@20 on validation targets.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
PATIENCE = 5
EPOCHS = 200
CUT = 20


def ours(arguments: argparse.Namespace) -> None:
    from downstream_data import read

    from llm4dsr_cli.trial.editing import Edited
    from llm4dsr_cli.trial.fits import Fits
    from llm4dsr_cli.trial.kept import Kept
    from llm4dsr_cli.trial.metrics import gains
    from llm4dsr_cli.trial.recommenders import make_recommender

    _, split, _, _ = read(arguments.data / arguments.domain, arguments.users, None, 0.0, edits_histories=True)
    fits, rows = Fits(split, Kept(None)), []
    for seed in range(arguments.seeds):
        found = fits.fit(make_recommender("sasrec"), Edited(split.sequences), seed)
        rows.append((float(gains(found.test, "NDCG@20").mean()), found.seconds))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    known = {"n_items": len(split.items), "masked": fits.masks_history, "domain": arguments.domain, "ours": rows}
    (arguments.folder / "ours.json").write_text(json.dumps(known), encoding="utf-8")
    arrays: dict[str, Any] = {}
    for name, targets in (("validation", split.validation), ("test", split.test)):
        histories = targets.histories(split.sequences)
        arrays[f"{name}_target"], arrays[f"{name}_history"] = targets.target, np.concatenate(histories)
        arrays[f"{name}_lengths"] = np.array([len(one) for one in histories])
    learned = [one for one, trains in zip(split.sequences, split.trains, strict=True) if trains]
    arrays["train"], arrays["lengths"] = np.concatenate(learned), np.array([len(one) for one in learned])
    np.savez(arguments.folder / "split.npz", **arrays)


def theirs(arguments: argparse.Namespace) -> None:
    import pandas as pd
    import torch
    from pytorch_lightning import seed_everything
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel
    from rectools.models.nn.item_net import IdEmbeddingsItemNet

    known = json.loads((arguments.folder / "ours.json").read_text(encoding="utf-8"))
    split = np.load(arguments.folder / "split.npz")

    def table(items: Any, lengths: Any) -> Any:
        frame = pd.DataFrame({Columns.User: np.repeat(np.arange(len(lengths)), lengths), Columns.Item: items})
        frame[Columns.Datetime] = pd.to_datetime(np.arange(len(frame)), unit="s")
        return frame.assign(**{Columns.Weight: 1.0})

    dataset = Dataset.construct(table(split["train"], split["lengths"]))
    asked = {
        name: (Dataset.construct(table(split[f"{name}_history"], split[f"{name}_lengths"])), split[f"{name}_target"])
        for name in ("validation", "test")
    }

    def quality(model: Any, name: str) -> float:
        histories, target = asked[name]
        shown = model.recommend(np.arange(len(target)), histories, k=CUT, filter_viewed=known["masked"])
        hits = shown[shown[Columns.Item].to_numpy() == target[shown[Columns.User].to_numpy()]]
        return float((1 / np.log2(1 + hits[Columns.Rank])).sum() / len(target))

    rows = []
    for seed in range(len(known["ours"])):
        seed_everything(seed)
        began, best, at, waited, epochs = time.monotonic(), -1.0, 0.0, 0, 0
        model = SASRecModel(
            n_blocks=2,
            n_heads=2,
            n_factors=64,
            dropout_rate=0.3,
            session_max_len=50,
            loss="softmax",
            lr=arguments.rate,
            batch_size=128,
            epochs=EPOCHS,
            item_net_block_types=(IdEmbeddingsItemNet,),
        )
        while waited < PATIENCE and epochs < EPOCHS:
            model.fit_partial(dataset, min_epochs=1, max_epochs=1)
            epochs, waited = epochs + 1, waited + 1
            found = quality(model, "validation")
            if found > best:
                best, at, waited = found, quality(model, "test"), 0
        rows.append((at, time.monotonic() - began))
        print(f"seed {seed}: {epochs} epochs, {at:.4f}", flush=True)
    print(f"\n{known['domain']}, torch {torch.__version__}\n\n| | NDCG@20 | of each seed | seconds a fit |")
    print("| --- | ---: | --- | ---: |")
    for name, those in (("this project's", known["ours"]), (f"RecTools', rate {arguments.rate:g}", rows)):
        values = [value for value, _ in those]
        seconds = np.median([second for _, second in those])
        each = ", ".join(f"{value:.4f}" for value in values)
        print(f"| {name} | {np.mean(values):.4f} | {each} | {seconds:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("whose", choices=["ours", "theirs"])
    parser.add_argument("folder", type=Path, help="where the split and our figures are kept")
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument("--domain", default="office")
    parser.add_argument("--users", type=int, help="take only so many")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1e-3, help="RecTools' learning rate; its default is 1e-3")
    arguments = parser.parse_args()
    (ours if arguments.whose == "ours" else theirs)(arguments)


if __name__ == "__main__":
    main()
