# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a release is called, what a registry already has of it, and what is refused: from descriptions alone, without docker."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from docker import push
from docker.push import Held, Image, PushError

ROOT = Path(__file__).resolve().parents[3]
INPUTS = "0123456789abcdef" * 4
PINNED = f"debian:12-slim@sha256:{'a' * 64}"
WHOLE = {
    "ARCHS": "80 90",
    "FLASH_ATTN": "hd32",
    "BASE_IMAGE": PINNED,
    "DALI": "1",
    "TENSORRT": "none",
    "NCCL_TESTS": "1",
}


def described(
    variant: str = "train", revision: str | None = "c0ffee", version: str = "1.2.3", **promises: Any
) -> Image:
    """An image that says of itself what `promises` and the labels say."""
    deploy = variant.startswith("deploy")
    promised = {
        "version": version,
        "inputs": INPUTS,
        "base_image": PINNED,
        "archs": [] if deploy else ["80", "90"],
        "flash_attn": None if deploy else {"version": "2.8.3.post2+hd32.sm80.sm90"},
        "dali": "1",
        "tensorrt": "none",
        "nccl_tests": "1",
        "packages": {} if deploy else {"torch": "2", "cuda-toolkit": "13.0.2"},
    } | promises
    labels = {
        "org.opencontainers.image.version": version,
        "yolov12.inputs": INPUTS,
        "yolov12.variant": variant,
    }
    if revision is not None:
        labels["org.opencontainers.image.revision"] = revision
    return push.described({"Id": "sha256:local", "Config": {"Labels": labels}}, {"image": promised}, WHOLE)


@pytest.mark.parametrize(
    ("variant", "tag"),
    [
        ("train", "1.2.3-cu130-0123456789ab"),
        ("train-nonroot", "1.2.3-nonroot-cu130-0123456789ab"),
        ("train-conda", "1.2.3-conda-cu130-0123456789ab"),
        ("deploy", "1.2.3-deploy-cpu-0123456789ab"),
        ("deploy-nonroot", "1.2.3-deploy-nonroot-cpu-0123456789ab"),
    ],
)
def test_the_immutable_tag_has_version_variant_cuda_and_inputs(variant, tag):
    assert described(variant).immutable_tag == tag


def test_an_image_of_another_cuda_line_has_that_line_in_its_tag_once():
    packages = {"torch": "2", "nvidia-cuda-runtime-cu12": "12.8.90"}
    assert described("train-cu128", packages=packages).moving_tags == ["1.2.3-cu128", "1.2-cu128", "cu128"]


def test_a_whole_release_has_what_is_fixed_for_the_variant_before_what_releases_choose_before_the_defaults():
    bake = {
        "variable": {"FLASH_ATTN": {"default": "hd32"}, "ARCHS": {"default": "80 90"}, "NCCL_TESTS": {"default": "0"}},
        "target": {"train-cu128": {"args": {"FLASH_ATTN": "none", "ARCHS": "${ARCHS}", "NCCL_TESTS": "0"}}},
    }
    expected = {"FLASH_ATTN": "hd32", "ARCHS": "80 90", "NCCL_TESTS": "1"}
    assert push.whole_release(bake, "train") == expected
    assert push.whole_release(bake, "train-cu128") == expected | {"FLASH_ATTN": "none", "NCCL_TESTS": "0"}


def test_an_image_for_older_drivers_lacks_nothing_of_its_variant():
    whole = push.whole_release(json.loads(push.BAKE.read_text()), "train-cu128")
    promised = {name.lower(): whole[name] for name in ("DALI", "TENSORRT", "NCCL_TESTS")} | {
        "base_image": whole["BASE_IMAGE"],
        "archs": whole["ARCHS"].split(),
        "flash_attn": None,
    }
    assert push.why_incomplete("1.2.3", promised, whole) is None


