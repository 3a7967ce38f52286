# SPDX-License-Identifier: AGPL-3.0-or-later
"""A package index on this machine's loopback, with wheels that hold nothing, for tests of the stages that fetch."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import ssl
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Served:
    """A folder that is served, and what was asked of it."""

    folder: Path
    address: str
    asked: list[str] = field(default_factory=list)

    @property
    def index(self) -> str:
        """Address of the package index in it."""
        return f"{self.address}/simple"

    def add_wheel(self, package: str, module: str, version: str) -> None:
        """Put a wheel into the index whose one module knows its version."""
        place, stem = self.folder / "simple" / package.replace("_", "-"), f"{package}-{version}"
        place.mkdir(parents=True)
        files = {
            f"{module}/__init__.py": f"__version__ = {version!r}\n",
            f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n",
            f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{stem}.dist-info/RECORD": "",
        }
        with zipfile.ZipFile(place / f"{stem}-py3-none-any.whl", "w") as wheel:
            for name, content in files.items():
                wheel.writestr(name, content)
        (place / "index.html").write_text(f'<a href="{stem}-py3-none-any.whl">{stem}</a>')


class _Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *arguments, asked: list[str], login: str, **options) -> None:
        self.asked = asked
        self.wanted = "Basic " + base64.b64encode(login.encode()).decode() if login else None
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.headers.get("Authorization") == self.wanted:
            super().do_GET()
            return
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="mirror"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path, login: str = "", tls: ssl.SSLContext | None = None) -> Iterator[Served]:
    """The folder over HTTP, or HTTPS; with `login` ("name:password") only for who says it."""
    folder.mkdir(exist_ok=True)
    asked: list[str] = []
    handler = functools.partial(_Handler, directory=str(folder), asked=asked, login=login)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield Served(folder, f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}", asked)
        finally:
            server.shutdown()
