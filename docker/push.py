#!/usr/bin/env python3
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`make push`: a built image into a registry, under tags computed from what the image says of itself. docs/registry.md explains them.

    REGISTRY=registry.example/team VARIANT=train docker/push.py      # ALLOW_DIRTY=1: also from a checkout with changes

Needs docker with buildx and a Python without packages. Exit codes: 0 the registry has it; 2 refused, or no such host; 75 the registry did not
answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BAKE = Path(__file__).resolve().parent / "docker-bake.json"
RELEASE = {"NCCL_TESTS": "1"}
"""What a release is built with and `make build` without options is not, since it fetches sources from elsewhere (env/workflow.py does the same)."""
DIFFERS = 1
"""Exit code of `verify` where the image is not what was built; every other one but 0 is docker's, or the entrypoint's."""


class PushError(Exception):
    """One sentence for the user, and the exit code."""

    def __init__(self, sentence: str, exit_code: int = 2) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Image:
    """A built image as it describes itself."""

    id: str
    """How the engine names it: the digest of its configuration, or of its manifest where containerd keeps the images."""
    variant: str
    version: str
    line: str
    """The CUDA that it was built for, such as cu130; cpu without any."""
    inputs: str
    """sha256 of all that it was made from (docker/inputs.py)."""
    incomplete: str | None
    """Why it must not become what people get by a tag that moves; None for a whole release."""
    dirty: str | None
    """Why nobody can build it again from a commit; None where a commit is known."""

    @property
    def flavour(self) -> str:
        """What tells variants of one version apart: cu130, nonroot-cu130, deploy-cpu."""
        parts = [self.variant.removeprefix("train").strip("-"), self.line]
        return "-".join(dict.fromkeys(filter(None, parts)))  # the variant train-cu128 names its line already

    @property
    def immutable_tag(self) -> str:
        """The tag that will always mean this image."""
        return f"{self.version}-{self.flavour}-{self.inputs[:12]}"

    @property
    def moving_tags(self) -> list[str]:
        """Tags that follow the newest build of this version, of this minor version, and of all; none for an incomplete image."""
        minor = ".".join(self.version.split(".")[:2])
        return [] if self.incomplete else [f"{self.version}-{self.flavour}", f"{minor}-{self.flavour}", self.flavour]


@dataclass(frozen=True)
class Held:
    """What a registry has under a tag."""

    digest: str
    config_digest: str | None

    def is_image(self, image_id: str) -> bool:
        """Whether that is the local image of this id."""
        return image_id in (self.digest, self.config_digest)


def described(inspected: Mapping[str, Any], report: Mapping[str, Any], whole: Mapping[str, str]) -> Image:
    """What `docker image inspect` and the image's own `verify --json` say together, beside the arguments of a whole release.

    Raises:
        PushError: labels and content contradict each other, or say too little to make a tag of.
    """
    labels, promised = inspected["Config"].get("Labels") or {}, report["image"] or {}
    version, inputs = (labels.get(name, "") for name in ("org.opencontainers.image.version", "yolov12.inputs"))
    if not re.fullmatch(r"[0-9a-f]{64}", inputs) or (version, inputs) != (
        promised.get("version"),
        promised.get("inputs"),
    ):
        raise PushError("the labels of this image do not say what is in it: make it with make build")
    dirty = None
    if "org.opencontainers.image.revision" not in labels:
        dirty = "no commit is known of what it was built from"
    elif labels["org.opencontainers.image.revision"].endswith("-dirty"):
        dirty = "it was built from a checkout with changes that are in no commit"
    return Image(
        id=inspected["Id"],
        variant=labels["yolov12.variant"],
        version=version,
        line=cuda_line(promised["packages"]),
        inputs=inputs,
        incomplete=dirty or why_incomplete(version, promised, whole),
        dirty=dirty,
    )


def cuda_line(packages: Mapping[str, str]) -> str:
    """`cu130` for CUDA 13.0, `cpu` for none.

    Raises:
        PushError: torch is there, and nothing says with which CUDA.
    """
    if version := packages.get("cuda-toolkit") or packages.get("nvidia-cuda-runtime-cu12"):
        return "cu" + "".join(version.split(".")[:2])
    if "torch" in packages:
        raise PushError("this image has torch, and no package cuda-toolkit says with which CUDA")
    return "cpu"


