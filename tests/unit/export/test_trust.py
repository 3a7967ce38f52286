# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which engines are loaded: ours, whole, and made for what is here. The files hold no real plan."""

import pytest
import torch

from tests.unit.export.trt_stand_in import TensorRT
from yolov12.errors import UserError
from yolov12.export import adapter, builder, cache, engine_file, trust

MADE = {"module": "tensorrt", "version": "11.4.0", "gpu": "sm_90 NVIDIA H100", "version_compatible": False}
HERE = ("tensorrt", "11.4.0", "sm_90 NVIDIA H100")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLOV12_TRT_CACHE_DIR", str(tmp_path / "engines"))
    (tmp_path / "engines").mkdir()
    return tmp_path / "engines"


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "best.engine"
    path.write_bytes(engine_file.framed({engine_file.BUILT_BY: MADE}, b"plan"))
    return path


def test_an_engine_that_was_built_here_is_loaded_framed_or_raw(folder, engine, tmp_path):
    cache.remember(folder, b"plan")
    assert trust.check(engine) == MADE
    raw = tmp_path / "raw.engine"
    raw.write_bytes(b"plan")
    assert trust.check(raw) == {}


def test_an_engine_of_someone_else_is_native_code(folder, engine, monkeypatch):
    with pytest.raises(
        UserError,
        match=r"native code that was not built here \(its header says: by tensorrt 11.4.0 for sm_90 NVIDIA H100\): .* trust_weights=1",
    ):
        trust.check(engine)
    monkeypatch.setenv("YOLOV12_TRUST_WEIGHTS", "1")
    assert trust.check(engine) == MADE


@pytest.mark.parametrize(
    ("beside", "source"), [((), "best.pt"), (("best.pt",), "best.pt"), (("best.pt", "best.onnx"), "best.onnx")]
)
def test_an_engine_that_was_cut_is_told_with_what_makes_it_again(folder, engine, beside, source):
    engine.write_bytes(engine.read_bytes()[:-2])
    for name in beside:
        (engine.parent / name).touch()
    with pytest.raises(UserError) as refused:
        trust.check(engine)
    assert "was cut: its plan has 2 bytes of 4; make it again with" in str(refused.value)
    assert str(refused.value).endswith(f"export model={engine.parent / source} format=engine")


def test_an_empty_engine_was_cut_too(folder, engine):
    engine.write_bytes(b"")
    with pytest.raises(UserError, match="was cut: its plan has 0 bytes;"):
        trust.check(engine)


@pytest.mark.parametrize(
    "here",
    [
        ("tensorrt_rtx", *HERE[1:]),
        ("tensorrt", "11.5.0", HERE[2]),
        ("tensorrt", "11.4.0", "sm_80 NVIDIA A100"),
    ],
)
def test_an_engine_for_something_else_is_refused_with_both(engine, here):
    trust.check_fits(engine, MADE, *HERE)
    with pytest.raises(UserError) as refused:
        trust.check_fits(engine, MADE, *here)
    assert (
        "was built by tensorrt 11.4.0 for sm_90 NVIDIA H100, and here is " + f"{here[0]} {here[1]} on {here[2]}"
        in str(refused.value)
    )


def test_a_version_compatible_engine_runs_in_every_version_of_its_major(engine):
    made = MADE | {"version_compatible": True}
    trust.check_fits(engine, made, "tensorrt", "11.9.0", HERE[2])
    with pytest.raises(UserError):
        trust.check_fits(engine, made, "tensorrt", "12.0.0", HERE[2])


@pytest.mark.parametrize("older", ["11.3.9", "11.0.0", "10.16.1"])
def test_an_older_version_runs_no_newer_engine(engine, older):
    with pytest.raises(UserError, match=f"and here is tensorrt {older}"):
        trust.check_fits(engine, MADE | {"version_compatible": True}, "tensorrt", older, HERE[2])


def test_a_plan_without_a_header_is_left_to_tensorrt(engine):
    trust.check_fits(engine, {}, "tensorrt", "12.0.0", "any")


def test_ultralytics_loads_nothing_before_it_was_checked(folder, engine, monkeypatch):
    from ultralytics.nn.backends.tensorrt import TensorRTBackend

    loaded = []
    bindings = TensorRT()

    def load(backend, weight):
        loaded.append(weight)
        assert issubclass(bindings.Runtime, plain)
        assert bindings.Runtime is not plain

    plain = bindings.Runtime
    monkeypatch.setattr(adapter, "_upstream_load_model", load)
    monkeypatch.setattr(builder, "find_module", lambda: "tensorrt")
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", bindings)
    monkeypatch.setattr(builder, "gpu_here", lambda: HERE[2])
    adapter.install()
    backend = TensorRTBackend.__new__(TensorRTBackend)
    with pytest.raises(UserError, match="native code"):
        backend.load_model(engine)
    cache.remember(folder, b"plan")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="runs on a GPU, and torch sees none here"):
        backend.load_model(engine)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    backend.load_model(engine)
    assert loaded == [engine]
    assert bindings.Runtime is plain


@pytest.mark.parametrize("made", [{}, {"version_compatible": True}, {"version_compatible": False}])
def test_code_of_the_host_is_allowed_where_an_engine_brings_it_and_what_can_not_be_read_is_told(engine, made):
    class Bindings:
        __version__ = "11.4.0"

        class Runtime:
            engine_host_code_allowed = False

            def __init__(self, logger):
                self.logger = logger

            def deserialize_cuda_engine(self, plan):
                return "engine" if plan == b"plan" and self.engine_host_code_allowed else None

    runtime = adapter._runtime_for(engine, made, Bindings)("logger")
    assert runtime.logger == "logger"
    is_allowed = made.get(
        "version_compatible", True
    )  # a plan of somebody else's has no header, and is trusted or not loaded
    if is_allowed:
        assert runtime.deserialize_cuda_engine(b"plan") == "engine"
    with pytest.raises(UserError, match=r"^TensorRT 11.4.0 can not read .*; make it again with"):
        runtime.deserialize_cuda_engine(b"other" if is_allowed else b"plan")


def test_an_engine_without_tensorrt_is_refused_and_nothing_is_installed(folder, engine, monkeypatch):
    cache.remember(folder, b"plan")
    monkeypatch.setattr(builder, "find_module", lambda: "tensorrt_rtx")
    with pytest.raises(UserError, match=r"needs TensorRT, which is not installed here \(TensorRT-RTX is"):
        adapter._load_checked(None, engine)
