"""The part that ``llm4dsr clean`` and ``llm4dsr apply`` share: from records and their scores to all outputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llm4dsr_cli.commands.inputs import exit_code, rejects_path, skipping
from llm4dsr_cli.commands.options import DEFAULT_RATE, DEFAULT_USER_FIELD
from llm4dsr_cli.errors import OptionError

if TYPE_CHECKING:
    from llm4dsr_cli.cleaning.cleaner import Cleaner
    from llm4dsr_cli.console import Advance, Console
    from llm4dsr_cli.gate.gate import Gate
    from llm4dsr_cli.gate.gate_file import GateFile
    from llm4dsr_cli.records.catalog import Catalog
    from llm4dsr_cli.records.edits import Action, EditedRecord, Fallback
    from llm4dsr_cli.records.reader import LineReader
    from llm4dsr_cli.records.record import OnError, R, Record, RecordFormat
    from llm4dsr_cli.records.writer import OutputFile
    from llm4dsr_cli.replacing.replacer import Replacer
    from llm4dsr_cli.scores import Scores


@dataclass(kw_only=True)
class Gating:
    """The options of both commands, checked; and what they name, loaded.

    Raises OptionError for options that make no sense, before anything is read; CatalogError, ModelError or OutputError
    for files that cannot be used.
    """

    source: tuple[str, str]  # name of the argument, path
    target: str
    models: dict[str, str | None]  # option, path: files that no output may overwrite
    catalog: str | None
    items_field: str
    titles_field: str | None
    item_id_field: str | None
    item_title_field: str | None
    parallel_field: list[str] | None
    action: str
    false_edit_rate: float | None
    threshold: float | None
    max_edits: float | None
    protect_last: int
    gate: str | None
    no_fusion: bool
    user_field: str | None
    audit: str | None
    annotate: bool
    report: str | None
    on_error: str
    rejects: str | None
    budget: float | None = None
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._refuse_contradictions()
        self.rejects = rejects_path(self.on_error, self.rejects, self.target)

        from llm4dsr_cli.gate.gate_file import GateFile
        from llm4dsr_cli.records.record import RecordFormat, load_catalog
        from llm4dsr_cli.records.writer import OutputFile, check_paths
        from llm4dsr_cli.scores import log_odds_of
        from llm4dsr_cli.thresholds import check_rate

        inputs = {self.source[0]: self.source[1], "--catalog": self.catalog, "--gate": self.gate, **self.models}
        targets = {"OUT": self.target, "--audit": self.audit, "--report": self.report, "--rejects": self.rejects}
        outputs = {name: path for name, path in targets.items() if path is not None}
        check_paths({name: path for name, path in inputs.items() if path is not None}, outputs)
        self.outputs: dict[str, OutputFile] = {name: OutputFile(path) for name, path in outputs.items()}
        if self.false_edit_rate is not None:
            check_rate(self.false_edit_rate)
        self.make_gate(0.0 if self.threshold is None else log_odds_of(self.threshold))
        self.gate_file: GateFile | None = None if self.gate is None else GateFile.load(Path(self.gate))
        if self.user_field is None:
            self.user_field = (self.gate_file and self.gate_file.user_field) or DEFAULT_USER_FIELD
        self.nameless = False
        self.form: RecordFormat = RecordFormat(
            items_field=self.items_field,
            titles_field=self.titles_field,
            parallel_fields=tuple(self.parallel_field or ()),
            item_id_field=self.item_id_field,
            item_title_field=self.item_title_field,
        )
        self.titles: Catalog | None = load_catalog(self.catalog, self.form, keep_fields=self.action == "replace")

    def _refuse_contradictions(self) -> None:
        if self.action not in ("drop", "mark", "replace"):
            raise OptionError(f"--action {self.action}: no such action", remedy="choose drop, mark or replace")
        ways = {"--threshold": self.threshold, "--false-edit-rate": self.false_edit_rate, "--budget": self.budget}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) > 1:
            raise OptionError(f"{' and '.join(given)} contradict each other", remedy="give one of them")
        if self.budget is not None and not 0 < self.budget < 1:
            raise OptionError(f"--budget {self.budget:g}", remedy="give a share of all items, between 0 and 1")
        if self.no_fusion and self.gate is None:
            raise OptionError("--no-fusion says how to use a gate file", remedy="give one with --gate, or leave it out")

    @property
    def rate(self) -> float | None:
        """The false-edit rate that the threshold is to keep; None when the threshold comes from elsewhere."""
        if self.threshold is not None or self.budget is not None:
            return None
        return DEFAULT_RATE if self.false_edit_rate is None else self.false_edit_rate

    def make_gate(self, threshold: float) -> Gate:
        """The gate of the options, with a threshold in log-odds."""
        from llm4dsr_cli.gate.gate import Gate

        return Gate(threshold, self.max_edits, self.protect_last)

    def log_odds_threshold(self, of_rate: Callable[[float], float]) -> float:
        """Threshold in log-odds; ``of_rate`` is the denoiser's, where neither options nor gate file give one."""
        from llm4dsr_cli.scores import log_odds_of

        if self.threshold is not None:
            return log_odds_of(self.threshold)
        if self.rate is None:
            raise ValueError("a budget's threshold takes all scores")
        if self.gate_file is not None:
            return self.gate_file.threshold(self.rate, fusion=not self.no_fusion)
        return of_rate(self.rate)

    def make_cleaner(
        self,
        score: Callable[[list[R]], list[Scores]],
        threshold: float,
        replacer: Replacer | None = None,
        fallback: Fallback = "drop",
    ) -> Cleaner[R]:
        """The cleaner of the options; the action "replace" takes a replacer."""
        from llm4dsr_cli.cleaning.cleaner import Cleaner
        from llm4dsr_cli.records.record import user_of

        gate_file = None if self.no_fusion else self.gate_file

        def fuse(record: Record, log_odds: Scores) -> Scores:
            assert gate_file is not None and self.user_field is not None
            self.nameless |= record.data.get(self.user_field) is None
            return gate_file.fuse(record.titles, user_of(record, self.user_field), log_odds)

        return Cleaner(
            score,
            self.make_gate(threshold),
            cast("Action", self.action),
            self.annotate,
            None if gate_file is None else fuse,
            replacer,
            fallback,
        )

    def run(
        self,
        reader: LineReader,
        cleaner: Cleaner[R],
        batches: Callable[[OnError | None], Iterator[list[R]]],
        console: Console,
        describe_model: Callable[[], dict[str, Any]],
    ) -> int:
        """Clean all records and write all outputs; the exit code.

        Args:
            batches: records of ``reader``; its argument is for lines that are no records.
            describe_model: what the report says of the denoiser, when all is read.
        """
        from llm4dsr_cli.records.writer import together

        counts = cleaner.counts
        out, audit, report = self.outputs["OUT"], self.outputs.get("--audit"), self.outputs.get("--report")
        # Rejects are made even if there are none: those of an earlier run must not pass for this one's.
        rejects = self.outputs.get("--rejects")
        with together([*self.outputs.values()]), console.progress() as advance:
            on_error = skipping(counts, rejects, console)
            edited = cleaner.clean(batches(on_error), on_error)
            for results in _telling(edited, cleaner, reader, advance):
                for result in results:
                    out.write(result.line)
                    if audit:
                        for line in result.audit:
                            audit.write(line)
                out.flush()
                if audit:
                    audit.flush()
            seconds = time.monotonic() - self.began
            if report:
                report.write(self._report(cleaner, describe_model(), seconds))
        self._warn_of_gate(console)
        if cleaner.replacer is not None and cleaner.replacer.candidates.without_id:
            console.warn(
                f'items that were replaced have no "{self.form.id_name}": their other fields are the old item\'s; '
                "if one of them is an id, name it with --item-id-field"
            )
        console.say(_summary(cleaner, seconds))
        return exit_code(counts, self.rejects, console)

    def _warn_of_gate(self, console: Console) -> None:
        """Say what makes the gate file promise less than it says."""
        gate = self.gate_file
        if gate is None:
            return
        if self.nameless and gate.user_field is not None:
            console.warn(
                f'some records have no "{self.user_field}": if the gate counted them, their own items vouch for them; '
                "name the field with --user-field"
            )
        if self.protect_last < gate.protect_last:
            console.warn(
                f"the gate was calibrated with --protect-last {gate.protect_last}: it promises nothing for items after"
            )

    def _report(self, cleaner: Cleaner[R], model: dict[str, Any], seconds: float) -> bytes:
        from dataclasses import asdict
        from importlib.metadata import version

        import numpy as np
        import orjson

        from llm4dsr_cli.scores import probability
        from llm4dsr_cli.version import __version__

        contents = {
            "counts": asdict(cleaner.counts),
            "action": cleaner.action,
            **(
                {}
                if cleaner.replacer is None
                else {"proposer": cleaner.replacer.proposer.name, "fallback": cleaner.fallback}
            ),
            "gate": {
                "threshold": float(probability(np.array(cleaner.gate.threshold))),
                "false_edit_rate": self.rate,
                "budget": self.budget,
                "max_edits": cleaner.gate.max_edits,
                "protect_last": cleaner.gate.protect_last,
                "file": self.gate,
                "fusion": cleaner.fuse is not None,
            },
            "model": model,
            "versions": {"llm4dsr-cli": __version__, "llama-cpp-python": version("llama-cpp-python")},
            "seconds": round(seconds, 3),
        }
        return orjson.dumps(contents, option=orjson.OPT_INDENT_2)


def _telling(
    batches: Iterator[list[EditedRecord]], cleaner: Cleaner[R], reader: LineReader, advance: Advance
) -> Iterator[list[EditedRecord]]:
    """The batches; tells the progress bar after each of them was used."""
    began = time.monotonic()
    for batch in batches:
        yield batch
        speed = cleaner.counts.records / max(1e-6, time.monotonic() - began)
        advance(f"{cleaner.counts.records:,} records, {speed:.0f}/s", reader.fraction)


def _summary(cleaner: Cleaner[R], seconds: float) -> str:
    counts = cleaner.counts
    share = counts.edited_items / counts.items if counts.items else 0
    done = {"drop": "dropped", "mark": "marked", "replace": f"replaced {counts.replaced_items:,} and dropped"}[
        cleaner.action
    ]
    edited = counts.edited_items - counts.replaced_items
    return (
        f"{counts.records:,} records, {counts.items:,} items: {done} {edited:,} items ({share:.1%}) "
        f"in {counts.edited_records:,} records, {seconds:.1f} s"
    )
