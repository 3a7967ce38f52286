# SPDX-License-Identifier: AGPL-3.0-or-later
"""docker/stages/tensorrt.sh takes the vendor's packages from TENSORRT_INDEX alone, whatever else the base image or the builder names."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
VERSION = "10.9.9"
PACKAGES = {
    "tensorrt_cu13": "tensorrt",
    "tensorrt_cu13_libs": "tensorrt_libs",
    "tensorrt_cu13_bindings": "tensorrt_bindings",
}


@dataclass
class Index:
    """A package index on loopback, with wheels that hold nothing."""

    folder: Path
    asked: list[str] = field(default_factory=list)
    address: str = ""

    def add(self, package: str, module: str) -> None:
        place, stem = self.folder / "simple" / package.replace("_", "-"), f"{package}-{VERSION}"
        place.mkdir(parents=True)
        files = {
            f"{module}/__init__.py": f"__version__ = {VERSION!r}\n",
            f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {VERSION}\n",
            f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{stem}.dist-info/RECORD": "",
        }
        with zipfile.ZipFile(place / f"{stem}-py3-none-any.whl", "w") as wheel:
            for name, content in files.items():
                wheel.writestr(name, content)
        (place / "index.html").write_text(f'<a href="{stem}-py3-none-any.whl">{stem}</a>')


@pytest.fixture
def indexes(tmp_path: Path) -> Iterator[tuple[Index, Index]]:
    """The vendor's, which is empty, and a public one that has everything."""
    servers, found = [], []
    for name in ("vendor", "public"):
        index = Index(tmp_path / name)
        index.folder.mkdir()

        class Handler(http.server.SimpleHTTPRequestHandler):
            asked = index.asked

            def log_message(self, *_: object) -> None:
                self.asked.append(self.path)

        handler = functools.partial(Handler, directory=str(index.folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        index.address = f"http://127.0.0.1:{server.server_port}/simple"
        servers.append(server)
        found.append(index)
    for package, module in PACKAGES.items():
        found[1].add(package, module)
    yield found[0], found[1]
    for server in servers:
        server.shutdown()


def run_stage(tmp_path: Path, index: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script, with an environment of this test and uv of this checkout for those of the image."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    script = (ROOT / "docker/stages/tensorrt.sh").read_text()
    places = {
        "/opt/installer/bin": ROOT / ".venv/bin",
        "/opt/yolov12": environment,
        "/run/stage/": f"{ROOT}/docker/stages/",
    }
    for there, here in places.items():
        assert there in script
        script = script.replace(there, str(here))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    return subprocess.run(
        ["bash", "-c", script, "tensorrt.sh", VERSION, index],
        env=clean | variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_packages_of_the_index_are_installed_and_written_down(tmp_path: Path, indexes: tuple[Index, Index]):
    vendor, public = indexes
    for package, module in PACKAGES.items():
        vendor.add(package, module)
    done = run_stage(tmp_path, vendor.address, UV_DEFAULT_INDEX=public.address)
    assert (done.returncode, done.stdout) == (0, f"tensorrt {VERSION}\n"), done.stderr
    written = (tmp_path / "environment/share/yolov12/vendor.txt").read_text()
    assert written == f"tensorrt-cu13=={VERSION}\ntensorrt-cu13-libs=={VERSION}\ntensorrt-cu13-bindings=={VERSION}\n"
    assert public.asked == []


@pytest.mark.parametrize("named_by", ["UV_DEFAULT_INDEX", "UV_INDEX", "UV_EXTRA_INDEX_URL", "uv.toml"])
def test_what_the_index_lacks_is_taken_from_no_other(tmp_path: Path, indexes: tuple[Index, Index], named_by: str):
    vendor, public = indexes
    for package, module in list(PACKAGES.items())[:2]:
        vendor.add(package, module)
    variables = {named_by: public.address}
    if named_by == "uv.toml":
        (tmp_path / "config/uv").mkdir(parents=True)
        (tmp_path / "config/uv/uv.toml").write_text(f'[[index]]\nurl = "{public.address}"\n')
        variables = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    done = run_stage(tmp_path, vendor.address, **variables)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"TENSORRT_INDEX={vendor.address}: TensorRT {VERSION} can not be installed from there (see above)"
    )
    assert "/simple/tensorrt-cu13-bindings/" in vendor.asked
    assert public.asked == []