def test_a_release_of_the_workflow_is_a_whole_one():
    """Every machine that can choose NVIDIA's nccl-tests builds with what `make push` takes for whole."""
    release = yaml.safe_load((ROOT / ".github/workflows/images.yml").read_text())["jobs"]["release"]
    bake = json.loads(push.BAKE.read_text())
    for machine in release["strategy"]["matrix"]["include"]:
        for variant in machine["variants"].split():
            if "NCCL_TESTS" in bake["target"][variant]["args"]:
                assert machine.get("nccl_tests", "0") == push.whole_release(bake, variant)["NCCL_TESTS"]
    assert push.RELEASE.keys() == {"NCCL_TESTS"}


def test_the_moving_tags_go_from_the_version_to_the_line():
    assert described().moving_tags == ["1.2.3-cu130", "1.2-cu130", "cu130"]


def test_variants_of_one_version_have_no_tag_in_common():
    tags = [
        tag
        for variant in ("train", "train-nonroot", "deploy", "deploy-nonroot")
        for tag in (described(variant).immutable_tag, *described(variant).moving_tags)
    ]
    assert len(set(tags)) == len(tags)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"archs": ["90"]}, "it has no code for sm_80"),
        ({"flash_attn": None}, "it was built with FLASH_ATTN=none, and a release has FLASH_ATTN=hd32"),
        (
            {"flash_attn": {"version": "2.8.3.post2+full.sm80.sm90"}},
            "it was built with FLASH_ATTN=full, and a release has FLASH_ATTN=hd32",
        ),
        ({"dali": "0"}, "it was built with DALI=0, and a release has DALI=1"),
        ({"tensorrt": "rtx"}, "it was built with TENSORRT=rtx, and a release has TENSORRT=none"),
        ({"nccl_tests": "0"}, "it was built with NCCL_TESTS=0, and a release has NCCL_TESTS=1"),
        ({"version": "1.3.0rc1"}, "1.3.0rc1 is no release"),
        ({"base_image": "mine/debian:12"}, f"it was built on mine/debian:12, not on the pinned {PINNED}"),
        (
            {"base_image": "mine/debian:12", "variant": "deploy"},
            f"it was built on mine/debian:12, not on the pinned {PINNED}",
        ),
        ({"revision": "c0ffee-dirty"}, "it was built from a checkout with changes that are in no commit"),
    ],
)
def test_an_incomplete_image_gets_only_its_immutable_tag(changed, why):
    image = described(**changed)
    assert (image.incomplete, image.moving_tags) == (why, [])


@pytest.mark.parametrize(
    ("base_image", "is_whole"),
    [
        (PINNED.replace("debian", "mirror.example/debian"), True),
        (PINNED.replace("a" * 64, "b" * 64), False),
        (PINNED.partition("@")[0], False),
    ],
    ids=["a mirror of the pinned one", "another digest", "no digest"],
)
def test_the_base_image_is_known_by_its_digest(base_image, is_whole):
    assert bool(described(base_image=base_image).moving_tags) is is_whole


@pytest.mark.parametrize(("revision", "is_dirty"), [("c0ffee", False), ("c0ffee-dirty", True), (None, True)])
def test_an_image_is_dirty_when_no_commit_has_its_sources(revision, is_dirty):
    assert (described(revision=revision).dirty is not None) is is_dirty


@pytest.mark.parametrize("promises", [{"inputs": "f" * 64}, {"version": "9.9.9"}])
def test_labels_that_contradict_the_image_are_refused(promises):
    inspected = {
        "Id": "sha256:local",
        "Config": {"Labels": {"org.opencontainers.image.version": "1.2.3", "yolov12.inputs": INPUTS}},
    }
    with pytest.raises(PushError, match="do not say what is in it"):
        push.described(inspected, {"image": {"version": "1.2.3", "inputs": INPUTS} | promises}, WHOLE)


def test_an_image_without_labels_is_refused():
    with pytest.raises(PushError, match="make build"):
        push.described({"Id": "sha256:local", "Config": {"Labels": None}}, {"image": None}, WHOLE)


