# SPDX-License-Identifier: AGPL-3.0-or-later
"""The pins of env/versions.yaml go together, and each rule of env/compatibility.py can tell when some do not."""

from __future__ import annotations

import re
from importlib.metadata import metadata, requires, version
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from env import compatibility

ROOT = Path(__file__).resolve().parents[3]
VERSIONS = yaml.safe_load((ROOT / "env/versions.yaml").read_text())
LINES = compatibility.lines_of(VERSIONS)
PINS = LINES["packages"]
MATRIX = yaml.safe_load((ROOT / "env/matrix.yaml").read_text())
COMPILER = {
    "nvidia-cuda-nvcc": "13.0.88",
    "nvidia-nvvm": "13.0.88",
    "nvidia-cuda-crt": "13.0.88",
    "nvidia-cuda-runtime": "13.0.96",
    "nvidia-cuda-cccl": "13.0.85",
}
minors = st.integers(0, 9)


@pytest.mark.parametrize("line", LINES)
def test_the_pins_go_together(line):
    assert compatibility.contradictions(LINES[line]) == []


@pytest.mark.parametrize("package", ["torch", "torchvision", "ultralytics", "cuda-toolkit"])
def test_the_pins_are_what_the_pinned_package_asks_for(package):
    assert version(package) == PINS[package], f"{package} is not installed as pinned: run `make setup`"
    # torch takes the parts of cuda-toolkit by its extras, each of which names one wheel of the line.
    (toolkit,) = [one for one in map(Requirement, requires("torch") or []) if one.name == "cuda-toolkit"]
    extras = toolkit.extras if package == "cuda-toolkit" else ()
    assert compatibility.required(package, requires(package) or [], PINS, extras) == []


@pytest.mark.parametrize("package", ["torch", "torchvision", "ultralytics", "onnx", "onnxruntime", "triton"])
def test_each_python_of_the_locks_is_one_that_the_pinned_package_supports(package):
    about = metadata(package)
    assert about["Version"] == PINS[package], f"{package} is not installed as pinned: run `make setup`"
    wanted = [*VERSIONS["python"]["locks"]["versions"], VERSIONS["python"]["image"]["version"]]
    classifiers = about.get_all("Classifier") or []
    assert compatibility.pythons(package, about["Requires-Python"], classifiers, wanted, PINS) == []


@pytest.mark.parametrize(
    ("section", "package"), [("packages", "cuda-toolkit"), ("packages_cu128", "nvidia-cuda-runtime-cu12")]
)
def test_the_driver_that_the_pins_name_is_new_enough_for_their_cuda(section, package):
    told = re.search(r"driver (\d+)", VERSIONS[section][package]["why"])
    assert told, f"the reason of {package}'s pin says which driver it needs"
    cuda = LINES[section][package]
    assert compatibility.driver(cuda, told[1]) == []
    line = ".".join(cuda.split(".")[:2])
    assert str(MATRIX["cuda"][line]["least_driver"]) == told[1], "the entrypoint would compare with another one"


def test_another_cuda_line_has_a_package_only_where_it_differs_from_the_main_one():
    for name, pin in LINES["packages_cu128"].items():
        assert PINS.get(name) != pin, f"{name} is the same in both lines"


def test_each_package_of_the_other_line_s_lock_has_a_wheel_for_the_image_s_python():
    """env/lock.py takes wheels only, so a lock of that Python is the proof."""
    entry = MATRIX["locks"]["train-cu128"]
    assert VERSIONS["python"]["image"]["version"] in entry["pythons"]
    assert (ROOT / "env/locks/train-cu128-py311.txt").is_file()


def test_conda_s_python_is_one_that_has_a_lock():
    assert VERSIONS["python"]["conda"]["version"] in VERSIONS["python"]["locks"]["versions"]


def test_a_line_of_its_own_is_no_part_of_the_main_one():
    versions = {"packages": {"a": {"version": "1.0"}}, "packages_cu1": {"a": {"version": "2.0"}}}
    assert compatibility.lines_of(versions) == {"packages": {"a": "1.0"}, "packages_cu1": {"a": "2.0"}}


