# SPDX-License-Identifier: AGPL-3.0-or-later
"""Engines in the image without torch, on stand-ins for the driver and for TensorRT's lean bindings; no real engine was at hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.docker import lean_stand_in
from tests.unit.docker.lean_stand_in import Driver, plan

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "docker/deploy"))

from yolov12_deploy import cli, engine_file
from yolov12_deploy.errors import UsageError
from yolov12_deploy.model import Detector, Thresholds

SIDE = 64
FOUND = np.float32([[32, 32, 20, 20, 0.9, 0.1], [10, 10, 8, 8, 0.2, 0.8], [50, 50, 8, 8, 0.1, 0.1]]).T
"""Raw output of three anchors and two classes."""
METADATA = {"task": "detect", "names": {"0": "round", "1": "long"}, "imgsz": [SIDE, SIDE], "args": {"nms": False}}
PICTURE = np.full((SIDE, SIDE, 3), 200, np.uint8)


def framed(plan_bytes: bytes, metadata: dict[str, object] = METADATA) -> bytes:
    """As ultralytics writes an engine."""
    text = json.dumps(metadata).encode()
    return len(text).to_bytes(4, "little", signed=True) + text + plan_bytes


@pytest.fixture
def driver(monkeypatch) -> Driver:
    driver = Driver()
    lean_stand_in.install(monkeypatch, driver)
    monkeypatch.setenv("YOLOV12_TRUST_WEIGHTS", "1")
    return driver


@pytest.fixture
def engine(tmp_path) -> Path:
    file = tmp_path / "best.engine"
    file.write_bytes(framed(plan(FOUND, takes=(1, 3, SIDE, SIDE))))
    return file


# The file


@given(st.dictionaries(st.text(), st.one_of(st.integers(), st.text(), st.booleans())), st.binary())
def test_what_was_framed_comes_apart_again(metadata, content):
    assert engine_file.split(framed(content, metadata)) == (metadata, content)


@given(st.binary(max_size=64))
def test_what_has_no_header_is_all_plan(content):
    metadata, rest = engine_file.split(content)
    assert metadata or rest == content


@pytest.mark.parametrize(
    "content",
    [b"", b"\x01", b"ftrt" + bytes(100), (2).to_bytes(4, "little") + b"[]rest", (9).to_bytes(4, "little") + b"{}"],
    ids=["empty", "short", "a plan", "a list", "a length past the end"],
)
def test_bytes_that_only_look_like_a_header_are_plan(content):
    assert engine_file.split(content) == ({}, content)


def test_the_header_is_read_as_ultralytics_reads_it(tmp_path):
    from ultralytics.nn.backends.base import BaseBackend

    file = tmp_path / "best.engine"
    file.write_bytes(framed(b"plan"))
    offset, metadata = BaseBackend.engine_header(file)
    assert (metadata, file.read_bytes()[offset:]) == engine_file.split(file.read_bytes())


# The calls


def test_an_engine_gives_its_output_with_the_names_of_its_header(driver, engine):
    detector = Detector(engine)
    found = detector.predict(PICTURE, Thresholds(conf=0.5))
    np.testing.assert_allclose(found, [[22, 22, 42, 42, 0.9, 0], [6, 6, 14, 14, 0.8, 1]], rtol=1e-6)
    assert detector.names == {0: "round", 1: "long"}
    assert detector.session.place == "on the GPU: A GPU (sm_90)"


def test_a_plan_without_a_header_runs_without_names(driver, engine):
    engine.write_bytes(plan(FOUND, takes=(1, 3, SIDE, SIDE)))
    detector = Detector(engine)
    assert (len(detector.predict(PICTURE)), detector.names) == (2, {})


def test_an_engine_of_half_precision_gets_half_precision(driver, engine):
    engine.write_bytes(framed(plan(FOUND, takes=(1, 3, SIDE, SIDE), dtype="float16")))
    np.testing.assert_allclose(Detector(engine).predict(PICTURE)[:, 4], [0.9, 0.8], atol=1e-3)


def test_memory_is_taken_once_for_a_size_and_given_back_for_another(driver, engine):
    engine.write_bytes(framed(plan(FOUND, takes=(1, 3, -1, -1), most=128)))
    session = Detector(engine, imgsz=64).session
    for side in (64, 64, 128):
        session.run(np.zeros((1, 3, side, side), np.float32))
    assert sorted(map(len, driver.memory.values())) == [FOUND.nbytes, 128 * 128 * 3 * 4]


def test_the_command_line_predicts_with_an_engine(driver, engine, tmp_path, repository, capsys):
    photo = next((repository / "tests/data/bccd-mini/images/val").iterdir())
    assert cli.main(["predict", f"model={engine}", f"source={photo}", f"out={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr()
    assert said.err == "best.engine runs on the GPU: A GPU (sm_90)\n"
    assert f"{photo}: 2 boxes" in said.out


# What can not work: one sentence and exit code 2


def refused(engine: Path, capsys, *more: str) -> str:
    """What the command line says when it ends with exit code 2."""
    source = Path(__file__).resolve().parents[2] / "data/bccd-mini/images/val"
    assert cli.main(["predict", f"model={engine}", f"source={source}", *more]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if not line.startswith("best.engine runs on ")] == lines[-1:]
    return lines[-1].removeprefix("error: ")


def test_an_engine_that_is_not_trusted_is_not_read(driver, engine, capsys, monkeypatch):
    monkeypatch.delenv("YOLOV12_TRUST_WEIGHTS")
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    assert "type docker run -e YOLOV12_TRUST_WEIGHTS=1" in refused(engine, capsys)
    monkeypatch.setenv("YOLOV12_TRUST_WEIGHTS", "perhaps")
    assert "YOLOV12_TRUST_WEIGHTS=perhaps: type 0 or 1" in refused(engine, capsys)


def test_without_the_bindings_the_image_that_has_them_is_named(engine, capsys):
    assert "take the image yolov12:deploy, or name an ONNX file" in refused(engine, capsys)


def test_an_engine_on_the_cpu_is_refused(driver, engine, capsys):
    assert "leave device=cpu out" in refused(engine, capsys, "device=cpu")


@pytest.mark.parametrize(
    ("driver_or_error", "said"),
    [
        (OSError("libcuda.so.1: no such file"), "no NVIDIA driver is visible (docker run --gpus all)"),
        (Driver(cuda=(12, 4)), "the driver is for CUDA 12.4, and this needs one for CUDA 13 (update it on the host)"),
        (Driver(cuInit=100), "the NVIDIA driver says: no CUDA-capable device is detected (cuInit, error 100)"),
        (Driver(cuDeviceGet=7), "the NVIDIA driver says: unknown (cuDeviceGet, error 7)"),
    ],
)
def test_without_a_gpu_the_reason_is_said(driver, engine, capsys, monkeypatch, driver_or_error, said):
    def load(name: str) -> Driver:
        assert name == "libcuda.so.1"
        if isinstance(driver_or_error, OSError):
            raise driver_or_error
        return driver_or_error

    monkeypatch.setattr("yolov12_deploy.gpu.ctypes.CDLL", load)
    assert f"best.engine runs on a GPU only, and {said}; without one, name an ONNX file" in refused(engine, capsys)


def test_an_engine_that_tensorrt_refuses_is_named_with_its_words(driver, engine, capsys):
    engine.write_bytes(framed(b"another version"))
    said = refused(engine, capsys)
    assert "best.engine can not be loaded by TensorRT's lean runtime 0.0: Error Code 1: Serialization" in said
    assert "type trtexec --versionCompatible --onnx=best.onnx --saveEngine=best.engine" in said


def test_a_full_gpu_is_said_in_the_driver_s_words(driver, engine, capsys):
    driver.fails["cuMemAlloc_v2"] = 2
    assert "the NVIDIA driver says: out of memory (cuMemAlloc_v2, error 2)" in refused(engine, capsys)


def test_a_size_that_the_engine_was_not_built_for_is_said_with_those_that_it_was(driver, engine, capsys):
    engine.write_bytes(framed(plan(FOUND, takes=(1, 3, -1, -1), most=128)))
    assert "imgsz: the engine takes 32x32 to 128x128 pixels, not 256x256" in refused(engine, capsys, "imgsz=256")


def test_an_engine_of_another_task_or_for_several_pictures_is_refused(driver, engine):
    engine.write_bytes(framed(plan(FOUND, takes=(1, 3, SIDE, SIDE)), METADATA | {"task": "pose"}))
    with pytest.raises(UsageError, match="is a model for pose; only detect"):
        Detector(engine)
    engine.write_bytes(framed(plan(FOUND, takes=(8, 3, SIDE, SIDE))))
    with pytest.raises(UsageError, match="takes 8 pictures at once: export it with batch=1"):
        Detector(engine)
