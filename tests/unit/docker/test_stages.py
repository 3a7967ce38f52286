# SPDX-License-Identifier: AGPL-3.0-or-later
"""The Python programs of the build: the lock in parts, what an image says of itself, and the hash of the inputs."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import re
import shutil
import sys
import tomllib
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path
from types import ModuleType

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st
from packageurl import PackageURL

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


# What a stage's script has beside it


def runs() -> list[tuple[str, str]]:
    """(script of docker/stages, the RUN that calls it) for each in the Dockerfile."""
    text = re.sub(r"\\\n", " ", (ROOT / "docker/Dockerfile").read_text())
    return [(found[1], found[0]) for found in re.finditer(r"^RUN .* bash /run/stage/(\S+\.sh).*$", text, re.MULTILINE)]


@pytest.mark.parametrize("script", sorted({script for script, _ in runs()}))
def test_what_a_script_sources_is_mounted_wherever_it_runs_and_nowhere_else(script):
    sources = ". /run/stage/common.sh\n" in (ROOT / "docker/stages" / script).read_text()
    for run in (run for name, run in runs() if name == script):
        assert f"source=docker/stages/{script},target=/run/stage/{script} " in run
        assert ("source=docker/stages/common.sh,target=/run/stage/common.sh " in run) is sources


SECRETS = [
    "--mount=type=secret,id=ca,target=/run/secrets/ca.crt,mode=0444",
    "--mount=type=secret,id=netrc,target=/run/secrets/netrc",
]


@pytest.mark.parametrize("script", sorted({script for script, _ in runs()}))
def test_the_secrets_are_there_wherever_something_is_fetched_and_nowhere_else(script):
    text = (ROOT / "docker/stages" / script).read_text()
    fetches = "\nuse_secrets\n" in text
    assert (
        bool(re.search(r"install_debian|curl |git fetch|pip download|--default-index|--require-hashes", text))
        is fetches
    )
    for run in (run for name, run in runs() if name == script):
        assert re.findall(r"--mount=type=secret\S*", run) == (SECRETS if fetches else [])


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


@pytest.mark.parametrize(
    ("variant", "layer", "name"),
    [
        ("deploy", "cuda", "tensorrt-lean-cu13-libs"),
        ("deploy", "others", "onnxruntime"),
        ("deploy-ort", "cuda", "nvidia-cublas"),
        ("deploy-ort", "cudnn-nccl", "nvidia-cudnn-cu13"),
        ("deploy-ort", "others", "onnxruntime-gpu"),
    ],
)
def test_the_images_without_torch_have_nvidia_s_libraries_in_layers_of_their_own(variant, layer, name):
    parts = locks.by_layer(lock_of(variant).read_text())
    assert f"\n{name}==" in "\n" + parts[layer]
    assert parts["torch"] == ""


def test_what_is_optional_is_a_part_of_its_own_with_what_nothing_else_needs():
    parts = locks.by_layer(LOCK)
    for part, roots in locks.OPTIONAL.items():
        assert set(roots) <= {locks.name_of(entry) for entry in locks.entries(parts[part])}
    dali = {locks.name_of(entry) for entry in locks.entries(parts["dali"])}
    assert {"nvidia-nvimgcodec-cu13", "astunparse", "wheel"} <= dali, "what DALI needs, and what that needs"
    assert not {"numpy", "packaging", "torch"} & dali, "what others need too"


def test_the_optional_parts_are_those_of_the_matrix():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = render.load().matrix["locks"]["train"]["optional"]
    assert {name: tuple(project["optional-dependencies"][name]) for name in optional} == locks.OPTIONAL


def test_a_package_stays_where_something_else_needs_it_too():
    needed_by = {"a": ["x (pyproject.toml)"], "b": ["a"], "c": ["-c pins.txt", "a", "b"], "d": ["b", "e"], "e": []}
    lock = "".join(
        f"{name}==1\n    # via\n" + "".join(f"    #   {line}\n" for line in lines) for name, lines in needed_by.items()
    ).replace("e==1\n    # via\n", "e==1\n")
    assert locks.only_for(lock.replace("# via\n    #   a\n", "# via a\n"), ("a",)) == {"a", "b", "c"}


def test_what_an_image_adds_to_another_is_what_only_its_lock_has(tmp_path):
    (tmp_path / "train.txt").write_text(LOCK)
    dev = (ROOT / "env/locks/dev-py311.txt").read_text()
    (part,) = locks.parts_of(dev, ["--beyond", str(tmp_path / "train.txt")]).values()
    names = [locks.name_of(entry) for entry in locks.entries(part)]
    assert {"pytest", "ruff", "uv"} <= set(names)
    assert not {"torch", "numpy"} & set(names)


def test_a_package_that_the_lock_does_not_have_is_named():
    with pytest.raises(ValueError, match="the lock has no nothing"):
        locks.only(LOCK, ["numpy", "nothing"])


def test_every_lock_of_the_build_has_the_pinned_versions():
    names = [path.name for path in (ROOT / "env/locks").glob("*.txt") if not path.name.startswith(("con", "over"))]
    locks.check_pins(ROOT / "env/locks", names)


def test_a_lock_that_was_not_made_anew_after_a_pin_moved_is_refused_with_both_versions(tmp_path):
    (tmp_path / "train.txt").write_text(
        "torch==1.0 \\\n    --hash=sha256:0\n    # via -c env/locks/constraints-old.txt\n"
    )
    (tmp_path / "constraints-old.txt").write_text("# comment\ntorch==2.0\nruff==1\n")
    with pytest.raises(ValueError, match=r"^train.txt has torch 1.0 \(pinned 2.0\): type make lock$"):
        locks.check_pins(tmp_path, ["train.txt"])


def test_a_lock_without_torch_has_what_it_shares_with_the_train_image_at_the_same_versions():
    train = versions(LOCK)
    for variant in ("deploy", "deploy-ort"):
        found = versions(lock_of(variant).read_text())
        assert {name: train.get(name, version) for name, version in found.items()} == found
        assert not {"torch", "ultralytics"} & set(found)


def test_onnx_runtime_is_in_an_image_once():
    """The builds for the CPU and for CUDA are the same module."""
    names = [
        {"onnxruntime", "onnxruntime-gpu"} & set(versions(lock_of(one).read_text())) for one in ("deploy", "deploy-ort")
    ]
    assert names == [{"onnxruntime"}, {"onnxruntime-gpu"}]


def lock_of(variant: str) -> Path:
    return ROOT / "env/locks" / render.build_arguments(render.load(), variant)["LOCK"]


def versions(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", lock, re.MULTILINE))


def test_the_deploy_package_imports_nothing_but_its_requirements_and_what_its_wheel_takes_along():
    project = tomllib.loads((ROOT / "docker/deploy/pyproject.toml").read_text())
    taken = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"].values()
    files = [*(ROOT / "docker/deploy/yolov12_deploy").glob("*.py"), *(ROOT / name for name in taken)]
    known = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in taken}
    allowed = sys.stdlib_module_names | {"numpy", "cv2", "onnxruntime", "tensorrt_lean_bindings", "yolov12_deploy"}
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
    found = describe.built("flash_attn", tmp_path)
    assert found["version"] == "2.8+hd32.sm80.sm90"
    assert found["archs"] == ["80", "90"]
    assert found["sha256"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert found["libraries"] == {"flash_attn/_hd32.so": hashlib.sha256(b"code").hexdigest()}


def test_each_wheel_is_found_in_its_folder_by_its_package(tmp_path):
    for folder, name in (("a", "flash_attn-2.8+hd32.sm80"), ("b", "yolov12_kernels-1.0+sm75.sm80")):
        (tmp_path / folder).mkdir()
        zipfile.ZipFile(tmp_path / folder / f"{name}-py3-none-linux_x86_64.whl", "w").close()
    found = {package: describe.built(package, tmp_path) for package in describe.BUILT}
    assert {package: wheel["archs"] for package, wheel in found.items()} == {
        "flash_attn": ["80"],
        "yolov12_kernels": ["75", "80"],
    }


def test_without_a_wheel_none_is_recorded(tmp_path):
    assert describe.built("flash_attn", tmp_path) is None


@pytest.mark.parametrize(
    ("choices", "left_out"),
    [
        ({"dali": "1", "tensorrt": "rtx"}, set()),
        ({"dali": "1", "tensorrt": "none"}, {"tensorrt-rtx"}),
        ({"dali": "0", "tensorrt": "10"}, {"dali", "tensorrt-rtx"}),
        ({}, {"dali", "tensorrt-rtx"}),
    ],
)
def test_every_version_of_the_parts_that_are_taken_is_promised(tmp_path, choices, left_out):
    parts = locks.by_layer(LOCK)
    for name, part in parts.items():
        (tmp_path / f"{name}.txt").write_text(part)
    assert describe.left_out(choices) == left_out
    promised = describe.locked(tmp_path, left_out)
    assert promised["torch"] == render.load().version_of("torch")
    assert len(promised) == sum(len(locks.entries(part)) for name, part in parts.items() if name not in left_out)


def test_what_no_lock_has_is_promised_as_it_was_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(describe, "debian_components", list)
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks/torch.txt").write_text("torch==2.0\n")
    (tmp_path / "share/yolov12").mkdir(parents=True)
    (tmp_path / "share/yolov12/vendor.txt").write_text("tensorrt-cu13==10.9.9\ntensorrt-cu13-libs==10.9.9\n")
    names = ("variant", "version", "base_image", "inputs")
    facts = dict.fromkeys(names, "x") | {"size_budget_gb": "1", "dali": "0", "tensorrt": "10"}
    describe.main(tmp_path / "locks", tmp_path, facts)
    promised = json.loads((tmp_path / "share/yolov12/image.json").read_text())
    assert promised["packages"] == {"torch": "2.0", "tensorrt-cu13": "10.9.9", "tensorrt-cu13-libs": "10.9.9"}


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
    components = describe.python_components(
        [distribution(tmp_path, "Some_Name", "License-Expression: MIT\n")], {"some-name": "feed" * 16}
    )
    bill = describe.bill_of_materials(facts, components)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    assert bill["components"][0]["purl"] == "pkg:pypi/some-name@1.0"
    assert bill["components"][0]["hashes"] == [{"alg": "SHA-256", "content": "feed" * 16}]
    assert json.dumps(bill) == json.dumps(describe.bill_of_materials(facts, components))


@given(
    st.sampled_from(["pypi", "deb/debian"]),
    st.from_regex(r"[a-z0-9][a-z0-9.+-]*", fullmatch=True),
    st.from_regex(r"([0-9]:)?[0-9][0-9a-z.+~-]*", fullmatch=True),
)
def test_a_package_s_url_is_read_back_as_its_name_and_version(kind, name, version):
    url = PackageURL.from_string(describe.purl(kind, name, version))
    assert ("/".join(filter(None, (url.type, url.namespace))), url.name, url.version) == (kind, name, version)


def test_what_means_something_in_an_url_is_escaped_in_a_package_s():
    assert describe.purl("deb/debian", "g++", "4:12.2.0-3+b1") == "pkg:deb/debian/g%2B%2B@4:12.2.0-3%2Bb1"


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
        "docker/kernels/batch_norm_apply.cu",
        "docker/kernels/package/yolov12_kernels/__init__.py",
        "docker/native/wheel.py",
        "env/locks/train-py311.txt",
        "env/locks/deploy-ort-py311.txt",
    ):
        assert name in taken
    assert not [name for name in taken if "__pycache__" in name or name.startswith(("tests/", "benchmarks/records"))]
