# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every kind of picture gets into the store as ultralytics loads it, by the plain path and by a decoder that behaves as those on a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.data.loader import zoo
from yolov12.data.loader import decoders, gather
from yolov12.data.loader.gather import Gatherer
from yolov12.data.loader.store import Store

IMGSZ = 48
CPU = torch.device("cpu")


def upstreams(path: str) -> tuple[np.ndarray, tuple[int, int]]:
    """(resized picture, original size) by ultralytics' own method."""
    from ultralytics.data.base import BaseDataset

    bare = SimpleNamespace(
        ims=[None],
        im_files=[path],
        npy_files=[Path(path).with_suffix(".npy")],
        cache=None,
        cv2_flag=cv2.IMREAD_COLOR,
        imgsz=IMGSZ,
        augment=False,
    )
    image, original, _ = BaseDataset.load_image(bare, 0)
    return image, original


@pytest.fixture
def opened() -> Iterator[list[Gatherer]]:
    """Those that a test makes are closed after it."""
    made: list[Gatherer] = []
    yield made
    for one in made:
        one.close()


def gatherer(
    opened: list[Gatherer], files: list[str], places: int = 0, decoder: decoders.Decoder | None = None
) -> Gatherer:
    made = Gatherer(files, IMGSZ, Store(places or len(files), IMGSZ, CPU), threads=2, decoder=decoder)
    opened.append(made)
    return made


@pytest.mark.parametrize("decoder", [None, zoo.decoder], ids=["plain", "decoder"])
def test_every_usable_picture_is_loaded_as_ultralytics_loads_it(tmp_path: Path, opened: list[Gatherer], decoder):
    files = zoo.write(tmp_path, zoo.USABLE)
    ours = gatherer(opened, files, decoder=decoder)
    assert ours.bring(range(len(files))) == {}
    for index, file in enumerate(files):
        expected, original = upstreams(file)
        found = ours.store[index].numpy()
        assert found.shape == expected.shape, file
        assert ours.original[index] == original, file
        difference = np.abs(found.astype(int) - expected.astype(int)).max()
        # Two builds of libjpeg may differ by a level or two, and resizing by two.
        assert difference <= (0 if decoder is None else 4), f"{file}: {difference} grey levels"


def test_what_the_decoder_is_not_asked_for_is_counted(tmp_path: Path, opened: list[Gatherer]):
    files = zoo.write(tmp_path, zoo.USABLE)
    asked: list[bytes] = []

    def decoder(encoded: Sequence[bytes]) -> list[Tensor]:
        asked.extend(encoded)
        return zoo.decoder(encoded)

    ours = gatherer(opened, files, decoder=decoder)
    ours.bring(range(len(files)))
    assert len(asked) == 5  # photo, progressive, turned, one pixel, thin
    assert ours.on_cpu == {"not a JPEG": 9, "grayscale JPEG": 1, "CMYK JPEG": 1}


@pytest.mark.parametrize("decoder", [None, zoo.decoder], ids=["plain", "decoder"])
def test_a_picture_that_can_not_be_used_has_a_reason_and_the_others_are_there(
    tmp_path: Path, opened: list[Gatherer], decoder
):
    files = zoo.write(tmp_path, {**zoo.UNUSABLE, "photo.jpg": zoo.USABLE["photo.jpg"]})
    files.append(str(tmp_path / "vanished.jpg"))
    ours = gatherer(opened, files, decoder=decoder)
    failed = ours.bring(range(len(files)))
    assert set(failed) == {0, 1, 2, 3, 5}
    assert failed[0] == "empty file"
    assert failed[1] == "not a picture"
    assert "no such file" in failed[5].lower()
    assert len(ours.store) == 1
    assert 4 in ours.store


def test_a_file_that_the_decoder_refuses_goes_through_opencv_from_then_on(tmp_path: Path, opened: list[Gatherer]):
    files = zoo.write(tmp_path, {f"{number}.jpg": zoo.USABLE["photo.jpg"] for number in range(6)})
    Path(files[3]).write_bytes(zoo.USABLE["progressive.jpg"]())
    calls: list[int] = []

    def picky(encoded: Sequence[bytes]) -> list[Tensor]:
        calls.append(len(encoded))
        if any(b"\xff\xc2" in data for data in encoded):
            raise RuntimeError("nvjpegDecode failed: 5")
        return zoo.decoder(encoded)

    ours = gatherer(opened, files, places=6, decoder=picky)
    assert ours.bring(range(6)) == {}
    assert ours.on_cpu == {"the GPU decoder refused it": 1}
    expected, _ = upstreams(files[3])
    assert np.array_equal(ours.store[3].numpy(), expected)
    calls.clear()
    again = gatherer(opened, files, places=6, decoder=picky)
    again._refused = ours._refused
    again.bring(range(6))
    assert calls == [5]  # the batch is not refused a second time


