# SPDX-License-Identifier: AGPL-3.0-or-later
"""The loader on a GPU: what its decoders make of every kind of picture, and batches that cross between streams. Needs an NVIDIA GPU."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.unit.data.loader import stand_in, zoo
from tests.unit.data.loader.test_gather import upstreams
from yolov12.data.loader import decoders
from yolov12.data.loader.gather import Gatherer
from yolov12.data.loader.labels import Boxes
from yolov12.data.loader.loader import PictureLoader
from yolov12.data.loader.prepare import Preparer
from yolov12.data.loader.reader_pool import ReaderPool
from yolov12.data.loader.recent import Recent
from yolov12.data.loader.slots import Slots
from yolov12.data.loader.store import Store
from yolov12.data.order import Order, Plan

IMGSZ = 48
CUDA = torch.device("cuda", 0)


def decoder_called(name: str) -> decoders.Decoder | None:
    if name == "opencv":
        return None
    if importlib.util.find_spec("nvidia.dali") is None:
        pytest.skip("NVIDIA DALI is not installed")
    from yolov12.data.loader.dali import Dali

    return Dali(CUDA)


@pytest.mark.parametrize("name", ["opencv", "dali"])
def test_every_kind_of_picture_is_loaded_as_ultralytics_loads_it(name: str, tmp_path: Path) -> None:
    files = zoo.write(tmp_path, zoo.USABLE)
    gatherer = Gatherer(files, IMGSZ, Store(len(files), IMGSZ, CUDA), threads=2, decoder=decoder_called(name))
    try:
        assert gatherer.bring(range(len(files))) == {}
    finally:
        gatherer.close()
    for index, file in enumerate(files):
        expected, original = upstreams(file)
        found = gatherer.store[index].cpu().numpy()
        assert found.shape == expected.shape, file
        assert gatherer.original[index] == original, file
        difference = np.abs(found.astype(int) - expected.astype(int))
        # The GPU's decoder upsamples colour and rounds the transform otherwise: by 1.96 on average on the smallest of these pictures. Of three rows
        # of pixels, one and a half have a colour of their own.
        most = 0 if name == "opencv" else 15 if min(original) < 8 else 2.5
        assert difference.mean() <= most, f"{file}: mean {difference.mean():.2f}, max {difference.max()} grey levels"


@pytest.mark.parametrize("slots", [3, 64])
def test_pictures_of_reading_processes_are_copied_before_their_memory_is_used_again(slots: int, tmp_path: Path) -> None:
    files = zoo.write(tmp_path, zoo.USABLE)
    readers = ReaderPool(files, IMGSZ, 2, slots, CUDA)
    gatherer = Gatherer(files, IMGSZ, Store(len(files), IMGSZ, CUDA), threads=2, readers=readers)
    stream = torch.cuda.Stream()
    try:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(10**8)  # the copies wait for it
            assert gatherer.bring(range(len(files))) == {}
    finally:
        gatherer.close()
    stream.synchronize()
    for index, file in enumerate(files):
        assert np.array_equal(gatherer.store[index].cpu().numpy(), upstreams(file)[0]), file


def test_memory_that_can_not_be_pinned_leaves_no_error_behind() -> None:
    slots = Slots(4, 4096, CUDA)
    slots.pin()
    with pytest.raises(OSError, match="in pinning"):
        slots.pin()  # it is registered already
    torch.ones(4, device=CUDA).sum().item()
    slots._is_pinned = True
    slots.close()


@pytest.mark.parametrize("name", ["opencv", "dali"])
def test_a_file_that_the_decoder_refuses_goes_through_opencv(name: str, tmp_path: Path) -> None:
    files = zoo.write(tmp_path, {f"{number}.jpg": zoo.USABLE["photo.jpg"] for number in range(4)})
    data = Path(files[2]).read_bytes()
    Path(files[2]).write_bytes(data[: data.index(b"\xff\xda")] + b"\xff\xd9")  # a header, and no pixels
    gatherer = Gatherer(files, IMGSZ, Store(4, IMGSZ, CUDA), threads=2, decoder=decoder_called(name))
    try:
        failed = gatherer.bring(range(4))
    finally:
        gatherer.close()
    assert set(failed) <= {2}
    assert all(index in gatherer.store for index in (0, 1, 3))


@pytest.fixture
def loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PictureLoader]:
    """Sixteen grey JPEGs, picture i of brightness 10 * i, in batches of four, with places for six."""
    from PIL import Image

    monkeypatch.setitem(sys.modules, "yolov12.data.augment", stand_in)
    files = []
    for number in range(16):
        stream = io.BytesIO()
        Image.new("RGB", (IMGSZ, IMGSZ), (10 * number,) * 3).save(stream, "JPEG", quality=100)
        files.append(str(tmp_path / f"{number}.jpg"))
        Path(files[-1]).write_bytes(stream.getvalue())
    labels = [{"cls": np.array([[n]], np.float32), "bboxes": np.array([[0.5, 0.5, 0.5, 0.5]])} for n in range(16)]
    decoder, _ = decoders.choose(CUDA, readers=2)
    gatherer = Gatherer(files, IMGSZ, Store(6, IMGSZ, CUDA), threads=2, decoder=decoder)
    hyperparameters = stand_in.Hyperparameters.of(SimpleNamespace(mosaic=1.0), IMGSZ)
    preparer = Preparer(gatherer, Boxes(labels), Recent(6), hyperparameters, seed=0, rank=0)
    order = Order(Plan(len(files), 4))
    made = PictureLoader(SimpleNamespace(labels=labels), preparer, order, 4, 2)
    yield made
    made.close()


def test_batches_cross_to_the_consumers_stream_whole(loader: PictureLoader) -> None:
    """The consumer is slow and frees its batches at once, so that memory would be given away too early if anyone did."""
    busy = torch.randn(2048, 2048, device=CUDA)
    for epoch in range(5):
        loader.set_epoch(epoch)
        means, expected = [], []
        for batch in loader:
            for _ in range(20):
                busy = torch.tanh(busy @ busy)
            means.append(batch["img"].float().mean((1, 2, 3)))
            expected += batch["cls"][:, 0].tolist()
            assert batch["cls"].is_pinned()
            del batch
        found = (torch.cat(means).cpu() / 10).round().tolist()
        assert found == expected
