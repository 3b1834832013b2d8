"""Shards: one file of a folder each, JSON lines or Parquet; read as records, and written again with their edits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from llm4dsr_cli.cleaning.cleaner import Cleaner
from llm4dsr_cli.cleaning.run import Cleaning
from llm4dsr_cli.cleaning.tally import RunCounts
from llm4dsr_cli.distributed.folder import Folder
from llm4dsr_cli.distributed.tables import Numbered, TableCleaner, table_records
from llm4dsr_cli.errors import Llm4dsrError, OptionError
from llm4dsr_cli.records.catalog import Catalog
from llm4dsr_cli.records.logs.patches import LINES, Digest
from llm4dsr_cli.records.parallel import ParallelLists
from llm4dsr_cli.records.reader import LineReader, open_input, read_records
from llm4dsr_cli.records.record import OnError, Record
from llm4dsr_cli.records.record_format import RecordFormat
from llm4dsr_cli.records.scored_line import ScoredRecord, with_scores
from llm4dsr_cli.records.writer import OutputFile
from llm4dsr_cli.scores import BATCH_RECORDS

_LINES = (".jsonl", ".ndjson", ".json")
_PACKED = (".gz", ".zst")
_TABLES = (".parquet", ".pq")


def is_table(name: str) -> bool:
    """Whether a shard is Parquet; else it is JSON lines. Raises OptionError where its name says neither."""
    plain = name.lower()
    if plain.endswith(_TABLES):
        return True
    for packed in _PACKED:
        plain = plain.removesuffix(packed)
    if plain.endswith(_LINES):
        return False
    raise OptionError(
        f"{name} is neither .jsonl nor .parquet", remedy="move it out of the folder, for all of that is cleaned"
    )


@dataclass(frozen=True)
class ShardReader:
    """Reads the shards of a folder.

    Attributes:
        source: the folder.
        record_format, catalog, user_field: as for ``Cleaning``.
    """

    source: Folder
    record_format: RecordFormat
    catalog: Catalog | None
    user_field: str

    def batches(self, name: str, on_error: OnError | None) -> Iterator[list[Record]]:
        """The records of a shard, in batches.

        A batch is what it is in a run of one process: a score depends a little on those that are scored with it.
        """
        with self.source.reading(name) as path:
            if not is_table(name):
                with LineReader(open_input(path), self.source.label(name)) as reader:
                    yield from read_records(reader, BATCH_RECORDS, self.record_format, self.catalog, on_error)
                return
            for _, rows in self._tables(path, name, on_error):
                while batch := [record for _, record in islice(rows, BATCH_RECORDS)]:
                    yield batch

    def scored(self, name: str, scores: Folder, model: str, on_error: OnError | None) -> Iterator[list[ScoredRecord]]:
        """The same with the scores that a file of another folder holds for them, a line each."""
        with scores.reading(name) as path, path.open("rb") as lines:
            for batch in self.batches(name, on_error):
                yield [with_scores(record, lines.readline(), model) for record in batch]

    def _tables(
        self, path: Path, name: str, on_error: OnError | None
    ) -> Iterator[tuple[Any, Iterator[Numbered[Record]]]]:
        """The row groups of a Parquet file, each with its records."""
        label, first = self.source.label(name), 1
        with _parquet(path, label) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                yield (
                    table,
                    table_records(table, label, first, self.record_format, self.catalog, self.user_field, on_error),
                )
                first += len(table)


@dataclass(frozen=True)
class Edited:
    """What became of a shard.

    Attributes:
        counts: what was done.
        lists: which lists lost entries, and which stayed.
        nameless: how many records named no user.
    """

    counts: RunCounts
    lists: ParallelLists
    nameless: int


@dataclass(frozen=True)
class ShardEditor:
    """Writes shards with their edits, each under the name of what it was made from.

    Attributes:
        reader: reads the shards.
        target: where they go.
        scores, model: the scores that were kept, and the SHA-256 of the denoiser that gave them.
        audit: where a shard's audit goes, under its name; None for none. Of Parquet there is none.
        rejects: where what is no record goes; None where that is an error.
        annotate: add the items' noise probabilities.
        lists: the lists that run parallel to the items, decided on all shards.
    """

    reader: ShardReader
    target: Folder
    scores: Folder
    model: str
    audit: Folder | None
    rejects: Folder | None
    annotate: bool
    lists: ParallelLists

    def edit(self, name: str, cleaning: Cleaning) -> Edited:
        """Make one shard. It appears last, and is never new without its audit and its rejects."""
        counts = RunCounts()
        with ExitStack() as stack:
            out = stack.enter_context(self.target.writing(name))
            on_error = None if self.rejects is None else _keeping(stack, self.rejects, name, counts)
            if is_table(name):
                return self._edit_table(out, name, cleaning, counts, on_error)
            cleaner: Cleaner[ScoredRecord] = Cleaner(cleaning, self.annotate, counts)
            cleaner.lists = self.lists.decided()
            records = self.reader.scored(name, self.scores, self.model, on_error)
            lines = stack.enter_context(OutputFile(out))
            audit = None
            if self.audit is not None:
                audit = stack.enter_context(OutputFile(stack.enter_context(self.audit.writing(name))))
            written = Digest(lines.write_bytes)
            for results in cleaner.clean(records, on_error):
                for result in results:
                    written.write(result.line + b"\n")
                    for line in result.audit if audit is not None else ():
                        audit.write(line)  # type: ignore[union-attr]
            if audit is not None:
                audit.write(written.line(LINES))
            return Edited(counts, cleaner.lists, cleaner.nameless)

    def _edit_table(
        self, out: Path, name: str, cleaning: Cleaning, counts: RunCounts, on_error: OnError | None
    ) -> Edited:
        import pyarrow.parquet as pq

        cleaner = TableCleaner(cleaning, self.lists.decided(), self.annotate, counts)
        with ExitStack() as stack:
            path = stack.enter_context(self.reader.source.reading(name))
            lines = stack.enter_context(stack.enter_context(self.scores.reading(name)).open("rb"))
            file = stack.enter_context(_parquet(path, self.reader.source.label(name)))
            writer = None
            for table, rows in self.reader._tables(path, name, on_error):
                scored = ((row, with_scores(one, lines.readline(), self.model)) for row, one in rows)
                table = cleaner.clean(table, scored, on_error)
                if writer is None:
                    writer = stack.enter_context(pq.ParquetWriter(out, table.schema, compression=_codecs(file)))
                writer.write_table(table, row_group_size=max(1, len(table)))
            if writer is None:  # a file of no rows
                stack.enter_context(pq.ParquetWriter(out, file.schema_arrow))
        return Edited(counts, cleaner.lists, cleaner.nameless)


def _keeping(stack: ExitStack, rejects: Folder, name: str, counts: RunCounts) -> OnError:
    """For ``on_error``: counts what is no record and writes it to a file, which is made when there is any."""
    path = stack.enter_context(rejects.writing(f"{name}.rejects.jsonl"))
    file: list[OutputFile] = []

    def keep(error: Exception, line: bytes) -> None:
        if not file:
            file.append(stack.enter_context(OutputFile(path)))
        file[0].write(line)

    return counts.skipping(keep)


def _parquet(path: Path, label: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        what = f"no Parquet file, or damaged ({str(error).partition(chr(10))[0]:.200})"
        raise Llm4dsrError(what, where=label, remedy="fetch it again, or move it out of the folder") from None


def _codecs(file: Any) -> Any:
    """How each column is compressed."""
    if not file.num_row_groups:
        return "snappy"
    group = file.metadata.row_group(0)
    columns = (group.column(number) for number in range(group.num_columns))
    codecs = {column.path_in_schema: column.compression.lower() for column in columns}
    only = {*codecs.values()}
    name = only.pop() if len(only) == 1 else "snappy"
    return "none" if name == "uncompressed" else name
