# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a build refuses, each with one clear sentence, and what it does not make anew. Runs the builder, on stages that `make build` left
in its cache; the variables of `make build` (BASE_IMAGE, BUILD_NETWORK, CA_BUNDLE, NETRC) are the caller's."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from docker import inputs, replay
from env import render
from tests.image.harness import Image

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(autouse=True)
def _builder(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine has built the image, so most of what is needed lies in its cache: for the archs of that image."""
    monkeypatch.setenv("ARCHS", image.label("archs"))


def build(repository: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker/build.sh"], cwd=repository, env=os.environ | variables, capture_output=True, text=True, check=False
    )


def plan(repository: Path, variant: str, **variables: str) -> dict[str, Any]:
    """The target of the bake file, as `make build` has it with these variables."""
    command = ["docker", "buildx", "bake", "--file", "docker/docker-bake.json", "--print", variant]
    environment = {name: value for name, value in os.environ.items() if value or name != "BASE_IMAGE"}
    environment |= {"INPUTS": "0" * 64, **variables}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["target"][variant]


def build_target(context: Path, target: dict[str, Any], *keep: str) -> subprocess.CompletedProcess[str]:
    """`docker buildx build`; without options that say how, its result is not kept."""
    options = ["--progress", "plain", *(keep or ("--output", "type=cacheonly"))]
    if network := os.environ.get("BUILD_NETWORK"):
        options += ["--network", network]
    for secret, name in (("ca", "CA_BUNDLE"), ("netrc", "NETRC")):
        if file := os.environ.get(name):
            options += ["--secret", f"id={secret},src={file}"]
    command = ["docker", "buildx", "build", *options, *replay.arguments({**target, "tags": []})]
    return subprocess.run(command, cwd=context, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("flash_attn", ["hd32", "none"])
def test_an_arch_that_does_not_exist_fails_the_build_with_its_name(repository: Path, flash_attn: str):
    done = build_target(repository, plan(repository, "train", ARCHS="90 91", FLASH_ATTN=flash_attn))
    assert done.returncode != 0
    assert "ARCHS=" in done.stderr
    sentence = next(line for line in done.stderr.splitlines() if "ARCHS=" in line and "91" in line.partition(": ")[2])
    assert "91" in sentence
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"DALI": "yes"}, "build: DALI=yes: type one of 1 0"),
        ({"TENSORRT": "12"}, "build: TENSORRT=12: type one of none 10 11 rtx"),
        ({"TENSORRT": "11"}, "build: TENSORRT=11 needs TENSORRT_INDEX=ADDRESS"),
    ],
)
def test_a_choice_that_there_is_not_fails_the_build_with_one_sentence(repository: Path, variables, sentence):
    done = build(repository, **variables)
    assert done.returncode == 2
    assert done.stderr.startswith(sentence)
    assert len(done.stderr.splitlines()) == 1


ARGUMENTS = [
    "PYTHON_VERSION",
    "ENV_PYTHON",
    "LOCK",
    "ARCHS",
    "VERSION",
    "LEAST_DRIVER",
    "OLDER_DRIVERS",
    "SIZE_BUDGET_GB",
    "INPUTS",
]
SWITCHES = ["FLASH_ATTN", "DALI", "TENSORRT", "ENV_MANAGER", "NCCL_TESTS"]


@pytest.mark.parametrize("name", [*ARGUMENTS, *SWITCHES, "FLASH_ATTN_VERSION", "FLASH_ATTN_SHA256", "BASE_IMAGE"])
def test_a_missing_argument_fails_the_build_with_its_name(repository: Path, name: str):
    target = plan(repository, "train")
    target["args"] = {key: value for key, value in target["args"].items() if key != name}
    done = build_target(repository, target)
    assert done.returncode != 0
    assert [
        line for line in done.stderr.splitlines() if name in line and "is not set" in line and "use make build" in line
    ]


@pytest.mark.parametrize("name", ["LOCK", "VARIANT", "VERSION", "SIZE_BUDGET_GB", "INPUTS"])
def test_a_missing_argument_fails_the_build_of_the_deploy_image(repository: Path, name: str):
    target = plan(repository, "deploy")
    del target["args"][name]
    done = build_target(repository, target)
    assert done.returncode != 0
    assert f"{name}: is not set: use make build" in done.stderr


def test_another_python_than_the_base_image_s_fails_the_build_with_one_sentence(repository: Path):
    target = plan(repository, "train")
    target["args"]["PYTHON_VERSION"] = "3.99"
    done = build_target(repository, target)
    assert done.returncode != 0
    assert "PYTHON_VERSION=3.99, but python3 of the base image is" in done.stderr


def test_a_version_that_is_not_the_checkout_s_fails_the_build(repository: Path):
    target = plan(repository, "train")
    target["args"]["VERSION"] = "9.9.9"
    done = build_target(repository, target)
    assert done.returncode != 0
    assert "VERSION=9.9.9, but the package in this checkout is" in done.stderr


def checkout(repository: Path, folder: Path) -> Path:
    """What a build reads, copied, so that a test may change it."""
    for file in [*inputs.files(repository), *(repository / name for name in BUILDER)]:
        copy = folder / file.relative_to(repository)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy)
    return folder


BUILDER = [".dockerignore", "docker/docker-bake.json", "env/versions.yaml", "env/matrix.yaml"]
BUILDER += [f"docker/{name}" for name in ("build.sh", "command.sh", "inputs.py", "replay.py")]


def test_a_pin_that_moved_alone_fails_the_build_with_one_sentence(repository: Path, tmp_path: Path):
    changed = checkout(repository, tmp_path) / "env/versions.yaml"
    pinned = render.load().version_of("torch")
    moved = changed.read_text().replace(f'version: "{pinned}"', 'version: "99.0.0"')
    assert moved != changed.read_text()
    changed.write_text(moved)
    done = build(tmp_path)
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(
        "build: env/versions.yaml or env/matrix.yaml is newer than docker/docker-bake.json: type make lock"
    )


def test_a_lock_older_than_its_pins_fails_the_build_with_one_sentence(repository: Path, tmp_path: Path):
    changed = checkout(repository, tmp_path) / "env/locks/constraints.txt"
    changed.write_text(changed.read_text().replace("\ntorch==", "\ntorch==9"))
    done = build_target(tmp_path, plan(repository, "train"))
    assert done.returncode != 0
    assert re.search(r"train-py\d+\.txt has torch [\d.]+ \(pinned 9[\d.]+\): type make lock", done.stderr)
    assert "Traceback" not in done.stderr


def test_an_image_over_its_budget_fails_the_build_with_one_sentence(repository: Path, tmp_path: Path):
    """As a variant of its own, so that the image under that name stays as it is."""
    file = checkout(repository, tmp_path) / "docker/docker-bake.json"
    bake = json.loads(file.read_text())
    text = json.dumps(bake["target"]["deploy"]).replace("yolov12:deploy", "yolov12:fat")
    fat = json.loads(text)
    fat["args"]["SIZE_BUDGET_GB"] = fat["labels"]["yolov12.size_budget_gb"] = "0.1"
    file.write_text(json.dumps({"//": bake["//"], "variable": bake["variable"], "target": {"fat": fat}}))
    try:
        done = build(tmp_path, VARIANT="fat", ARCHS="")
    finally:
        subprocess.run(["docker", "image", "rm", "--force", "yolov12:fat"], capture_output=True, check=False)
    assert done.returncode == 1
    sentence = done.stderr.splitlines()[-1]
    assert re.fullmatch(
        r"build: yolov12:fat is \d\.\d\d GB, more than its budget of 0\.10 GB \(size_budget_gb in env/matrix\.yaml\)",
        sentence,
    )


def test_a_change_of_the_package_builds_no_kernels_and_installs_no_dependency_anew(repository: Path, tmp_path: Path):
    checkout(repository, tmp_path)
    with (tmp_path / "yolov12/cli.py").open("a") as source:
        source.write(f"# changed: {uuid.uuid4()}\n")  # never built before, also where the builder's cache is kept
    done = build_target(tmp_path, plan(repository, "train"))
    assert done.returncode == 0, done.stderr[-2000:]
    steps = done.stderr.splitlines()
    numbers = {
        words: next(line.split()[0] for line in steps if words in line)
        for words in ("environment.sh", "flash-attn.sh", "package.sh")
    }
    cached = {line.split()[0] for line in steps if line.endswith(" CACHED")}
    assert numbers["environment.sh"] in cached
    assert numbers["flash-attn.sh"] in cached
    assert numbers["package.sh"] not in cached, "the test must be able to fail"
