# SPDX-License-Identifier: AGPL-3.0-or-later
"""The Python programs of the build: the lock in parts, what an image says of itself, and the hash of the inputs."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import shutil
import sys
import tomllib
import zipfile
from importlib.metadata import PathDistribution, requires
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from env import render

ROOT = Path(__file__).resolve().parents[3]
LOCK = (ROOT / "env/locks/train-py311.txt").read_text()


def program(path: str) -> ModuleType:
    """A program of docker/, which is no package, as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


locks, describe, inputs = (program(f"docker/{name}.py") for name in ("stages/locks", "stages/describe", "inputs"))


# The lock in parts


def test_the_parts_of_the_lock_are_the_lock_and_none_is_empty():
    parts = locks.by_layer(LOCK)
    assert sorted("".join(parts.values())) == sorted("".join(locks.entries(LOCK)))
    assert all(parts.values())


def test_each_big_package_is_in_the_part_of_its_layer():
    parts = locks.by_layer(LOCK)
    for layer, name in (
        ("cuda", "nvidia-cublas"),
        ("cudnn-nccl", "nvidia-cudnn-cu13"),
        ("torch", "triton"),
        ("others", "ultralytics"),
    ):
        assert f"\n{name}==" in "\n" + parts[layer]


def test_a_package_that_the_lock_does_not_have_is_named():
    with pytest.raises(ValueError, match="the lock has no nothing"):
        locks.only(LOCK, ["numpy", "nothing"])


def test_the_packages_of_the_deploy_image_need_nothing_but_each_other():
    packages = render.load().matrix["variants"]["deploy"]["packages"]
    project = tomllib.loads((ROOT / "docker/deploy/pyproject.toml").read_text())["project"]
    needed = {
        Requirement(text).name for name in packages for text in requires(name) or [] if not Requirement(text).marker
    }
    assert {canonicalize_name(name) for name in [*needed, *project["dependencies"]]} <= set(packages)


def test_the_deploy_package_imports_nothing_but_its_requirements_and_what_its_wheel_takes_along():
    project = tomllib.loads((ROOT / "docker/deploy/pyproject.toml").read_text())
    taken = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"].values()
    files = [*(ROOT / "docker/deploy/yolov12_deploy").glob("*.py"), *(ROOT / name for name in taken)]
    known = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in taken}
    allowed = sys.stdlib_module_names | {"numpy", "cv2", "onnxruntime", "yolov12_deploy"}
    for file in files:
        for module in imports(file):
            if module.split(".")[0] == "yolov12":
                assert module in known, f"{file.name} imports {module}, which the wheel does not have"
            else:
                assert module.split(".")[0] in allowed, f"{file.name} imports {module}"


