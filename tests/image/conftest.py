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

import pytest

from tests.image.harness import Image, exists


@pytest.fixture(scope="session")
def image() -> Image:
    name = os.environ.get("TEST_IMAGE", "yolov12:train")
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("needs a docker engine that answers")
    if not exists(name):
        pytest.skip(f"needs the image {name} (make build)")
    return Image(name)


def variants() -> list[str]:
    """Those of the bake file, without those that have another one's layers and so the same content."""
    targets = json.loads((Path(__file__).resolve().parents[2] / "docker/docker-bake.json").read_text())["target"]
    by_arguments: dict[str, str] = {}
    for name, target in targets.items():
        by_arguments.setdefault(json.dumps(target["args"], sort_keys=True), name)
    return list(by_arguments.values())


@pytest.fixture(scope="session", params=variants())
def each(request: pytest.FixtureRequest, image: Image) -> Image:
    """Each variant that was built: what holds for all of them."""
    repository, _, tag = image.name.rpartition(":")
    name = image.name if request.param == tag else f"{repository}:{request.param}"
    if not exists(name):
        pytest.skip(f"needs the image {name} (make build VARIANT={request.param})")
    return Image(name)


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