def why_incomplete(version: str, promised: Mapping[str, Any], whole: Mapping[str, str]) -> str | None:
    """What tells an image from a whole release, which has the arguments `whole`; None for nothing."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        return f"{version} is no release"
    if not same_image(promised["base_image"], whole["BASE_IMAGE"]):
        return f"it was built on {promised['base_image']}, not on the pinned {whole['BASE_IMAGE']}"
    if not promised["archs"]:  # no GPU code at all: deploy
        return None
    if missing := [arch for arch in whole["ARCHS"].split() if arch not in promised["archs"]]:
        return f"it has no code for {', '.join('sm_' + arch for arch in missing)}"
    chosen = {name: promised[name.lower()] for name in ("DALI", "TENSORRT", "NCCL_TESTS")}
    chosen["FLASH_ATTN"] = flash_attn_of(promised["flash_attn"])
    return next(
        (
            f"it was built with {name}={value}, and a release has {name}={whole[name]}"
            for name, value in chosen.items()
            if value != whole[name]
        ),
        None,
    )


def flash_attn_of(wheel: Mapping[str, Any] | None) -> str:
    """Which of the choices for FLASH_ATTN an image was built with, by the wheel's version: `2.8.3+hd32.sm90` is hd32."""
    return "none" if wheel is None else wheel["version"].partition("+")[2].partition(".")[0]


def same_image(one: str, other: str) -> bool:
    """Whether two references mean the same bytes: by their digests, so that a mirror's counts as well, or else by their whole names."""
    digests = [reference.partition("@")[2] for reference in (one, other)]
    return digests[0] == digests[1] if all(digests) else one == other


def repository_in(registry: str) -> str:
    """`registry.example/team` -> `registry.example/team/yolov12`.

    Raises:
        PushError: it is missing, or is not written as docker wants it.
    """
    if not registry:
        raise PushError("where to? Type make push REGISTRY=registry.example/team")
    if not re.fullmatch(r"[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)*", registry):
        raise PushError(
            f"REGISTRY={registry}: type it as registry.example/team, in lower case, without https:// and a tag"
        )
    return f"{registry}/yolov12"


# What a registry's refusal looks like in docker's words -> what can be done. Everything else may pass, and is worth a retry.
REFUSALS = (
    (r"\b401\b|\b403\b|unauthorized|denied|authentication required|no basic auth", "type docker login {host}"),
    (r"x509:|tls: ", "docs/registry.md says how docker learns to trust its certificate"),
    (r"HTTP response to HTTPS client", "plain HTTP is accepted on 127.0.0.1 alone; docs/registry.md says more"),
)


def refusal(host: str, stderr: str) -> PushError:
    """What docker's last line on stderr means."""
    said = last_line(stderr).removeprefix("ERROR: ")
    if "no such host" in said:  # a name server that answered; one that did not says something else
        return PushError(f"there is no host {host} ({said}): look at REGISTRY for a typo")
    for pattern, advice in REFUSALS:
        if re.search(pattern, said, re.IGNORECASE):
            return PushError(f"{host} refuses ({said}): {advice.format(host=host)}")
    return PushError(f"{host} did not answer as a registry does ({said}): try again", 75)


def last_line(stderr: str) -> str:
    """What a program that failed said last."""
    return (stderr.strip().splitlines() or ["it says nothing"])[-1]


def held_from_manifest(manifest: bytes) -> Held:
    """Digests of a manifest as the registry sent it, byte for byte; an index of several has no configuration of its own."""
    config = json.loads(manifest).get("config") or {}
    return Held("sha256:" + hashlib.sha256(manifest).hexdigest(), config.get("digest"))


def version_of(configuration: Mapping[str, Any]) -> tuple[int, ...]:
    """The version label of a pushed image as numbers, of one of several for an index; () where there is none."""
    for one in (configuration, *(value for value in configuration.values() if isinstance(value, dict))):
        version = ((one.get("config") or {}).get("Labels") or {}).get("org.opencontainers.image.version", "")
        if re.fullmatch(r"\d+(\.\d+)*", version):
            return tuple(map(int, version.split(".")))
    return ()