def test_an_nccl_of_another_cuda_than_the_runtime_s_is_named():
    pins = {"nvidia-cuda-runtime-cu12": "12.8.90", "nvidia-nccl-cu13": "2.28.9"}
    (said,) = compatibility.contradictions(pins)
    assert said == "nvidia-nccl-cu13 2.28.9 is not for CUDA 12.8, and nvidia-cuda-runtime-cu12 12.8.90 is pinned"


def test_every_entry_with_a_version_is_a_pin_wherever_it_stands():
    parsed = {
        "packages": {"A_b": {"version": "1.0", "why": "x"}},
        "python": {"locks": {"versions": ["3.11"]}},
        "c": "2",
    }
    assert compatibility.pins_of(parsed) == {"a-b": "1.0"}


@pytest.mark.parametrize(
    ("torch", "vision"), [("2.11.0", "0.26.0"), ("2.9.1", "0.24.1"), ("2.14.1", "0.29.0"), ("2.15.0", "0.31.0")]
)
def test_torchvision_of_the_same_release_goes_with_torch(torch, vision):
    assert compatibility.contradictions({"torch": torch, "torchvision": vision}) == []


def test_another_torchvision_is_named_with_the_one_that_fits():
    assert compatibility.contradictions({"torch": "2.11.0", "torchvision": "0.27.0"}) == [
        "torch 2.11.0 goes with torchvision 0.26, and torchvision 0.27.0 is pinned"
    ]


@given(st.integers(0, 13), st.integers(0, 40))
def test_before_torch_2_14_exactly_one_torchvision_fits(minor, vision):
    found = compatibility.torch_and_torchvision({"torch": f"2.{minor}.0", "torchvision": f"0.{vision}.0"})
    assert (found == []) == (vision == minor + 15)


def test_a_torch_whose_torchvision_is_not_known_is_said_to_be_so():
    (said,) = compatibility.contradictions({"torch": "3.0.0", "torchvision": "0.40.0"})
    assert "only the torchvision of torch 2 is known here" in said


@pytest.mark.parametrize(
    ("requirement", "pin", "said"),
    [
        (
            'nvidia-nccl-cu13==2.28.9; platform_system == "Linux"',
            {"nvidia-nccl-cu13": "2.29.7"},
            "nvidia-nccl-cu13==2.28.9",
        ),
        ("triton==3.6.0", {"triton": "3.7.1"}, "requires triton==3.6.0, and triton 3.7.1 is pinned"),
        ("nvidia-cudnn-cu13==9.19.0.56", {"nvidia-cudnn-cu12": "9.19.0.56"}, "requires nvidia-cudnn-cu13, and"),
        ("NumPy<2", {"numpy": "2.4.6"}, "requires NumPy<2, and numpy 2.4.6 is pinned"),
    ],
)
def test_a_pin_that_torch_does_not_ask_for_is_named_with_what_it_does(requirement, pin, said):
    (sentence,) = compatibility.required("torch", [requirement], {"torch": "2.11.0", **pin})
    assert sentence.startswith("torch 2.11.0 requires ")
    assert said in sentence


@pytest.mark.parametrize(
    "requirement", ["triton==3.7.*; sys_platform == 'win32'", "triton==3.7; extra == 'more'", "jinja2", "triton>=3.6"]
)
def test_what_is_asked_for_elsewhere_or_met_or_not_pinned_is_no_contradiction(requirement):
    assert compatibility.required("torch", [requirement], {"torch": "2.11.0", "triton": "3.6.0"}) == []


def test_cuda_toolkit_names_the_exact_parts_of_its_line_under_an_extra():
    asked = ['nvidia-cuda-nvcc==13.0.88.*; sys_platform == "linux" and extra == "nvcc"', "other==1; extra == 'o'"]
    pins = {"cuda-toolkit": "13.0.2", "nvidia-cuda-nvcc": "13.0.48", "other": "2"}
    (sentence,) = compatibility.required("cuda-toolkit", asked, pins, extras=["nvcc", "cudart"])
    assert (
        sentence == "cuda-toolkit 13.0.2 requires nvidia-cuda-nvcc==13.0.88.*, and nvidia-cuda-nvcc 13.0.48 is pinned"
    )


def test_the_whole_compiler_on_torchs_line_goes_with_it():
    assert compatibility.contradictions({"cuda-toolkit": "13.0.2", **COMPILER}) == []


