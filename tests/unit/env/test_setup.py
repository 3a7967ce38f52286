# SPDX-License-Identifier: AGPL-3.0-or-later
"""env/setup.sh before it installs anything: which Python it takes, and what it says when it can not go on. Interpreters are stubs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def checkout(tmp_path, repository):
    """A copy of what setup.sh reads, and an empty folder of programs that comes first on PATH."""
    for name in ("env", "yolov12"):
        shutil.copytree(repository / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repository / "pyproject.toml", tmp_path)
    (tmp_path / "bin").mkdir()
    return tmp_path


def program(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def interpreter(path: Path, version: str, has_venv: bool = True) -> None:
    """A stub that answers setup.sh's questions as Python `version` would."""
    tag = "py" + version.replace(".", "")
    answer_to_imports = "exit 0" if has_venv else "exit 1"
    program(
        path,
        f'case "$*" in *version_info*) echo {tag} ;; *import*) {answer_to_imports} ;; --version) echo Python {version} ;; *) exit 9 ;; esac',
    )


def setup(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run setup.sh with the stubs and the system's own programs, but no other Python."""
    for name in ("bash", "cmp", "dirname", "ln", "rm", "sha256sum", "uname"):
        if not (checkout / "bin" / name).exists():
            (checkout / "bin" / name).symlink_to(shutil.which(name) or name)
    environment = {"PATH": str(checkout / "bin"), "HOME": str(checkout)} | environment
    bash = shutil.which("bash") or "bash"
    return subprocess.run(
        [bash, checkout / "env/setup.sh"], env=environment, capture_output=True, text=True, check=False
    )


def test_without_a_supported_python_it_says_which_would_do(checkout):
    interpreter(checkout / "bin/python3", "3.9")
    done = setup(checkout)
    assert done.returncode == 2
    assert "this needs one of 3.11 3.12 3.13" in done.stderr
    assert "python3 is: Python 3.9" in done.stderr


def test_a_newer_python_beside_an_old_python3_is_found(checkout):
    interpreter(checkout / "bin/python3", "3.9")
    interpreter(checkout / "bin/python3.12", "3.12")
    done = setup(checkout)
    assert f"making .venv with Python 3.12 ({checkout}/bin/python3.12)" in done.stderr


def test_the_users_python3_is_preferred_where_it_has_a_lock(checkout):
    interpreter(checkout / "bin/python3", "3.13")
    interpreter(checkout / "bin/python3.11", "3.11")
    assert "making .venv with Python 3.13" in setup(checkout).stderr


def test_a_named_python_without_a_lock_is_refused(checkout):
    interpreter(checkout / "bin/python3", "3.11")
    interpreter(checkout / "old", "3.10")
    done = setup(checkout, PYTHON=str(checkout / "old"))
    assert done.returncode == 2
    assert f"PYTHON={checkout}/old" in done.stderr


def test_a_python_without_its_venv_package_is_told_what_to_install(checkout):
    interpreter(checkout / "bin/python3", "3.11", has_venv=False)
    done = setup(checkout)
    assert done.returncode == 2
    assert "apt install python3-venv" in done.stderr


def test_another_machine_than_the_locks_are_for_is_named(checkout):
    program(checkout / "bin/uname", "echo Darwin arm64")
    done = setup(checkout)
    assert done.returncode == 2
    assert "this is Darwin arm64" in done.stderr


def test_an_environment_made_from_this_lock_is_left_alone(checkout):
    interpreter(checkout / ".venv/bin/python", "3.11")
    files = [
        "env/locks/dev-py311.txt",
        "env/locks/build.txt",
        "pyproject.toml",
        "env/yolov12_dropin.pth",
        "yolov12/__init__.py",
    ]
    sums = subprocess.run(["sha256sum", *files], cwd=checkout, capture_output=True, text=True, check=True).stdout
    (checkout / ".venv/.made-from").write_text(sums)
    done = setup(checkout)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_environment_made_from_another_lock_is_renewed(checkout):
    interpreter(checkout / ".venv/bin/python", "3.11")
    (checkout / ".venv/.made-from").write_text("an older lock\n")
    done = setup(checkout)
    assert done.returncode == 9, "the stub interpreter ends the run at its first pip command"
    assert not (checkout / ".venv/.made-from").exists(), "a half-made environment must not count as made"


# In the image yolov12:dev


@pytest.fixture
def image(checkout):
    """An environment that says it was made from the checkout's lock for Python 3.11."""
    interpreter(checkout / "image/bin/python", "3.11")
    (checkout / "image/share/yolov12").mkdir(parents=True)
    shutil.copy(checkout / "env/locks/dev-py311.txt", checkout / "image/share/yolov12/dev-lock.txt")
    return checkout / "image"


def test_in_the_dev_image_its_environment_stands_for_venv(checkout, image):
    for _ in range(2):
        done = setup(checkout, IMAGE_ENVIRONMENT=str(image))
        assert (done.returncode, done.stderr) == (0, "")
        assert (checkout / ".venv").readlink() == image


def test_a_dev_image_of_another_lock_is_refused(checkout, image):
    (image / "share/yolov12/dev-lock.txt").write_text("an older lock\n")
    done = setup(checkout, IMAGE_ENVIRONMENT=str(image))
    assert done.returncode == 2
    assert done.stderr.endswith("make build VARIANT=dev\n")


def test_the_dev_image_leaves_an_environment_of_the_host_alone(checkout, image):
    interpreter(checkout / ".venv/bin/python", "3.11")
    done = setup(checkout, IMAGE_ENVIRONMENT=str(image))
    assert done.returncode == 2
    assert "belongs to another machine: move it away" in done.stderr


def test_outside_of_the_dev_image_its_link_is_removed(checkout, image):
    (checkout / ".venv").symlink_to("/nowhere/yolov12")
    interpreter(checkout / "bin/python3", "3.9")
    assert "this needs one of" in setup(checkout, IMAGE_ENVIRONMENT="/nowhere/yolov12").stderr
    assert not (checkout / ".venv").is_symlink()
