# SPDX-License-Identifier: AGPL-3.0-or-later
"""`yolov12 verify` on made-up environments: what agrees passes, and each thing that differs fails with what was expected and found."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

import pytest

from yolov12 import cli, pins
from yolov12.tools import inventory, verify
from yolov12.tools.gpu_code import GpuCode, gpu_code

ARCHS = ["80", "90"]
DALI = "nvidia-dali-cuda130"
FLASH = "2.8.3+hd32.sm80.sm90"
KERNELS = "1.0+sm80.sm90"
LIBRARIES = {"flash_attn": "flash_attn/_hd32.so", "yolov12_kernels": "yolov12_kernels/_kernels.so"}


def package(site: Path, name: str, version: str, *files: str, metadata: str = "License: MIT\n") -> None:
    """An installed distribution with these files, 1000 bytes each."""
    info = f"{name}-{version}.dist-info"
    for file in files:
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_bytes(b"x" * 1000)
    (site / info).mkdir(parents=True)
    (site / info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{metadata}")
    (site / info / "RECORD").write_text("".join(f"{file},,\n" for file in (*files, f"{info}/METADATA")))


def code(cubins: list[str], ptx: list[str] | None = None) -> Any:
    return lambda path: GpuCode(frozenset(cubins), frozenset(ptx or ()))


@pytest.fixture
def here(tmp_path) -> verify.Here:
    """An image in which everything agrees."""
    site, folder = tmp_path / "site", tmp_path / "share"
    package(site, "torch", "2.0.0", "torch/lib/libtorch_cuda.so", "torch/__init__.py")
    package(site, "nvidia_thing", "1.0", "nvidia/thing/lib.so")
    package(site, "nvidia_dali_cuda130", "2.0", "nvidia/dali/libdali_operators.so")
    package(site, "flash_attn", FLASH, LIBRARIES["flash_attn"])
    package(site, "yolov12_kernels", KERNELS, LIBRARIES["yolov12_kernels"])
    packages = {
        inventory.canonical(info.name.split("-")[0]): PathDistribution(info) for info in site.glob("*.dist-info")
    }
    versions = {name: found.version for name, found in packages.items()}
    components = [
        {"name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}"} for name, version in versions.items()
    ]
    components.append({"name": "bash", "version": "5", "purl": "pkg:deb/debian/bash@5"})
    (folder / "licenses/torch-2.0.0").mkdir(parents=True)
    (folder / "licenses/torch-2.0.0/LICENSE").write_text("BSD")
    (folder / "sbom.cdx.json").write_text(json.dumps({"components": components}))
    promised = {
        "variant": "train",
        "version": "0.1.0",
        "base_image": "debian:12@sha256:abc",
        "inputs": "0123",
        "python": "3.11",
        "archs": ARCHS,
        "size_budget_gb": 1.0,
        "dali": "1",
        "tensorrt": "none",
        "packages": {"torch": "2.0.0", "nvidia-thing": "1.0", DALI: "2.0"},
    }
    for name, version in (("flash_attn", FLASH), ("yolov12_kernels", KERNELS)):
        promised[name] = {
            "wheel": f"{name}.whl",
            "version": version,
            "sha256": "feed",
            "archs": ARCHS,
            "libraries": {LIBRARIES[name]: hashlib.sha256(b"x" * 1000).hexdigest()},
        }
    return verify.Here(site, packages, promised, folder, code(ARCHS))


def changed(here: verify.Here, **promised: Any) -> verify.Here:
    return verify.Here(here.site, here.packages, {**here.promised, **promised}, here.folder, here.read_gpu_code)


def failures(here: verify.Here) -> dict[str, str]:
    return {check.name: str(check) for check in verify.checks(here) if check.ok is False}


@pytest.fixture(autouse=True)
def image_python(monkeypatch):
    """The image's Python, whichever runs the tests."""
    monkeypatch.setattr(verify.platform, "python_version", lambda: "3.11.9")


def test_an_image_that_is_what_was_promised_has_no_failure(here):
    assert failures(here) == {}
    assert [check.name for check in verify.checks(here)] == [
        "python",
        "versions",
        "code torch",
        "code flash-attn",
        "code kernels",
        "code dali",
        "flash-attn",
        "kernels",
        "dali",
        "tensorrt",
        "sbom",
        "licences",
    ]


def test_another_python_is_named(here, monkeypatch):
    monkeypatch.setattr(verify.platform, "python_version", lambda: "3.99.1")
    assert failures(here)["python"].endswith("expected 3.11.x, found 3.99.1")


def test_upstreams_whole_flash_attention_is_read_from_its_own_library(here):
    library = "flash_attn_2_cuda.cpython-311-x86_64-linux-gnu.so"
    whole = here.promised["flash_attn"] | {"libraries": {library: "0123"}}
    read: list[str] = []

    def reader(file: Path) -> GpuCode:
        read.append(file.name)
        return code(ARCHS)(file)

    looked = verify.Here(here.site, here.packages, here.promised | {"flash_attn": whole}, here.folder, reader)
    verify.checks(looked)
    assert library in read


