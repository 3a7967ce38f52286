# SPDX-License-Identifier: AGPL-3.0-or-later
"""The next batch is begun before this one's results are made, where nobody can tell; and nobody can: results, files and lines are ultralytics'."""

from __future__ import annotations

import gc
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import ultralytics.engine.predictor as upstream
from torch import Tensor
from ultralytics.models.yolo.detect import DetectionPredictor
from ultralytics.nn.autobackend import AutoBackend

from tests.unit.engine import predicting as plain
from tests.unit.engine.predicting import IMGSZ, assert_same, hearing, predicted, put_anew, written
from tests.unit.engine.stand_in_pool import StandInPools
from yolov12 import YOLO, log
from yolov12.engine import ahead, network, predictor
from yolov12.engine.ahead import Launched, prefetch
from yolov12.engine.predictor import YOLOv12Predictor
from yolov12.engine.read_ahead import Pictures
from yolov12.engine.scoring import fixed

model, pictures, folder, pool = plain.model, plain.pictures, plain.folder, plain.pool
FILES = 5
ONE_AHEAD = ["begin 0", "begin 1", "end 0", "begin 2", "end 1", "begin 3", "end 2", "begin 4", "end 3", "end 4"]
IN_TURN = [f"end {i}" for i in range(FILES)]


class Queue:
    """A GPU's queue on the CPU: what is copied to the host is not there before somebody waits for it."""

    def __init__(self) -> None:
        self.copies: list[tuple[Tensor, Tensor]] = []
        self.heard: list[str] = []
        """Which batches were begun and ended, in order, by the numbers of their files."""

    def to_host(self, answer: Tensor) -> Tensor:
        self.copies.append((torch.full_like(answer, torch.nan), answer.clone()))
        return self.copies[-1][0]

    def mark(self, device: torch.device) -> Queue:
        del device
        return self

    def synchronize(self) -> None:
        for on_host, answer in self.copies:
            on_host.copy_(answer)
        self.copies.clear()


@pytest.fixture(autouse=True)
def queue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: YOLO, pool: StandInPools) -> Iterator[Queue]:
    """Makes the CPU a device with graphs and a queue, on which batches are begun before their turn."""
    del pool
    made = Queue()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("YOLOV12_PREDICT_AHEAD", raising=False)  # it is the default
    monkeypatch.setattr(AutoBackend, "prefetch", True, raising=False)  # as ultralytics does on a GPU
    monkeypatch.setattr(predictor, "read_ahead", partial(predictor.read_ahead, threads=3))
    monkeypatch.setattr(predictor.timing, "mark", made.mark)
    monkeypatch.setattr(ahead, "to_host", made.to_host)
    monkeypatch.setattr(log, "_said", set())
    begin, end = YOLOv12Predictor._work_of, YOLOv12Predictor.postprocess

    def begins(caller: YOLOv12Predictor, batch: Pictures) -> Launched:
        # The pictures are all that tells it apart: it is nobody's batch yet.
        made.heard.append(f"begin {sum(one.startswith('begin') for one in made.heard)}")
        return begin(caller, batch)

    def ends(caller: YOLOv12Predictor, *args: Any, **kwargs: Any) -> Any:
        made.heard.append(f"end {Path(caller.batch[0][0]).stem}")
        return end(caller, *args, **kwargs)

    monkeypatch.setattr(YOLOv12Predictor, "_work_of", begins)
    monkeypatch.setattr(YOLOv12Predictor, "postprocess", ends)
    predictor.install()
    yield made
    model.predictor = None
    monkeypatch.delenv("YOLOV12_PREDICT_AHEAD", raising=False)
    predictor.install()


