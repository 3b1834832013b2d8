"""Where the outputs of one input go, or those of each of several inputs."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llm4dsr_cli.commands.options import OutputOptions, RejectOptions, given
from llm4dsr_cli.errors import Llm4dsrError, OptionError, OutputError

# What tells the parts of a split apart.
_PART = re.compile(
    r"(?<![a-z])(?:(?:train(?:ing)?|valid(?:ation)?|val|dev|eval|test|base)(?:set)?(?:[-_]?[0-9]+)?"
    r"|part[-_.]?[0-9]+|[0-9]+-of-[0-9]+)(?![a-z])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Destination:
    """An input, and where its records, its audit, its report and its rejects go.

    Attributes:
        target: None where nothing is written.
    """

    source: str
    target: str | None
    output: OutputOptions
    errors: RejectOptions


def destinations(
    paths: Sequence[str], output: OutputOptions, errors: RejectOptions, *, dry_run: bool
) -> list[Destination]:
    """One for each input; OUT is the last of ``paths``, which may be missing where nothing is to be written.

    OUT may be a folder, and takes a file of the input's name then. Of several inputs OUT and all other outputs are
    folders, with a file for each input. What is no folder yet is made.

    Raises:
        OptionError: there is no OUT, or it is another part of the input's split; two inputs have one name; or one of
            them is standard input; or several are to go to standard output.
        Llm4dsrError: an input is not there.
        OutputError: a folder cannot be made.
    """
    sources, target = (list(paths[:-1]), paths[-1]) if len(paths) > 1 else (list(paths), None)
    if target is None and not dry_run:
        raise OptionError("missing argument 'OUT'", remedy="name where the records go, or see llm4dsr clean --help")
    if target is None or (len(sources) == 1 and not _is_folder(target)):
        if target is not None and not dry_run and _is_other_part(sources[0], target):
            raise OptionError(
                "OUT is there, and its name is that of another part of IN's split",
                where=target,
                remedy="to clean both, name a folder behind them; to write there, remove it first",
            )
        return [Destination(source, target, output, errors) for source in sources]
    for source in sources:
        _check_named(source)
    name, times = Counter(Path(source).name for source in sources).most_common(1)[0]
    if times > 1:
        raise OptionError(f"{times} inputs are called {name}", remedy="clean them one by one, or rename them")
    several = len(sources) > 1
    others = given({"--rejects": errors.rejects, **output.outputs()}) if several and not dry_run else {}
    folders = {"OUT": target, **others}
    for option, folder in folders.items():
        if folder == "-":
            raise OptionError(
                f"{option} of several inputs is a folder, not standard output",
                remedy="name one, or clean them one by one",
            )
    for option, folder in folders.items():  # scores are kept in OUT, of a dry run, too
        _make(folder, option)
    if not several:
        return [Destination(sources[0], str(Path(target, name)), output, errors)]
    return [
        Destination(
            source,
            str(Path(target, Path(source).name)),
            replace(
                output,
                audit=_within(output.audit, source, ".jsonl"),
                report=_within(output.report, source, ".json"),
            ),
            replace(errors, rejects=_within(errors.rejects, source, ".jsonl")),
        )
        for source in sources
    ]


def placed(source: str, target: str) -> str:
    """Where what is made of one input goes: into a file of its name where ``target`` is a folder, which is made.

    Raises what ``destinations`` does of a folder.
    """
    if not _is_folder(target):
        return target
    _check_named(source)
    _make(target, "OUT")
    return str(Path(target, Path(source).name))


def _check_named(source: str) -> None:
    """Raises OptionError or Llm4dsrError for an input that cannot have a file in a folder; before a folder is made."""
    if source == "-":
        raise OptionError("standard input has no name in a folder", remedy="give files, or name OUT as a file")
    if not Path(source).exists():
        raise Llm4dsrError("no such file", where=source, remedy="check the path")


def _is_other_part(source: str, target: str) -> bool:
    """Whether a file that is there is called like the source but for the part of a split, as x.valid.inter is."""
    one, other = (str(Path(path).resolve()) for path in (source, target))
    return one != other and _of_any_part(one) == _of_any_part(other) and Path(other).is_file()


def _of_any_part(path: str) -> str:
    # A part with a number is one of many: train2 may be what somebody made of train.
    return _PART.sub(lambda part: "*#" if part[0][-1].isdecimal() else "*", path)


def _is_folder(target: str) -> bool:
    return target != "-" and (target.endswith(("/", os.sep)) or Path(target).is_dir())


def _within(folder: str | None, source: str, ending: str) -> str | None:
    return None if folder is None else str(Path(folder, Path(source).name + ending))


def _make(folder: str, option: str) -> None:
    try:
        Path(folder).mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot be made a folder ({error.strerror or error})",
            where=folder,
            remedy=f"let {option} name a folder, for each input has a file in it",
        ) from None
