# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the gate said of a file is said again without a comparison, as long as nothing has changed that it depends on."""

import dataclasses
import importlib.metadata
import json

import onnx
import pytest

from yolov12.export import cache, engine_file, gate, machine, request, run, verdict
from yolov12.export.seen import Tolerance

LINE = "parity: onnx in fp16 against its source on 2 images at 96x96: boxes within 0.1 px"


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("YOLOV12_TRT_CACHE_DIR", str(tmp_path / "engines"))
    return tmp_path / "engines"


@pytest.fixture
def compared(monkeypatch):
    """The cases that were compared."""
    cases = []
    monkeypatch.setattr(gate, "verify", lambda case: cases.append(case) or [LINE])
    return cases


@pytest.fixture
def case(model, exported):
    return gate.Case(model.model, exported, "onnx", "fp16", (96, 96))


def entry(folder):
    (found,) = [one for one in cache.entries(folder)[0] if one.key["builder"].startswith("verdict")]
    return folder / f"{found.name}.plan"


def test_what_was_compared_is_told_with_when_it_was(case, compared):
    assert verdict.lines(case, "a") == [LINE]
    (told,) = verdict.lines(case, "a")
    assert len(compared) == 1
    date, _, rest = told.removeprefix("parity: as compared on 20").partition(": ")
    assert len(date) == len("26-12-01 00:00")
    assert rest == LINE.removeprefix("parity: ")


def test_a_network_without_a_hash_is_compared_every_time_and_nothing_is_kept(case, compared, folder):
    for _ in range(2):
        assert verdict.lines(case, None) == [LINE]
    assert len(compared) == 2
    assert not folder.exists()


def test_a_failure_is_not_kept(case, monkeypatch, folder):
    monkeypatch.setattr(gate, "verify", lambda case: (_ for _ in ()).throw(gate.ParityError("differs")))
    for _ in range(2):
        with pytest.raises(gate.ParityError):
            verdict.lines(case, "a")
    assert cache.entries(folder) == ([], [])


def test_it_is_compared_again_where_that_is_asked_and_a_failure_then_ends_what_was_kept(case, compared, monkeypatch):
    verdict.lines(case, "a")
    assert verdict.lines(case, "a", again=True) == [LINE]
    assert len(compared) == 2
    monkeypatch.setattr(gate, "verify", lambda case: (_ for _ in ()).throw(gate.ParityError("differs")))
    for again in (True, False):
        with pytest.raises(gate.ParityError):
            verdict.lines(case, "a", again=again)


def test_map_is_compared_every_time(case, compared):
    maps = iter([50.0, 50.0, 60.0, 59.9, 70.0, 60.0])
    measured = dataclasses.replace(case, evaluate=lambda file, imgsz: next(maps))
    assert verdict.lines(measured, "a")[1:] == ["parity: mAP50-95 50.00 -> 50.00 (allowed 0.3 points less)"]
    assert verdict.lines(measured, "a")[1:] == ["parity: mAP50-95 60.00 -> 59.90 (allowed 0.3 points less)"]
    with pytest.raises(gate.ParityError, match="worse than its source"):
        verdict.lines(measured, "a")
    assert [one.evaluate for one in compared] == [None]


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content.replace(b"0.1", b"0.0")])
def test_one_that_was_cut_or_changed_is_reached_again_with_the_reason(case, compared, folder, capsys, damage):
    verdict.lines(case, "a")
    file = entry(folder)
    file.write_bytes(damage(file.read_bytes()))
    assert len(cache.verify(folder)) == 1
    assert verdict.lines(case, "a") == [LINE]
    assert f"verdict cache: reached again: {file} has " in capsys.readouterr().err


def test_one_that_somebody_put_there_is_not_believed(case, compared, folder, capsys):
    key, said = verdict.key_of(case, "a", ""), json.dumps({"date": "2026-01-01 00:00", "lines": ["parity: fine"]})
    cache.store(folder.parent, key, said.encode())
    folder.mkdir()
    for suffix in ("plan", "json"):
        name = f"{cache.name_of(key)}.{suffix}"
        (folder.parent / name).rename(folder / name)
    assert verdict.lines(case, "a") == [LINE]
    assert "was not made here" in capsys.readouterr().err