class Registry:
    """One repository of a registry, by docker's command line, which knows the user's credentials."""

    def __init__(self, repository: str) -> None:
        self.repository = repository
        self.host = repository.split("/")[0]

    def held(self, tag: str) -> Held | None:
        """What is under a tag; None for nothing.

        Raises:
            PushError: the registry refuses, or does not answer.
        """
        done = self._inspect(tag, "--raw")
        return None if done is None else held_from_manifest(done)

    def version(self, tag: str) -> tuple[int, ...]:
        """The version of what is under a tag; () for nothing."""
        done = self._inspect(tag, "--format", "{{json .Image}}")
        return () if done is None else version_of(json.loads(done))

    def push(self, image: str, tag: str) -> None:
        """Upload; docker's progress goes to stderr.

        Raises:
            PushError: the registry refuses, or does not answer.
        """
        name = f"{self.repository}:{tag}"
        subprocess.run(["docker", "tag", image, name], check=True)
        done = subprocess.run(
            ["docker", "push", name], stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise refusal(self.host, done.stderr)

    def _inspect(self, tag: str, *options: str) -> bytes | None:
        name = f"{self.repository}:{tag}"
        done = subprocess.run(
            ["docker", "buildx", "imagetools", "inspect", *options, name], capture_output=True, check=False
        )
        if not done.returncode:
            return done.stdout
        said = done.stderr.decode(errors="replace")
        if said.strip().endswith(f"{name}: not found"):
            return None
        raise refusal(self.host, said)


def look_at(name: str) -> Image:
    """The local image of this name, after it has verified itself.

    Raises:
        PushError: there is none, it is not what it was built to be, or docker can not run it.
    """
    inspected = subprocess.run(["docker", "image", "inspect", name], capture_output=True, text=True, check=False)
    if inspected.returncode:
        if "no such image" in inspected.stderr.lower():
            raise PushError(f"there is no image {name}{how_to_build(name.partition(':')[2])}")
        raise PushError(f"docker does not answer: {inspected.stderr.strip()}")
    command = ["docker", "run", "--rm", "--network", "none", name, "verify", "--json"]
    report = subprocess.run(command, capture_output=True, text=True, check=False)
    if report.returncode not in (0, DIFFERS):
        raise PushError(
            f"docker can not let {name} verify itself (exit code {report.returncode}): {last_line(report.stderr)}"
        )
    if report.returncode:
        raise PushError(f"{name} is not what was built: docker run --rm {name} verify says what differs")
    found = json.loads(inspected.stdout)[0]
    variant = (found["Config"].get("Labels") or {}).get("yolov12.variant", "")
    return described(found, json.loads(report.stdout), whole_release(json.loads(BAKE.read_text()), variant))


def how_to_build(variant: str) -> str:
    """What to type, for the end of a sentence: the command, or where there is no such variant, those that there are."""
    variants = list(json.loads(BAKE.read_text())["target"])
    if variant in variants:
        return f": type make build VARIANT={variant}"
    return f", and no variant of that name: type one of {' '.join(variants)}"


def whole_release(bake: Mapping[str, Any], variant: str) -> dict[str, str]:
    """The arguments of a whole release: the variables' defaults, RELEASE, and what is fixed for this variant."""
    fixed = bake["target"].get(variant, {}).get("args", {})
    defaults = {key: value["default"] for key, value in bake["variable"].items()}
    return defaults | RELEASE | {key: value for key, value in fixed.items() if not value.startswith("${")}


def push(name: str, image: Image, registry: Registry) -> list[str]:
    """Push what the registry lacks and move the tags; what was done, line by line, and last how to pull it.

    Raises:
        PushError: the immutable tag means another image already; or from the registry.
    """
    tag, where = image.immutable_tag, registry.repository
    held = registry.held(tag)
    if held and not held.is_image(image.id):
        raise PushError(
            f"{where}:{tag} is another build of the same inputs, and stays: docker pull {where}@{held.digest} gets it"
        )
    done = [f"kept    {where}:{tag}"]
    if held is None:
        registry.push(name, tag)
        held = registry.held(tag)
        if held is None or not held.is_image(image.id):
            raise PushError(f"{where}:{tag} was pushed, and the registry has something else under that tag", 75)
        done = [f"pushed  {where}:{tag}"]
    for moving in image.moving_tags:
        newer = registry.version(moving)
        if newer > tuple(map(int, image.version.split("."))):
            done.append(f"kept    {where}:{moving}, which is at {'.'.join(map(str, newer))}")
            continue
        registry.push(name, moving)
        done.append(f"moved   {where}:{moving}")
    if image.incomplete:
        done.append(f"moved no other tag: {image.incomplete}")
    return [*done, f"docker pull {where}@{held.digest}"]


def main(environ: Mapping[str, str], arguments: Sequence[str] = ()) -> int:
    """Read the variables of `make push`, do it, and say in one sentence what is wrong. Any argument shows the usage, and pushes nothing."""
    if arguments:
        is_asked = arguments[0] in ("-h", "--help")
        if not is_asked:
            print(f"push: {arguments[0]} is not understood: what there is to say is said by variables", file=sys.stderr)
        print(__doc__, file=sys.stdout if is_asked else sys.stderr)
        return 0 if is_asked else 2
    try:
        if not shutil.which("docker"):
            raise PushError("docker with buildx is needed: https://docs.docker.com/engine/install/")
        if environ.get("CUDA", "13.0") not in ("", "13.0") or environ.get("ENV_MANAGER", "venv") not in ("", "venv"):
            raise PushError(
                "CUDA and ENV_MANAGER choose what is built; here name the image: VARIANT=train-cu128 or VARIANT=train-conda"
            )
        registry = Registry(repository_in(environ.get("REGISTRY", "")))
        name = f"yolov12:{environ.get('VARIANT') or 'train'}"
        image = look_at(name)
        if image.dirty and environ.get("ALLOW_DIRTY") != "1":
            raise PushError(f"{name} is not pushed, since {image.dirty}: build it from a commit, or type ALLOW_DIRTY=1")
        print("\n".join(push(name, image, registry)))
    except PushError as error:
        print(f"push: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ, sys.argv[1:]))
