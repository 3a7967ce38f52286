# SPDX-License-Identifier: AGPL-3.0-or-later
"""The contract of ultralytics' loaders, and what ours promises beyond it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.data.loader import stand_in
from tests.unit.data.loader.conftest import IMGSZ, shown
from yolov12.data.loader import loader as module
from yolov12.data.loader.loader import PictureLoader
from yolov12.errors import RetryableError

LoaderOf = Callable[..., PictureLoader]


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("yolov12")]


def test_a_batch_has_the_keys_shapes_and_types_of_ultralytics(loader_of: LoaderOf, files: list[str]):
    batch = next(iter(loader_of()))
    assert set(batch) == {"img", "cls", "bboxes", "batch_idx", "im_file", "ori_shape", "resized_shape"}
    assert (batch["img"].shape, batch["img"].dtype) == ((4, 3, IMGSZ, IMGSZ), torch.uint8)
    assert [(batch[name].shape, batch[name].dtype) for name in ("cls", "bboxes", "batch_idx")] == [
        ((4, 1), torch.float32),
        ((4, 4), torch.float32),
        ((4,), torch.float32),
    ]
    assert batch["batch_idx"].tolist() == [0, 1, 2, 3]
    assert batch["im_file"] == tuple(files[index] for index in shown(batch))
    assert batch["ori_shape"] == ((24, 32),) * 4
    assert batch["resized_shape"] == ((IMGSZ, IMGSZ),) * 4


def test_each_picture_comes_with_its_own_boxes(loader_of: LoaderOf):
    for batch in loader_of():
        assert batch["cls"][:, 0].tolist() == shown(batch)
        # The box is a quarter and a half of 32 x 24 pixels, which lie in the upper left of 32 x 32.
        assert batch["bboxes"][0].tolist() == pytest.approx([0.5, 0.375, 0.25, 0.375])


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [4, 4, 2]), (True, [4, 4])])
def test_an_epoch_has_each_picture_once_in_the_samplers_order(loader_of: LoaderOf, drop_last: bool, sizes: list[int]):
    loader = loader_of(drop_last=drop_last)
    batches = [shown(batch) for batch in loader]
    assert [len(batch) for batch in batches] == sizes
    assert len(loader) == len(sizes)
    assert list(chain(*batches)) == list(loader.sampler)[: sum(sizes)]


def test_epochs_differ_and_a_run_repeats(loader_of: LoaderOf, augmentation: list[stand_in.Recipe]):
    def run() -> list[tuple[list[int], list[int]]]:
        augmentation.clear()
        loader = loader_of()
        for epoch in range(2):
            loader.set_epoch(epoch)
            assert len(list(loader)) == 3
        return [(recipe.indices.tolist(), recipe.partners.tolist()) for recipe in augmentation]

    first = run()
    assert first == run()
    assert first[:3] != first[3:]


def test_the_seed_and_the_rank_change_what_is_drawn(loader_of: LoaderOf, augmentation: list[stand_in.Recipe]):
    loaders = [loader_of(seed=0), loader_of(seed=1), loader_of(seed=0)]
    loaders[2].preparer.rank = 1
    for loader in loaders:
        loader.preparer.begin_epoch(range(8))
        loader.preparer.make(module.Place(0, 0), [0, 1, 2, 3])
    partners = [recipe.partners.tolist() for recipe in augmentation]
    assert len({str(one) for one in partners}) == 3


def test_two_ranks_share_an_epoch_without_repeats(loader_of: LoaderOf):
    seen = [[index for batch in loader_of(batch=2, rank=rank, ranks=2) for index in shown(batch)] for rank in (0, 1)]
    assert sorted(seen[0] + seen[1]) == list(range(10))
    assert len(seen[0]) == len(seen[1]) == 5


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("places", [10, 5])
def test_an_epoch_that_is_begun_in_the_middle_goes_on_as_the_whole_one(
    loader_of: LoaderOf, augmentation: list[stand_in.Recipe], first: int, places: int
):
    def drawn(loader: PictureLoader) -> list[Any]:
        augmentation.clear()
        pixels = [batch["img"] for batch in loader]
        return [
            (r.indices.tolist(), r.partners.tolist(), p.sum().item()) for r, p in zip(augmentation, pixels, strict=True)
        ]

    whole = drawn(loader_of(recent=5, places=places))
    rest = loader_of(recent=5, places=places)
    rest.set_epoch(0, seen=4 * first)
    assert drawn(rest) == whole[first:]
    rest.set_epoch(1)
    assert len(drawn(rest)) == 3  # the epoch after it is a whole one again


def test_a_rank_without_an_image_in_the_last_batch_takes_part_with_one_that_does_not_count(loader_of: LoaderOf):
    loader = loader_of(batch=1, rank=2, ranks=3)
    loader.set_epoch(1)
    batches = list(loader)
    assert [module.GHOST in batch for batch in batches] == [False, False, False, True]
    assert [shown(batch) for batch in batches] == [list(share) for share in loader.order.plan.shares(1)]


def test_partners_are_among_the_last_pictures(loader_of: LoaderOf, augmentation: list[stand_in.Recipe]):
    order = [index for batch in loader_of(recent=5) for index in shown(batch)]
    for number, recipe in enumerate(augmentation):
        recent = order[: number * 4 + len(recipe.indices)][-5:]
        assert set(recipe.partners.tolist()) <= set(recent)


def test_a_partner_is_still_there_with_no_place_to_spare(loader_of: LoaderOf):
    """Later epochs find some pictures of a batch in the store and others not; those must not push out what may still be drawn."""
    loader = loader_of(places=5, recent=5)
    for epoch in range(8):
        loader.set_epoch(epoch)
        assert sorted(index for batch in loader for index in shown(batch)) == list(range(10))


def test_closing_mosaic_takes_effect_with_the_next_epoch(loader_of: LoaderOf, augmentation: list[stand_in.Recipe]):
    loader = loader_of()
    list(loader)
    loader.close_mosaic()
    loader.reset()
    list(loader)
    assert [len(recipe.partners) > 0 for recipe in augmentation] == [True] * 3 + [False] * 3


@pytest.mark.parametrize("change", ["other objects", "a number", "nothing"])
def test_transforms_that_were_changed_since_are_noticed(loader_of: LoaderOf, change: str):
    loader = loader_of()
    step = SimpleNamespace(p=1.0, inner=object())
    loader.dataset.transforms = SimpleNamespace(transforms=[SimpleNamespace(transforms=[step]), SimpleNamespace(p=0.5)])
    loader.close_mosaic()  # what ultralytics does to the transforms then is no change of somebody else
    if change == "other objects":
        loader.dataset.transforms = SimpleNamespace(transforms=[SimpleNamespace(p=0.5)])
    elif change == "a number":
        step.p = 0.0
    assert loader.is_outdated() == (change != "nothing")


def test_undisturbed_no_batch_is_made(loader_of: LoaderOf, augmentation: list[stand_in.Recipe]):
    loader = loader_of()
    taker = threading.Thread(target=next, args=(iter(loader),))
    with loader.undisturbed():
        taker.start()
        taker.join(0.2)
        assert taker.is_alive()
        assert not augmentation
    taker.join(30)
    assert augmentation


def test_between_two_epochs_the_pictures_of_the_next_ones_first_batches_are_read(loader_of: LoaderOf):
    loader = loader_of()
    list(loader)
    gatherer, (first, second, _) = loader.preparer.gatherer, loader.order.plan.shares(1)
    assert all(index in gatherer.store or index in gatherer._asked for index in [*first, *second])


def test_a_loop_that_stops_early_leaves_no_epoch_running(loader_of: LoaderOf):
    loader = loader_of(batch=1)
    for batch in loader:
        assert len(shown(batch)) == 1
        break
    assert [shown(batch) for batch in loader] == [[index] for index in loader.sampler]


def test_closing_ends_all_threads(loader_of: LoaderOf):
    loader = loader_of(batch=1)
    batches = iter(loader)
    next(batches)
    assert our_threads()
    loader.close()
    loader.close()
    assert our_threads() == []


def test_a_picture_that_vanishes_in_mid_epoch_is_replaced_and_named(
    loader_of: LoaderOf, files: list[str], capsys: pytest.CaptureFixture[str]
):
    loader = loader_of(batch=5, places=5, recent=5)
    order = list(loader.sampler)
    Path(files[order[7]]).unlink()
    batches = [shown(batch) for batch in loader]
    assert batches[0] == order[:5]
    assert len(batches[1]) == 5
    assert [index for index in batches[1] if index in order[5:]][:2] == order[5:7]
    assert order[7] not in batches[1]
    said = capsys.readouterr().err
    assert f"{files[order[7]]}: can not be read: No such file or directory; another picture stands in for it" in said
    assert "1 picture(s) can not be read so far; others stood in for them in 1 samples" in said


def test_a_picture_is_named_once_over_all_epochs(
    loader_of: LoaderOf, files: list[str], capsys: pytest.CaptureFixture[str]
):
    Path(files[3]).write_bytes(b"")
    loader = loader_of()
    for epoch in range(3):
        loader.set_epoch(epoch)
        list(loader)
    assert capsys.readouterr().err.count(f"{files[3]}: empty file") == 1


def test_replacements_repeat_too(loader_of: LoaderOf, files: list[str]):
    for index in (2, 5, 6):
        Path(files[index]).write_bytes(b"no picture")
    runs = [[shown(batch) for batch in loader_of()] for _ in range(2)]
    assert runs[0] == runs[1]
    assert not {2, 5, 6} & set(chain(*runs[0]))


def test_a_data_set_that_is_gone_ends_the_run_with_a_reason(loader_of: LoaderOf, files: list[str]):
    for file in files:
        Path(file).unlink()
    loader = loader_of()
    with pytest.raises(
        RetryableError, match=r"no picture of a batch of 4 can be read, first .*png: .*run the same command"
    ):
        list(loader)
    loader.close()
    assert our_threads() == []


def test_an_error_in_the_augmentation_comes_up_in_the_loop(loader_of: LoaderOf, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("in a kernel")

    monkeypatch.setattr(stand_in, "render", broken)
    with pytest.raises(ZeroDivisionError, match="in a kernel"):
        list(loader_of())


def test_a_batch_for_which_there_is_no_memory_is_made_again_as_it_would_have_been(
    loader_of: LoaderOf, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    expected = [batch["img"] for batch in loader_of()]
    failures = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB") for _ in range(2)]
    real = stand_in.render

    def short(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(*arguments)

    monkeypatch.setattr(stand_in, "render", short)
    monkeypatch.setattr(module, "OUT_OF_MEMORY_WAITS_S", (0.0, 0.0))
    found = [batch["img"] for batch in loader_of()]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert capsys.readouterr().err.count("loader: out of memory") == 2


def test_boxes_lie_where_ultralytics_puts_them():
    from ultralytics.utils.instance import Instances

    from yolov12.data.loader.labels import Boxes

    rng = np.random.default_rng(0)
    labels = [
        {"cls": rng.random((n, 1), dtype=np.float32), "bboxes": rng.random((n, 4), dtype=np.float32)} for n in (3, 0, 2)
    ]
    # One of them twice, and not in order.
    indices = [2, 1, 0, 2]
    counts, classes, ours = Boxes(labels).of(np.array(indices), np.tile([640, 427], (4, 1)))
    ends = np.cumsum(counts)
    assert ours.dtype == classes.dtype == np.float32
    assert len(classes) == len(ours) == ends[-1]
    for index, end in zip(indices, ends, strict=True):
        label = labels[index]
        theirs = Instances(label["bboxes"].copy(), np.zeros((0, 1000, 2), np.float32), None, "xywh", normalized=True)
        theirs.convert_bbox("xyxy")
        theirs.denormalize(640, 427)
        part = slice(end - len(label["cls"]), end)
        np.testing.assert_array_equal(classes[part], label["cls"][:, 0])
        np.testing.assert_allclose(ours[part], theirs.bboxes, rtol=1e-6, atol=1e-4)
