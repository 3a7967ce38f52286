# SPDX-License-Identifier: AGPL-3.0-or-later
"""An export from its arguments to its files. The graph that ultralytics' exporter would trace is traced once (conftest.py) and copied."""

import dataclasses
import errno
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from ultralytics.utils.nms import non_max_suppression

from tests.unit.export.trt_stand_in import TensorRT
from yolov12.data import synth
from yolov12.errors import RetryableError, UserError
from yolov12.export import builder, calibrate, engine, engine_file, gate, request, run


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_a_float32_file_is_compared_and_put_beside_the_weights(network, stock, tmp_path, capsys):
    made = run.export(network, stock, {"format": "onnx", "imgsz": 96}, None)
    assert made == str(tmp_path / "best.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.onnx"]
    assert "parity: onnx in fp32 against its source on 2 images at 96x96: outputs within " in capsys.readouterr().err
    assert stock.called == {"format": "onnx", "imgsz": 96, "dynamic": False, "opset": 18}
    assert network.pt_path == str(tmp_path / "best.pt")


def test_a_half_file_keeps_its_inputs_outputs_and_metadata(network, stock, loose, tmp_path, capsys):
    run.export(network, stock, {"format": "onnx", "imgsz": 96, "half": True}, None)
    session = onnxruntime.InferenceSession(tmp_path / "best.onnx")
    assert [tensor.type for tensor in (*session.get_inputs(), *session.get_outputs())] == ["tensor(float)"] * 2
    known = session.get_modelmeta().custom_metadata_map
    assert known["task"] == "detect"
    assert "'quantize': 16" in known["args"]
    said = capsys.readouterr().err
    assert "nodes in float16; 24 nodes after the last convolution stay float32" in said
    assert "parity: onnx in fp16" in said


def test_an_export_that_differs_is_not_written_and_the_old_file_stays(network, stock, tmp_path, monkeypatch):
    (tmp_path / "best.onnx").write_text("the old one")
    monkeypatch.setattr(gate, "verify", lambda case: (_ for _ in ()).throw(gate.ParityError("differs")))
    with pytest.raises(gate.ParityError):
        run.export(network, stock, {"format": "onnx", "imgsz": 96}, None)
    assert (tmp_path / "best.onnx").read_text() == "the old one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.onnx"]


