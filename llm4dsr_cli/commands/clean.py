"""``llm4dsr clean``"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm4dsr_cli.commands import single_options as options
from llm4dsr_cli.commands.gating import Gating
from llm4dsr_cli.commands.replacing import Replacing, default_action

if TYPE_CHECKING:
    from llm4dsr_cli.replacing.generate.suggester import Suggester


def clean(
    source: Annotated[str, typer.Argument(metavar="IN", help="JSONL, one sequence a line; - for standard input.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="Where the records go; - for standard output.")],
    catalog: options.Catalog = None,
    items_field: options.ItemsField = "items",
    titles_field: options.TitlesField = None,
    item_id_field: options.ItemIdField = None,
    item_title_field: options.ItemTitleField = None,
    parallel_field: options.ParallelField = None,
    action: options.CleaningAction = None,
    proposer: options.Proposer = None,
    fallback: options.Fallback = None,
    false_edit_rate: options.FalseEditRate = None,
    threshold: options.Threshold = None,
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
    base: options.Base = None,
    weights: options.Weights = "auto",
    threads: options.Threads = None,
    gpu_layers: options.GpuLayers = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_color: options.NoColor = False,
) -> int:
    """Find the items that do not belong, and replace, drop or mark them.

    Example: llm4dsr clean sequences.jsonl cleaned.jsonl --catalog catalog.jsonl --audit edits.jsonl
    """
    asked = action is not None or proposer is not None or fallback is not None
    action = action or ("replace" if asked else default_action(source, catalog, gate))
    gating = Gating(
        source=("IN", source),
        target=target,
        models={"--model": model, "--base": base},
        catalog=catalog,
        items_field=items_field,
        titles_field=titles_field,
        item_id_field=item_id_field,
        item_title_field=item_title_field,
        parallel_field=parallel_field,
        action=action,
        false_edit_rate=false_edit_rate,
        threshold=threshold,
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
    replacing = Replacing(gating, proposer, fallback)

    from llm4dsr_cli.console import Console
    from llm4dsr_cli.model.denoiser import Denoiser, check_options
    from llm4dsr_cli.records.reader import LineReader, read_records
    from llm4dsr_cli.records.record import Record
    from llm4dsr_cli.scores import BATCH_RECORDS, Scores

    console = Console(quiet=quiet, verbose=verbose, color=not no_color)
    check_options(weights, threads)
    loading: dict[str, Any] = {
        "base": base,
        "weights": weights,
        "threads": threads,
        "gpu_layers": gpu_layers,
        "offline": offline,
        "say": console.say,
    }

    def load_suggester() -> Suggester:
        from llm4dsr_cli.replacing.generate.suggester import Suggester

        return Suggester.load(model, **loading)

    with ExitStack() as stack:
        reader = stack.enter_context(LineReader.open(source))
        if action == "drop" and not asked:
            console.say("a pipe is read once: flagged items are dropped; with --gate and --catalog they are replaced")
        denoiser = stack.enter_context(Denoiser.load(model, **loading))
        if gating.gate_file is not None:
            gating.gate_file.check_model(denoiser.sha256, str(gate))
        replacer = replacing.make(denoiser.metadata.max_window, load_suggester, stack, console.say)

        def score(records: list[Record]) -> list[Scores]:
            return denoiser.score(record.titles for record in records)

        threshold_in_use = gating.log_odds_threshold(denoiser.metadata.threshold)
        return gating.run(
            reader,
            gating.make_cleaner(score, threshold_in_use, replacer, replacing.kept),
            lambda on_record_error: read_records(reader, BATCH_RECORDS, gating.form, gating.titles, on_record_error),
            console,
            lambda: {
                "name": denoiser.metadata.name,
                "sha256": denoiser.sha256,
                "base": denoiser.metadata.base_name,
                "base_sha256": denoiser.metadata.base_sha256,
                "runtime": denoiser.runtime.name,
            },
        )
