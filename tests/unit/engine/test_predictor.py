# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ours and ultralytics' predictor give identical results, files and lines. The GPU's way runs here with graphs that a stand-in replays."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import ultralytics.engine.predictor as upstream_predictor
from ultralytics.engine.predictor import BasePredictor
from ultralytics.models.yolo.detect import DetectionPredictor
from ultralytics.utils import ops

from benchmarks import lively
from tests.unit.engine import letterbox_stand_in
from tests.unit.engine import predicting as shared
from tests.unit.engine.predicting import IMGSZ, SIZES, assert_same, both, hearing, predicted, put_anew, sources, written
from yolov12 import YOLO
from yolov12.engine import patches, predictor
from yolov12.engine.predictor import YOLOv12Predictor
from yolov12.engine.read_ahead import ReadAhead
from yolov12.engine.scoring import fixed, in_kernels, timing

REPOSITORY = Path(__file__).parents[3]
model, pictures, folder, pool, elsewhere = shared.model, shared.pictures, shared.folder, shared.pool, shared.elsewhere


KINDS = ("array", "grey", "floats", "list", "PIL", "file", "folder", "files", "tensor")


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_ultralytics_results(model, pictures, folder, pool, kind):
    ours = both(model, sources(pictures, folder)[kind])
    assert pool.replays > 0
    assert any(len(result.boxes) for result in ours), "a parity of nothing proves little"


@pytest.mark.parametrize(
    "options",
    [
        {"stream": True},
        {"batch": 3},
        {"batch": 3, "rect": False},
        {"classes": [0, 2, 5]},
        {"classes": 1},
        {"agnostic_nms": True, "iou": 0.3},
        {"max_det": 4},
        {"conf": 0.99},
    ],
    ids=str,
)
def test_every_option_gives_ultralytics_results(model, folder, pool, options):
    both(model, str(folder), **options)
    assert pool.replays > 0


def test_a_head_that_suppresses_by_itself_gives_ultralytics_results(folder, pool, tmp_path):
    """Its `max_det` is set anew for every call (engine/predictor.py:345)."""
    path = tmp_path / "end2end.pt"
    lively.make("yolo26n.yaml", IMGSZ, share=0.1).save(path)
    model = YOLO(path)
    for options in ({}, {"max_det": 400}, {"classes": [1, 2, 3]}):
        assert any(len(result.boxes) for result in both(model, str(folder), batch=3, conf=0.01, **options))
    assert pool.replays > 0