def test_it_is_written_without_being_compared_where_told_so(network, stock, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gate, "verify", lambda case: 1 // 0)
    run.export(network, stock, {"format": "onnx", "imgsz": 96, "verify": False}, None)
    assert files(tmp_path) == ["best.onnx"]
    assert "parity: onnx is not compared by the export itself (verify=False)" in capsys.readouterr().err


def test_an_exporter_that_fails_leaves_nothing_behind(network, tmp_path):
    def stock(**arguments):
        Path(network.pt_path).with_suffix(".onnx").write_text("a part")
        raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError, match="no kernel"):
        run.export(network, stock, {"format": "onnx"}, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_a_full_disk_is_told_with_the_folder_where_the_error_names_no_file(network, tmp_path, form):
    def stock(**arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RetryableError, match=rf"^no room in {tmp_path} \(No space left on device\); make room and run"):
        run.export(network, stock, {"format": form, "imgsz": 96}, None)


def test_a_full_disk_under_another_file_is_told_with_that(network, tmp_path):
    def stock(**arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/elsewhere")

    with pytest.raises(OSError, match="/tmp/elsewhere"):
        run.export(network, stock, {"format": "onnx", "imgsz": 96}, None)


def test_an_engine_without_room_is_told_with_its_folder(network, stock, tensorrt, tmp_path, monkeypatch):
    write = Path.write_bytes

    def full(path, content):
        if path.suffix == ".engine":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RetryableError, match=rf"^no room in {tmp_path} \("):
        run.export(network, stock, {"format": "engine", "imgsz": 96, "dynamic": False, "verify": False}, None)


def test_what_can_not_be_made_is_refused_before_the_exporter_runs(network, stock):
    with pytest.raises(UserError, match=r"type data=my\.yaml"):
        run.export(network, stock, {"format": "onnx", "quantize": 8}, None)
    assert stock.called == {}


def test_int8_is_calibrated_compared_and_measured(network, stock, loose, tmp_path, capsys):
    data = synth.write(tmp_path / "data", 4, 2, 96, 0)
    asked = []
    run.export(
        network,
        stock,
        {"format": "onnx", "int8": True, "data": str(data)},
        lambda file, imgsz: asked.append(file) or 50.0,
    )
    assert files(tmp_path) == ["best_int8.onnx"]
    graph = onnx.load(tmp_path / "best_int8.onnx")
    quantized = [node for node in graph.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantized) > 80
    assert all("'quantize': 8" in entry.value for entry in graph.metadata_props if entry.key == "args")
    assert [entry.domain for entry in graph.opset_import] == [""]
    assert asked[0] is None
    assert asked[1].name == "best_int8.onnx"
    said = capsys.readouterr().err
    assert "export: int8 is calibrated on 4 pictures" in said
    assert "parity: mAP50-95 50.00 -> 50.00 (allowed 0.3 points less)" in said


def test_a_data_set_without_pictures_calibrates_nothing_and_nothing_is_traced(network, stock, tmp_path):
    data = synth.write(tmp_path / "data", 1, 1, 64, 0)
    for picture in (tmp_path / "data" / "images" / "train").iterdir():
        picture.unlink()
    with pytest.raises(UserError, match="has none to train on"):
        run.export(network, stock, {"format": "onnx", "quantize": 8, "data": str(data)}, None)
    assert stock.called == {}


def test_pictures_are_spread_over_the_data_set():
    assert calibrate.spread(list(map(Path, "abcdefgh")), 4) == list(map(Path, "aceg"))
    assert calibrate.spread(list(map(Path, "ab")), 4) == list(map(Path, "ab"))


def test_an_engine_is_written_with_its_header_beside_its_graph(network, stock, loose, tensorrt, tmp_path, capsys):
    made = run.export(network, stock, {"format": "engine", "imgsz": 96, "dynamic": False}, None)
    assert made == str(tmp_path / "best.engine")
    assert files(tmp_path) == ["best.engine", "best.onnx"]
    metadata, plan = engine_file.split((tmp_path / "best.engine").read_bytes())
    assert plan == tensorrt.plan
    assert (metadata["task"], metadata["imgsz"], metadata["args"]["quantize"]) == ("detect", [96, 96], 16)
    assert len(metadata["names"]) == 80
    assert metadata["built_by"]["module"] == "tensorrt_rtx"
    assert [call for call in tensorrt.calls if call[0] == "for"] == [("for", int(arch)) for arch in engine.RTX_ARCHS]
    said = capsys.readouterr().err
    assert "export: half=True (the default of format=engine" in said
    assert "parity: onnx in fp16" in said
    assert "the engine itself is not verified" in said


def test_the_second_time_the_engine_comes_from_the_cache(network, stock, tensorrt, capsys):
    for _ in range(2):
        run.export(network, stock, {"format": "engine", "imgsz": 96, "dynamic": False, "verify": False}, None)
    assert len([call for call in tensorrt.calls if call[0] == "parse"]) == 1
    assert "from the cache" in capsys.readouterr().err


def test_a_raw_engine_is_the_plan_alone(network, stock, tensorrt, tmp_path):
    run.export(network, stock, {"format": "engine", "dynamic": False, "raw": True, "verify": False}, None)
    assert (tmp_path / "best.engine").read_bytes() == tensorrt.plan


@pytest.fixture
def proper(tensorrt, monkeypatch):
    """What stands for TensorRT proper, and no word of the GPU that it wants."""
    trt = TensorRT()
    monkeypatch.setattr(engine, "module", lambda: trt)
    monkeypatch.setattr(engine, "check", lambda trt, request: ())
    return trt


def parsed(trt):
    """The operators of the graph that was built."""
    (graph,) = [call[1] for call in trt.calls if call[0] == "parse"]
    return [node.op_type for node in onnx.load_model_from_string(graph).graph.node]


def test_suppression_by_tensorrts_plugin_is_put_into_the_engine_alone(network, stock, proper, tmp_path, capsys):
    asked = {"format": "engine", "imgsz": 96, "dynamic": False, "half": False, "nms": True, "conf": 0.4}
    run.export(network, stock, asked, None)
    assert stock.called["nms"] is False
    assert parsed(proper).count("EfficientNMS_TRT") == 1
    assert onnx.load(tmp_path / "best.onnx").graph.output[0].type.tensor_type.shape.dim[1].dim_value == 84
    metadata, _ = engine_file.split((tmp_path / "best.engine").read_bytes())
    assert metadata["args"]["nms"] is True
    said = capsys.readouterr().err
    assert "export: nms=True by EfficientNMS_TRT" in said
    assert "parity: onnx in fp32 against its source on 2 images at 96x96: outputs within" in said


def test_without_the_plugin_ultralytics_suppresses_and_the_reason_is_told(network, stock, proper, capsys):
    proper.plugins = ()
    asked = {"format": "engine", "imgsz": 96, "dynamic": False, "nms": True, "verify": False}
    run.export(network, stock, asked, None)
    assert stock.called["nms"] is True
    assert "EfficientNMS_TRT" not in parsed(proper)
    assert "export: nms=True by ultralytics (TensorRT 11.4.0 has no EfficientNMS_TRT)" in capsys.readouterr().err


def test_where_nothing_can_suppress_it_is_said_before_anything_is_traced(network, stock, tensorrt):
    with pytest.raises(UserError, match="nms=True needs TensorRT proper"):
        run.export(network, stock, {"format": "engine", "nms": True}, None)
    assert stock.called == {}


def test_a_carried_graph_that_was_cut_is_named(exported, tensorrt, tmp_path):
    (tmp_path / "cut.onnx").write_bytes(exported.read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"cut\.onnx is no whole ONNX file"):
        run.engine_of_file(tmp_path / "cut.onnx", {"format": "engine"})


def test_an_engine_after_suppression_is_compared_by_its_boxes(model, exported, tmp_path, monkeypatch):
    """As on a GPU: the engine's runner is the ONNX file's, with ultralytics' suppression behind it."""
    asked = request.Suppression(conf=0.3, iou=0.5, max_det=20)
    opened = gate.parity.open_onnx(exported)

    def after(pixels):
        rows = non_max_suppression(torch.from_numpy(opened.run(pixels)[0]), asked.conf, asked.iou, max_det=20)
        return [np.stack([np.pad(one.numpy(), ((0, 20 - len(one)), (0, 0))) for one in rows])]

    monkeypatch.setattr(gate, "open_backend", lambda case: dataclasses.replace(opened, run=after))
    case = gate.Case(model.model, tmp_path / "best.engine", "engine", "fp32", (96, 96), asked)
    (line,) = gate.verify(case)
    assert "parity: engine in fp32 against its source on 2 images at 96x96:" in line


def test_float32_for_turing_is_refused_before_anything_is_traced(network, stock, tensorrt):
    with pytest.raises(UserError, match=r"no float32 for sm_75: leave half=False out, or arch=75$"):
        run.export(network, stock, {"format": "engine", "half": False, "arch": "75,89"}, None)
    assert not stock.calls


def test_tensorrt_proper_needs_a_gpu_which_is_said_before_anything_is_traced(network, stock, tensorrt, monkeypatch):
    monkeypatch.setattr(engine, "module", TensorRT)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="TensorRT builds for the GPU that it runs on"):
        run.export(network, stock, {"format": "engine"}, None)
    assert stock.called == {}