def imports(file: Path) -> set[str]:
    """Modules that a file imports, at its top or in a function; of `from yolov12 import pins` the module `yolov12.pins`."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in names if (ROOT / f"{name.replace('.', '/')}.py").is_file()}
            found |= modules or {node.module}
    return found - {"yolov12.compat"}  # what `from yolov12 import YOLO` would need


# What an image says of itself


def distribution(folder: Path, name: str, metadata: str = "", *files: str) -> PathDistribution:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n{metadata}")
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("the text")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    return PathDistribution(info)


def test_the_wheel_s_hash_archs_and_library_are_recorded(tmp_path):
    wheel = tmp_path / "flash_attn-2.8+hd32.sm80.sm90-py3-none-linux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("flash_attn/_hd32.so", b"code")
        archive.writestr("flash_attn/__init__.py", b"")
    found = describe.flash_attn(tmp_path)
    assert found["version"] == "2.8+hd32.sm80.sm90"
    assert found["archs"] == ["80", "90"]
    assert found["sha256"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert found["libraries"] == {"flash_attn/_hd32.so": hashlib.sha256(b"code").hexdigest()}


def test_without_a_wheel_none_is_recorded(tmp_path):
    assert describe.flash_attn(tmp_path) is None


def test_every_locked_version_is_promised(tmp_path):
    for name, part in locks.by_layer(LOCK).items():
        (tmp_path / f"{name}.txt").write_text(part)
    promised = describe.locked(tmp_path)
    assert promised["torch"] == render.load().version_of("torch")
    assert len(promised) == len(locks.entries(LOCK))


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("License-Expression: MIT AND BSD-3-Clause\n", [{"expression": "MIT AND BSD-3-Clause"}]),
        (
            "Classifier: License :: OSI Approved :: MIT License\nLicense: long text\n",
            [{"license": {"name": "MIT License"}}],
        ),
        ("License: BSD\n", [{"license": {"name": "BSD"}}]),
        ("", []),
    ],
)
def test_a_declared_licence_is_taken_from_where_it_is_said(tmp_path, metadata, expected):
    assert describe.licence_entry(distribution(tmp_path, "a", metadata)) == expected


def test_licence_texts_are_linked_and_packages_without_one_are_named(tmp_path):
    texts = ("a-1.0.dist-info/licenses/LICENSE", "a-1.0.dist-info/licenses/vendored/LICENSE", "a/code.py")
    found = [distribution(tmp_path, "a", "", *texts), distribution(tmp_path, "b", "", "b.py")]
    assert describe.link_licences(tmp_path / "licenses", found) == ["b"]
    links = list((tmp_path / "licenses/a-1.0").iterdir())
    assert len(links) == 2
    assert all(link.read_text() == "the text" for link in links)


def test_the_bill_is_cyclonedx_and_the_same_for_the_same_inputs(tmp_path):
    facts = {"variant": "train", "version": "0.1.0", "base_image": "debian", "inputs": "abc"}
    components = describe.python_components([distribution(tmp_path, "Some_Name", "License-Expression: MIT\n")], None)
    bill = describe.bill_of_materials(facts, components)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["components"][0]["purl"] == "pkg:pypi/some-name@1.0"
    assert json.dumps(bill) == json.dumps(describe.bill_of_materials(facts, components))


@pytest.mark.parametrize(("older", "written"), [("570=12.8", True), ("none", False)])
def test_the_entrypoint_gets_the_lines_for_older_drivers_where_there_are_any(tmp_path, monkeypatch, older, written):
    monkeypatch.setattr(describe.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(describe, "distributions", lambda: [])
    monkeypatch.setattr(describe, "debian_components", lambda: [])
    facts = {"variant": "train", "version": "1", "base_image": "debian", "inputs": "abc", "size_budget_gb": "5.4"}
    describe.main(tmp_path, tmp_path, facts | {"least_driver": "580", "older_drivers": older})
    folder = tmp_path / "share/yolov12"
    assert (folder / "least_driver").read_text() == "580\n"
    assert (folder / "older_drivers").exists() == written


# The hash of the inputs


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A little tree with a Dockerfile, a source, a cache and a file that the builder does not read."""
    shutil.copy(ROOT / ".dockerignore", tmp_path)
    for name in (
        "docker/Dockerfile",
        "yolov12/cli.py",
        "yolov12/__pycache__/cli.pyc",
        "tests/test_cli.py",
        "benchmarks/records/a.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_the_hash_does_not_follow_how_many_compilers_run_at_once(checkout):
    assert inputs.digest(checkout, {"MAX_JOBS": "2"}) == inputs.digest(checkout, {"MAX_JOBS": "auto"})


@pytest.mark.parametrize("name", ["docker/Dockerfile", "yolov12/cli.py"])
def test_the_hash_follows_what_goes_into_the_image(checkout, name):
    before = inputs.digest(checkout, {"ARCHS": "80"})
    (checkout / name).write_text("changed")
    assert inputs.digest(checkout, {"ARCHS": "80"}) != before


@pytest.mark.parametrize("name", ["yolov12/__pycache__/cli.pyc", "tests/test_cli.py", "benchmarks/records/a.json"])
def test_the_hash_does_not_follow_what_does_not(checkout, name):
    before = inputs.digest(checkout, {"ARCHS": "80"})
    (checkout / name).write_text("changed")
    assert inputs.digest(checkout, {"ARCHS": "80"}) == before


def test_the_hash_follows_arguments_and_modes_but_not_itself(checkout):
    before = inputs.digest(checkout, {"ARCHS": "80", "INPUTS": ""})
    assert inputs.digest(checkout, {"ARCHS": "80", "INPUTS": before}) == before
    assert inputs.digest(checkout, {"ARCHS": "90", "INPUTS": ""}) != before
    (checkout / "yolov12/cli.py").chmod(0o755)
    assert inputs.digest(checkout, {"ARCHS": "80", "INPUTS": ""}) != before


def test_every_file_that_the_dockerfile_takes_is_an_input():
    taken = {path.relative_to(ROOT).as_posix() for path in inputs.files(ROOT)}
    for name in (
        "docker/stages/locks.py",
        "docker/stages/environment.sh",
        "docker/deploy/pyproject.toml",
        "env/locks/train-py311.txt",
    ):
        assert name in taken
    assert not [name for name in taken if "__pycache__" in name or name.startswith(("tests/", "benchmarks/records"))]
