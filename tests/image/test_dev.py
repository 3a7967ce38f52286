# SPDX-License-Identifier: AGPL-3.0-or-later
"""The image yolov12:dev runs the tests of a mounted checkout, without a network. Needs it: make build VARIANT=dev."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.image.harness import STRANGER, Image, exists, mount

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def dev(engine: None) -> Image:
    if not exists("yolov12:dev"):
        pytest.skip("needs the image yolov12:dev (make build VARIANT=dev)")
    return Image("yolov12:dev")


@pytest.fixture
def clone(workspace: Path, repository: Path) -> Path:
    """The checkout as it is, without what git ignores, and with a commit."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(repository / name, workspace / name)
    subprocess.run(["git", "init", "--quiet"], cwd=workspace, check=True)
    subprocess.run(["git", "add", "--all"], cwd=workspace, check=True)
    return workspace


def test_it_verifies_itself(dev: Image):
    assert (
        dev.run("verify", options=STRANGER).check().out.splitlines()[-1] == "everything that could be compared agrees"
    )


def test_it_tests_the_mounted_checkout_and_not_the_package_that_it_brings(dev: Image, clone: Path):
    (clone / "tests/unit/test_values.py").write_text(
        "import yolov12\n\n\ndef test_where():\n    assert yolov12.__file__ == '/workspace/yolov12/__init__.py'\n"
    )
    ran = dev.run("make", "test", "TESTS=tests/unit/test_values.py", "JOBS=1", options=mount(clone), timeout_s=600)
    assert ran.code == 0, str(ran)
    assert "1 passed" in ran.out
    assert (clone / ".venv").readlink() == Path("/opt/yolov12")


def test_the_linters_run_in_it(dev: Image, clone: Path):
    ran = dev.run("make", "lint", options=mount(clone), timeout_s=600)
    assert ran.code == 0, str(ran)