@pytest.mark.parametrize("options", [{}, {"stream": True}, {"batch": 2}, {"batch": 2, "rect": False}], ids=str)
def test_results_are_ultralytics(model, folder, pool, queue, options):
    """First, captured and replayed; and each batch is begun before the results of the one before are made."""
    ours = plain.both(model, str(folder), **options)
    assert any(len(result.boxes) for result in ours)
    assert pool.replays > 0
    batch = options.get("batch", 1)
    assert [one.startswith("begin") for one in queue.heard[:3]] == [True, True, False]
    assert sum(one.startswith("begin") for one in queue.heard) == 3 * -(-FILES // batch)


def test_one_batch_is_ahead_and_never_two(model, folder, queue):
    predicted(model, str(folder))
    assert queue.heard == ONE_AHEAD


def test_it_can_be_switched_off(model, folder, queue, monkeypatch):
    monkeypatch.setenv("YOLOV12_PREDICT_AHEAD", "0")
    predictor.install()
    assert upstream._prefetch is ahead._upstream_prefetch
    predicted(model, str(folder))
    assert queue.heard == IN_TURN


@pytest.mark.parametrize("kind", ["array", "list", "file", "tensor"])
def test_what_is_no_folder_is_not_begun_before_its_turn(model, pictures, folder, queue, kind):
    predicted(model, plain.sources(pictures, folder)[kind])
    assert not any(one.startswith("begin") for one in queue.heard)


def test_files_and_lines_are_ultralytics(model, folder, tmp_path, caplog):
    caplog.set_level("INFO", logger="ultralytics")
    options = {"save": True, "save_txt": True, "save_conf": True, "verbose": True}
    sides = []
    for name, side in (("theirs", DetectionPredictor), ("ours", YOLOv12Predictor)):
        caplog.clear()
        predicted(model, str(folder), side, project=str(tmp_path), name=name, exist_ok=True, **options)
        sides.append(
            ([re.sub(r"[\d.]+ms|/(ours|theirs)\b", "", line) for line in caplog.messages], written(tmp_path / name))
        )
    assert sides[0] == sides[1]
    assert len(sides[0][1]) > FILES


def test_a_crowd_beyond_the_room_is_suppressed_from_its_own_predictions(model, folder, queue, monkeypatch):
    """Over which the graph of the next batch has written meanwhile."""
    monkeypatch.setattr(fixed, "ROOM", 8)
    assert any(len(result.boxes) > 8 for result in plain.both(model, str(folder)))
    assert queue.heard[: len(ONE_AHEAD)] == ONE_AHEAD


def test_a_batch_larger_than_graphs_take_is_begun_too(model, folder, queue, monkeypatch):
    monkeypatch.setattr(network, "MOST_PIXELS", IMGSZ * IMGSZ)
    plain.both(model, str(folder), batch=2, rect=False)
    assert queue.heard[:3] == ["begin 0", "begin 1", "end 0"]


@pytest.mark.parametrize("event", ahead.EVENTS)
def test_who_hears_of_batches_hears_of_them_in_turn(model, folder, queue, event, capsys):
    """With the batch and the results that ultralytics' predictor has at that time; also a callback that changes boxes."""

    def run(side: Any) -> tuple[list[Any], list[Any]]:
        seen: list[Any] = []

        def look(caller: Any) -> None:
            results = [] if event == "on_predict_batch_start" else caller.results
            if event == "on_predict_postprocess_end":
                for result in results:
                    put_anew(result)
            seen.append((caller.batch[0], [result.path for result in results], caller.seen))

        with hearing(model, event, look):
            return predicted(model, str(folder), side), seen

    theirs, ours = run(DetectionPredictor), run(YOLOv12Predictor)
    assert ours[1] == theirs[1]
    assert_same(ours[0], theirs[0])
    assert queue.heard == IN_TURN
    assert f"predict: no batch is begun before its turn: a callback on {event}" in capsys.readouterr().err


def test_a_hook_hears_of_batches_in_turn(model, folder, queue):
    predicted(model, str(folder))
    queue.heard.clear()
    heard: list[str] = []
    handle = model.predictor.model.model.model[-1].register_forward_pre_hook(
        lambda *_: heard.append(Path(model.predictor.batch[0][0]).stem)
    )
    predicted(model, str(folder))
    handle.remove()
    assert heard == [str(i) for i in range(FILES)]
    assert queue.heard == IN_TURN


def test_another_postprocess_is_called_in_turn(model, folder, queue):
    """A subclass', or what a tracker puts into the place of ours."""

    class Other(YOLOv12Predictor):
        def postprocess(self, *args: Any, **kwargs: Any) -> Any:
            return super().postprocess(*args, **kwargs)

    predicted(model, str(folder), Other)
    model.predictor = None
    predicted(model, str(folder / "0.png"))
    model.predictor.postprocess = partial(YOLOv12Predictor.postprocess, model.predictor)
    predicted(model, str(folder))
    assert queue.heard == [*IN_TURN, "end 0", *IN_TURN]


def change_confidence(caller: Any) -> None:
    caller.args.conf = 0.6


def change_weights(caller: Any) -> None:
    for parameter in caller.model.backend.model.parameters():
        parameter.data = parameter.data * 1.01


def listen(caller: Any) -> None:
    def put_all_anew(caller: Any) -> None:
        for result in caller.results:
            put_anew(result)

    caller.add_callback("on_predict_postprocess_end", put_all_anew)


def hook(caller: Any) -> None:
    caller.model.backend.model.model[0].register_forward_hook(lambda module, args, output: output * 0.9)


@pytest.mark.parametrize("change", [change_confidence, change_weights, listen, hook])
def test_what_a_reader_of_the_stream_changes_counts_from_the_next_batch_on(model, folder, queue, change):
    """Which was begun before the change: it is done again."""

    def run(side: Any) -> list[Any]:
        model.predictor = None
        found = []
        for i, result in enumerate(
            model.predict(str(folder), stream=True, predictor=side, imgsz=IMGSZ, device="cpu", verbose=False)
        ):
            found.append(result)
            if i == 1:
                change(model.predictor)
        model.callbacks["on_predict_postprocess_end"] = model.callbacks["on_predict_postprocess_end"][:1]
        return found

    theirs = run(DetectionPredictor)
    model.predictor = None
    unchanged = predicted(model, str(folder), DetectionPredictor)
    assert any(
        one.boxes.shape != other.boxes.shape or not torch.equal(one.boxes.data, other.boxes.data)
        for one, other in zip(theirs, unchanged, strict=True)
    )
    assert_same(run(YOLOv12Predictor), theirs)
    assert queue.heard[:5] == ONE_AHEAD[:5]


def test_a_stream_that_is_left_leaves_nothing(model, folder, monkeypatch):
    """Neither the batch that was begun nor a thread; and the next prediction is as ever."""
    begun: list[weakref.ref[Launched]] = []
    begin = YOLOv12Predictor._work_of

    def begins(caller: YOLOv12Predictor, batch: Pictures) -> Launched:
        made = begin(caller, batch)
        begun.append(weakref.ref(made))
        return made

    monkeypatch.setattr(YOLOv12Predictor, "_work_of", begins)
    stream = model.predict(
        str(folder), stream=True, predictor=YOLOv12Predictor, imgsz=IMGSZ, device="cpu", verbose=False
    )
    next(stream)
    gc.collect()
    gc.disable()
    try:
        stream.close()
        assert len(begun) == 2
        assert all(one() is None for one in begun)
    finally:
        gc.enable()
    for thread in threading.enumerate():
        if thread.name.startswith(("pictures", "ThreadPoolExecutor")):
            thread.join(10)
            assert not thread.is_alive()
    assert_same(predicted(model, str(folder)), predicted(model, str(folder), DetectionPredictor))


def test_what_can_not_be_begun_is_done_in_its_turn(model, folder, queue, capsys, monkeypatch):
    """As where memory suffices for one batch and not for two; said once, and not tried again."""
    tries: list[int] = []

    def short(caller: YOLOv12Predictor, batch: Pictures) -> Launched:
        tries.append(len(batch))
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    theirs = predicted(model, str(folder), DetectionPredictor)
    monkeypatch.setattr(YOLOv12Predictor, "_work_of", short)
    assert_same(predicted(model, str(folder)), theirs)
    assert tries == [1]
    assert queue.heard == IN_TURN
    assert capsys.readouterr().err.count("no batch is begun before its turn: OutOfMemoryError: CUDA out of memory") == 1


class Source:
    """Notes what is launched."""

    def __init__(self, launches: bool = True) -> None:
        self.launches = launches
        self.launched: list[Any] = []

    def launch(self, pictures: Any) -> bool:
        self.launched.append(pictures)
        return self.launches


def batches(count: int, source: Any, fails: Exception | None = None) -> Iterator[Any]:
    for i in range(count):
        yield ([f"{i}.png"], i, [""]), source
    if fails is not None:
        raise fails


def test_what_fails_in_reading_fails_after_the_results_of_the_batch_before():
    got = []
    with pytest.raises(MemoryError, match="no room for this picture"):
        for batch, _ in prefetch(batches(3, Source(), MemoryError("no room for this picture"))):
            got.append(batch[1])
    assert got == [0, 1, 2]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize("source", [Source(), Source(False), object()], ids=["begun", "refused", "another"])
def test_all_batches_come_in_order(count: int, source: Any) -> None:
    assert [batch[1] for batch, _ in prefetch(batches(count, source))] == list(range(count))


def test_a_batch_that_is_not_begun_waits_for_no_other():
    for source, begun in ((Source(), [0, 1]), (Source(False), [0])):
        stream = prefetch(batches(3, source))
        next(stream)
        assert source.launched == begun
        stream.close()


def test_a_host_copy_has_the_numbers():
    answer = torch.from_numpy(np.arange(12, dtype=np.float32).reshape(1, 2, 6))
    copy = upstream_to_host(answer)
    assert torch.equal(copy, answer)
    assert copy.data_ptr() != answer.data_ptr()


upstream_to_host: Callable[[Tensor], Tensor] = ahead.to_host
