"""Shapes: what a record, or a table, would have to become to be a record, as a command to do it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from llm4dsr_cli.records.columns import id_names, names_sequence, time_name, user_name
from llm4dsr_cli.records.json_objects import file_of

_WRITE_RECORDS = "write one JSON object a line, with a user's items in a list; docs/recipes.md has commands that do it"


def grouping(data: dict[str, Any], where: str) -> str | None:
    """The remedy for a record that is one interaction of a user; None where it is something else."""
    found = interaction_fields(data)
    if found is None or any(isinstance(value, list) and names_sequence(name) for name, value in data.items()):
        return None
    user, item, time = found
    sort = "" if time is None else f" | sort_by({_jq(time)})"
    program = f"group_by({_jq(user)})[]{sort} | {{user_id: (.[0] | {_jq(user)}), items: map({_jq(item)})}}"
    return f"group them by user: jq -sc {_shell(program)} {file_of(where)} > NEW"


def interaction_fields(names: Collection[str]) -> tuple[str, str, str | None] | None:
    """The names of user, item and time, if fields of these names tell of one interaction; the time may be missing."""
    user, time = user_name([*names]), time_name([*names])
    items = [name for name in id_names(names) if name != user]
    if user is None or not items:
        return None
    # Amazon's products are known by parent_asin; a bare id beside another one is the row's.
    return user, sorted(items, key=lambda name: ("parent" not in name, name.casefold() == "id"))[0], time


def splitting(field: str, value: Any, where: str) -> str | None:
    """The remedy for items that are a list in a string; None where they are something else."""
    if not isinstance(value, str):
        return None
    name, file, text = _jq(field), file_of(where), value.strip()
    if text[:1] == "[":
        try:
            json.loads(text)
        except ValueError:
            if "," not in text and "'" not in text:  # numpy writes [1 2 3]
                return (
                    f"make it a list: jq -c {_shell(name + ' |= [scan(' + json.dumps('[^][ ]+') + ')]')} {file} > NEW"
                )
            program = (
                "import ast,json,sys; [print(json.dumps({k: ast.literal_eval(v) if str(v)[:1] == '[' else v "
                "for k, v in json.loads(l).items()})) for l in sys.stdin]"
            )
            return f'the list is in a string; take it out: python3 -c "{program}" < {file} > NEW'
        return f"the list is in a string; take it out: jq -c {_shell(name + ' |= fromjson')} {file} > NEW"
    mark = next((mark for mark in ",;|\t " if mark in text), None)
    if mark is None:
        return None
    split = f"{name} |= split({json.dumps(mark)})"
    return f"make it a list, or name another with `items_field`: jq -c {_shell(split)} {file} > NEW"


def tabulated(header: Sequence[str], mark: str, row: Sequence[str], where: str) -> str:
    """The remedy for a table that was given as records.

    Args:
        header: the cells of its first line.
        mark: what stands between cells.
        row: the cells of its second line; none if there is none.
    """
    if any(character in "".join(header) for character in "\"'$`\\"):  # they would need quoting twice
        return _WRITE_RECORDS
    rows = f"csv.DictReader(sys.stdin{'' if mark == ',' else f', delimiter={mark!r}'})"
    plain = {name.partition(":")[0].strip(): name for name in header}
    lists_end = [name for name in header if name.rpartition(":")[2] in ("token_seq", "float_seq")]
    if any(cell.strip()[:1] == "[" for cell in row):
        imports, each = "ast,csv,json,sys", "{k: ast.literal_eval(v) if v[:1] == '[' else v for k, v in r.items()}"
    elif lists_end:  # RecBole's types behind the names
        imports = "csv,json,sys"
        each = "{k.partition(':')[0]: v.split() if k.endswith('_seq') else v for k, v in r.items()}"
    elif fields := interaction_fields(plain):
        user, item = plain[fields[0]], plain[fields[1]]
        if fields[2] is not None:
            time = plain[fields[2]]
            cell = dict(zip(header, row, strict=False)).get(time, "")
            number = f"float(r[{time!r}])" if is_number(cell) else f"r[{time!r}]"
            rows = f"sorted({rows}, key=lambda r: {number})"
        program = (
            f"import csv,json,sys; d={{}}; [d.setdefault(r[{user!r}], []).append(r[{item!r}]) for r in {rows}]; "
            "[print(json.dumps({'user_id': u, 'items': i})) for u, i in d.items()]"
        )
        return f'group it by user: python3 -c "{program}" < {file_of(where)} > NEW'
    else:
        return _WRITE_RECORDS
    program = f"import {imports}; [print(json.dumps({each})) for r in {rows}]"
    return f'make JSON lines of it: python3 -c "{program}" < {file_of(where)} > NEW'


def separating(mark: str, wanted: str, where: str) -> str:
    """The command that takes one separator out of a table, and puts another one between its columns."""
    out = "" if wanted == "," else f", delimiter={wanted!r}"
    program = f"import csv,sys; csv.writer(sys.stdout{out}).writerows(csv.reader(sys.stdin, delimiter={mark!r}))"
    return f'python3 -c "{program}" < {file_of(where)} > NEW'


def turned(data: dict[str, Any], where: str) -> str | None:
    """The remedy for an object that is no record but all of them: users with their lists, or pandas' columns."""
    values = list(data.values())
    # Users have digits in their names, and fields have none.
    if data and all(isinstance(value, list) and re.search(r"\d", name) for name, value in data.items()):
        program = "to_entries[] | {user_id: .key, items: .value}"
        return f"make records of its users: jq -c {_shell(program)} {file_of(where)} > NEW"
    if len(values) > 1 and all(isinstance(value, dict) and value.keys() == values[0].keys() for value in values):
        program = f". as $d | ({_jq(next(iter(data)))} | keys_unsorted[]) as $k | $d | map_values(.[$k])"
        return f"make records of its columns: jq -c {_shell(program)} {file_of(where)} > NEW"
    return None


def is_number(cell: str) -> bool:
    """Whether a text is a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _jq(name: str) -> str:
    """A field as jq names it."""
    return f".{name}" if re.fullmatch(r"[A-Za-z_]\w*", name) else f".[{json.dumps(name)}]"


def _shell(program: str) -> str:
    return "'" + program.replace("'", "'\\''") + "'"
