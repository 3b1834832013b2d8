"""Damaged and hostile ZIP files, of which wheels and gates are: members changed, and packed again in order.

The format is PKWARE's APPNOTE.TXT (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT).
"""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable

NUMBERS = [0, 1, 2, 8, 12, 14, 97, 2**15, 2**16 - 1]
SIZES = [0, 1, 1000, 2**20, 2**31 - 1, 2**31, 2**32 - 1]
VALUES = [
    None, True, -1, 0, 1.5, 1e308, -1e308, 2**63, "text", "", "\x1b]0;pwned\x07\x1b[2J", "x" * 100_000, "a\nb", [], {},
]  # fmt: skip
# Where the fields of the two headers of a member lie, in struct's letters: in front of the data, and in the directory.
LOCAL = [(4, "H"), (6, "H"), (8, "H"), (14, "I"), (18, "I"), (22, "I"), (26, "H"), (28, "H")]
CENTRAL = [(6, "H"), (8, "H"), (10, "H"), (16, "I"), (20, "I"), (24, "I"), (28, "H"), (30, "H"), (32, "H"), (42, "I")]
Files = dict[str, bytes]


def members(whole: bytes) -> Files:
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(files: Files, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method, compresslevel=1) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _flipped(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 4])):
        if data:
            data[rng.randrange(min(len(data), rng.choice([128, 1 << 30])))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _numbers(content: bytes, rng: random.Random) -> bytes:
    """What could be floats or integers, replaced by odd ones."""
    data = bytearray(content)
    letter = rng.choice("fdqi")
    size = struct.calcsize(letter)
    for _ in range(rng.choice([1, 5])):
        if len(data) > 128 + size:
            at = 128 + rng.randrange((len(data) - 128) // size) * size
            odd = rng.choice([float("nan"), float("inf"), -1e30, 0.0] if letter in "fd" else [-1, 0, 2**31 - 1])
            data[at : at + size] = struct.pack(f"<{letter}", odd)
    return bytes(data)


def _json(content: bytes, rng: random.Random) -> bytes:
    """A value of a JSON object in an .npy array of bytes, or anywhere else, replaced by an odd one."""
    at = content.find(b"{", 128)
    try:
        about = json.loads(content[at:])
    except ValueError:
        return _numbers(content, rng)
    inner = rng.choice([about, *(value for value in about.values() if isinstance(value, dict) and value)])
    inner[rng.choice(list(inner))] = rng.choice(VALUES)
    body = json.dumps(about).encode()
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({len(body)},), }}"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.ljust(117).encode() + b"\n" + body


# What may become of one member; the last three are of other sizes.
CHANGES: list[Callable[[bytes, random.Random], bytes]] = [
    _flipped, _numbers, _numbers, _json, _json,
    lambda content, rng: content[: rng.randrange(len(content) + 1)],
    lambda content, rng: content * 2,
    lambda content, rng: bytes(1 << 24),
]  # fmt: skip


def structured(whole: bytes, seed: int) -> tuple[bytes, str]:
    """A ZIP file that is changed where the format, or what is packed in it, says something; and what was done."""
    rng = random.Random(seed)
    files = members(whole)
    name = rng.choice(list(files))
    what = rng.choice(["content", "content", "content", "dropped", "renamed", "header", "header", "method"])
    if what == "content":
        change = rng.choice(CHANGES)
        files[name] = change(files[name], rng)
    elif what == "dropped":
        del files[name]
    elif what == "renamed":
        files[rng.choice(["../evil", "/evil", "a" * 60_000, "\x1b[2J", name + "2"])] = files.pop(name)
    others = [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    data = packed(files, rng.choice(others) if what == "method" else zipfile.ZIP_DEFLATED)
    if what == "header":
        data = _header(data, rng)
    return data, f"{what} of {name[:40]}"


def _header(whole: bytes, rng: random.Random) -> bytes:
    data = bytearray(whole)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        starts = [info.header_offset for info in archive.infolist()]
        directory = archive.start_dir
    for _ in range(rng.choice([1, 1, 2])):
        if rng.random() < 0.3:
            start, fields = rng.choice(starts), LOCAL
        else:
            start, fields = directory, CENTRAL
            for _ in range(rng.randrange(len(starts))):
                start = data.index(b"PK\x01\x02", start + 1)
        at, letter = rng.choice(fields)
        struct.pack_into(f"<{letter}", data, start + at, rng.choice(NUMBERS if letter == "H" else SIZES))
    return bytes(data)
