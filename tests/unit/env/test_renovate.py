# SPDX-License-Identifier: AGPL-3.0-or-later
"""renovate.json finds every pin that has a comment for it, with its version. The expressions are applied here as Renovate does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from env.compatibility import SAME_RELEASE, TOOLCHAIN

ROOT = Path(__file__).resolve().parents[3]
CONFIG = json.loads((ROOT / "renovate.json").read_text())
TEXT = (ROOT / "env/versions.yaml").read_text()
VERSIONS = yaml.safe_load(TEXT)


def found() -> list[dict[str, str]]:
    """What the managers find in env/versions.yaml. JavaScript writes (?<name>) where Python writes (?P<name>)."""
    return [
        match.groupdict()
        for manager in CONFIG["customManagers"]
        for pattern in manager["matchStrings"]
        for match in re.finditer(pattern.replace("(?<", "(?P<"), TEXT)
    ]


def test_each_pin_with_a_comment_is_found_once():
    commented = re.findall(r"# renovate: datasource=(\S+) depName=(\S+)", TEXT)
    assert sorted((one["datasource"], one["depName"]) for one in found()) == sorted(commented)
    assert commented


def test_each_is_found_with_the_version_that_is_pinned():
    pins = VERSIONS["packages"] | VERSIONS["sources"] | VERSIONS["downloads"]
    known = {(name, pin["version"]) for name, pin in pins.items()}
    known |= {("tensorrt-cu13-bindings", pin["version"]) for pin in VERSIONS["vendor"].values()}
    # a repository's pin is called after it
    seen = {
        (one["depName"].rpartition("/")[2], one["currentValue"]) for one in found() if one["datasource"] != "docker"
    }
    assert seen == known


def test_each_tensorrt_of_the_vendor_stays_in_its_major_version():
    (rule,) = (rule for rule in CONFIG["packageRules"] if "tensorrt-cu13-bindings" in rule["matchPackageNames"])
    assert (rule["matchCurrentVersion"], rule["allowedVersions"]) == ("<11", "<11")
    for name, pin in VERSIONS["vendor"].items():
        assert pin["version"].split(".")[0] == name.removeprefix("tensorrt-")


def test_a_commit_is_found_with_its_tag():
    (one,) = [one for one in found() if one["datasource"] == "github-tags"]
    assert one["currentDigest"] == VERSIONS["downloads"]["nccl-tests"]["commit"]


def test_each_container_image_is_found_with_tag_and_digest():
    images = {f"{one['currentValue']}@{one['currentDigest']}" for one in found() if one["datasource"] == "docker"}
    assert images == {f"{pin['name'].partition(':')[2]}@{pin['digest']}" for pin in VERSIONS["images"].values()}


def test_the_managers_read_the_file_of_the_pins_and_no_other():
    assert CONFIG["enabledManagers"] == ["custom.regex"]
    for manager in CONFIG["customManagers"]:
        (pattern,) = manager["managerFilePatterns"]
        assert re.search(pattern.strip("/"), "env/versions.yaml")
        assert not re.search(pattern.strip("/"), "deploy/env/versions.yaml")


def test_what_must_change_together_is_one_change():
    together = [set(rule["matchPackageNames"]) for rule in CONFIG["packageRules"]]
    assert any({*TOOLCHAIN, "torch", "torchvision", "triton", "cuda-toolkit"} <= names for names in together)
    assert all(any(set(pair) <= names for names in together) for pair in SAME_RELEASE)
    pinned = {one["depName"] for one in found()}
    assert set().union(*together) <= pinned, "a name that is not pinned"
