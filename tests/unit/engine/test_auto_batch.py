# SPDX-License-Identifier: AGPL-3.0-or-later
"""`batch=-1` and shares of the memory, for trainers of the test's on a card of the test's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import ultralytics.engine.trainer as upstream

from yolov12.engine import auto_batch, fit, launch
from yolov12.engine.auto_batch import batch_of, most_boxes
from yolov12.engine.trainer import YOLOv12Trainer
from yolov12.memory import budget
from yolov12.memory.budget import Memory

GIB = 2**30


def trainer(batch: float, images: int = 1000, ranks: int = 1, device: str = "cuda", multi_scale: float = 0.0) -> Any:
    return SimpleNamespace(
        batch_size=batch,
        world_size=ranks,
        device=torch.device(device),
        vote_group=None,
        args=SimpleNamespace(imgsz=640, multi_scale=multi_scale, mosaic=1.0, compile=False, cache="ram"),
        data={"train": "images"},
        build_dataset=lambda *_, **__: Labels(images),
        model=torch.nn.Linear(2, 2),
        amp_dtype=torch.bfloat16,
        stride=32,
    )


class Labels:
    """A data set of so many images with 5 boxes each."""

    def __init__(self, images: int) -> None:
        self.labels = [{"cls": [0] * 5}] * images

    def __len__(self) -> int:
        return len(self.labels)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `largest_batch` is asked on a card with 10 of 12 GiB free, where an image takes 50 MiB."""
    seen: dict[str, Any] = {}

    def largest(model: Any, size: Any, dtype: Any, **options: Any) -> int:
        seen.update(options, size=size)
        return min((options["budget_bytes"] - 2 * GIB) // (50 * 2**20), options["most_images"])

    monkeypatch.setattr(fit, "largest_batch", largest)
    monkeypatch.setattr(auto_batch, "kernels_missing", lambda device: None)
    monkeypatch.setattr(budget, "read", lambda device: Memory(10 * GIB, 2 * GIB, 2 * GIB, 12 * GIB))
    return seen


def never() -> int:
    raise AssertionError("upstream's AutoBatch is not needed")


def test_minus_one_takes_upstreams_share_of_what_is_free(asked, capsys):
    assert batch_of(trainer(-1), never) == 6 * GIB // (50 * 2**20)
    assert "batch=-1: 122: the largest that fits into 0.6 of the free memory" in capsys.readouterr().err


def test_a_share_is_that_share(asked):
    assert batch_of(trainer(0.5), never) == 5 * GIB // (50 * 2**20)


def test_no_more_than_the_data_set_has(asked, capsys):
    assert batch_of(trainer(-1, images=40), never) == 40
    assert "the data set has 40 images" in capsys.readouterr().err


def test_several_ranks_take_a_multiple_of_their_number(asked):
    assert batch_of(trainer(-1, ranks=3), never) == 3 * 122
    assert batch_of(trainer(-1, images=100, ranks=3), never) == 99


def test_synchronised_norms_run_upstreams_modules_which_keep_more(asked, monkeypatch):
    monkeypatch.setenv("YOLOV12_SYNC_BN", "1")
    batch_of(trainer(-1), never)
    assert not asked["keeps_inputs"]
    batch_of(trainer(-1, ranks=2), never)
    assert asked["keeps_inputs"]


def test_our_loss_kernels_count_where_they_run(asked, monkeypatch):
    batch_of(trainer(-1), never)
    assert asked["loss_by_kernels"]
    compiled = trainer(-1)
    compiled.args.compile = True
    batch_of(compiled, never)
    assert not asked["loss_by_kernels"]
    monkeypatch.setattr(auto_batch, "kernels_missing", lambda device: "not built")
    batch_of(trainer(-1), never)
    assert not asked["loss_by_kernels"]


def test_sizes_that_vary_are_counted_at_their_largest(asked):
    batch_of(trainer(-1, multi_scale=0.5), never)
    assert asked["size"] == (960, 960)


def test_where_not_one_image_fits_uncomputed_one_is_taken(asked, monkeypatch, capsys):
    monkeypatch.setattr(fit, "largest_batch", lambda *_, **__: 0)
    assert batch_of(trainer(-1), never) == 1
    assert "not one image fits" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [RuntimeError("Tensor.item() cannot be called on meta tensors"), AssertionError(), NotImplementedError()]
)
def test_a_model_that_needs_data_is_left_to_upstreams_autobatch_and_that_is_said(error, asked, monkeypatch, capsys):
    def fails(*_: Any, **__: Any) -> int:
        raise error

    monkeypatch.setattr(fit, "largest_batch", fails)
    assert batch_of(trainer(-1), lambda: 24) == 24
    assert "ultralytics' AutoBatch tries batches instead" in capsys.readouterr().err


@pytest.mark.parametrize(("ranks", "batch"), [(1, 16), (3, 15), (32, 32)])
def test_on_the_cpu_it_is_upstreams_default(ranks: int, batch: int, capsys):
    assert batch_of(trainer(-1, ranks=ranks, device="cpu"), never) == batch
    assert "ultralytics' default" in capsys.readouterr().err


def test_labels_are_read_without_the_data_sets_cache(asked):
    of = trainer(-1)
    caches = []
    of.build_dataset = lambda *_, **__: caches.append(of.args.cache) or Labels(8)
    batch_of(of, never)
    assert caches == [False]
    assert of.args.cache == "ram"


def test_mosaic_puts_the_boxes_of_four_images_into_one():
    assert most_boxes(Labels(3), mosaic=1.0) == 20
    assert most_boxes(Labels(3), mosaic=0.0) == 5
    assert most_boxes(object(), mosaic=1.0) == 0


def test_the_launcher_hands_the_ranks_the_batch_as_it_was_asked(monkeypatch):
    """Upstream refuses -1 for several GPUs (engine/trainer.py:245)."""
    handed = []

    def command(of: YOLOv12Trainer) -> Any:
        handed.append(of.args.batch)
        return ["python", "script.py"], None

    monkeypatch.setattr(upstream, "generate_ddp_command", command)
    monkeypatch.setattr(launch, "start", lambda script, ranks, machines: handed.append((script, ranks)))
    of = YOLOv12Trainer.__new__(YOLOv12Trainer)
    of.machines = None
    of.ddp, of.world_size, of.args = True, 2, SimpleNamespace(batch=-1, rect=False)
    of.train()
    assert handed == [-1, ("script.py", 2)]
    assert of.args.batch == -1