@given(st.sampled_from(compatibility.SAME_LINE), minors, minors)
def test_a_wheel_of_another_cuda_line_is_named_with_the_toolkit(name, toolkit, other):
    pins = {"cuda-toolkit": f"13.{toolkit}.2", **dict.fromkeys(compatibility.TOOLCHAIN, f"13.{toolkit}.88")}
    pins[name] = f"13.{other}.88"
    expected = [f"cuda-toolkit 13.{toolkit}.2 is CUDA 13.{toolkit}, and {name} 13.{other}.88 is pinned"]
    assert compatibility.toolchain(pins) == ([] if toolkit == other else expected)


@pytest.mark.parametrize("missing", COMPILER)
def test_a_compiler_of_which_a_part_is_not_pinned_is_incomplete(missing):
    pins = {name: version for name, version in COMPILER.items() if name != missing}
    (said,) = compatibility.toolchain(pins)
    assert said.endswith(f"is pinned without {missing}, which would come as the newest")


@pytest.mark.parametrize(("one", "other"), compatibility.SAME_RELEASE)
def test_what_is_released_together_is_pinned_at_one_version(one, other):
    assert {one, other} <= set(PINS)
    assert compatibility.contradictions({one: "1.2.3", other: "1.2.3"}) == []
    (said,) = compatibility.contradictions({one: "1.2.3", other: "1.2.4"})
    assert said == f"{one} 1.2.3 goes with {other} 1.2.3, and {other} 1.2.4 is pinned"


@pytest.mark.parametrize(
    ("name", "toolkit", "fits"),
    [
        ("nvidia-nccl-cu13", "13.0.2", True),
        ("nvidia-nccl-cu12", "13.0.2", False),
        ("nvidia-dali-cuda130", "13.0.2", True),
        ("nvidia-dali-cuda130", "13.2.0", True),
        ("nvidia-dali-cuda120", "13.0.2", False),
        ("some-thing-cuda131", "13.0.2", False),
        ("tensorrt-cu12-libs", "13.0.2", False),
        ("cuda-bindings", "13.0.2", True),
    ],
)
def test_a_package_named_after_another_cuda_is_told_from_one_of_this(name, toolkit, fits):
    found = compatibility.cuda_of_names({"cuda-toolkit": toolkit, name: "1.0"})
    assert (found == []) == fits
    assert fits or (f"{name} 1.0" in found[0] and f"cuda-toolkit {toolkit}" in found[0])


@pytest.mark.parametrize(
    ("cuda", "driver", "said"),
    [
        ("13.0", "580", ""),
        ("13.0.2", "580.65.06", ""),
        ("12.8", "570", ""),
        ("13.0", "570.26", "CUDA 13.0 needs driver 580 or newer, and driver 570.26 is given as enough"),
        ("12.8", "535", "CUDA 12.8 needs driver 570 or newer"),
        ("14.1", "700", "does not know which driver it needs"),
    ],
)
def test_a_driver_is_new_enough_or_the_oldest_that_is_is_named(cuda, driver, said):
    found = compatibility.driver(cuda, driver)
    assert len(found) == bool(said)
    assert said in "".join(found)


@pytest.mark.parametrize(
    ("requires_python", "classifiers", "python", "said"),
    [
        (">=3.10", ["3.10", "3.11"], "3.11", ""),
        (">=3.10", [], "3.14", ""),
        (">=3.11.4", [], "3.11", ""),
        (">=3.12", [], "3.11", "t 1.0 requires Python >=3.12, and locks are made for Python 3.11"),
        (">=3.10,<3.14", [], "3.14", "requires Python >=3.10,<3.14"),
        (
            ">=3.9",
            ["3.9", "3.10", "3.11"],
            "3.12",
            "t 1.0 names Python 3.9, 3.10, 3.11, and locks are made for Python 3.12",
        ),
    ],
)
def test_a_python_that_a_package_does_not_support_is_named(requires_python, classifiers, python, said):
    named = [f"Programming Language :: Python :: {one}" for one in classifiers]
    found = compatibility.pythons(
        "t", requires_python, ["Topic :: Software Development", *named], [python], {"t": "1.0"}
    )
    assert len(found) == bool(said)
    assert said in "".join(found)
