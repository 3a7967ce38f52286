# SPDX-License-Identifier: AGPL-3.0-or-later
"""A release against a real registry on this machine (Debian's docker-registry), files for machines without a network, and two builds compared.

Too slow for every commit. `make build VARIANT=deploy && .venv/bin/pytest -m slow tests/image/test_release.py`
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docker import inputs, push, replay, tree
from tests.image.harness import STRANGER, Image, docker, exists

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def deploy() -> Image:
    """The smallest image: what is tested here is the same for all."""
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("needs a docker engine that answers")
    if not exists("yolov12:deploy"):
        pytest.skip("needs the image yolov12:deploy (make build VARIANT=deploy)")
    return Image("yolov12:deploy")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry on loopback; its name as a prefix of images."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("needs docker-registry (apt-get install docker-registry)")
    folder = tmp_path_factory.mktemp("registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "store")}},
        "http": {"addr": address},
    }
    (folder / "config.yml").write_text(json.dumps(settings))  # JSON is YAML
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        wait_for(address)
        yield f"{address}/team"
    finally:
        process.terminate()
        process.wait(timeout=20)


def wait_for(address: str, timeout_s: float = 20) -> None:
    host, port = address.split(":")
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.1)
    pytest.fail(f"the registry does not listen on {address}")


def call(repository: Path, program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"VARIANT": "deploy", "ALLOW_DIRTY": "1"} | variables
    return subprocess.run(
        [repository / program], env=environment, capture_output=True, text=True, check=False, cwd=repository
    )


def remove(*names: str) -> None:
    subprocess.run(["docker", "image", "rm", "--force", *names], capture_output=True, check=False)


def test_a_pushed_image_is_pulled_by_its_digest_and_runs(repository: Path, deploy: Image, registry: str):
    done = call(repository, "docker/push.py", REGISTRY=registry)
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert first.startswith(f"pushed  {registry}/yolov12:")
    reference = last.removeprefix("docker pull ")
    remove(first.split()[1])
    try:
        docker("pull", reference)
        assert Image(reference).inspect("{{.Id}}") == deploy.inspect("{{.Id}}")
        Image(reference).run("verify", options=STRANGER).check()
    finally:
        remove(reference)


def test_a_second_push_keeps_the_tag_and_another_image_under_it_is_refused(
    repository: Path, deploy: Image, registry: str, tmp_path: Path
):
    immutable = call(repository, "docker/push.py", REGISTRY=registry).stdout.splitlines()[0].split()[1]
    again = call(repository, "docker/push.py", REGISTRY=registry)
    assert again.stdout.splitlines()[0] == f"kept    {immutable}"
    (tmp_path / "empty.tar").write_bytes(b"\0" * 1024)
    docker("import", str(tmp_path / "empty.tar"), immutable)
    try:
        docker("push", immutable)
        refused = call(repository, "docker/push.py", REGISTRY=registry)
        assert refused.returncode == 2
        assert "is another build of the same inputs, and stays" in refused.stderr
    finally:
        remove(immutable)


def test_a_whole_release_moves_its_tags_and_an_older_one_moves_none_back(deploy: Image, registry: str):
    """As if built on the pinned base image from a commit, which the image under test need not be."""
    there = push.Registry(f"{registry}/of-its-own/yolov12")
    image = dataclasses.replace(push.look_at(deploy.name), incomplete=None)
    older = dataclasses.replace(image, version="0.0.1")
    try:
        said = push.push(deploy.name, image, there)
        assert f"moved   {there.repository}:{image.flavour}" in said
        for tag in image.moving_tags:
            assert there.held(tag) == there.held(image.immutable_tag)
        said = push.push(deploy.name, older, there)
        assert f"moved   {there.repository}:0.0-{image.flavour}" in said
        assert f"kept    {there.repository}:{image.flavour}, which is at {image.version}" in said
    finally:
        tags = {one for of in (image, older) for one in (of.immutable_tag, *of.moving_tags)}
        remove(*(f"{there.repository}:{tag}" for tag in tags))


def test_a_registry_that_is_not_there_is_worth_a_retry(repository: Path, deploy: Image):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        done = call(repository, "docker/push.py", REGISTRY=f"127.0.0.1:{probe.getsockname()[1]}/team")
    assert (done.returncode, done.stdout) == (75, "")
    assert "did not answer" in done.stderr


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.zst"])
def test_a_saved_image_loads_as_the_same_image(repository: Path, deploy: Image, tmp_path: Path, ending: str):
    if ending == "tar.zst" and not shutil.which("zstd"):
        pytest.skip("needs zstd")
    before, file = deploy.inspect("{{.Id}}"), tmp_path / f"image.{ending}"
    assert call(repository, "docker/save.sh", FILE=str(file)).returncode == 0
    done = call(repository, "docker/load.sh", FILE=str(file))
    assert done.returncode == 0, done.stderr
    assert "Loaded image: yolov12:deploy" in done.stdout
    assert deploy.inspect("{{.Id}}") == before


def plan(repository: Path, image: Image, variant: str) -> dict[str, Any]:
    """The target of `make build VARIANT=...` that made `image`."""
    environment = {name: value for name, value in os.environ.items() if value or name != "BASE_IMAGE"}
    environment |= {
        name.upper(): image.inspect(f'{{{{index .Config.Labels "yolov12.{name}"}}}}') for name in ("archs", "inputs")
    }
    done = subprocess.run(
        ["docker", "buildx", "bake", "--file", "docker/docker-bake.json", "--print", variant],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)["target"][variant]


def build_anew(repository: Path, target: dict[str, Any]) -> None:
    """Build with nothing taken from the builder's cache but what was downloaded."""
    options = ["--no-cache", "--load"]
    if network := os.environ.get("BUILD_NETWORK"):
        options += ["--network", network]
    for secret, name in (("ca", "CA_BUNDLE"), ("netrc", "NETRC")):
        if file := os.environ.get(name):
            options += ["--secret", f"id={secret},src={file}"]
    command = ["docker", "buildx", "build", *options, *replay.arguments(target)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("variant", ["deploy", "train"])
def test_two_builds_of_the_same_inputs_hold_the_same_files(repository: Path, deploy: Image, variant: str):
    """The image that is there, and one that is built now. Where Debian's mirror has moved in between, they rightly differ."""
    first = Image(f"yolov12:{variant}")
    if not exists(first.name):
        pytest.skip(f"needs the image {first.name} (make build VARIANT={variant})")
    target = plan(repository, first, variant)
    if inputs.digest(repository, target["args"]) != first.inspect('{{index .Config.Labels "yolov12.inputs"}}'):
        pytest.skip(f"{first.name} was built from other inputs (make build VARIANT={variant})")
    anew = f"{first.name}-anew"
    try:
        build_anew(repository, target | {"tags": [anew]})
        ours, theirs = (set(tree.exported(name).splitlines()) for name in (first.name, anew))
    finally:
        remove(anew)
    assert len(ours) > 1000, "the test must be able to fail"
    assert not ours ^ theirs, "\n".join(sorted(ours ^ theirs))
