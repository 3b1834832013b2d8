"""A project's own defaults for options: ``llm4dsr.toml``, or ``[tool.llm4dsr]`` of a ``pyproject.toml``.

What lies beside data may be of the stranger who sent the data. So a file that was found, not named, sets nothing that
writes a file, loads a model or leads out of the file's folder.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm4dsr_cli.errors import OptionError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = "llm4dsr.toml"
# Of options that name files, those that are only read, by readers that are made for files from strangers.
READ_ONLY = ("catalog", "gate")
_MOST_BYTES = 1_000_000
_LARGEST = 2**63  # TOML's integers
_TAKES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True)
class Setting:
    """An option of a command, as a file may set it.

    Attributes:
        name: of the command's parameter.
        keys: its long names, without dashes.
        kind: of one value: str, int, float or bool.
        parsed: whether it is written as text, such as 5%, or as a number.
        many: whether the option may be repeated.
        place: None, or what it names: "file", "model", which may be a name, too, or "cluster".
    """

    name: str
    keys: tuple[str, ...]
    kind: type
    parsed: bool
    many: bool
    place: str | None

    @property
    def for_found(self) -> bool:
        """Whether a file that was found may set it."""
        return self.place is None or self.name in READ_ONLY

    def takes(self) -> str:
        """What its value may be, in words."""
        one = f"{_TAKES[self.kind]} or a string" if self.parsed else _TAKES[self.kind]
        return f"{one}, or a list of such" if self.many else one


@dataclass(frozen=True)
class ProjectFile:
    """Keys and values of a file; ``named`` says whether the user named it, who then answers for it."""

    path: Path
    table: Mapping[str, Any]
    named: bool

    def values(self, command: str, settings: Mapping[str, Sequence[Setting]]) -> dict[str, Any]:
        """Value by parameter of what the file says for ``command``, as if it had been typed.

        Args:
            settings: of each command.

        Raises:
            OptionError: a key that no command has, a value of another type, or one that such a file may not set.
        """
        everywhere = {key for command_settings in settings.values() for key in _keys(command_settings)}
        own = {name: value for name, value in self.table.items() if name in settings}
        for name, value in own.items():
            if not isinstance(value, dict):
                raise self._error(f'"{name}" is {_kind(value)}, and should be a table', f"write [{name}]")
        top = self._normal({name: value for name, value in self.table.items() if name not in own}, "")
        tables = {name: self._normal(table, f" in [{name}]") for name, table in own.items()}
        self._check_names(top, everywhere | set(settings), "", "no option")
        for name, table in tables.items():
            self._check_names(table, _keys(settings[name]), f" in [{name}]", f"no option of `llm4dsr {name}`")
        found: dict[str, Any] = {}
        for setting in settings[command]:
            for table, within in ((top, ""), (tables.get(command, {}), f" in [{command}]")):
                given = [key for key in setting.keys if key in table]
                if len(given) > 1:
                    raise self._error(f"{_quoted(given)}{within} are one option", "leave one of them")
                if given:
                    found[setting.name] = self._value(setting, table[given[0]], f'"{given[0]}"{within}')
        return found

    def _normal(self, table: Mapping[str, Any], within: str) -> dict[str, Any]:
        """The table with dashes in its keys."""
        found: dict[str, Any] = {}
        for key, value in table.items():
            if (name := key.replace("_", "-")) in found:
                raise self._error(f'"{name}"{within} stands there twice', "leave one of them")
            found[name] = value
        return found

    def _check_names(self, table: Iterable[str], known: set[str], within: str, is_no: str) -> None:
        for key in table:
            if key not in known:
                close = difflib.get_close_matches(key, sorted(known), n=1)
                remedy = f'did you mean "{close[0]}"?' if close else "see llm4dsr --help, and that of its commands"
                raise self._error(f'"{key}"{within} is {is_no}', remedy)

    def _value(self, setting: Setting, value: Any, key: str) -> Any:
        if not setting.for_found and not self.named:
            does = {"model": "loads a model", "cluster": "runs on other machines"}.get(str(setting.place), "writes")
            raise self._untrusted(f"{key} {does}")
        if setting.many:
            return [self._one(setting, one, key) for one in (value if isinstance(value, list) else [value])]
        return self._one(setting, value, key)

    def _one(self, setting: Setting, value: Any, key: str) -> Any:
        kinds = {setting.kind, *((int,) if setting.kind is float else ()), *((str,) if setting.parsed else ())}
        if type(value) not in kinds:  # a bool is an int, but no number
            raise self._error(f"{key} is {_kind(value)}", f"give {setting.takes()}")
        if isinstance(value, int) and abs(value) >= _LARGEST:
            raise self._error(f"{key} is too large", "give a smaller one")
        if setting.kind is bool:
            return value
        text = str(value)
        if setting.place == "file" or (
            setting.place == "model" and text.endswith(".gguf") and not text.startswith("hf:")
        ):
            return self._path(text, key)
        return text

    def _path(self, text: str, key: str) -> str:
        folder = self.path.parent
        path = folder / text
        try:
            inside = path.resolve().is_relative_to(folder.resolve())
        except (OSError, RuntimeError, ValueError):  # a loop of links, or a character that no path has
            raise self._error(f"{key} is no path", "name a file") from None
        if not inside and not self.named:
            raise self._untrusted(f"{key} leads out of the folder of the file")
        return str(path)

    def _error(self, what: str, remedy: str) -> OptionError:
        return OptionError(what, where=str(self.path), remedy=remedy)

    def _untrusted(self, what: str) -> OptionError:
        only = "which only a file that you name may do"
        return self._error(f"{what}, {only}", f"give --config {self.path} if it is yours, or --no-config")


def find_project_file(source: str | None) -> ProjectFile | None:
    """The file for a run on ``source``: beside it, else in the current folder, else in the current project.

    Args:
        source: path of the input; None or - for a stream, which lies nowhere.

    Raises:
        OptionError: the file cannot be read, or is no TOML.
    """
    places = [Path(NAME)] if source in (None, "-") else [Path(str(source)).parent / NAME, Path(NAME)]
    for path in places:
        if _is_file(path):
            return ProjectFile(path, _parsed(path, _text(path)), named=False)
    for path in _pyprojects():
        text = _text(path)
        # What other programs make of their file is theirs to complain about.
        if "llm4dsr" in text and (table := _tool_table(_parsed(path, text))) is not None:
            return ProjectFile(path, table, named=False)
    return None


def read_project_file(path: str) -> ProjectFile:
    """A file that the user named; of a ``pyproject.toml`` its ``[tool.llm4dsr]``.

    Raises:
        OptionError: it cannot be read, is no TOML, or has no such table.
    """
    table: Mapping[str, Any] | None = _parsed(Path(path), _text(Path(path)))
    if Path(path).name == "pyproject.toml" and (table := _tool_table(table or {})) is None:
        raise OptionError("there is no [tool.llm4dsr] in it", where=path, remedy="name another file")
    return ProjectFile(Path(path), table or {}, named=True)


def _pyprojects() -> Iterator[Path]:
    """From the current folder up to the project's root, which is where .git is."""
    try:
        here = Path.cwd()
    except OSError:  # it was removed
        return
    folders = [here, *here.parents]
    # Without a root only here: above may be folders in which anybody may write, such as /tmp.
    root = next((n for n, folder in enumerate(folders) if (folder / ".git").exists()), 0)
    for folder in folders[: root + 1]:
        if _is_file(folder / "pyproject.toml"):
            yield folder / "pyproject.toml"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder that may not be entered; what else is wanted of it will tell
        return False


def _text(path: Path) -> str:
    try:
        if path.is_file() and path.stat().st_size > _MOST_BYTES:
            raise OptionError("is too large for options", where=str(path), remedy="name another file")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OptionError(f"cannot be read: {reason}", where=str(path), remedy="name a file, or --no-config") from None
    except ValueError:
        raise OptionError("is not UTF-8", where=str(path), remedy="save it as UTF-8, or give --no-config") from None


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise OptionError(f"is not valid TOML: {reason}", where=str(path), remedy="mend it, or --no-config") from None


def _tool_table(data: Mapping[str, Any]) -> dict[str, Any] | None:
    tool = data.get("tool")
    table = tool.get("llm4dsr") if isinstance(tool, dict) else None
    return table if isinstance(table, dict) else None


def _keys(settings: Iterable[Setting]) -> set[str]:
    return {key for setting in settings for key in setting.keys}


def _quoted(keys: Iterable[str]) -> str:
    return " and ".join(f'"{key}"' for key in keys)


def _kind(value: object) -> str:
    names = {dict: "a table", list: "a list", str: "a string", bool: "a boolean", int: "an integer", float: "a float"}
    return names.get(type(value), "a date or time")