def test_one_that_has_no_room_is_no_matter_of_trust(case, compared, monkeypatch, capsys):
    monkeypatch.setattr(cache, "store", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    for _ in range(2):
        assert verdict.lines(case, "a") == [LINE]
    said = capsys.readouterr().err
    assert "verdict cache: this verdict is not kept, and is reached again the next time" in said
    assert "TRUST_WEIGHTS" not in said


# What it depends on


def another_version(monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99" if name == "onnxruntime" else version(name))


def other_pictures(monkeypatch):
    monkeypatch.setattr(gate, "bundled_images", lambda: [gate.ASSETS / "bus.jpg"])


def another_processor(monkeypatch):
    monkeypatch.setattr(machine, "cpuinfo", lambda: "model name : Another\nflags : fma")


def another_tolerance(monkeypatch):
    monkeypatch.setattr(gate, "TOLERANCES", {"fp16": Tolerance(0.5, 0.02, 0.3)})


@pytest.mark.parametrize("change", [another_version, other_pictures, another_processor, another_tolerance])
def test_what_surrounds_a_comparison_makes_another(case, monkeypatch, change):
    before = verdict.key_of(case, "a", "")
    change(monkeypatch)
    assert verdict.key_of(case, "a", "") != before


def test_what_is_compared_and_how_makes_another(case, monkeypatch):
    assert verdict.key_of(case, "b", "") != verdict.key_of(case, "a", "")
    suppression = request.Suppression()
    for changes in ({"precision": "fp32"}, {"imgsz": (96, 64)}, {"nms": suppression}, {"ranked": suppression}):
        assert verdict.key_of(dataclasses.replace(case, **changes), "a", "") != verdict.key_of(case, "a", "")
    on_a_gpu = verdict.key_of(case, "a", "sm_90 NVIDIA H100")
    assert on_a_gpu != verdict.key_of(case, "a", "")
    monkeypatch.setattr(machine, "driver_version", lambda: "580.95.05")
    assert verdict.key_of(case, "a", "sm_90 NVIDIA H100") != on_a_gpu


def test_a_graph_of_another_date_is_the_same_and_one_of_another_name_or_number_is_not(case, tmp_path):
    keys = []
    for part in ("date", "names", "weight"):
        model = onnx.load(case.path)
        if part == "weight":
            tensor = next(one for one in model.graph.initializer if one.raw_data)
            tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]
        for prop in model.metadata_props:
            if prop.key == part:
                prop.value += " "
        onnx.save(model, tmp_path / f"{part}.onnx")
        keys.append(verdict.key_of(dataclasses.replace(case, path=tmp_path / f"{part}.onnx"), "a", ""))
    assert keys[0] == verdict.key_of(case, "a", "")
    assert len({json.dumps(key) for key in keys}) == 3


def test_an_engine_of_another_date_is_the_same_and_one_of_another_header_or_plan_is_not(case, tmp_path):
    keys = []
    for about, plan in (
        ({"date": "today"}, b"plan"),
        ({"date": "later"}, b"plan"),
        ({"date": "today", "batch": 2}, b"plan"),
        ({"date": "today"}, b"plaN"),
    ):
        path = tmp_path / "best.engine"
        path.write_bytes(engine_file.framed(about, plan))
        keys.append(verdict.key_of(dataclasses.replace(case, path=path, form="engine"), "a", "sm_90"))
    assert keys[0] == keys[1]
    assert len({json.dumps(key) for key in keys}) == 3


# Through an export


def test_an_export_asks_for_it_and_can_be_told_not_to(network, stock, model, tensorrt, compared, capsys):
    asked = {"format": "engine", "imgsz": 96, "dynamic": False}
    for again in (False, None, True):
        run.export(network, stock, asked | {"verify_again": again}, None, model)
    assert [one.form for one in compared] == ["onnx", "onnx"]
    assert capsys.readouterr().err.count("parity: as compared on ") == 1
    run.export(network, stock, asked | {"half": False}, None, model)
    assert [one.precision for one in compared] == ["fp16", "fp16", "fp32"]