def test_a_package_that_moved_is_named_with_both_versions(here):
    moved = changed(here, packages=here.promised["packages"] | {"torch": "2.0.1"})
    assert failures(moved)["versions"].endswith("expected torch 2.0.1, found torch 2.0.0")


def test_a_package_that_is_missing_or_too_many_is_named(here):
    moved = changed(here, packages={"torch": "2.0.0", "numpy": "2.1", DALI: "2.0"})
    line = failures(moved)["versions"]
    assert "expected numpy 2.1, nvidia-thing not installed" in line
    assert "found numpy not installed, nvidia-thing 1.0" in line


def test_torch_without_code_for_a_promised_arch_fails(here):
    line = failures(changed(here, archs=["80", "120"]))["code torch"]
    assert line.endswith("expected code for sm_80 sm_120, found sm_80 sm_90")


def test_code_of_an_earlier_minor_version_counts(here):
    assert "code torch" not in failures(changed(here, archs=["80", "89"]))


@pytest.mark.parametrize("name", ["flash-attn", "kernels"])
@pytest.mark.parametrize("cubins", [["80"], ["80", "90", "100"]])
def test_what_the_build_made_has_exactly_the_archs_of_its_version(here, cubins, name):
    here = verify.Here(here.site, here.packages, here.promised, here.folder, code(cubins))
    assert "expected exactly sm_80 sm_90" in failures(here)[f"code {name}"]


def test_a_library_that_is_not_there_is_named(here):
    (here.site / "torch/lib/libtorch_cuda.so").unlink()
    here = verify.Here(here.site, here.packages, here.promised, here.folder, gpu_code)
    line = failures(here)["code torch"]
    assert "expected GPU code in torch/lib/libtorch_cuda.so, found" in line
    assert "No such file" in line


def test_ptx_is_said_and_does_not_count_as_code(here):
    here = verify.Here(here.site, here.packages, here.promised, here.folder, code(["80"], ptx=["90"]))
    assert failures(here)["code torch"].endswith("expected code for sm_80 sm_90, found sm_80 compute_90")


@pytest.mark.parametrize(("package", "name"), [("flash_attn", "flash-attn"), ("yolov12_kernels", "kernels")])
def test_a_library_that_is_not_the_wheels_fails(here, package, name):
    (here.site / LIBRARIES[package]).write_bytes(b"another build")
    assert list(failures(here)) == [name]


def test_onnx_runtime_for_cuda_has_exactly_the_known_archs(here, tmp_path):
    package(tmp_path / "more", "onnxruntime_gpu", "1.0")
    (info,) = (tmp_path / "more").glob("*.dist-info")
    packages = {"onnxruntime-gpu": PathDistribution(info)}
    for cubins, ok in (
        (pins.ONNXRUNTIME_GPU_CODE, True),
        (pins.ONNXRUNTIME_GPU_CODE[1:], False),
        ((*ARCHS, "100"), False),
    ):
        (check,) = verify.check_gpu_code(
            verify.Here(here.site, packages, here.promised, here.folder, code(list(cubins)))
        )
        assert (check.name, check.ok) == ("code onnxruntime-gpu", ok)
    assert check.expected == "exactly sm_75 sm_80 sm_86 sm_89 sm_90a sm_120a"


def test_a_wheel_where_none_was_promised_fails(here):
    assert failures(changed(here, flash_attn=None))["flash-attn"].endswith(f"expected not installed, found {FLASH}")
    assert failures(changed(here, yolov12_kernels=None))["kernels"].endswith(f"expected not installed, found {KERNELS}")


def test_an_image_that_was_built_without_kernels_says_what_runs(here):
    packages = {name: found for name, found in here.packages.items() if name != "yolov12-kernels"}
    here = verify.Here(here.site, packages, {**here.promised, "yolov12_kernels": None}, here.folder, here.read_gpu_code)
    found = {check.name: check for check in verify.checks(here)}
    assert (found["kernels"].ok, found["kernels"].found) == (True, "not in this image; batch norm is PyTorch's own")


def test_an_image_without_dali_and_tensorrt_says_so_and_does_not_fail(here):
    packages = {name: found for name, found in here.packages.items() if name != DALI}
    without = verify.Here(here.site, packages, here.promised | {"dali": "0"}, here.folder, here.read_gpu_code)
    found = {check.name: (check.ok, check.found) for check in verify.check_choices(without)}
    assert found == {
        "dali": (True, "not in this image (DALI=0)"),
        "tensorrt": (True, "not in this image (TENSORRT=none)"),
    }


def test_what_was_chosen_and_is_not_there_fails_and_so_does_what_was_left_out_and_is(here):
    found = failures(changed(here, dali="0", tensorrt="rtx"))
    assert found["dali"].endswith(f"expected not installed (DALI=0), found {DALI} 2.0")
    assert found["tensorrt"].endswith("tensorrt-rtx-cu13-libs (TENSORRT=rtx), found not installed")