def test_a_format_of_ultralytics_alone_is_made_and_not_called_verified(network, tmp_path, capsys):
    called = {}
    run.export(
        network,
        lambda **arguments: called.update(arguments) or "x_openvino_model",
        {"format": "openvino", "verify": True},
        None,
    )
    assert called == {"format": "openvino"}
    assert "parity: openvino is not verified (it is compared for onnx" in capsys.readouterr().err


# An engine of a file that was exported before


def test_an_engine_is_made_of_the_graph_alone(exported, tensorrt, tmp_path, capsys):
    path = tmp_path / "carried.onnx"
    shutil.copy(exported, path)
    assert run.engine_of_file(path, {"format": "engine"}) == str(tmp_path / "carried.engine")
    metadata, plan = engine_file.split((tmp_path / "carried.engine").read_bytes())
    assert (plan, metadata["imgsz"], metadata["built_by"]["precision"]) == (tensorrt.plan, [96, 96], "fp32")
    assert "the engine is not verified: the weights" in capsys.readouterr().err


def test_suppression_is_put_into_the_engine_of_a_carried_graph(exported, proper, tmp_path):
    path = tmp_path / "carried.onnx"
    shutil.copy(exported, path)
    run.engine_of_file(path, {"format": "engine", "nms": True})
    metadata, _ = engine_file.split((tmp_path / "carried.engine").read_bytes())
    assert metadata["args"]["nms"] is True
    assert "EfficientNMS_TRT" in parsed(proper)


