# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which packages are loaded: ours, whole, and made for what is here. The files hold no native code."""

import dataclasses
import json
import zipfile

import pytest
import torch
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.backends.base import BaseBackend
from ultralytics.nn.tasks import guess_model_task

from yolov12.errors import UserError
from yolov12.export import adapter, aoti_file, cache
from yolov12.export.aoti_file import Origin

ON_CPU = Origin("2.11.0", "cpu", "", "x86_64", ("avx2", "fma"))
ON_GPU = Origin("2.11.0", "sm_90", "NVIDIA H100", "x86_64", ())


def written(path, about):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("best/archive_format", "pt2")
        if about is not None:
            archive.writestr("best/extra/metadata.json", json.dumps(about))
    return path


def about(origin, **more):
    return {
        "task": "segment",
        "names": {"0": "a", "1": "b"},
        "batch": 2,
        aoti_file.BUILT_BY: dataclasses.asdict(origin),
    } | more


@pytest.fixture
def package(tmp_path):
    return written(tmp_path / "best_cpu.pt2", about(ON_CPU))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLOV12_TRT_CACHE_DIR", str(tmp_path / "engines"))
    (tmp_path / "engines").mkdir()
    return tmp_path / "engines"


def test_a_package_says_what_it_is(package):
    found = aoti_file.metadata_of(package)
    assert found["names"] == {0: "a", 1: "b"}
    assert aoti_file.origin_of(found) == ON_CPU


@pytest.mark.parametrize("keep", [0, 4, 200])
def test_a_package_that_was_cut_is_told_with_what_makes_it_again(package, keep):
    package.write_bytes(package.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"best_cpu\.pt2 is no whole package: .* export model=.*/best\.pt format=aoti"):
        aoti_file.metadata_of(package)


@pytest.mark.parametrize("about", [None, {}, [], {"names": {}}])
def test_a_package_of_someone_else_does_not_say_what_it_is(tmp_path, about):
    with pytest.raises(UserError, match="does not say what it is"):
        aoti_file.metadata_of(written(tmp_path / "foreign.pt2", about))


def test_a_package_is_loaded_if_it_was_made_here(folder, package, monkeypatch):
    with pytest.raises(UserError, match=r"native code that was not made here.* trust_weights=1"):
        aoti_file.check_trusted(package)
    cache.remember(folder, package.read_bytes())
    aoti_file.check_trusted(package)
    package.write_bytes(package.read_bytes() + b"\0")
    with pytest.raises(UserError, match="or has changed since"):
        aoti_file.check_trusted(package)
    monkeypatch.setenv("YOLOV12_TRUST_WEIGHTS", "1")
    aoti_file.check_trusted(package)


@pytest.mark.parametrize(
    ("made", "here", "words"),
    [
        (
            ON_GPU,
            {"torch": "2.12.0"},
            "was made by torch 2.11.0 on sm_90 NVIDIA H100 (x86_64), and here is torch 2.12.0 on sm_90",
        ),
        (
            ON_GPU,
            {"arch": "sm_80", "gpu": "NVIDIA A100"},
            "and here is torch 2.11.0 on sm_80 NVIDIA A100 (x86_64): make it again with",
        ),
        (ON_CPU, {"machine": "aarch64"}, "here is torch 2.11.0 on cpu (aarch64)"),
        (ON_CPU, {"features": ("avx2",)}, "here is torch 2.11.0 on cpu (x86_64) without fma: make it again"),
    ],
)
def test_a_package_for_something_else_is_refused_with_both(package, made, here, words):
    with pytest.raises(UserError) as refused:
        aoti_file.check_fits(package, made, dataclasses.replace(made, **here))
    assert words in str(refused.value)


def test_more_instructions_than_needed_and_another_gpu_of_the_arch_are_fine(package):
    aoti_file.check_fits(package, ON_CPU, dataclasses.replace(ON_CPU, features=("avx2", "avx512f", "fma")))
    aoti_file.check_fits(package, ON_GPU, dataclasses.replace(ON_GPU, gpu="NVIDIA H200"))


@pytest.mark.parametrize(
    ("cpuinfo", "features"),
    [
        (
            "processor\t: 0\nflags\t\t: fpu sse4_2 avx2 hypervisor fma amx_tile\nflags : x\n",
            ("amx_tile", "avx2", "fma", "sse4_2"),
        ),
        ("Features\t: fp asimd sve2 cpuid\n", ("asimd", "sve2")),
        ("", ()),
    ],
)
def test_instructions_are_read_from_what_the_kernel_says(cpuinfo, features):
    assert aoti_file.cpu_features(cpuinfo) == features


# What ultralytics makes of the suffix


@pytest.fixture
def installed():
    adapter.install()


@pytest.mark.parametrize(
    ("name", "form"), [("best_cpu.pt2", "aoti"), ("a.pt/B.PT2", "aoti"), ("best.pt", "pt"), ("best.pt2.onnx", "onnx")]
)
def test_the_suffix_is_told_from_that_of_weights(installed, name, form):
    assert AutoBackend._model_type(name) == form


def test_its_task_is_known_before_it_is_loaded_and_a_broken_one_is_no_error_yet(installed, package):
    assert guess_model_task(package) == "segment"
    package.write_bytes(b"cut")
    assert BaseBackend.read_metadata(package) == {}
    assert BaseBackend.read_metadata(package.with_name("no.pt2")) == {}


def test_a_package_for_a_gpu_says_so_where_there_is_none(installed, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = written(tmp_path / "best_sm_90.pt2", about(ON_GPU))
    with pytest.raises(
        UserError, match=r"was made for sm_90 NVIDIA H100, and torch sees no GPU here; make it again .*/best\.pt"
    ):
        AutoBackend(str(path), verbose=False)


def test_nothing_is_loaded_before_it_was_looked_at(installed, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("torch._inductor.aoti_load_package", lambda *a, **k: 1 // 0)
    path = written(
        tmp_path / "best_cpu.pt2", about(dataclasses.replace(aoti_file.origin_here(torch.device("cpu")), torch="1.0"))
    )
    with pytest.raises(UserError, match=r"was made by torch 1\.0"):
        AutoBackend(str(path), verbose=False)
    path = written(tmp_path / "best_cpu.pt2", about(aoti_file.origin_here(torch.device("cpu"))))
    with pytest.raises(UserError, match="native code that was not made here"):
        AutoBackend(str(path), verbose=False)