def test_either_tensorrt_is_named_with_its_version(here):
    for name in ("tensorrt_cu13_libs", "tensorrt_rtx_cu13_libs"):
        package(here.site, name, "10.0")
        added = {**here.packages, name.replace("_", "-"): PathDistribution(here.site / f"{name}-10.0.dist-info")}
        image = verify.Here(here.site, added, here.promised | {"tensorrt": "10"}, here.folder, here.read_gpu_code)
        (check,) = [check for check in verify.check_choices(image) if check.name == "tensorrt"]
        assert (check.ok, check.found) == (True, f"{name.replace('_', '-')} 10.0")


def test_a_package_that_the_bill_does_not_list_is_named(here):
    file = here.folder / "sbom.cdx.json"
    components = [part for part in json.loads(file.read_text())["components"] if part["name"] != "torch"]
    file.write_text(json.dumps({"components": components}))
    assert "it differs in torch" in failures(here)["sbom"]


def test_a_missing_bill_is_named(here):
    (here.folder / "sbom.cdx.json").unlink()
    assert failures(here)["sbom"].endswith("found no such file")


def test_a_package_without_any_licence_is_named(here):
    package(here.site, "secret", "1.0", "secret.py", metadata="")
    found = PathDistribution(here.site / "secret-1.0.dist-info")
    here = verify.Here(here.site, {**here.packages, "secret": found}, here.promised, here.folder, here.read_gpu_code)
    assert "found none for secret" in failures(here)["licences"]


def test_a_package_of_requirements_alone_needs_no_licence(here):
    package(here.site, "meta", "1.0", metadata="")
    found = PathDistribution(here.site / "meta-1.0.dist-info")
    here = verify.Here(here.site, {**here.packages, "meta": found}, here.promised, here.folder, here.read_gpu_code)
    assert "licences" not in failures(here)


def test_a_licence_link_that_leads_nowhere_does_not_count(here):
    text = here.folder / "licenses/torch-2.0.0/LICENSE"
    text.unlink()
    text.symlink_to("/nowhere/LICENSE")
    assert "0 packages with their texts" in str(verify.check_licences(here))


def test_an_image_over_its_budget_fails_with_both_numbers(here):
    check = verify.check_size(here, Counter({"torch": 1_200_000_000}))
    assert str(check).endswith("expected at most 1.00 GB, found 1.20 GB (budget 1.00 GB)")
    assert verify.check_size(here, Counter({"torch": 900_000_000})).ok


# Outside an image


def test_outside_an_image_only_pins_are_compared_and_the_rest_is_said_to_be_unchecked(here):
    plain = verify.Here(here.site, here.packages, None, here.folder, code(list(pins.ARCHS)))
    found = {check.name: check.ok for check in verify.checks(plain)}
    assert (found["python"], found["flash-attn"], found["kernels"], "sbom" in found) == (None, None, None, False)
    assert (found["dali"], found["tensorrt"]) == (None, None)
    assert verify.origin(plain)[0].startswith("no image: ")
    assert verify.check_size(plain, Counter()).ok is None


def test_outside_an_image_a_package_that_is_not_the_pinned_version_fails(here):
    plain = verify.Here(here.site, here.packages, None, here.folder, code(list(pins.ARCHS)))
    assert f"torch {pins.TORCH}, found" in failures(plain)["versions"]
    assert failures(plain)["versions"].endswith("torch 2.0.0")


# The report


def test_sizes_are_by_group_and_compiled_files_are_their_own(here):
    (here.site / "torch/__pycache__").mkdir()
    (here.site / "torch/__pycache__/__init__.cpython-311.pyc").write_bytes(b"x" * 500)
    sizes = inventory.environment_bytes(here.packages, str(here.site))
    files = {group: size // 1000 for group, size in sizes.items()}  # without the few bytes of metadata
    assert (files["CUDA libraries"], files["FlashAttention"], files["torch, torchvision"]) == (1, 1, 2)
    assert files["DALI"] == 1
    assert files["our kernels"] == 1
    assert sizes[inventory.COMPILED] == 500


def test_a_hard_link_counts_once(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 10)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    assert sum(size for _, size in inventory.files_below(str(tmp_path))) == 10


def test_the_verb_ends_with_0_or_1_and_gives_json(here, monkeypatch, capsys):
    monkeypatch.setattr(verify, "look", lambda: here)
    monkeypatch.setattr(inventory, "image_bytes", lambda *_: Counter({"torch": 1000}))
    assert cli.main(["verify", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["bytes"]) == (True, {"torch": 1000})

    monkeypatch.setattr(verify, "look", lambda: changed(here, archs=["75"]))
    assert cli.main(["verify"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "image   yolov12:train 0.1.0"
    assert lines[-1] == "FAILED: code torch, code dali"
