# SPDX-License-Identifier: AGPL-3.0-or-later
"""An engine that was exported before is exported again without a trace, and all that comes of it is as if there had been one."""

import errno

import onnx
import pytest

from yolov12.data import synth
from yolov12.export import cache, calibrate, engine_file, fingerprint, gate, run

ASKED = {"format": "engine", "imgsz": 96, "dynamic": False, "half": False, "verify": False}


@pytest.fixture
def export(network, stock, model, tensorrt):
    """Exports with these arguments, and gives how often the network was traced for it."""

    def once(**options):
        before = stock.calls
        run.export(network, stock, ASKED | options, lambda file, imgsz: 50.0, model)
        return stock.calls - before

    return once


def about(path):
    """What a file says of itself, and all of it but the date."""
    model = onnx.load(path)
    said = {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    return said.pop("date"), (said, model.SerializeToString())


def built(tensorrt):
    """The graphs of which engines were built."""
    return [call[1] for call in tensorrt.calls if call[0] == "parse"]


def entry_of(folder, is_graph):
    (name,) = [one.name for one in cache.entries(folder)[0] if ("ONNX graph" in one.key["builder"]) is is_graph]
    return folder / f"{name}.plan"


def test_the_second_time_there_is_no_trace_and_the_files_are_the_same_but_for_their_date(export, tmp_path, capsys):
    made = []
    for _ in range(2):
        made.append(
            (export(), about(tmp_path / "best.onnx"), engine_file.split((tmp_path / "best.engine").read_bytes()))
        )
    (traces, (date, said), (header, plan)), (more_traces, (later, said_again), (header_again, plan_again)) = made
    assert (traces, more_traces) == (1, 0)
    assert said == said_again
    assert date < later
    assert plan == plan_again
    assert header.pop("date") == date
    assert header_again.pop("date") == later
    assert header == header_again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.engine", "best.onnx", "engines"]
    assert "export: the ONNX graph is from the cache, " in capsys.readouterr().err


def test_another_precision_is_another_engine_of_the_same_trace(export, tensorrt, tmp_path):
    assert [export(), export(half=True)] == [1, 0]
    assert len(set(built(tensorrt))) == 2
    assert "'quantize': 16" in about(tmp_path / "best.onnx")[1][0]["args"]
    assert [export(), export(half=True)] == [0, 0]
    assert len(built(tensorrt)) == 2


def test_int8_is_calibrated_on_the_pictures_that_are_there_now(export, tensorrt, monkeypatch, tmp_path):
    asked = {"half": None, "quantize": 8}
    several = [synth.write(tmp_path / f"data{seed}", 4, 2, 96, seed) for seed in (0, 1)]
    assert [export(data=str(data), **asked) for data in (several[0], several[1], several[0])] == [1, 0, 0]
    assert len(built(tensorrt)) == 2
    monkeypatch.setattr(calibrate, "quantized", lambda *args: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        export(data=str(several[0]), **asked)


def test_other_arguments_and_other_weights_are_traced(export, network):
    assert [export(), export(imgsz=128), export(opset=17)] == [1, 1, 1]
    bias = network.model[-1].cv2[0][-1].bias
    before = bias.data.clone()
    bias.data += 1
    try:
        assert export() == 1
    finally:
        bias.data.copy_(before)
    assert export() == 0


def test_a_hit_is_not_compared_again_and_one_that_differs_from_its_source_is_not_written(export, monkeypatch, tmp_path):
    compared = []
    monkeypatch.setattr(gate, "verify", lambda case: compared.append(case.form) or [])
    assert [export(verify=True), export(verify=True)] == [1, 0]
    assert compared == ["onnx"]
    before = (tmp_path / "best.onnx").read_bytes()
    monkeypatch.setattr(gate, "verify", lambda case: (_ for _ in ()).throw(gate.ParityError("differs")))
    with pytest.raises(gate.ParityError):
        export(verify=True, verify_again=True)
    assert (tmp_path / "best.onnx").read_bytes() == before


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:-1] + b"\0"])
def test_a_graph_that_was_cut_or_changed_is_traced_again_with_the_reason(export, tensorrt, tmp_path, capsys, damage):
    export()
    entry = entry_of(tmp_path / "engines", is_graph=True)
    entry.write_bytes(damage(entry.read_bytes()))
    assert [export(), export()] == [1, 0]
    assert f"graph cache: built again: {entry} has " in capsys.readouterr().err
    assert len(built(tensorrt)) == 1


def test_an_engine_that_was_cut_is_built_again_of_the_graph_that_is_kept(export, tensorrt, tmp_path, capsys):
    export()
    entry_of(tmp_path / "engines", is_graph=False).write_bytes(b"pla")
    assert export() == 0
    assert len(built(tensorrt)) == 2
    assert "engine cache: built again: " in capsys.readouterr().err


def test_a_network_that_does_not_say_enough_of_itself_is_traced_and_its_engine_found(export, tensorrt, monkeypatch):
    monkeypatch.setattr(fingerprint, "of", lambda network: None)
    assert [export(), export()] == [1, 1]
    assert len(built(tensorrt)) == 1


def test_an_exporter_that_fails_leaves_nothing_in_the_cache(network, model, tensorrt, tmp_path):
    with pytest.raises(RuntimeError, match="no kernel"):
        run.export(network, lambda **_: (_ for _ in ()).throw(RuntimeError("no kernel")), ASKED, None, model)
    assert cache.entries(tmp_path / "engines") == ([], [])
    assert [path.name for path in tmp_path.iterdir()] == ["engines"]


def test_an_onnx_file_alone_needs_no_cache(network, stock, model, monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "get_or_build", lambda *args, **options: 1 // 0)
    for _ in range(2):
        run.export(network, stock, {"format": "onnx", "imgsz": 96, "verify": False}, None, model)
    assert stock.calls == 2


def test_a_full_disk_under_the_cache_costs_no_export(export, monkeypatch, tmp_path, capsys):
    """A graph that is not kept is no matter of trust."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "store", full)
    assert [export(), export()] == [1, 1]
    said = capsys.readouterr().err
    assert "graph cache: this graph is not kept, and is built again the next time: " in said
    assert said.count("it loads with YOLOV12_TRUST_WEIGHTS=1 alone") == 2
    assert "graph cache: nor can" not in said
    assert (tmp_path / "best.engine").is_file()


def test_a_graph_of_the_cache_is_what_ultralytics_exporter_would_write(tensorrt, monkeypatch, tmp_path, capsys):
    from yolov12 import YOLO

    model = YOLO("yolov8n.yaml")
    model.save(tmp_path / "best.pt")
    found = []
    for folder in ("a", "a", "b"):  # traced, found, traced
        monkeypatch.setenv("YOLOV12_TRT_CACHE_DIR", str(tmp_path / folder))
        YOLO(tmp_path / "best.pt").export(**(ASKED | {"imgsz": 32}))
        found.append(about(tmp_path / "best.onnx")[1])
    assert found[0] == found[1] == found[2]
    assert capsys.readouterr().err.count("without a trace") == 1
