# SPDX-License-Identifier: AGPL-3.0-or-later
"""The caller's NETRC reaches what a stage fetches with: the tools themselves, at a server on loopback that asks for a login."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.docker.loopback import Served, served

ROOT = Path(__file__).resolve().parents[3]
STAGES = ROOT / "docker/stages"
SHA256 = hashlib.sha256(b"content").hexdigest()


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Served]:
    """An index with one package, and a file."""
    with served(tmp_path / "mirror", login="me:secret") as mirror:
        mirror.add_wheel("some_package", "some_package", "1.0")
        (mirror.folder / "file").write_text("content")
        yield mirror


def in_stage(tmp_path: Path, program: str, login: str) -> subprocess.CompletedProcess[str]:
    """A program as a stage runs it, with `login` for the only secret of the build."""
    for script in ("common.sh", "fetch.sh"):
        text = (STAGES / script).read_text().replace("/run/secrets", str(tmp_path)).replace("/run/stage", str(tmp_path))
        (tmp_path / script).write_text(text)
    (tmp_path / "netrc").write_text(login)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/apt-get").write_text("#!/bin/sh\n")
    (tmp_path / "bin/apt-get").chmod(0o755)
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "HOME": str(tmp_path)}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f". {tmp_path}/common.sh; use_secrets; {program}"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )


PROGRAMS = {
    "uv": f"{ROOT}/.venv/bin/uv pip install --no-cache --no-deps --target found --default-index ADDRESS/simple some-package",
    "pip": f"{sys.executable} -m pip --no-cache-dir --isolated download --no-deps --no-input --dest found --index-url ADDRESS/simple some-package",
    "curl": f"bash fetch.sh ADDRESS/file {SHA256} found",
}


@pytest.mark.parametrize("tool", PROGRAMS)
@pytest.mark.parametrize(
    ("login", "is_found"),
    [
        ("", False),
        ("machine 127.0.0.1 login me password secret\n", True),
        ("machine other login me password secret\n", False),
    ],
    ids=["no login", "the host's login", "another host's"],
)
def test_a_login_is_used_for_its_host(tmp_path: Path, mirror: Served, tool: str, login: str, is_found: bool):
    if tool == "curl" and not shutil.which("curl"):
        pytest.skip("needs curl")
    done = in_stage(tmp_path, PROGRAMS[tool].replace("ADDRESS", mirror.address), login)
    assert (done.returncode == 0) is is_found, done.stdout + done.stderr
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_a_file_that_can_not_be_fetched_is_told_with_what_to_type_where_a_mirror_has_it(tmp_path: Path, mirror: Served):
    address = f"{mirror.address}/file"
    done = in_stage(tmp_path, f"bash fetch.sh {address} {SHA256} found", login="")  # refused: it has none
    assert done.returncode == 2
    told = f"fetch: {address} can not be fetched (see above): where it can not be reached, put a mirror's address in its place"
    assert done.stderr.splitlines()[-1] == f"{told} in env/versions.yaml, and type make render"
