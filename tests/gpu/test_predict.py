# SPDX-License-Identifier: AGPL-3.0-or-later
"""Predictions by CUDA graphs: ultralytics' boxes, whatever came before, with one wait a batch, and memory that comes back. Needs one NVIDIA GPU.

python -m pytest tests/gpu/test_predict.py
"""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from ultralytics.models.yolo.detect import DetectionPredictor
from ultralytics.nn.modules.conv import Conv
from ultralytics.utils import ops

from benchmarks import lively
from tests.unit.engine.oracle import copy_of_bccd
from yolov12 import YOLO
from yolov12.engine import predictor as predictor_module
from yolov12.engine import replays
from yolov12.engine.patches import install_patches
from yolov12.engine.predictor import YOLOv12Predictor
from yolov12.engine.replays import GpuPool, Replays
from yolov12.engine.scoring import fixed
from yolov12.engine.scoring.scale import scale
from yolov12.engine.staging import Staging, gathered, normalised
from yolov12.model import attention, blocks, fused
from yolov12.model.fused import inference, norm

GPU = torch.device("cuda", 0)
IMGSZ = 320


@pytest.fixture(autouse=True, params=[False, True], ids=["as-it-is", "in-one-kernel"])
def graphs_are_asked_for(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And the kernels of inference, in every second run."""
    monkeypatch.setenv("YOLOV12_PREDICT_GRAPHS", "1")
    monkeypatch.setenv("YOLOV12_PREDICT_KERNELS", str(int(request.param)))
    inference.install(in_one_pass=True, in_one_kernel=request.param)
    if request.param:
        blocks.install()
    yield
    blocks.uninstall()
    inference.uninstall()


@pytest.fixture(scope="module", params=["yolo12n.yaml", "yolo11n.yaml", "yolo26n.yaml"])
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with area attention, one without, and one whose head suppresses by itself."""
    path = tmp_path_factory.mktemp("weights") / "lively.pt"
    lively.make(request.param, IMGSZ, share=0.03).save(path)
    return path


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """Blocks of colour, BGR uint8."""
    blocks = np.random.default_rng(seed).integers(0, 255, (9, 9, 3), np.uint8)
    return np.ascontiguousarray(np.repeat(np.repeat(blocks, -(-height // 9), 0), -(-width // 9), 1)[:height, :width])


PICTURES = [
    picture(*size, seed=i) for i, size in enumerate([(240, 320), (320, 240), (240, 320), (320, 320), (180, 320)])
]


def predicted(model: YOLO, source: Any, predictor: Any = YOLOv12Predictor, **options: Any) -> list[Any]:
    return list(model.predict(source, predictor=predictor, **{"imgsz": IMGSZ, "verbose": False, "device": 0} | options))


def assert_close(ours: list[Any], theirs: list[Any]) -> None:
    """The same boxes in the same order: the kernels are the same, so what differs is at most what cuDNN chooses anew."""
    for one, other in zip(ours, theirs, strict=True):
        mine, yours = one.boxes.data, other.boxes.data
        assert (mine.device, mine.dtype, mine.shape) == (yours.device, yours.dtype, yours.shape)
        worst = (mine - yours).abs().max().item() if len(mine) else 0.0
        assert worst < 0.01, f"{worst} px or score apart"


@pytest.mark.parametrize("quantize", [None, 16], ids=["fp32", "fp16"])
def test_boxes_are_ultralytics_first_captured_and_replayed_with_other_shapes_between(
    model: YOLO, quantize: int | None
) -> None:
    options = {"quantize": quantize} | ({"channels_last": True} if quantize else {})
    theirs = [predicted(model, one, DetectionPredictor, **options) for one in PICTURES]
    assert any(len(result.boxes) for (result,) in theirs)
    for _ in range(4):
        for one, expected in zip(PICTURES, theirs, strict=True):
            assert_close(predicted(model, one, **options), expected)
    assert model.predictor.fast.network._replays.off is None
    assert len(model.predictor.fast.network._replays) == 4
    assert model.predictor.fast.suppress.off is None


def test_a_batch_of_all_sizes(model: YOLO) -> None:
    theirs = predicted(model, PICTURES, DetectionPredictor)
    for _ in range(3):
        assert_close(predicted(model, PICTURES), theirs)


def test_replays_give_the_bits_of_the_calls_before_them(model: YOLO) -> None:
    first, captured, replayed = (predicted(model, PICTURES[0], quantize=16)[0].boxes.data for _ in range(3))
    assert torch.equal(captured, replayed)
    assert torch.equal(first, captured)


@contextmanager
def stock_networks() -> Iterator[None]:
    """Networks that are loaded and called inside have ultralytics' own blocks, attention and convolutions."""
    uninstall_ours()
    try:
        yield
    finally:
        install_patches()


def uninstall_ours() -> None:
    for ours in (attention, fused, blocks):
        ours.uninstall()


def share_found(of: list[Any], by: list[Any], within_px: float) -> float:
    """Share of the boxes well above the threshold that somebody else's predictions have too."""
    wanted = found = 0
    for one, other in zip(of, by, strict=True):
        yours = one.boxes[one.boxes.conf > 0.3]
        is_near = torch.cdist(yours.xyxy, other.boxes.xyxy, p=torch.inf) < within_px
        wanted += len(yours)
        found += int((is_near & (yours.cls[:, None] == other.boxes.cls)).any(1).sum())
    assert wanted > 10
    return found / wanted


@pytest.mark.parametrize("quantize", [None, 16], ids=["fp32", "fp16"])
def test_boxes_are_stocks(weights: Path, quantize: int | None) -> None:
    """As many of stock's boxes in float32 are found again as stock finds in the same format: an untrained network turns roundings into boxes."""
    with stock_networks():
        plain = YOLO(weights)
        uninstall_ours()  # making a YOLO installs them
        exact, theirs = (predicted(deepcopy(plain), PICTURES, DetectionPredictor, quantize=q) for q in (None, quantize))
    model = YOLO(weights)
    for _ in range(3):
        ours = predicted(model, PICTURES, quantize=quantize)
    within_px = 8 if quantize else 2
    stock_share, our_share = share_found(exact, theirs, within_px), share_found(exact, ours, within_px)
    print(f"boxes of float32 found again: stock {stock_share:.3f}, ours {our_share:.3f}")
    assert our_share >= stock_share - 0.05


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("images", "channels", "size"), [(1, 16, 80), (3, 64, 7), (32, 128, 20), (1, 24, 1), (2, 20, 9)]
)
def test_bias_and_silu_in_one_pass(dtype: torch.dtype, images: int, channels: int, size: int) -> None:
    pytest.importorskip("yolov12_kernels", reason="the yolov12_kernels wheel is neither installed nor on PYTHONPATH")
    if reason := norm.kernels_missing(GPU):
        pytest.skip(f"yolov12_kernels: {reason}")
    fused.install()
    torch.manual_seed(0)
    module = Conv(16, channels, 3).cuda()
    module.conv = torch.nn.Conv2d(16, channels, 3, padding=1).cuda()
    module = module.to(dtype, memory_format=torch.channels_last).eval().requires_grad_(False)
    x = torch.randn(images, 16, size, size, device=GPU, dtype=dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        ours, theirs = module.forward_fuse(x), inference._upstream_forward_fuse(module, x)
        exact = torch.nn.functional.silu(
            torch.nn.functional.conv2d(x.double(), module.conv.weight.double(), module.conv.bias.double(), padding=1)
        )
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    mine, yours = ((one.double() - exact).abs().max().item() for one in (ours, theirs))
    assert mine <= 1.5 * yours + 1e-6, f"{mine:.2e} from exact, ultralytics' {yours:.2e}"


def waits(call: Any) -> list[str]:
    """Where it waits for the GPU."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [f"{one.filename}:{one.lineno}" for one in heard if "called a synchronizing" in str(one.message)]


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("count", [1, 4])
def test_a_batch_waits_for_the_gpu_once(model: YOLO, count: int, verbose: bool) -> None:
    batch = [PICTURES[0]] * count  # one in which no network finds more than a graph has room for
    for _ in range(3):
        predicted(model, batch, verbose=verbose)
    found = waits(lambda: predicted(model, batch, verbose=verbose))
    assert len(found) == 1, found


def test_times_of_the_parts_are_told(model: YOLO) -> None:
    (result,) = predicted(model, PICTURES[0])
    assert all(0 < ms < 60_000 for ms in result.speed.values())


def test_memory_comes_back(model: YOLO) -> None:
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    for _ in range(3):
        for one in PICTURES:
            predicted(model, one)
    assert torch.cuda.memory_reserved() > before
    model.predictor = None
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before + 64 * 2**20  # cuBLAS keeps a workspace for each stream


FILES = 400
SIZES = ((240, 320), (320, 240), (320, 320), (180, 320), (200, 300), (480, 640), (333, 500))
"""Some of one shape for the network, with and without padding, larger and smaller than it."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several hundred, sizes in no order."""
    folder = tmp_path_factory.mktemp("files")
    for i, size in enumerate(np.random.default_rng(0).integers(0, len(SIZES), FILES)):
        cv2.imwrite(str(folder / f"{i:03}.jpg"), picture(*SIZES[size], seed=i))
    return folder


def begin_ahead(monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    monkeypatch.setenv("YOLOV12_PREDICT_AHEAD", str(int(wanted)))
    predictor_module.install()


@pytest.fixture
def ahead_or_not(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], None]]:
    """Whether the next batch of files is begun before the results of this one are made."""
    yield partial(begin_ahead, monkeypatch)
    monkeypatch.delenv("YOLOV12_PREDICT_AHEAD", raising=False)
    predictor_module.install()


def tables(model: YOLO, files: Path, **options: Any) -> list[Tensor]:
    """The boxes of each file, on the host when the stream is through: what a later batch writes over shows."""
    found = [one.boxes.data for one in predicted(model, str(files), stream=True, **options)]
    return [one.cpu() for one in found]


@pytest.mark.parametrize("batch", [1, 8, 40])
@pytest.mark.parametrize("quantize", [None, 16], ids=["fp32", "fp16"])
def test_boxes_of_files_are_the_same_with_the_next_batch_begun(
    model: YOLO, files: Path, ahead_or_not: Callable[[bool], None], batch: int, quantize: int | None
) -> None:
    """To the last bit: the same graphs on the same numbers."""
    ahead_or_not(False)
    for _ in range(2):
        in_turn = tables(model, files, batch=batch, quantize=quantize)
    assert len(in_turn) == FILES
    assert sum(map(len, in_turn)) > FILES
    ahead_or_not(True)
    for _ in range(2):
        ahead = tables(model, files, batch=batch, quantize=quantize)
        assert len(ahead) == FILES
        differ = [i for i, (one, other) in enumerate(zip(ahead, in_turn, strict=True)) if not torch.equal(one, other)]
        assert not differ, f"files {differ[:20]} of {FILES}"
    assert model.predictor.fast.not_ahead is None


def test_crowds_are_suppressed_from_their_own_predictions(
    model: YOLO, files: Path, ahead_or_not: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over which the graph of the next batch has written by then."""
    monkeypatch.setattr(fixed, "ROOM", 4)
    found = []
    for wanted in (False, True):
        ahead_or_not(wanted)
        found.append([tables(model, files, batch=3) for _ in range(2)][-1])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_files_wait_for_no_operation_but_their_boxes(
    model: YOLO, tmp_path: Path, ahead_or_not: Callable[[bool], None]
) -> None:
    """Those by an event, which is not one of torch's operations that wait."""
    for i in range(16):
        cv2.imwrite(str(tmp_path / f"{i}.png"), PICTURES[0])  # in which no network finds more than a graph has room for
    ahead_or_not(True)
    for _ in range(2):
        predicted(model, str(tmp_path), batch=4)
    found = waits(lambda: predicted(model, str(tmp_path), batch=4))
    assert not found, found


def test_times_of_the_parts_of_files_are_told(model: YOLO, files: Path, ahead_or_not: Callable[[bool], None]) -> None:
    """Printed for a reader: each is to be about what it is without being ahead, and not the wait for the batch before."""
    medians = []
    for wanted in (False, True):
        ahead_or_not(wanted)
        for _ in range(2):
            results = predicted(model, str(files))
        medians.append({part: float(np.median([one.speed[part] for one in results])) for part in results[0].speed})
    print(*medians, sep="\n")
    assert all(0 < ms < 60_000 for one in medians for ms in one.values())


def test_memory_of_files_comes_back(model: YOLO, files: Path, ahead_or_not: Callable[[bool], None]) -> None:
    """Also of a stream that is left in the middle, with a batch begun; no more is in use when it is gone through again."""
    ahead_or_not(True)
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    in_use = []
    for _ in range(3):
        tables(model, files, batch=8)
        stream = model.predict(str(files), stream=True, imgsz=IMGSZ, batch=8, verbose=False, device=0)
        next(stream)
        stream.close()
        in_use.append(torch.cuda.memory_allocated())
    assert in_use[2] <= in_use[1]
    model.predictor = None
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before + 64 * 2**20  # cuBLAS keeps a workspace for each stream


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_boxes_come_to_the_pixels_of_pictures_as_ultralytics_brings_them(dtype: torch.dtype) -> None:
    for size in ((320, 320), (256, 320)):
        for shape in (*SIZES, (720, 1280), (1, 3000)):
            rows = ((torch.rand(2, 50, 6, device=GPU) * 1.4 - 0.2) * 320).to(dtype)
            theirs = rows.clone()
            for boxes in theirs:
                ops.scale_boxes(size, boxes[:, :4], (*shape, 3))
            scale(rows, size, [np.empty((*shape, 3), np.uint8)] * 2)
            assert torch.equal(rows, theirs), f"{shape} in {size}"


def test_more_shapes_than_graphs(model: YOLO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "MOST_GRAPHS", 2)
    theirs = [predicted(model, one, DetectionPredictor) for one in PICTURES]
    for _ in range(6):
        for one, expected in zip(PICTURES, theirs, strict=True):
            assert_close(predicted(model, one), expected)
    assert len(model.predictor.fast.network._replays) == 2


def test_what_can_not_be_captured_goes_on_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """A look at a number ends the capture; the stream, the allocator and random numbers are as before."""

    def looks(x: Tensor) -> Tensor:
        return x * x.sum().item()

    run, x = Replays("looks", looks, GpuPool(GPU)), torch.ones(3, device=GPU)
    here = torch.cuda.current_stream()
    for _ in range(4):
        assert run(x).tolist() == [3, 3, 3]
    assert "looks: no CUDA graph: " in capsys.readouterr().err
    assert torch.cuda.current_stream() == here
    assert (torch.ones(2, device=GPU) @ torch.ones(2, device=GPU)).item() == 2
    assert 0 <= torch.rand(1, device=GPU).item() < 1  # its generator knows that the capture is over
    again = Replays("squares", torch.square, GpuPool(GPU))
    assert [again(x * 3).tolist() for _ in range(3)] == [[9, 9, 9]] * 3
    assert len(again) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pictures_arrive_as_ultralytics_sends_them(dtype: torch.dtype) -> None:
    """Also when the memory that they are sent from is used again at once."""
    staging = Staging(GPU)
    batches = [[picture(240, 320, seed=2 * i), picture(240, 320, seed=2 * i + 1)] for i in range(20)]
    sent = [normalised(staging.send(batch), dtype) for batch in batches]
    apart = [normalised(gathered(batch, GPU).to(GPU, non_blocking=True), dtype) for batch in batches]
    for batch, ours in zip(batches * 2, sent + apart, strict=True):
        theirs = torch.from_numpy(np.stack(batch)).to(GPU).permute(0, 3, 1, 2).contiguous().flip(1).to(dtype).div_(255)
        assert torch.equal(ours, theirs)


def test_validation_by_graphs_gives_the_numbers_without_them(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its boxes: the accuracy of an untrained network is 0 whatever it finds."""
    data = copy_of_bccd(tmp_path)

    def validated(name: str) -> tuple[dict[str, float], list[dict[str, Any]]]:
        options = {"data": data, "imgsz": IMGSZ, "batch": 2, "plots": False, "verbose": False, "device": 0}
        options["channels_last"] = (
            False  # as it is without graphs: in TF32 another layout moves boxes by tenths of a pixel
        )
        metrics = YOLO(weights).val(**options, workers=0, save_json=True, project=str(tmp_path), name=name)
        return metrics.results_dict, json.loads((tmp_path / name / "predictions.json").read_text())

    by_graphs, boxes_by_graphs = validated("graphs")
    monkeypatch.setenv("YOLOV12_COMPILE", "0")
    plain, boxes = validated("plain")
    assert by_graphs == pytest.approx(plain, abs=1e-4)
    assert len(boxes_by_graphs) == len(boxes) > 100
    for one, other in zip(boxes_by_graphs, boxes, strict=True):
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        assert [*one["bbox"], one["score"]] == pytest.approx([*other["bbox"], other["score"]], abs=0.01)