def test_the_first_answer_waits_for_no_library_that_has_no_part_in_it(model):
    program = """
import sys
from tests.unit.engine.stand_in_pool import StandInPools
from yolov12 import YOLO
from yolov12.engine import network
network.pool_of = StandInPools().pool_of
import numpy as np
boxes = YOLO(sys.argv[1]).predict(np.zeros((96, 96, 3), np.uint8), imgsz=96, conf=0.01, device="cpu", verbose=False)[0].boxes
late = {"torchvision", "torch._dynamo", "torch.onnx", "sympy", "matplotlib.pyplot", "yolov12.engine.trainer"}
print(len(boxes) > 0, sorted(late & sys.modules.keys()))
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    words = [sys.executable, "-c", program, model.ckpt_path]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True []"


def test_on_the_cpu_all_is_ultralytics(model, folder):
    both(model, str(folder), batch=2)
    assert model.predictor.fast is None


def test_detection_is_predicted_by_ours_and_other_tasks_as_they_were(model, pictures):
    model.predict(pictures[0], imgsz=IMGSZ, verbose=False, device="cpu")
    assert type(model.predictor) is YOLOv12Predictor
    assert model.task_map["detect"]["predictor"] is YOLOv12Predictor
    assert model.task_map["segment"]["predictor"] is not YOLOv12Predictor


def test_a_class_with_a_table_of_its_own_is_asked_for_it(model):
    class Predictor(YOLOv12Predictor):
        pass

    class Model(YOLO):
        @property
        def task_map(self):
            table = super().task_map
            return {**table, "detect": {**table["detect"], "predictor": Predictor}}

    assert Model(model.ckpt_path)._smart_load("predictor") is Predictor
    assert model._smart_load("predictor") is YOLOv12Predictor
    assert model._smart_load("trainer") is model.task_map["detect"]["trainer"]


def test_a_crowd_beyond_the_room_takes_the_way_that_waits(model, folder, pool, monkeypatch):
    monkeypatch.setattr(fixed, "ROOM", 8)
    assert any(len(result.boxes) > 8 for result in both(model, str(folder), batch=3))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_folder_that_is_read_ahead_gives_ultralytics_results(model, folder, pool, monkeypatch, batch):
    """And one that is left before its end leaves no thread."""
    monkeypatch.setattr(predictor, "read_ahead", partial(predictor.read_ahead, threads=3))
    both(model, str(folder), batch=batch)
    stream = model.predict(str(folder), imgsz=IMGSZ, verbose=False, device="cpu", stream=True)
    next(stream)
    source = model.predictor.dataset
    assert isinstance(source, ReadAhead)
    stream.close()
    assert source._executor is None


def test_pictures_that_a_callback_paints_over_are_those_that_the_network_sees(model, folder, pool, monkeypatch):
    """As a mask of privacy does, also where files were letterboxed ahead."""
    monkeypatch.setattr(predictor, "read_ahead", partial(predictor.read_ahead, threads=3))

    def paint(caller: Any) -> None:
        for picture in caller.batch[1]:
            picture[:, : picture.shape[1] // 2] = 0

    plain = predicted(model, str(folder))
    with hearing(model, "on_predict_batch_start", paint):
        painted = both(model, str(folder))
    assert any(not torch.equal(one.boxes.data, other.boxes.data) for one, other in zip(plain, painted, strict=True)), (
        "painting changed nothing"
    )


@pytest.mark.parametrize(
    ("kind", "options"), [("array", {}), ("list", {}), ("list", {"rect": False}), ("file", {})], ids=str
)
def test_frames_that_the_kernel_letterboxes_give_ultralytics_results(
    model, pictures, folder, pool, monkeypatch, kind, options
):
    calls = letterbox_stand_in.install(monkeypatch)
    assert any(len(result.boxes) for result in both(model, sources(pictures, folder)[kind], **options))
    assert calls
    assert pool.replays > 0


def test_the_kernel_writes_where_the_networks_graph_reads(model, pictures, pool, monkeypatch):
    """From the call on that follows the capture."""
    letterbox_stand_in.install(monkeypatch)
    both(model, pictures[0])
    (graph,) = (one for one in pool.captured if one.held.shape[1] == 3)
    assert (graph.replays, graph.copies) == (2, 1)


def test_files_that_are_letterboxed_ahead_stay_so_unless_a_callback_may_paint_over_them(
    model, folder, pool, monkeypatch
):
    calls = letterbox_stand_in.install(monkeypatch)
    monkeypatch.setattr(predictor, "read_ahead", partial(predictor.read_ahead, threads=3))
    both(model, str(folder))
    assert not calls
    with hearing(model, "on_predict_batch_start", lambda caller: None):
        both(model, str(folder))
    assert len(calls) == 3 * len(SIZES)


def test_files_and_lines_are_ultralytics(model, folder, pool, tmp_path, caplog):
    """Annotated pictures, text files and crops; and what is printed, but for times and where it was saved."""
    caplog.set_level("INFO", logger="ultralytics")
    options = {"save": True, "save_txt": True, "save_conf": True, "save_crop": True, "verbose": True}
    sides = {}
    for name, side in (("theirs", DetectionPredictor), ("ours", YOLOv12Predictor)):
        for _ in range(2):
            caplog.clear()
            found = predicted(model, str(folder), side, project=str(tmp_path), name=name, exist_ok=True, **options)
        lines = [re.sub(r"[\d.]+ms|/(ours|theirs)\b", "", line) for line in caplog.messages]
        sides[name] = (found, lines, written(tmp_path / name))
    assert pool.replays > 0
    assert sides["ours"][1:] == sides["theirs"][1:]
    assert len(sides["ours"][2]) > 2 * len(SIZES)
    assert all(result.save_dir == str(tmp_path / "ours") for result in sides["ours"][0])


def test_results_stay_what_they_were_when_others_follow(model, pictures, pool):
    """A graph writes its next answer over the last."""
    for _ in range(2):
        first = predicted(model, pictures[0])[0].boxes.data
    kept = first.clone()
    predicted(model, pictures[1])
    predicted(model, pictures[2])
    assert torch.equal(first, kept)


def take_some(result: Any) -> None:
    result.boxes.data = result.boxes.data[:1]


def rename(result: Any) -> None:
    """In place: it is the same tensor."""
    result.boxes.data[:, 5] = 7


def texts(model: YOLO, source: Any, side: Any, folder: Path) -> list[str]:
    """The text files of a prediction."""
    predicted(model, source, side, save_txt=True, project=str(folder), name=side.__name__)
    return [path.read_text() for path in sorted((folder / side.__name__ / "labels").iterdir())]


@pytest.mark.parametrize("change", [put_anew, take_some, rename])
def test_boxes_that_a_callback_changes_are_written_as_it_left_them(model, folder, pool, tmp_path, change, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "cpu", torch.Tensor.clone)  # as from a GPU: another tensor

    def change_all(caller: Any) -> None:
        for result in caller.results:
            change(result)

    with hearing(model, "on_predict_postprocess_end", change_all):
        theirs = texts(model, str(folder), DetectionPredictor, tmp_path)
        assert texts(model, str(folder), YOLOv12Predictor, tmp_path) == theirs != []


def test_boxes_that_are_exchanged_outside_of_callbacks_are_those_that_are_written(model, folder, pool, tmp_path):
    """By a class of the user's own, say."""

    class Some(YOLOv12Predictor):
        def postprocess(self, *args: Any, **kwargs: Any) -> Any:
            results = super().postprocess(*args, **kwargs)
            for result in results:
                take_some(result)
            return results

    written = texts(model, str(folder), Some, tmp_path)
    assert len(written) > 1
    assert all(len(text.splitlines()) == 1 for text in written)


