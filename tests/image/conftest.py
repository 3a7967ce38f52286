# SPDX-License-Identifier: AGPL-3.0-or-later
"""The image under test and folders to mount in it. Needs a docker engine and the image: TEST_IMAGE, or what `make build` makes.

make build && .venv/bin/pytest tests/image
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.image.harness import Image, exists


@pytest.fixture(scope="session")
def engine() -> None:
    """A docker engine."""
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("needs a docker engine that answers")


@pytest.fixture(scope="session")
def image(engine: None) -> Image:
    name = tested()
    if not exists(name):
        pytest.skip(f"needs the image {name} (make build)")
    return Image(name)


def tested() -> str:
    """The name of the image whose workings are tested; what holds for all images is tested in each."""
    return os.environ.get("TEST_IMAGE", "yolov12:train")


def variants() -> list[str]:
    """Those of the bake file, without those that have another one's layers and so the same content."""
    targets = json.loads((Path(__file__).resolve().parents[2] / "docker/docker-bake.json").read_text())["target"]
    by_arguments: dict[str, str] = {}
    for name, target in targets.items():
        by_arguments.setdefault(json.dumps(target["args"], sort_keys=True), name)
    return list(by_arguments.values())


@pytest.fixture(scope="session", params=variants())
def each(request: pytest.FixtureRequest, engine: None) -> Image:
    """Each variant that was built: what holds for all of them."""
    name = f"{tested().rpartition(':')[0]}:{request.param}"
    if not exists(name):
        pytest.skip(f"needs the image {name} (make build VARIANT={request.param})")
    return Image(name)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Which images these tests were about: one of the right name may be left over from another commit."""
    repository = tested().rpartition(":")[0]
    names = dict.fromkeys([tested(), *(f"{repository}:{variant}" for variant in (*variants(), "dev"))])
    made = '{{.Created}}, inputs {{index .Config.Labels "yolov12.inputs"}}'
    for name in names if shutil.which("docker") else ():
        told = subprocess.run(
            ["docker", "image", "inspect", "--format", made, name], capture_output=True, text=True, check=False
        )
        if not told.returncode:
            terminalreporter.write_line(f"{name} was there, made {told.stdout.strip()}")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder to mount that anyone may write to."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


@pytest.fixture
def foreign_workspace(workspace: Path) -> Path:
    """A folder to mount that belongs to 1001:1002 and is closed to everyone else."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a folder to someone else")
    os.chown(workspace, 1001, 1002)
    workspace.chmod(0o755)
    return workspace


@pytest.fixture(scope="session")
def photos(repository: Path) -> Path:
    """Real photographs with labels in YOLO's form: the blood cells (BCCD)."""
    for folder in (repository / "tests/data/bccd-mini", repository.parent / "shared/data/bccd"):
        if folder.is_dir():
            return folder
    pytest.skip("needs the BCCD photographs")


@pytest.fixture
def photo_workspace(workspace: Path, photos: Path) -> Path:
    """A workspace with bccd.yaml, 8 photographs to train on and 4 to validate on."""
    for split, count in (("train", 8), ("val", 4)):
        for kind in ("images", "labels"):
            (workspace / kind / split).mkdir(parents=True)
        for picture in sorted((photos / "images" / split).iterdir())[:count]:
            shutil.copyfile(picture, workspace / "images" / split / picture.name)
            label = f"{picture.stem}.txt"
            shutil.copyfile(photos / "labels" / split / label, workspace / "labels" / split / label)
    shutil.copyfile(next(photos.glob("*.yaml")), workspace / "bccd.yaml")
    return workspace
