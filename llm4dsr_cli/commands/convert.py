"""``llm4dsr convert``"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from llm4dsr_cli.commands.options import RunOptions
from llm4dsr_cli.commands.parameters import option_sets
from llm4dsr_cli.commands.record_options import DataOptions
from llm4dsr_cli.defaults import USER_FIELD
from llm4dsr_cli.errors import OptionError


@option_sets
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A log of interactions, or JSONL of sequences.")],
    target: Annotated[
        str, typer.Argument(metavar="OUT", help=".jsonl for sequences; .csv, .tsv, .inter or .parquet for a log.")
    ],
    fields: DataOptions,
    run: RunOptions,
    user_field: Annotated[
        str, typer.Option("--user-field", metavar="NAME", help="Field of a sequence's user, in JSONL.")
    ] = USER_FIELD,
) -> int:
    """Make sequences of a log of interactions, or a log of sequences.

    Columns become lists beside the items, and lists columns again. A list of row numbers keeps the order of the rows.

    Example: llm4dsr convert ratings.csv sequences.jsonl
    """
    from dataclasses import replace

    from llm4dsr_cli.records.logs.gathered import Gathered, gather, is_stream, refuse_compressed_parquet
    from llm4dsr_cli.records.logs.table import ENDINGS, RecordFields, Table
    from llm4dsr_cli.records.reader import readable_twice
    from llm4dsr_cli.records.writer import OutputFile, check_paths

    console = run.console()
    check_paths({"IN": source}, {"OUT": target})
    refuse_compressed_parquet(target)
    ending = next((one for one in (".jsonl", *ENDINGS) if re.sub(r"\.(gz|zst)$", "", target).endswith(one)), None)
    if ending is None:
        raise OptionError(f"OUT is {target}, of no known kind", remedy=f"end it in .jsonl, {', '.join(ENDINGS)}")
    out = OutputFile(target)
    with console.progress() as advance:
        found = gather(
            source,
            fields.log_options(),
            user_field=user_field,
            items_field=fields.items_field,
            whole=True,
            advance=advance,
        )
    read = source if found is None else found
    if found is not None:
        console.say(found.about)
        fields = replace(fields, items_field="items", titles_field=None if found.log.titles is None else "titles")
    elif ending == ".jsonl":
        asks_format = fields.format is None and is_stream(source)
        raise OptionError(
            "IN and OUT are both sequences in JSON lines",
            remedy="if IN is a log, say so, as in `format` csv" if asks_format else "end OUT in .csv, or give a log",
        )

    n = 0
    if ending == ".jsonl":
        with out:
            for _, line in _lines(read):
                out.write(line)
                n += 1
        console.say(f"{target}: {n:,} sequences")
        return 0
    record_format = fields.record_format()
    taken = RecordFields(
        user_field, fields.items_field, fields.titles_field, record_format.id_name, record_format.title_name
    )
    columns = fields.log_options().columns
    if isinstance(found, Gathered):
        columns = found.named(columns)
    with readable_twice(read) as twice:
        table = Table(lambda: _lines(twice), taken, columns)
        if not table.has_user:
            raise OptionError(
                "no sequence says whose it is, and in a log only users tell sequences apart",
                where=source,
                remedy="name the field with `user_field`",
            )
        with out:
            table.write(out.write_bytes, ending)
    console.say(f"{target}: {table.rows_written:,} rows")
    return 0


def _lines(source: str | Path) -> Iterator[tuple[str, bytes]]:
    """The lines of an input, each with its place."""
    from llm4dsr_cli.records.reader import LineReader

    with LineReader.open(source) as reader:
        for batch in reader.batches(1024):
            yield from ((f"{reader.name}:{number}", line) for number, line in batch)
