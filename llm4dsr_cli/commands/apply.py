"""``llm4dsr apply``"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm4dsr_cli.commands import single_options as options
from llm4dsr_cli.commands.gating import Gating
from llm4dsr_cli.commands.inputs import is_pipe
from llm4dsr_cli.errors import OptionError

if TYPE_CHECKING:
    from llm4dsr_cli.cleaning.cleaner import Cleaner
    from llm4dsr_cli.cleaning.scoring import KeptScores
    from llm4dsr_cli.records.scored_line import ScoredRecord


def apply(
    source: Annotated[
        str, typer.Argument(metavar="SCORED", help="JSONL that `llm4dsr score` wrote; - for standard input.")
    ],
    target: Annotated[str, typer.Argument(metavar="OUT", help="Where the records go; - for standard output.")],
    catalog: options.Catalog = None,
    items_field: options.ItemsField = "items",
    titles_field: options.TitlesField = None,
    item_id_field: options.ItemIdField = None,
    item_title_field: options.ItemTitleField = None,
    parallel_field: options.ParallelField = None,
    action: options.Action = "drop",
    false_edit_rate: options.FalseEditRate = None,
    threshold: options.Threshold = None,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget",
            metavar="SHARE",
            help="Edit at most this share of all items, the most suspicious ones; SCORED is read twice.",
        ),
    ] = None,
    max_edits: options.MaxEdits = None,
    protect_last: options.ProtectLast = 1,
    gate: options.GateFile = None,
    no_fusion: options.NoFusion = False,
    user_field: options.GateUserField = None,
    audit: options.Audit = None,
    annotate: options.Annotate = False,
    report: options.Report = None,
    on_error: options.OnError = "fail",
    rejects: options.Rejects = None,
    model: options.Model = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_color: options.NoColor = False,
) -> int:
    """Gate and edit records that `llm4dsr score` has scored, without a model; as `llm4dsr clean --action drop` would.

    Example: llm4dsr apply scored.jsonl cleaned.jsonl --catalog catalog.jsonl --budget 0.02
    """
    if action == "replace":
        raise OptionError(
            "--action replace scores sequences anew, with what it puts in them",
            remedy="use `llm4dsr clean --action replace` on the records that were scored",
        )
    gating = Gating(
        source=("SCORED", source),
        target=target,
        models={"--model": model},
        catalog=catalog,
        items_field=items_field,
        titles_field=titles_field,
        item_id_field=item_id_field,
        item_title_field=item_title_field,
        parallel_field=parallel_field,
        action=action,
        false_edit_rate=false_edit_rate,
        threshold=threshold,
        budget=budget,
        max_edits=max_edits,
        protect_last=protect_last,
        gate=gate,
        no_fusion=no_fusion,
        user_field=user_field,
        audit=audit,
        annotate=annotate,
        report=report,
        on_error=on_error,
        rejects=rejects,
    )
    if budget is not None and is_pipe(source):
        raise OptionError("--budget reads SCORED twice, and a pipe can be read once", remedy="give a file")

    from llm4dsr_cli.console import Console
    from llm4dsr_cli.records.reader import LineReader, read_parsed
    from llm4dsr_cli.records.record import OnError
    from llm4dsr_cli.records.scored_line import parse_scored
    from llm4dsr_cli.scores import BATCH_RECORDS

    console = Console(quiet=quiet, verbose=verbose, color=not no_color)
    scores, of_rate, about = _kept_scores(gating, model)

    def parse(line: bytes, where: str) -> ScoredRecord:
        return parse_scored(line, where, gating.form, gating.titles)

    def describe() -> dict[str, Any]:
        return {"name": None, "sha256": scores.model, **about}

    cleaner = gating.make_cleaner(scores, 0.0 if budget is not None else gating.log_odds_threshold(of_rate))
    if budget is not None:
        with LineReader.open(source) as reader:
            # The second pass tells of what is skipped.
            quietly: OnError | None = (lambda error, line: None) if gating.rejects else None
            _spend(cleaner, budget, read_parsed(reader, BATCH_RECORDS, parse, quietly))
    with LineReader.open(source) as reader:
        return gating.run(
            reader,
            cleaner,
            lambda on_record_error: read_parsed(reader, BATCH_RECORDS, parse, on_record_error),
            console,
            describe,
        )


def _spend(cleaner: Cleaner[ScoredRecord], budget: float, batches: Any) -> None:
    """Give a cleaner the threshold that spends a budget on these records."""
    from llm4dsr_cli.gate.gate import budget_threshold

    scores = (log_odds for records in batches for log_odds in cleaner.log_odds(records))
    threshold = budget_threshold(scores, budget, protect_last=cleaner.gate.protect_last)
    cleaner.gate = replace(cleaner.gate, threshold=threshold)


def _kept_scores(gating: Gating, model: str | None) -> tuple[KeptScores, Callable[[float], float], dict[str, Any]]:
    """The scores, which denoiser they have to be of, its threshold for a rate, and what a report says of it."""
    from llm4dsr_cli.cache import file_sha256
    from llm4dsr_cli.cleaning.scoring import KeptScores
    from llm4dsr_cli.model.gguf_file import open_gguf
    from llm4dsr_cli.model.metadata import DenoiserMetadata
    from llm4dsr_cli.model.registry import Registry, find_denoiser

    def none(rate: float) -> float:
        raise ValueError("no denoiser is needed")

    if gating.gate_file is not None:
        name, sha256 = gating.gate_file.model_name, gating.gate_file.model_sha256
        return (
            KeptScores(
                sha256,
                f"{name} of {gating.gate}",
                "give the gate file of the one that scored it, or score all records again",
            ),
            none,
            {"name": name, "sha256": sha256},
        )
    if gating.rate is None:
        return KeptScores(), none, {}
    path = find_denoiser(model, Registry.load())
    metadata, sha256 = DenoiserMetadata.read(open_gguf(path), path), file_sha256(path)
    about = {
        "name": metadata.name,
        "sha256": sha256,
        "base": metadata.base_name,
        "base_sha256": metadata.base_sha256,
    }
    return (
        KeptScores(sha256, metadata.name, "give the one that scored it with --model, or score all records again"),
        metadata.threshold,
        about,
    )
