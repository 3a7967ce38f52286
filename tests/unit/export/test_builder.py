# SPDX-License-Identifier: AGPL-3.0-or-later
"""The builder of engines: on a stand-in for TensorRT, and on TensorRT-RTX where it is installed (an image with TENSORRT=rtx, or its wheels)."""

import ast
import contextlib
import importlib
import importlib.util
import signal
from pathlib import Path

import onnx
import pytest

from tests.unit.export.trt_stand_in import API, PLUGIN_API, REMOVED_IN_11, RTX_API, TensorRT
from yolov12.errors import UserError
from yolov12.export import builder, half
from yolov12.export.builder import Order, Profile

NO_MEMORY = "Error Code 2: OutOfMemory (Requested size was 1 bytes)"
MIB = 2**20
PROFILE = Profile((1, 3, 32, 32), (4, 3, 96, 96), (4, 3, 96, 96))
with_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed (env/versions.yaml has its wheels)",
)


def test_the_network_is_strongly_typed_and_nothing_else_is_asked_for():
    trt = TensorRT()
    built = builder.build(trt, Order(b"graph", None))
    assert (built.plan, built.timing, built.layers) == (b"plan", b"measured", 7)
    assert trt.calls == [("network", 2), ("parse", b"graph"), ("timing", b"", False)]


def test_a_dynamic_engine_has_its_shapes_and_a_compatible_one_its_flag():
    trt = TensorRT()
    builder.build(trt, Order(b"graph", PROFILE, workspace_bytes=5, version_compatible=True, timing=b"old"))
    assert ("shape", "images", PROFILE.least, PROFILE.tuned, PROFILE.most) in trt.calls
    assert [call for call in trt.calls if call[0] in ("workspace", "flag", "timing")] == [
        ("workspace", 5),
        ("flag", "VERSION_COMPATIBLE"),
        ("timing", b"old", False),
    ]


def test_tensorrt_rtx_is_told_the_gpus_and_keeps_no_timing():
    trt = TensorRT("tensorrt_rtx", "1.7.1")
    assert builder.build(trt, Order(b"graph", None, archs=("75", "89"))).timing == b""
    assert [call for call in trt.calls if call[0] in ("for", "timing")] == [("for", 75), ("for", 89)]