def test_torch_without_a_known_cuda_is_refused_instead_of_called_cpu():
    with pytest.raises(PushError, match="cuda-toolkit"):
        push.cuda_line({"torch": "2"})


@given(st.integers(11, 99), st.integers(0, 99), st.integers(0, 99))
def test_the_line_is_cuda_s_major_and_minor_version(major, minor, patch):
    assert push.cuda_line({"torch": "2", "cuda-toolkit": f"{major}.{minor}.{patch}"}) == f"cu{major}{minor}"


@pytest.mark.parametrize("registry", ["registry.example/team", "localhost:5000", "127.0.0.1:5000/a/b", "team"])
def test_a_registry_is_written_as_docker_writes_it(registry):
    assert push.repository_in(registry) == f"{registry}/yolov12"


@pytest.mark.parametrize(
    "registry", ["https://registry.example/team", "registry.example/team/", "registry.example/Team", "a/b:tag", "-x /y"]
)
def test_another_spelling_is_refused_with_the_right_one(registry):
    with pytest.raises(PushError, match=r"type it as registry\.example/team") as caught:
        push.repository_in(registry)
    assert caught.value.exit_code == 2


def test_no_registry_says_what_to_type():
    with pytest.raises(PushError, match=r"make push REGISTRY=registry\.example/team"):
        push.repository_in("")


@pytest.mark.parametrize(
    ("stderr", "exit_code", "advice"),
    [
        ('ERROR: failed to do request: Head "http://h": dial tcp: connect: connection refused', 75, "try again"),
        ("ERROR: dial tcp 192.0.2.1:443: i/o timeout", 75, "try again"),
        ("ERROR: lookup h on 127.0.0.53:53: no such host", 2, "look at REGISTRY for a typo"),
        ("ERROR: lookup h on 127.0.0.53:53: server misbehaving", 75, "try again"),
        ("ERROR: unexpected status from HEAD request to https://h: 503 Service Unavailable", 75, "try again"),
        ("ERROR: unexpected status from HEAD request to https://h: 401 Unauthorized", 2, "docker login h"),
        ("denied: requested access to the resource is denied", 2, "docker login h"),
        ("ERROR: pull access denied, insufficient_scope: authorization failed", 2, "docker login h"),
        ("tls: failed to verify certificate: x509: certificate signed by unknown authority", 2, "docs/registry.md"),
        ("http: server gave HTTP response to HTTPS client", 2, "docs/registry.md"),
        ("", 75, "it says nothing"),
    ],
)
def test_what_may_pass_is_worth_a_retry_and_what_can_not_says_what_to_do(stderr, exit_code, advice):
    error = push.refusal("h", stderr)
    assert error.exit_code == exit_code
    assert advice in str(error)


def test_a_manifest_is_known_by_its_bytes_and_names_its_configuration():
    manifest = json.dumps({"config": {"digest": "sha256:local"}}, indent=3).encode()
    held = push.held_from_manifest(manifest)
    assert held == Held("sha256:" + hashlib.sha256(manifest).hexdigest(), "sha256:local")
    assert held.is_image("sha256:local")
    assert held.is_image(held.digest)
    assert not held.is_image("sha256:other")


def test_an_index_is_known_by_its_own_digest_alone():
    held = push.held_from_manifest(b'{"manifests": []}')
    assert held.config_digest is None
    assert held.is_image(held.digest)


def configuration(version: str) -> dict[str, Any]:
    return {"config": {"Labels": {"org.opencontainers.image.version": version}}}


@pytest.mark.parametrize(
    ("found", "version"),
    [
        (configuration("1.10.0"), (1, 10, 0)),
        ({"linux/amd64": configuration("1.2.3")}, (1, 2, 3)),
        ({"config": {"Labels": None}}, ()),
        ({}, ()),
    ],
)
def test_the_version_of_a_pushed_image_is_its_label(found, version):
    assert push.version_of(found) == version