@pytest.mark.parametrize("decoder", [None, zoo.decoder], ids=["plain", "decoder"])
def test_a_jpeg_that_is_cut_off_is_told_from_others_of_its_batch(tmp_path: Path, opened: list[Gatherer], decoder):
    """OpenCV 5 gives nothing for it, and stock then ends the run; its scan has mended such files, so this one was cut off since."""
    files = zoo.write(tmp_path, dict.fromkeys(("whole.jpg", "cut_off.jpg"), zoo.USABLE["photo.jpg"]))
    data = Path(files[1]).read_bytes()
    Path(files[1]).write_bytes(data[: len(data) * 4 // 5])
    ours = gatherer(opened, files, decoder=decoder)
    (failed,) = ours.bring([0, 1]).items()
    assert failed[0] == 1
    assert "truncated" in failed[1]
    assert 0 in ours.store


def test_out_of_memory_is_not_taken_for_a_bad_file():
    def full(encoded: Sequence[bytes]) -> list[Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        decoders.decode(full, [b"a", b"b"])


def test_large_pictures_are_decoded_a_few_at_a_time(
    tmp_path: Path, opened: list[Gatherer], monkeypatch: pytest.MonkeyPatch
):
    files = zoo.write(tmp_path, {f"{number}.jpg": zoo.USABLE["photo.jpg"] for number in range(5)})
    monkeypatch.setattr(gather, "DECODED_BYTES", 2 * 3 * 40 * 64)
    calls: list[int] = []

    def decoder(encoded: Sequence[bytes]) -> list[Tensor]:
        calls.append(len(encoded))
        return zoo.decoder(encoded)

    assert gatherer(opened, files, decoder=decoder).bring(range(5)) == {}
    assert calls == [2, 2, 1]


def test_each_picture_is_decoded_once_while_it_is_in_the_store(
    tmp_path: Path, opened: list[Gatherer], monkeypatch: pytest.MonkeyPatch
):
    files = zoo.write(tmp_path, {f"{number}.jpg": zoo.USABLE["photo.jpg"] for number in range(4)})
    ours = gatherer(opened, files, places=3)
    fetched: list[int] = []
    real = gather.fetch
    monkeypatch.setattr(gather, "fetch", lambda index, *rest: (fetched.append(index), real(index, *rest))[1])
    ours.ask([0, 1])
    ours.ask([1, 2])
    ours.bring([0, 1, 2, 1])
    ours.bring([2, 1])
    assert sorted(fetched) == [0, 1, 2]
    assert not ours._asked
    ours.bring([3])  # in the place of 0
    ours.bring([0])
    assert sorted(fetched) == [0, 0, 1, 2, 3]


def test_without_a_gpu_opencv_decodes_and_the_reason_says_so():
    assert decoders.choose(CPU, readers=1) == (None, "OpenCV, as it should be on the CPU")


def test_from_five_on_readers_leave_the_gpu_to_training(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decoders.importlib.util, "find_spec", lambda name: None)
    cuda = torch.device("cuda")
    assert decoders.choose(cuda, readers=5) == (None, "OpenCV: 5 readers decode (from 5 on)")
    assert decoders.choose(cuda, readers=3) == (None, "OpenCV: NVIDIA DALI is not installed")


def test_where_no_package_is_nvidias_dali_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    def find_spec(name: str) -> None:
        raise ModuleNotFoundError(
            "No module named 'nvidia'"
        )  # as importlib does for a module of a package that is not there

    monkeypatch.setattr(decoders.importlib.util, "find_spec", find_spec)
    assert decoders.choose(torch.device("cuda"), readers=2) == (None, "OpenCV: NVIDIA DALI is not installed")


def test_a_decoder_may_write_its_next_pictures_where_the_last_ones_are():
    memory = torch.zeros(4, 1, 1, 3, dtype=torch.uint8)

    def reuses(files: Sequence[bytes]) -> list[Tensor]:
        if len(files) > 1 and b"bad" in files:
            raise RuntimeError("nvjpegDecode failed: 5")
        for place, data in enumerate(files):
            memory[place] = data[0]
        return [memory[place] for place in range(len(files))]

    images, _ = decoders.decode(reuses, [b"a", b"b", b"bad", b"d"])
    assert [chr(int(image[0, 0, 0])) for image in images] == ["a", "b", "b", "d"]
