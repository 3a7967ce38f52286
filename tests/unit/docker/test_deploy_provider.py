# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where ONNX Runtime runs a model in the images without torch, and why there. The driver and the provider for CUDA are stand-ins."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.unit.docker.lean_stand_in import Driver

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "docker/deploy"))

from yolov12_deploy import onnx_session
from yolov12_deploy.errors import UsageError
from yolov12_deploy.onnx_session import CPU, CUDA, choose_provider, has_code_for


@pytest.fixture
def for_cuda(monkeypatch) -> None:
    """ONNX Runtime as onnxruntime-gpu has it."""
    monkeypatch.setattr(onnx_session.onnxruntime, "get_available_providers", lambda: [CUDA, CPU])


def driver_is(monkeypatch, driver: Driver | None) -> None:
    def load(name: str) -> Driver:
        if driver is None:
            raise OSError(name)
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)


def test_the_build_for_the_cpu_asks_for_no_gpu(monkeypatch):
    driver_is(monkeypatch, Driver())
    assert choose_provider("auto") == (CPU, "this ONNX Runtime has no other")


def test_with_a_gpu_it_runs_there(monkeypatch, for_cuda):
    driver_is(monkeypatch, Driver(arch="90"))
    assert choose_provider("auto") == (CUDA, "A GPU (sm_90)")


def test_the_cpu_can_be_asked_for(monkeypatch, for_cuda):
    driver_is(monkeypatch, Driver())
    assert choose_provider("cpu") == (CPU, "device=cpu")


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (None, "no NVIDIA driver is visible (docker run --gpus all)"),
        (Driver(cuda=(12, 8)), "the driver is for CUDA 12.8, and this needs one for CUDA 13 (update it on the host)"),
        (Driver(cuInit=100), "the NVIDIA driver says: no CUDA-capable device is detected (cuInit, error 100)"),
        (Driver(arch="100"), "A GPU (sm_100) is there, and ONNX Runtime has code for sm_75 "),
    ],
)
def test_without_a_gpu_that_it_can_use_it_runs_on_the_cpu_and_says_why(monkeypatch, for_cuda, driver, reason):
    driver_is(monkeypatch, driver)
    provider, said = choose_provider("auto")
    assert provider == CPU
    assert said.startswith(reason)


@pytest.mark.parametrize(
    ("arch", "codes", "fits"),
    [
        ("90", ("90",), True),
        ("90", ("90a",), True),
        ("89", ("86",), True),
        ("86", ("89",), False),
        ("90", ("86",), False),
        ("100", ("90a", "120a"), False),
        ("103", ("100",), True),
        ("121", ("120a",), False),
    ],
)
def test_code_runs_on_its_arch_and_on_later_ones_of_its_major_version(arch, codes, fits):
    assert has_code_for(arch, codes) == fits


def test_a_size_that_the_model_can_not_take_is_said_with_its_words(tmp_path):
    picture = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, "height", "width"])
    same = helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 3, 4, 4])
    size = helper.make_tensor("size", TensorProto.INT64, [4], [1, 3, 4, 4])
    write(
        tmp_path / "a.onnx",
        helper.make_graph(
            [helper.make_node("Reshape", ["images", "size"], ["output0"])], "four", [picture], [same], [size]
        ),
    )
    session = onnx_session.OnnxSession(tmp_path / "a.onnx")
    assert session.run(np.ones((1, 3, 4, 4), np.float32)).shape == (1, 3, 4, 4)
    with pytest.raises(
        UsageError, match=r"could not run the model at imgsz=5x5 \(on the CPU: .*\); type a multiple of 32: .*Reshape"
    ):
        session.run(np.ones((1, 3, 5, 5), np.float32))


def write(file: Path, graph: onnx.GraphProto) -> None:
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)


def test_a_provider_that_does_not_start_is_said_to_have_not(monkeypatch, for_cuda, tmp_path):
    """The installed build for the CPU, told that it has CUDA: it warns, and goes on without."""
    driver_is(monkeypatch, Driver())
    picture = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, "height", "width"])
    copy = helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 3, "height", "width"])
    graph = helper.make_graph([helper.make_node("Identity", ["images"], ["output0"])], "copy", [picture], [copy])
    write(tmp_path / "a.onnx", graph)
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        session = onnx_session.OnnxSession(tmp_path / "a.onnx")
    assert session.place == "on the CPU: A GPU (sm_90), but ONNX Runtime could not start there and said why above"
    assert session.shape == (1, 3, None, None)
    assert session.run(np.ones((1, 3, 4, 4), np.float32)).shape == (1, 3, 4, 4)
