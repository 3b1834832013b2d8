"""JSON rows: a file of JSON lines in which each object is one interaction, as Amazon's reviews are."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from llm4dsr_cli.errors import OptionError, RecordError
from llm4dsr_cli.records import splice
from llm4dsr_cli.records.bounds import bounded_lines
from llm4dsr_cli.records.json_lines import dumps
from llm4dsr_cli.records.json_objects import parse_object
from llm4dsr_cli.records.logs.patches import HEADER, Patch, PatchedRows
from llm4dsr_cli.records.logs.row_file import Cell, Changes
from llm4dsr_cli.records.logs.unreadable import Unreadable
from llm4dsr_cli.records.reader import open_input

_MARK = b"\xef\xbb\xbf"


class JsonRows:
    """The rows of such a file; see ``RowFile``. Ids keep their JSON type."""

    kind = "JSON lines"
    rows_are_bytes = True
    has_types = True
    endings: tuple[str, ...] = (".jsonl", ".json", ".ndjson")
    unreadable: Unreadable | None = None

    def __init__(self, path: str | Path, name: str | None = None) -> None:
        self._path = path
        self.name = name or str(path)
        with closing(self._lines()) as lines:
            number, line = next(((n, line) for n, line in lines if line.strip()), (1, b"{}"))
        self.columns = list(self._parsed(line, number))

    def take_all_columns(self) -> None:
        """Let the columns be those of all rows, not of the first alone. Raises RecordError."""
        found = dict.fromkeys(self.columns)
        for _, data in self._objects():
            found.update(dict.fromkeys(data))
        self.columns = list(found)

    def rows(self, columns: Sequence[str], as_json: Sequence[str] = ()) -> Iterator[tuple[int, list[Cell]]]:
        """See ``RowFile.rows``; null, and a field that is not there, are None, and so are lists as text."""
        for row, data in self._objects():
            yield (
                row,
                [
                    *(_text(data.get(name)) for name in columns),
                    *(None if data.get(name) is None else dumps(data[name]).decode() for name in as_json),
                ],
            )

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The number of each row, with its object; an empty one where it cannot be read."""
        row = 0
        with closing(self._lines()) as lines:
            for number, line in lines:
                if not line.strip():
                    continue
                data: dict[str, Any] = {}
                try:
                    data = self._parsed(line, number)
                except RecordError as error:
                    if self.unreadable is None:
                        raise
                    self.unreadable.add(row, error)
                yield row, data
                row += 1

    def write(
        self, write: Callable[[bytes], None], changes: Changes, patched: Callable[[Patch], None] | None = None
    ) -> None:
        """See ``RowFile.write``."""
        out = PatchedRows(write, patched)
        row = 0
        with closing(self._lines()) as lines:
            for number, line in lines:
                if not line.strip():
                    out.write(HEADER, line, line)
                    continue
                new = self._changed(line, number, row, changes) if changes.keeps(row) else b""
                out.write(changes.first_of(row), line, new)
                row += 1

    def _changed(self, line: bytes, number: int, row: int, changes: Changes) -> bytes:
        put = changes.put.get(row)
        if (put is None and not changes.added) or (self.unreadable and row in self.unreadable):
            return line
        data = self._parsed(line, number)
        end = len(line.rstrip(b"\r\n"))
        text, ending = line[:end], line[end:]
        if put is not None:
            values = {name: dumps(_typed(value, data.get(name))) for name, value in put.items() if name in data}
            text = splice.changed(text, values)
        for added in changes.added:
            if added.name in data:
                raise OptionError(
                    f"has a field {added.name} already", where=f"{self.name}:{number}", remedy="rename it in the input"
                )
        fields = [(dumps(added.name), dumps(added.value(row))) for added in changes.added]
        return (splice.appended(text, fields, empty=not data) if fields else text) + ending

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        return parse_object(line.strip().removeprefix(_MARK), f"{self.name}:{number}", RecordError)

    def _lines(self) -> Generator[tuple[int, bytes], None, None]:
        with closing(open_input(self._path)) as stream:
            yield from enumerate(bounded_lines(stream, self.name, RecordError), 1)


def _text(value: Any) -> Cell:
    if value is None or value == "" or isinstance(value, (dict, list)):
        return None
    return str(value)


def _typed(text: str, like: Any) -> Any:
    """A text in the type of what it takes the place of, where it can be."""
    if isinstance(like, bool) or not isinstance(like, (int, float)) or not text.lstrip("-").isdecimal():
        return text
    return type(like)(text)