@pytest.mark.parametrize("asked", [{"embed": [5]}, {"augment": True}])
def test_what_needs_more_than_predictions_takes_ultralytics_way(model, pictures, pool, asked):
    for _ in range(3):
        theirs = predicted(model, pictures[0], DetectionPredictor, **asked)
        ours = predicted(model, pictures[0], **asked)
        if "embed" in asked:
            assert torch.equal(ours[0], theirs[0])
        else:
            assert_same(ours, theirs)
    assert not any(one.held.shape[1] == 3 for one in pool.captured), "the network was captured"


def test_a_second_suppression_with_another_iou_is_ultralytics_too(model, folder, pool):
    """As TrackTrack asks for, from the predictions of the same batch (trackers/track_tracker.py:166)."""
    found: dict[type, list[Any]] = {DetectionPredictor: [], YOLOv12Predictor: []}

    def again(preds: Any, img: Any, orig_imgs: Any) -> Any:
        tight = type(caller).postprocess(caller, preds, img, orig_imgs)
        other = type(caller).postprocess(caller, preds, img, orig_imgs, iou=0.2)
        found[type(caller)].append([result.boxes.data for result in (*tight, *other)])
        return tight

    for side in found:
        predicted(model, str(folder), side)
        caller = model.predictor
        caller.postprocess = again
        predicted(model, str(folder), side)
    for ours, theirs in zip(*found.values(), strict=True):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert any(len(tight) > len(other) for tight, other in found[YOLOv12Predictor])
    assert pool.replays > 0


@pytest.mark.parametrize("tracker", ["bytetrack.yaml", "tracktrack.yaml"])
def test_tracks_are_ultralytics(model, folder, pool, tracker):
    pytest.importorskip("lap", reason="trackers need lap, which is not installed")

    def tracks(side: Any) -> list[list[list[float]]]:
        model.predictor = None
        frames = sorted(folder.glob("[0-1].png")) * 3
        options = {"persist": True, "imgsz": IMGSZ, "verbose": False, "device": "cpu"}
        return [
            model.track(str(frame), tracker=tracker, predictor=side, **options)[0].boxes.data.tolist()
            for frame in frames
        ]

    theirs = tracks(DetectionPredictor)
    assert any(theirs)
    assert tracks(YOLOv12Predictor) == theirs


@pytest.mark.parametrize(
    ("model_is", "asked", "expected"),
    [
        ({}, {}, True),
        ({"fp16": False}, {}, False),
        ({"format": "engine"}, {}, False),
        ({}, {"channels_last": False}, False),
        ({}, {"compile": "reduce-overhead"}, False),
    ],
    ids=str,
)
def test_half_precision_runs_channels_last_where_nobody_asked_for_another_layout(model_is, asked, expected):
    backend = SimpleNamespace(**{"format": "pt", "fp16": True} | model_is)
    args = SimpleNamespace(**{"compile": False, "channels_last": None} | asked)
    assert predictor.takes_channels_last(backend, args) is expected


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("YOLOV12_PREDICT_GRAPHS", "1")
    predictor.install()
    yield
    monkeypatch.delenv("YOLOV12_PREDICT_GRAPHS")
    predictor.install()