def test_without_memory_it_asks_for_half_and_says_so(capsys):
    trt = TensorRT(fails=(NO_MEMORY, NO_MEMORY))
    builder.build(trt, Order(b"graph", None, workspace_bytes=512 * MIB))
    assert [call[1] // MIB for call in trt.calls if call[0] == "workspace"] == [512, 256, 128]
    assert "no memory with a workspace of 512 MiB -> 256 MiB" in capsys.readouterr().err


def test_ctrl_c_in_a_build_ends_it_though_tensorrt_drops_what_its_logger_raises(monkeypatch):
    trt = TensorRT()
    started = trt.Builder

    def dropping(logger):
        made = started(logger)
        plan_of = made.build_serialized_network

        def build(network, config):
            with contextlib.suppress(BaseException):
                signal.raise_signal(signal.SIGINT)
            return plan_of(network, config)

        monkeypatch.setattr(made, "build_serialized_network", build)
        return made

    monkeypatch.setattr(trt, "Builder", dropping)
    with pytest.raises(KeyboardInterrupt):
        builder.build(trt, Order(b"graph", None))


def test_tactics_are_timed_in_what_is_free_also_when_the_workspace_is_lowered():
    trt = TensorRT(fails=(NO_MEMORY,))
    builder.build(trt, Order(b"graph", None, workspace_bytes=512 * MIB, tactic_bytes=900 * MIB))
    assert [call[1] // MIB for call in trt.calls if call[0] == "tactic_dram"] == [900, 900]


@pytest.mark.parametrize(("free_bytes", "limit"), [(None, None), (4096 * MIB, 3584 * MIB), (100 * MIB, 64 * MIB)])
def test_without_a_gpu_the_builder_has_its_own_limit_for_tactics(free_bytes, limit):
    assert builder.tactic_bytes(free_bytes) == limit


def test_at_the_least_workspace_it_gives_up_in_a_sentence():
    trt = TensorRT(fails=(NO_MEMORY,) * 9)
    with pytest.raises(UserError, match="the GPU has no memory left; end what else runs on it"):
        builder.build(trt, Order(b"graph", None, workspace_bytes=256 * MIB))
    assert len(trt.fails) == 6


@pytest.mark.parametrize(
    ("complaint", "words"),
    [
        ("no tactics to implement the operation within workspace limit", "give more with workspace=GIB"),
        ("Error Code 2: OutOfMemory (Requested size was 900000000 bytes.)", "within a workspace of 512 MiB"),
        ("Error Code 4: Network has dynamic inputs", "can not be built: Error Code 4: Network has dynamic inputs"),
    ],
)
def test_another_failure_is_not_tried_again(complaint, words):
    with pytest.raises(UserError, match=words):
        builder.build(TensorRT(fails=(complaint,)), Order(b"graph", None, workspace_bytes=512 * MIB))


def test_a_graph_that_can_not_be_read_is_told_in_the_parsers_words():
    with pytest.raises(UserError, match=r"tensorrt 11\.4\.0 can not read the ONNX graph: Failed to parse"):
        builder.build(TensorRT(plan=b""), Order(b"graph", None))


@pytest.mark.parametrize(
    ("trt", "archs", "compatible", "words"),
    [
        (TensorRT(), ("86",), False, "arch= is for TensorRT-RTX"),
        (TensorRT(version="8.6.1"), (), False, "TensorRT 8.6.1 is too old"),
        (TensorRT("tensorrt_rtx", "1.7"), ("90",), False, "arch=90: TensorRT-RTX 1.7 builds for 75, 89"),
        (TensorRT("tensorrt_rtx", "1.7"), (), True, "version_compatible=True needs TensorRT proper"),
    ],
)
def test_what_a_builder_can_not_make_is_refused(trt, archs, compatible, words):
    with pytest.raises(UserError, match=words):
        builder.check(trt, archs, compatible)


@pytest.mark.parametrize(
    ("asked_gib", "free_bytes", "limit"),
    [
        (None, None, None),
        (2, None, 2048 * MIB),
        (None, 4096 * MIB, 3584 * MIB),
        (2, 4096 * MIB, 2048 * MIB),
        (8, 4096 * MIB, 3584 * MIB),
        (None, 100 * MIB, 64 * MIB),
    ],
)
def test_the_workspace_is_what_was_asked_for_and_no_more_than_is_free(asked_gib, free_bytes, limit):
    assert builder.workspace_bytes(asked_gib, free_bytes)[0] == limit


def test_a_plugin_is_looked_for_after_all_were_registered_with_a_logger_that_stays():
    trt = TensorRT()
    assert builder.has_plugin(trt, "EfficientNMS_TRT", "1")
    assert not builder.has_plugin(trt, "Other_TRT", "1")
    assert trt.calls == [("plugins", "")] * 2
    assert builder._kept_logger(trt) is builder._kept_logger(trt)


# The contract: what builder.py calls, and what the bindings have


def names_called():
    """Every attribute that builder.py reads or sets."""
    tree = ast.parse(Path(builder.__file__).read_text())
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_the_list_of_names_is_what_the_builder_calls():
    listed = {name for table in (API, RTX_API, PLUGIN_API) for names in table.values() for name in names} - {
        "SM75",
        "SM120",
        "log",
    }
    assert listed <= names_called()


def test_nothing_is_called_that_tensorrt_11_no_longer_has():
    assert not names_called() & REMOVED_IN_11


@with_rtx
def test_tensorrt_rtx_has_every_name():
    trt = importlib.import_module("tensorrt_rtx")
    missing = [
        f"{owner}.{name}"
        for table in (API, RTX_API)
        for owner, names in table.items()
        for name in names
        if not hasattr(getattr(trt, owner, None), name)
    ]
    assert missing == []


@with_rtx
@pytest.mark.parametrize("archs", [("75", "80", "86", "89", "120")])
def test_tensorrt_rtx_builds_an_engine_without_a_gpu(exported, archs):
    trt = importlib.import_module("tensorrt_rtx")
    graph = half.convert(onnx.load(exported)).model.SerializeToString()
    built = builder.build(trt, Order(graph, None, archs=archs))
    assert len(built.plan) > 5_000_000
    assert built.layers > 300


@with_rtx
def test_tensorrt_rtx_says_why_it_can_not_build(exported):
    trt = importlib.import_module("tensorrt_rtx")
    graph = onnx.load(exported).SerializeToString()
    with pytest.raises(UserError, match="can not be built within a workspace of 0 MiB"):
        builder.build(trt, Order(graph, None, workspace_bytes=1))
    with pytest.raises(UserError, match="can not read the ONNX graph"):
        builder.build(trt, Order(graph[:1000], None))
