# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is in the image, read from the inside, against what env/ promises; and what must not be in it."""

import json
import re
from pathlib import Path

import yaml

from tests.image.harness import STRANGER, Image

# Debian's own; what else had these bits would let a container's user become someone else.
SETUID_OF_DEBIAN = {
    *("chfn", "chsh", "gpasswd", "mount", "newgrp", "passwd", "su", "umount"),
    *("chage", "expiry", "unix_chkpwd"),
}


def as_root(image: Image, program: str) -> str:
    return image.run("bash", "-c", program, options=("--env=YOLOV12_USER=root",)).check().out.strip()


def test_the_versions_inside_are_those_of_the_lock(image: Image, repository: Path):
    lock = (repository / "env/locks/train-py311.txt").read_text()
    locked = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ \\\n]+)", lock, re.MULTILINE))
    found = json.loads(
        image.python(
            "import json, importlib.metadata as m; print(json.dumps({d.name: d.version for d in m.distributions()}))"
        )
    )
    found = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found.items()}
    assert {name: version for name, version in found.items() if name not in ("pip", "yolov12")} == locked


def test_the_versions_inside_are_the_pinned_ones(image: Image, repository: Path):
    pins = {
        name: pin["version"]
        for name, pin in yaml.safe_load((repository / "env/versions.yaml").read_text())["packages"].items()
    }
    names = [
        "torch",
        "torchvision",
        "ultralytics",
        "onnx",
        "onnxruntime",
        "triton",
        "nvidia-nccl-cu13",
        "nvidia-cudnn-cu13",
    ]
    found = image.python(f"import importlib.metadata as m; print(*(m.version(name) for name in {names}))").split()
    assert dict(zip(names, found, strict=True)) == {name: pins[name] for name in names}


def test_every_requested_package_can_be_imported(image: Image):
    image.python(
        "import torch, torchvision, ultralytics, cv2, onnx, onnxruntime, onnxslim, pydantic_settings, cloudpickle, yolov12"
    )


def test_torch_has_code_for_every_promised_arch(image: Image, repository: Path):
    archs = yaml.safe_load((repository / "env/matrix.yaml").read_text())["archs"].values()
    compiled = image.python("import torch; print(torch._C._cuda_getArchFlags())").split()
    assert {f"sm_{arch['code']}" for arch in archs} <= set(compiled)


def test_labels_say_what_it_is(image: Image):
    labels = json.loads(image.inspect("{{json .Config.Labels}}"))
    for name in ("title", "description", "version", "licenses", "base.name"):
        assert labels.get(f"org.opencontainers.image.{name}"), name
    assert labels["org.opencontainers.image.licenses"] == "AGPL-3.0-or-later"
    assert labels["org.opencontainers.image.version"] == image.python("import yolov12; print(yolov12.__version__)")


def test_nvidia_s_runtime_is_asked_for_compute_utility_and_video(image: Image):
    environment = json.loads(image.inspect("{{json .Config.Env}}"))
    assert "NVIDIA_VISIBLE_DEVICES=all" in environment
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in environment


def test_the_build_left_nothing_behind(image: Image):
    program = """
    shopt -s nullglob
    ls -d /opt/installer /run/stage /run/secrets /src /wheel /var/cache/uv /root/.cache /root/.config 2>/dev/null
    ls -A /tmp /var/lib/apt/lists
    """
    assert [line for line in as_root(image, program).splitlines() if line and not line.endswith(":")] == []


def test_no_certificate_of_the_builder_is_inside(image: Image):
    assert as_root(image, "find / -xdev -name 'ca.crt' 2>/dev/null || true") == ""
    assert "ca.crt" not in image.inspect("{{json .Config.Env}}")


def test_nothing_but_debian_s_own_programs_changes_the_user(image: Image):
    found = as_root(image, "find / -xdev -type f -perm /6000 2>/dev/null || true").split()
    assert {Path(name).name for name in found} <= SETUID_OF_DEBIAN


def test_nobody_but_root_can_change_the_environment(image: Image):
    assert as_root(image, "find /opt/yolov12 -xdev \\( -not -user root -o -perm /022 \\) -not -type l | head") == ""


def test_everything_in_the_environment_can_be_read_by_anyone(image: Image):
    assert as_root(image, "find /opt/yolov12 /root/yolov12 -xdev -not -type l -not -perm -004 | head") == ""


def test_python_files_come_compiled_and_are_not_checked_against_their_source(image: Image):
    program = """
import pathlib, sysconfig
site = pathlib.Path(sysconfig.get_path("purelib"))
flags = {p: int.from_bytes(p.read_bytes()[4:8], "little") for name in ("yolov12", "ultralytics", "torch/nn") for p in (site / name).rglob("*.pyc")}
print(len(flags) > 100, {flag for flag in flags.values()})
"""
    assert image.python(program, options=STRANGER) == "True {1}"


def test_the_licence_is_inside(image: Image, repository: Path):
    assert as_root(image, "cat /root/yolov12/LICENSE") == (repository / "LICENSE").read_text().strip()
