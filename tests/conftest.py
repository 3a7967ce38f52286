# SPDX-License-Identifier: AGPL-3.0-or-later
"""What every test gets: one thread, no network, no settings of the developer, folders of its own; and skips that say why."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Read by torch, matplotlib and ultralytics when they are imported, so set before any test file is.
# Threads: several pytest processes share the machine, and more threads than cores are slower than one.
_worker_folder = tempfile.TemporaryDirectory(prefix=f"yolov12-tests-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}-")
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "YOLO_OFFLINE": "true",
    "YOLO_AUTOINSTALL": "false",
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime sends its events past Python's sockets, which `no_network` watches
    "YOLO_CONFIG_DIR": _worker_folder.name,
    "MPLCONFIGDIR": _worker_folder.name,
    "XDG_CACHE_HOME": _worker_folder.name,
}
for _name in [name for name in os.environ if name.startswith("YOLOV12_")]:
    del os.environ[_name]


class NetworkRefusedError(Exception):
    """A test tried to reach another machine. Not an OSError, which code under test may rightly take for being offline."""


def _is_loopback(host: Any) -> bool:
    if host in (None, "", b"", "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Refuse names and connections beyond this machine. Covers Python's sockets in this process; child processes have YOLO_OFFLINE."""
    with pytest.MonkeyPatch.context() as patch:
        for method in ("connect", "connect_ex"):
            original = getattr(socket.socket, method)

            def guarded(self: socket.socket, address: Any, _original: Any = original) -> Any:
                if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
                    raise NetworkRefusedError(f"a test tried to connect to {address}")
                return _original(self, address)

            patch.setattr(socket.socket, method, guarded)
        resolve = socket.getaddrinfo

        def guarded_resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
            if not _is_loopback(host):
                raise NetworkRefusedError(f"a test tried to look up {host!r}")
            return resolve(host, *args, **kwargs)

        patch.setattr(socket, "getaddrinfo", guarded_resolve)
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in tests/gpu, and skip it where there is no GPU."""
    needing_gpu = []
    for item in items:
        if "gpu" in item.path.relative_to(Path(__file__).parent).parts[:-1]:
            item.add_marker("gpu")
        if item.get_closest_marker("gpu"):
            needing_gpu.append(item)
    if not needing_gpu:
        return
    import torch  # only here: it takes seconds, which tests without it should not pay

    if not torch.cuda.is_available():
        for item in needing_gpu:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU, torch sees none"))