class FakeRegistry(push.Registry):
    """A registry in memory: tag -> what is under it and its version."""

    def __init__(self, **content: tuple[str, tuple[int, ...]]) -> None:
        super().__init__("registry.example/team/yolov12")
        self.content = {tag.replace("_", "-").removeprefix("v"): found for tag, found in content.items()}
        self.uploads: list[str] = []

    def held(self, tag: str) -> Held | None:
        return Held(f"sha256:manifest-of-{self.content[tag][0]}", self.content[tag][0]) if tag in self.content else None

    def version(self, tag: str) -> tuple[int, ...]:
        return self.content[tag][1] if tag in self.content else ()

    def push(self, image: str, tag: str) -> None:
        self.uploads.append(tag)
        self.content[tag] = ("sha256:local", (1, 2, 3))


def test_a_first_push_uploads_all_tags_and_ends_with_the_digest_to_pull_by():
    registry, image = FakeRegistry(), described()
    said = push.push("yolov12:train", image, registry)
    assert registry.uploads == [image.immutable_tag, *image.moving_tags]
    assert said[-1] == "docker pull registry.example/team/yolov12@sha256:manifest-of-sha256:local"


def test_a_second_push_of_the_same_image_leaves_the_immutable_tag_alone():
    registry, image = FakeRegistry(), described()
    push.push("yolov12:train", image, registry)
    registry.uploads.clear()
    said = push.push("yolov12:train", image, registry)
    assert image.immutable_tag not in registry.uploads
    assert said[0] == f"kept    registry.example/team/yolov12:{image.immutable_tag}"


def test_an_immutable_tag_with_another_image_is_refused_and_nothing_is_pushed():
    registry, image = FakeRegistry(), described()
    registry.content[image.immutable_tag] = ("sha256:other", (1, 2, 3))
    with pytest.raises(PushError, match="another build of the same inputs") as caught:
        push.push("yolov12:train", image, registry)
    assert caught.value.exit_code == 2
    assert registry.uploads == []


def test_a_tag_does_not_move_back_to_an_older_version():
    registry, image = FakeRegistry(cu130=("sha256:newer", (1, 10, 0))), described()
    said = push.push("yolov12:train", image, registry)
    assert registry.content["cu130"][0] == "sha256:newer"
    assert "kept    registry.example/team/yolov12:cu130, which is at 1.10.0" in said
    assert "1.2-cu130" in registry.uploads


def test_an_incomplete_image_moves_no_tag_and_says_why():
    registry, image = FakeRegistry(), described(archs=["90"])
    said = push.push("yolov12:train", image, registry)
    assert registry.uploads == [image.immutable_tag]
    assert "moved no other tag: it has no code for sm_80" in said


def test_a_registry_that_stored_something_else_is_an_error():
    registry, image = FakeRegistry(), described()
    registry.push = lambda image, tag: registry.content.update({tag: ("sha256:other", ())})  # type: ignore[method-assign]
    with pytest.raises(PushError, match="something else"):
        push.push("yolov12:train", image, registry)


def docker_that(exit_code: int, stderr: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Stands for subprocess.run: every image is there, and `docker run` ends like this."""

    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        is_run = command[1] == "run"
        return subprocess.CompletedProcess(command, exit_code if is_run else 0, "", stderr if is_run else "")

    return run


def test_an_image_that_is_not_what_was_built_is_sent_to_its_own_verify(monkeypatch):
    monkeypatch.setattr(push.subprocess, "run", docker_that(1, ""))
    with pytest.raises(
        PushError, match="is not what was built: docker run --rm yolov12:train verify says what differs"
    ):
        push.look_at("yolov12:train")


@pytest.mark.parametrize("exit_code", [2, 125, 137])
def test_an_image_that_docker_can_not_run_is_not_called_different(monkeypatch, exit_code):
    monkeypatch.setattr(push.subprocess, "run", docker_that(exit_code, "docker: more words\nno space left on device\n"))
    with pytest.raises(PushError) as caught:
        push.look_at("yolov12:train")
    assert str(caught.value).endswith(f"(exit code {exit_code}): no space left on device")
    assert "what was built" not in str(caught.value)
