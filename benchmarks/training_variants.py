"""Small training runs that decide settings before a long one: markdown on standard output, a row for each validation.

    python benchmarks/training_variants.py --domains movie toy --layers 20 --stop-after 4800

Needs the extra ``finetune``. Trains on each domain's train part as ``llm4dsr finetune`` splits it and validates on
its held-out users with injected noise; test files and noise labels are never opened. Nothing is exported.
The learning rate decays as in a run of ``--windows``, of which only the first ``--stop-after`` are seen, so that
runs that stop early stand where a long one would.

With ``--measure N`` a second table follows: N windows of held-out users for each kind of ``--held-out-noise``, AUROC
among items of like popularity (training sequences that hold the title) beside the rest. Kinds of noise: a title drawn
uniformly from the catalog; by its popularity; or from the last items of other users.

``--teacher W`` mixes the labels, with weight W, with the noise probability that counts of the other training users'
sequences give each item (soft targets, Hinton et al., arXiv 1503.02531).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from trial_data import NOISE, VariantSampler, noise_pools, read_domain

from llm4dsr_cli.evaluation.metrics import auroc, detection_quality
from llm4dsr_cli.evaluation.strata import by_quintile
from llm4dsr_cli.finetune.adapter import Shape, from_gguf, read_adapters
from llm4dsr_cli.finetune.comparison import judged
from llm4dsr_cli.finetune.data import Domain, LabelledWindow, split_users
from llm4dsr_cli.finetune.lora import add_lora, load_lora_state, lora_layers
from llm4dsr_cli.finetune.model import NoiseModel
from llm4dsr_cli.finetune.run import HELD_OUT_RATE
from llm4dsr_cli.finetune.settings import Settings
from llm4dsr_cli.finetune.tasks import Detecting
from llm4dsr_cli.finetune.trainer import Trainer
from llm4dsr_cli.model.base_model import find_base
from llm4dsr_cli.model.llama import Model
from llm4dsr_cli.model.prompts import DEFAULT_FORMAT, Prompter
from llm4dsr_cli.model.registry import Registry
from llm4dsr_cli.model.torch_model import load_base, pick_dtype

REPOSITORY = Path(__file__).resolve().parent.parent
BASE = "smollm2-135m-instruct"


class Stopped(Exception):
    pass


def popularity(domain: Domain) -> Counter[str]:
    """How many sequences hold each title."""
    counts = Counter(i for sequence in domain.sequences for i in set(sequence.tolist()))
    return Counter({domain.titles[i]: n for i, n in counts.items()})


def measure(trainer: Trainer, train: list[Domain], windows: list[LabelledWindow], noise: str) -> None:
    """Print a row of the second table for each domain."""
    assert isinstance(trainer.task, Detecting)
    scores = trainer.task.log_odds(trainer.model, windows, trainer.settings.batch_windows)
    for number, domain in enumerate(train):
        here = [i for i, window in enumerate(windows) if window.domain == number]
        score, label = judged([scores[i] for i in here], [windows[i] for i in here])
        count = popularity(domain)
        of_item = np.array([count[title] for i in here for title in windows[i].titles[:-1]])
        quality = detection_quality(score, label)
        within = [auroc(score[part.items], label[part.items]) for part in by_quintile(of_item)]
        figures = [quality.auroc, quality.average_precision, quality.precision_at_1pct, *within]
        print("| " + " | ".join([noise, domain.name, *(f"{f:.3f}" for f in figures), f"{len(score):,}"]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLM4DSR_DATA") or REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data sets (LLM4DSR_DATA)")
    parser.add_argument("--domains", nargs="+", default=["movie", "toy"])
    parser.add_argument("--init", help="adapter to start from")
    parser.add_argument("--layers", type=int, help="keep only so many of the base's layers")
    parser.add_argument("--adapt-from", type=int, default=0, help="first layer that gets an adapter")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--b-rate", type=float, default=1.0, help="factor on B's learning rate (LoRA+)")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--max-title-tokens", type=int, default=16)
    parser.add_argument("--max-window", type=int, default=20)
    parser.add_argument("--noise", choices=NOISE, default="uniform", help="what training windows are spoilt with")
    parser.add_argument("--shuffle", action="store_true", help="shuffle the items of training windows")
    parser.add_argument("--teacher", type=float, default=0.0, help="weight of the counts' opinion in the labels")
    parser.add_argument("--held-out-noise", nargs="+", choices=NOISE, default=["uniform"])
    parser.add_argument("--measure", type=int, default=0, help="windows of the second table")
    parser.add_argument("--windows", type=int, default=27_440)
    parser.add_argument("--stop-after", type=int, default=4_800)
    parser.add_argument("--validate-every", type=int, default=150)
    parser.add_argument("--validation-windows", type=int, default=300)
    arguments = parser.parse_args()

    settings = Settings(
        windows=arguments.windows,
        learning_rate=arguments.learning_rate,
        b_rate=arguments.b_rate,
        rank=arguments.rank,
        alpha=2.0 * arguments.rank,
        max_title_tokens=arguments.max_title_tokens,
        max_window=arguments.max_window,
        validate_every=arguments.validate_every,
        validation_windows=arguments.validation_windows,
        early_stop=False,
    )
    domains = [read_domain(arguments.data / name) for name in arguments.domains]
    split = split_users(domains, validation=settings.validation, calibration=settings.calibration, test=settings.test)
    train = VariantSampler(
        split.train,
        noise_pools(arguments.noise, split.train),
        arguments.shuffle,
        arguments.teacher,
        max_window=settings.max_window,
        rates=settings.rates,
        shorten=settings.shorten,
        seed=0,
    )

    def held_out(noise: str, n: int) -> list[LabelledWindow]:
        # The longest windows are those of the default, whatever the training's are.
        most = {"max_window": Settings.max_window, "rates": (HELD_OUT_RATE,), "shorten": 0, "seed": 1}
        return list(VariantSampler(split.validation, noise_pools(noise, split.train), **most).windows(n))

    base = find_base(BASE, registry=Registry.load(), offline=False, say=print)
    prompter = Prompter(DEFAULT_FORMAT, Model(base, vocab_only=True).tokenize, settings.max_title_tokens)
    torch.manual_seed(settings.seed)
    causal_lm = load_base(base, "llama", pick_dtype(torch.device("cpu")), arguments.layers)
    model = NoiseModel(causal_lm, prompter.answers)
    model.backbone.requires_grad_(False)
    for layer in model.backbone.layers[arguments.adapt_from :]:
        add_lora(layer, settings.rank, settings.alpha)
    if arguments.init:
        shape = Shape.of(causal_lm, "llama")
        layers = [name for name, _ in lora_layers(model.backbone)]
        detector, _ = read_adapters(Path(arguments.init))
        load_lora_state(model.backbone, from_gguf(detector, layers, shape, settings.alpha))
    for layer in model.backbone.layers:
        layer.compile(dynamic=True)

    def stop(progress: object) -> None:
        if trainer.progress.windows >= arguments.stop_after:
            trainer.validate()
            raise Stopped

    began = time.monotonic()

    def show(row: dict[str, float]) -> None:
        cells = [f"{row['windows']:,}", f"{row['learning_rate']:.1e}", f"{row.get('loss', float('nan')):.3f}"]
        cells += [f"{value:.3f}" for name, value in row.items() if name.startswith(("auroc", "average"))]
        rate = trainer.progress.tokens / max(trainer.progress.seconds, 1e-9)
        print("| " + " | ".join([*cells, f"{rate:,.0f}", f"{time.monotonic() - began:.0f}"]) + " |", flush=True)

    validation = held_out("uniform", settings.validation_windows)
    task = Detecting(prompter, train, validation, warm=arguments.init is not None)
    trainer = Trainer(model, task, settings, on_step=stop, on_validation=show)
    given = {name: value for name, value in vars(arguments).items() if value != parser.get_default(name)}
    print(f"\n{given}\n")
    names = [f"AUROC {name}" for name in arguments.domains] if len(domains) > 1 else []
    header = ["windows", "learning rate", "loss", "AUROC", "AP", *names, "tokens/s", "seconds"]
    print("| " + " | ".join(header) + " |\n|" + " ---: |" * len(header), flush=True)
    with contextlib.suppress(Stopped):
        trainer.run()
    if arguments.measure:
        header = ["held-out noise", "data", "AUROC", "AP", "P@1%", *(f"fifth {n}" for n in range(1, 6)), "items"]
        print("\n| " + " | ".join(header) + " |\n| --- | --- |" + " ---: |" * (len(header) - 2))
        for noise in arguments.held_out_noise:
            measure(trainer, split.train, held_out(noise, arguments.measure), noise)


if __name__ == "__main__":
    main()
