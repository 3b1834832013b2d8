"""``llm4dsr trial``"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from llm4dsr_cli.commands.completion import one_of
from llm4dsr_cli.commands.finetune import seconds_of
from llm4dsr_cli.commands.inputs import exit_code, is_pipe, tell_unjudged, warn_of_nameless
from llm4dsr_cli.commands.options import ErrorOptions, JudgeOptions, MaxEdits, ModelOptions, RunOptions, given, share
from llm4dsr_cli.commands.parameters import OptionSet, option_sets
from llm4dsr_cli.commands.record_options import RecordOptions
from llm4dsr_cli.errors import OptionError, RecordError
from llm4dsr_cli.streams import check_out

if TYPE_CHECKING:
    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.console import Advance, Console
    from llm4dsr_cli.records.catalog import Catalog
    from llm4dsr_cli.records.record import OnError, Record
    from llm4dsr_cli.sequences import ItemSequence
    from llm4dsr_cli.trial.run import Trial
    from llm4dsr_cli.trial.settings import TrialSettings

# Where the times may be that order a user's sequences, or, as a list, split all of them.
TIME_FIELDS = ("timestamps", "timestamp", "times")


@dataclass(frozen=True, kw_only=True)
class TrialGateOptions(JudgeOptions):
    """Who judges. Of a gate file a trial takes the weights; counts are those of what recommenders learn from."""

    max_edits: MaxEdits = None


@dataclass(frozen=True, kw_only=True)
class TriedOptions(OptionSet):
    """What is tried, on what."""

    heading: ClassVar[str] = "What is tried"

    recommender: Annotated[
        list[str] | None,
        typer.Option(
            "--recommender",
            metavar="NAME",
            autocompletion=one_of("ease", "neighbours", "sasrec", "gru4rec", "bert4rec"),
            help="ease, neighbours, or, with torch, sasrec, gru4rec, bert4rec. Repeatable. [default: the first two, "
            "and sasrec where torch is installed]",
        ),
    ] = None
    edit: Annotated[
        list[float] | None,
        typer.Option(
            "--edit",
            metavar="SHARE",
            parser=share,
            help="Edit this share of the items that may be edited, the most suspicious ones. Repeatable. "
            "[default: 1%, 2%, 5%, 10%, 20%; 30% and 50% too, where items are not replaced]",
        ),
    ] = None
    action: Annotated[
        list[str] | None,
        typer.Option(
            "--action",
            metavar="ACTION",
            autocompletion=one_of("drop", "replace", "weigh"),
            help="drop: take flagged items out. replace: put what belongs in their place. weigh: let them count half. "
            "Repeatable. [default: drop and replace]",
        ),
    ] = None
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="N", help="Train each recommender, and draw random edits, N times.")
    ] = 3
    split: Annotated[
        str,
        typer.Option(
            "--split",
            metavar="leave-two-out|time",
            autocompletion=one_of("leave-two-out", "time"),
            help="Targets: each user's last two items, or what comes after a moment that is the same for all.",
        ),
    ] = "leave-two-out"
    time_field: Annotated[
        str | None,
        typer.Option(
            "--time-field",
            metavar="NAME",
            help="Times of the items, a list, or of the record, which order a user's records. "
            "[default: timestamps or timestamp, where the records have them]",
        ),
    ] = None
    histories: Annotated[
        str,
        typer.Option(
            "--histories",
            metavar="cleaned|as-is",
            autocompletion=one_of("cleaned", "as-is"),
            help="Whether what a recommender is asked with is cleaned like what it learns from.",
        ),
    ] = "cleaned"
    time_budget: Annotated[
        str | None,
        typer.Option(
            "--time-budget",
            metavar="TIME",
            help="Choose users, seeds and settings that fit into 90s, 20m or 2h. [default: all]",
        ),
    ] = None
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Fixes what is drawn at random.")] = 0

    def settings(self, *, fusion: bool) -> TrialSettings:
        """Raises OptionError for values out of range."""
        from llm4dsr_cli.trial.recommenders import default_names
        from llm4dsr_cli.trial.settings import TrialSettings

        if self.histories not in ("cleaned", "as-is"):
            raise OptionError(f"--histories {self.histories}: no such way", remedy="choose cleaned or as-is")
        chosen: dict[str, Any] = {"recommenders": tuple(dict.fromkeys(self.recommender or default_names()))}
        if self.edit:
            chosen["shares"] = tuple(self.edit)
        if self.action:
            chosen["actions"] = tuple(self.action)
        return TrialSettings(
            **chosen,
            seeds=self.seeds,
            clean_histories=self.histories == "cleaned",
            fusion=fusion,
            time_budget=None if self.time_budget is None else seconds_of(self.time_budget),
            seed=self.seed,
        )


@option_sets
def trial(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="JSONL of your sequences, oldest item first; - for standard input.")
    ],
    records: RecordOptions,
    tried: TriedOptions,
    gate: TrialGateOptions,
    errors: ErrorOptions,
    model: ModelOptions,
    run: RunOptions,
    as_json: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write every figure, with its interval, as JSON.")
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="FILE", help="Draw the changes: .png, .svg or .pdf; wants an extra."),
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            metavar="FOLDER",
            help="Where scores and fits are kept, so that the same command goes on after an interrupt. "
            "[default: beside the JSON file, else beside IN; with .trial at its end]",
        ),
    ] = None,
) -> int:
    """Try on your own data whether cleaning helps a recommender, and with which setting.

    The last item of each user is the test target and the one before the validation target: neither is edited, and
    neither counts as evidence. The rest is cleaned in several ways, and as often edited at random; recommenders learn
    from each. The setting that is best on validation targets is reported on test targets.

    Extras: pip install 'llm4dsr-cli[finetune]' for sasrec, gru4rec and bert4rec, 'llm4dsr-cli[plot]' for --plot

    Example: llm4dsr trial sequences.jsonl --catalog catalog.jsonl --recommender neighbours --json trial.json
    """
    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.commands.trial_tables import print_trial
    from llm4dsr_cli.evaluation.picture import check_plot
    from llm4dsr_cli.files import atomic_path
    from llm4dsr_cli.records.json_lines import dumps
    from llm4dsr_cli.records.writer import OutputFile, check_paths
    from llm4dsr_cli.trial.recommenders import make_recommender
    from llm4dsr_cli.trial.trying import try_cleaning

    check_out()
    console = run.console()
    counts = RunCounts()
    on_record_error = errors.leaving_out(counts, console)
    settings = tried.settings(fusion=not gate.no_fusion)
    for name in settings.recommenders:
        make_recommender(name)
    outputs = given({"--json": as_json, "--plot": plot})
    check_paths({"IN": source, **records.inputs(), **gate.inputs(), **model.inputs()}, outputs)
    for path in outputs.values():
        if is_pipe(path):
            raise OptionError(f"{path}: a trial is written to a file", remedy="name one")
        OutputFile(path)
    if plot is not None:
        check_plot(Path(plot))
    model.check()
    gate_file = gate.load()
    if state is None and (as_json or not is_pipe(source)):
        state = f"{as_json or source}.trial"
    user_field = gate.user_field_of(gate_file)
    asked, fields = source, records
    times_field = tried.time_field or "times"
    source, records = records.gathered(source, console, user_field, errors, counts, [times_field])
    titles = records.load_catalog(source, console)
    read, nameless = _read(source, records, titles, on_record_error, counts)
    tell_unjudged(counts, titles, console, undone="left alone")
    times = _times(read, tried.time_field)
    warn_of_nameless(console, nameless(user_field), user_field, "what one learns from may hold another's targets")
    if state is not None:
        console.say(f"scores and fits are kept in {state}: after an interrupt, the same command goes on")
    try:
        with _phases(console) as advance:
            found = try_cleaning(
                _sequences(read, user_field),
                settings,
                split=tried.split,  # type: ignore[arg-type]  # checked there
                times=times,
                catalog=titles,
                gate=gate_file,
                max_edits=gate.max_edits,
                state=state,
                say=console.say,
                advance=advance,
                **model.arguments(),
            )
    except KeyboardInterrupt:
        if state is not None:
            raise KeyboardInterrupt(f"interrupted; what was done is kept in {state}: run it again to go on") from None
        raise
    command = _command(found, "IN" if asked == "-" else asked, fields, gate, model, errors)
    if as_json is not None:
        about = found.as_dict()
        about["verdict"]["command"] = command
        with atomic_path(as_json) as temporary:
            temporary.write_bytes(dumps(about) + b"\n")
    if plot is not None:
        from llm4dsr_cli.trial.plots import plot_trial

        plot_trial(found, Path(plot))
        console.say(f"plot: {plot}")
    verdict = found.sentence
    if command is not None:
        weighs = found.setting is not None and found.setting.action == "weigh"
        verdict += f"{', and let items with a noise_flag count half' if weighs else ''}: {command}"
    print_trial(found, verdict, color=console.color)
    return exit_code(counts, None, console)


@contextmanager
def _phases(console: Console) -> Iterator[Advance]:
    """Progress that begins anew, with the time left, whenever another part of the work begins."""
    with ExitStack() as stack:
        progress = stack.enter_context(console.progress())
        reached = 0.0

        def advance(text: str, fraction: float | None) -> None:
            nonlocal progress, reached
            if fraction is not None and fraction < reached:
                stack.close()
                progress = stack.enter_context(console.progress())
            reached = fraction or 0.0
            progress(text, fraction)

        yield advance


def _read(
    source: str, records: RecordOptions, catalog: Catalog | None, on_error: OnError | None, counts: RunCounts
) -> tuple[list[Record], Any]:
    """All records, and how many of them name nobody in a field."""
    from llm4dsr_cli.records.reader import LineReader, read_records

    read: list[Record] = []
    with LineReader.open(source) as reader:
        for batch in read_records(reader, 1024, records.record_format(), catalog, on_error):
            for record in batch:
                counts.add(record)
            read += batch
    return read, lambda field: sum(record.data.get(field) is None for record in read)


def _sequences(read: Sequence[Record], user_field: str) -> list[ItemSequence]:
    return [record.sequence(user_field) for record in read]


def _times(read: Sequence[Record], field: str | None) -> list[float | list[float]] | None:
    """The times of all records' items, or one for each record; None where they have none.

    Raises:
        RecordError: a record lacks the field that others have, or has something else there.
    """
    names = TIME_FIELDS if field is None else (field,)
    name = next((name for name in names if read and name in read[0].data), None)
    if name is None:
        if field is not None and read:
            raise RecordError(f'has no "{field}"', where=read[0].where, remedy="name another field with --time-field")
        return None
    times: list[float | list[float]] = []
    for record in read:
        value = record.data.get(name)
        if isinstance(value, list) and len(value) == len(record.titles) and all(map(_is_number, value)):
            times.append([float(value[i]) for i in record.order])
        elif _is_number(value) and not isinstance(value, list):
            times.append(float(value))  # type: ignore[arg-type]
        elif field is None:
            return None  # nobody has asked for it
        else:
            raise RecordError(
                f'its "{name}" is neither a number nor as many numbers as there are items',
                where=record.where,
                remedy="name another field with --time-field",
            )
    kinds = {isinstance(time, list) for time in times}
    return times if len(kinds) == 1 else None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _command(found: Trial, source: str, *sets: OptionSet) -> str | None:
    """What to type to clean the whole file as the best setting does; None where no setting helps."""
    from llm4dsr_cli.trial.settings import percent

    setting, edit = found.setting, found.clean_share()
    if setting is None or edit is None:
        return None
    # With a split by time the targets are whatever came late, and no option protects that.
    words = ["llm4dsr", "clean", source if found.protocol["protect_last"] else "TRAINING_PART", "OUT"]
    for options in sets:
        for field in fields(options):  # type: ignore[arg-type]
            value = getattr(options, field.name)
            if value != field.default:
                flag = f"--{field.name.replace('_', '-')}"
                values = value if isinstance(value, list) else [value]
                words += [flag] if value is True else [word for one in values for word in (flag, str(one))]
    words += ["--edit", percent(edit), "--action", "mark" if setting.action == "weigh" else str(setting.action)]
    words += ["--protect-last", str(found.protocol["protect_last"])]
    return shlex.join(words)
