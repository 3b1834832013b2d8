"""The page of an audit: one HTML file that holds all it shows and loads nothing."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from llm4dsr_cli.records.json_lines import dumps
from llm4dsr_cli.records.writer import OutputFile
from llm4dsr_cli.review.summary import summary


def write_report(target: str | Path, audit: str | Path, scored: str | Path | None = None) -> dict[str, Any]:
    """Write the page of an audit; gives what it shows, see ``summary``.

    Args:
        target: the HTML file, which appears only when it is whole.
        audit: as ``clean`` or ``apply`` wrote it.
        scored: JSON lines with a list ``noise_probability`` in each (of ``score``, or of ``clean`` with ``annotate``),
            for the histogram of all items.

    Raises:
        RecordError: a line is none of an audit, or none with probabilities.
        Llm4dsrError: a file cannot be read.
        OutputError: the page cannot be written.
    """
    with OutputFile(target) as out:
        shown = summary(audit, scored)
        out.write(page(shown))
    return shown


def page(shown: dict[str, Any]) -> bytes:
    """The page of a ``summary``.

    Titles are texts of strangers. They are data to the page: they stand in a block of JSON without any ``<``, the
    script makes nothing but text nodes of them, and the browser runs no other script than ours and fetches nothing.
    """
    style, script, frame = (_part(name) for name in ("page.css", "page.js", "page.html"))
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    data = dumps(shown).replace(b"<", b"\\u003c")
    # In one pass, so that no title can be taken for a place to fill.
    head, rest = frame.split(b"{{policy}}")
    between, rest = rest.split(b"{{style}}")
    body, rest = rest.split(b"{{data}}")
    before, end = rest.split(b"{{script}}")
    return b"".join([head, policy.encode(), between, style, body, data, before, script, end.rstrip()])


def _part(name: str) -> bytes:
    return files("llm4dsr_cli.review").joinpath(name).read_bytes().replace(b"\r\n", b"\n")


def _hash(text: bytes) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
