"""``llm4dsr clean --ray``: a folder of shards, on Ray."""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llm4dsr_cli.commands.inputs import VOUCHING, exit_code, skips, warn_of_nameless
from llm4dsr_cli.commands.options import GateOptions, ModelOptions, OutputOptions, RayOptions, RejectOptions
from llm4dsr_cli.commands.outlook import tell_shares
from llm4dsr_cli.commands.project_command import taken_from_file
from llm4dsr_cli.commands.record_options import EditedRecordOptions, LogColumnOptions
from llm4dsr_cli.defaults import EDIT
from llm4dsr_cli.errors import OptionError

if TYPE_CHECKING:
    from llm4dsr_cli.cleaning.run import Cleaning
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.gate.survey import Survey
    from llm4dsr_cli.replacing.replacer import ProposerName


def clean_on_ray(
    source: str,
    target: str,
    records: EditedRecordOptions,
    gate: GateOptions,
    output: OutputOptions,
    errors: RejectOptions,
    model: ModelOptions,
    cluster: RayOptions,
    console: Console,
    said: dict[str, Any],
    proposer: str | None,
    *,
    dry_run: bool,
) -> int:
    """Clean a folder into another one; the exit code.

    Args:
        said: by keyword, for ``CleaningSettings``.
    """
    from llm4dsr_cli.cleaning.settings import CleaningSettings, check_choice

    if "-" in (source, target):
        raise OptionError("--ray reads and writes folders", remedy="name them, or leave out --ray")
    for one in fields(LogColumnOptions):
        if getattr(records, one.name) != one.default:
            raise OptionError(
                f"--{one.name.replace('_', '-')} is about logs, and --ray reads sequences",
                remedy="make sequences of the log with `llm4dsr convert`",
            )
    if not gate.says_how_many:
        said["edit"] = EDIT
    settings = CleaningSettings(**said)
    check_choice("proposer", proposer or "counts", ("counts", "generate"))
    rejects = None
    if skips(errors.on_error):
        path, mark, how = target.partition("?")  # s3://bucket/folder?region=...
        rejects = errors.rejects or f"{path.rstrip('/')}/_rejects{mark}{how}"
    elif errors.rejects is not None:
        raise OptionError(f"--rejects {errors.rejects}: no lines are skipped", remedy="add --on-error skip")
    model.check()

    from llm4dsr_cli.distributed.cluster import joined
    from llm4dsr_cli.distributed.run import Shards, clean_folder

    def surveyed(cleaning: Cleaning, survey: Survey) -> None:
        if cleaning.counted is not None and cleaning.fuses:
            warn_of_nameless(console, cleaning.counted.nameless, shards.user_field, VOUCHING)
        if not console.quiet:
            tell_shares(survey, console)

    began = time.monotonic()
    gate_file = gate.load()
    catalog = records.load_catalog(source, console, keep_fields=said["action"] == "replace")
    inputs = {**records.inputs(), **gate.inputs(), **model.inputs()}
    report = _report_file(output, inputs, {"IN": source, "OUT": target, "--audit": output.audit, "--rejects": rejects})
    shards = Shards(
        source,
        target,
        audit=output.audit,
        rejects=rejects,
        annotate=output.annotate,
        record_format=records.record_format(),
        catalog=catalog,
        catalog_path=records.catalog,
        user_field=gate.user_field_of(gate_file),
    )
    loading = {name: value for name, value in model.arguments().items() if name != "threads"}
    with joined(str(cluster.ray), workers=cluster.ray_workers, threads=model.threads) as ray:
        console.say(f"{ray.workers} workers of {ray.threads} threads on {ray.nodes} machines")
        try:
            done = clean_folder(
                ray,
                shards,
                settings,
                proposer=cast("ProposerName", proposer or "counts"),
                gate=gate_file,
                dry_run=dry_run,
                say=console.say,
                progress=console.progress,
                surveyed=surveyed,
                **loading,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted: what is finished is kept, the same command goes on") from None
    if done is None:
        console.say(f"{target} is finished: nothing was done")
        return 0
    if dry_run:
        return 0
    from llm4dsr_cli.cleaning.report import notes, summary, warnings
    from llm4dsr_cli.cleaning.report import report as told

    cleaner, seconds = done.cleaner, time.monotonic() - began
    if report is not None:
        with report as to:
            more = {"config": taken_from_file(), "ray": done.report(ray)}
            to.write(_json(told(cleaner, seconds, gate.gate) | more))
    for warning in warnings(cleaner):
        console.warn(warning)
    for note in notes(cleaner):
        console.say(note)
    for line in done.describe():
        console.say(line)
    console.say(summary(cleaner, seconds))
    return exit_code(cleaner.counts, rejects, console)


def _report_file(output: OutputOptions, inputs: dict[str, str], folders: dict[str, str | None]) -> Any:
    from llm4dsr_cli.records.writer import OutputFile, check_paths

    if output.report is None:
        return None
    check_paths(inputs, {"--report": output.report})
    for name, folder in folders.items():
        if folder is not None and Path(output.report).resolve().is_relative_to(Path(folder).resolve()):
            raise OptionError(f"--report lies in {name}, {folder}", remedy="give --report another path")
    return OutputFile(output.report)


def _json(value: Any) -> bytes:
    import orjson

    return orjson.dumps(value, option=orjson.OPT_INDENT_2)