def test_a_carried_graph_is_told_where_nothing_can_suppress(exported, tensorrt):
    with pytest.raises(UserError, match=r"can not be put into the engine of .* \(TensorRT-RTX has no plugins\)"):
        run.engine_of_file(exported, {"format": "engine", "nms": True})


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"task": "detect", "args": {"nms": True}}, "suppresses already"),
        ({"task": "detect", "args": {}, "end2end": True}, "suppresses already"),
        ({"task": "pose", "args": {}}, "more than boxes"),
        ({"task": "detect", "args": {"nms": False}, "end2end": False}, ""),
    ],
)
def test_what_a_graph_says_of_itself_decides_whether_something_can_suppress_behind_it(about, words):
    assert words in run._why_no_plugin(about)
    assert bool(run._why_no_plugin(about)) == bool(words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "torchscript"}, "is exported already"),
        ({}, "is exported already"),
        ({"format": "engine", "half": True}, "half=True was decided when"),
        ({"format": "engine", "imgsz": 64}, "imgsz=64 was decided when"),
    ],
)
def test_what_the_graph_has_decided_is_not_asked_for_again(exported, tensorrt, options, words):
    with pytest.raises(UserError, match=words):
        run.engine_of_file(exported, options)


def test_a_graph_that_does_not_say_what_it_is_is_refused(tensorrt, tmp_path):
    onnx.save(graph_of((1, 3, 64, 64)), tmp_path / "foreign.onnx")
    with pytest.raises(UserError, match="does not say what it is"):
        run.engine_of_file(tmp_path / "foreign.onnx", {"format": "engine"})


def test_the_model_of_an_exported_file_exports_an_engine(exported, tensorrt, tmp_path):
    from ultralytics import YOLO

    shutil.copy(exported, tmp_path / "carried.onnx")
    made = YOLO(tmp_path / "carried.onnx", task="detect").export(format="engine")
    assert made == str(tmp_path / "carried.engine")


# What an engine takes


def graph_of(shape):
    sides = ",".join(map(str, shape))
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> g (float[{sides}] images) => (float[{sides}] y) {{ y = Relu (images) }}'
    )


@pytest.mark.parametrize(
    ("options", "least", "most"),
    [
        ({}, (1, 3, 32, 32), (4, 3, 320, 640)),
        ({"min_imgsz": 256, "max_imgsz": 1280}, (1, 3, 256, 256), (4, 3, 1280, 1280)),
    ],
)
def test_a_dynamic_engine_takes_what_is_exported_for_and_not_four_times_as_much(options, least, most):
    asked = request.of({"format": "engine", "batch": 4, "imgsz": (320, 640)} | options)
    found = engine.profile_of(graph_of(("b", 3, "h", "w")), {"imgsz": [320, 640], "channels": 3}, asked)
    assert found == builder.Profile(least, (4, 3, 320, 640), most)


def test_fixed_shapes_need_no_profile():
    asked = request.of({"format": "engine"})
    assert engine.profile_of(graph_of((1, 3, 64, 64)), {"imgsz": [64, 64]}, asked) is None


def test_a_header_is_read_by_ultralytics(tmp_path):
    from ultralytics.nn.backends.base import BaseBackend

    (tmp_path / "x.engine").write_bytes(engine_file.framed({"task": "detect"}, b"plan"))
    offset, metadata = BaseBackend.engine_header(tmp_path / "x.engine")
    assert metadata == {"task": "detect", "plan_bytes": 4}
    assert (tmp_path / "x.engine").read_bytes()[offset:] == b"plan"
    assert engine_file.split(b"plan") == ({}, b"plan")


@pytest.mark.parametrize("task", ["detect", "segment", "pose", "obb"])
def test_suppression_inside_is_judged_for_every_task_that_has_it(model, exported, monkeypatch, task):
    metadata = {"task": task, "args": {"nms": True}, "imgsz": [96, 96]}
    monkeypatch.setattr(engine, "metadata_of", lambda graph: metadata)
    monkeypatch.setattr(gate, "verify", lambda case: ["judged" if case.nms else "outputs"])
    asked = request.of({"format": "onnx", "nms": True})
    assert run._verified(model.model, exported, "onnx", asked, None) == ["judged"]