@pytest.mark.usefixtures("asked_for")
def test_parts_are_timed_by_ours_and_nothing_else_of_ops_is_another():
    assert set(re.findall(r"\bops\.(\w+)", inspect.getsource(upstream_predictor))) == {"Profile"}
    ours = dict(vars(upstream_predictor.ops))
    assert ours.pop("Profile") is timing.profile
    assert all(value is getattr(ops, name) for name, value in ours.items())


@pytest.mark.usefixtures("asked_for")
def test_where_nobody_asks_ultralytics_times_the_parts_of_all_tasks(monkeypatch):
    """Also in a process where somebody asked before."""
    monkeypatch.setenv("YOLOV12_PREDICT_GRAPHS", "0")
    patches.install_patches()
    assert upstream_predictor.ops is ops


def in_torch(prediction, confidence, iou, max_det, agnostic, wanted, placing):
    """docker/kernels' op by torch's operations."""
    answer = fixed.fixed_nms(prediction, confidence, iou, max_det, agnostic=agnostic, wanted=wanted)
    if placing:
        padding, gain, limit = (torch.tensor(2 * placing[i : i + 2]) for i in (0, 2, 4))
        rows = answer[:, :-1, :4]
        rows.copy_(torch.minimum(((rows - padding) / gain).clamp_(min=0), limit))
        for image, (count, _) in zip(answer, answer[:, -1, :2].int().tolist(), strict=True):
            image[count:-1] = 0
    return answer


@pytest.mark.parametrize(("which", "is_one_size"), [([0], True), ([0, 1, 3], True), ([0, 2, 4], False)])
@pytest.mark.parametrize(
    "options", [{}, {"rect": False}, {"classes": [0, 2, 5]}, {"agnostic_nms": True}, {"max_det": 4}], ids=str
)
def test_suppression_in_kernels_gives_the_same(model, pictures, pool, monkeypatch, which, is_one_size, options):
    """They move boxes to the pixels of pictures of one size."""
    calls: list[Any] = []

    def counted(prediction: torch.Tensor, *rules: Any) -> torch.Tensor:
        calls.append(rules[-1])
        return in_torch(prediction, *rules)

    monkeypatch.setattr(in_kernels, "are_asked_for", lambda device: True)
    monkeypatch.setattr(in_kernels, "_run", counted)
    both(model, [pictures[i] for i in which], **options)
    assert [bool(placing) for placing in calls] == [is_one_size] * 3


def as_floats(pictures: list[np.ndarray]) -> list[np.ndarray]:
    return [picture / np.float32(2) for picture in pictures]


def with_own_pre_transform(made: type) -> type:
    """A subclass whose pictures are no uint8 once they are letterboxed."""
    return type("Own", (made,), {"pre_transform": lambda self, im: as_floats(super(made, self).pre_transform(im))})


@pytest.mark.parametrize("kind", ["array", "folder"])
def test_a_pre_transform_of_somebody_elses_may_return_anything(model, pictures, folder, pool, kind):
    source = sources(pictures, folder)[kind]
    theirs = list(predicted(model, source, with_own_pre_transform(DetectionPredictor)))
    ours = list(predicted(model, source, with_own_pre_transform(YOLOv12Predictor)))
    assert_same(ours, theirs)
    assert any(len(result.boxes) for result in ours), "a parity of nothing proves little"


@pytest.mark.parametrize(
    ("asked", "taken", "said"),
    [
        (96, [64, 64], "predict: at imgsz=64x64, the only size that m.onnx takes, and not 96x96\n"),
        ([96, 64], [64, 64], "predict: at imgsz=64x64, the only size that m.onnx takes, and not 96x64\n"),
        (64, [64, 64], ""),
        (96, 96, ""),
    ],
)
def test_a_file_of_one_size_is_not_run_at_another_without_a_word(monkeypatch, capsys, asked, taken, said):
    monkeypatch.setattr(BasePredictor, "setup_source", lambda self, *_: setattr(self.args, "imgsz", taken))
    monkeypatch.setattr("yolov12.log._said", set())
    predictor = YOLOv12Predictor(overrides={"imgsz": asked, "model": "m.onnx", "mode": "predict"})
    predictor.setup_source("pictures")
    assert capsys.readouterr().err == said
