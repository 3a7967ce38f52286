# SPDX-License-Identifier: AGPL-3.0-or-later

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolov12.data.loader import store
from yolov12.data.loader.recent import Recent

CPU = torch.device("cpu")


def picture(value: int, height: int = 4, width: int = 8) -> torch.Tensor:
    return torch.full((height, width, 3), value, dtype=torch.uint8)


def test_a_picture_comes_back_as_it_was_put():
    kept = store.Store(3, 8, CPU)
    kept.put(5, picture(50))
    kept.put(6, picture(60))
    kept.put(7, picture(70, height=8, width=3))
    assert [int(kept[index][0, 0, 0]) for index in (5, 6, 7)] == [50, 60, 70]
    assert kept[5].shape == (4, 8, 3)
    assert kept[7].shape == (8, 3, 3)
    assert all(kept[index].is_contiguous() for index in (5, 6, 7))


def test_the_one_that_was_used_longest_ago_makes_room():
    kept = store.Store(2, 8, CPU)
    kept.put(1, picture(10))
    kept.put(2, picture(20))
    kept.touch([1])
    kept.put(3, picture(30))
    assert 2 not in kept
    assert [int(kept[index].max()) for index in (1, 3)] == [10, 30]


def test_the_store_takes_its_memory_once():
    kept = store.Store(2, 8, CPU)
    before = kept.block.data_ptr()
    for index in range(10):
        kept.put(index, picture(index))
    assert kept.block.data_ptr() == before
    assert len(kept) == 2


def test_a_small_data_set_stays_whole_and_partners_lie_as_far_back_as_in_ultralytics():
    assert store.sizes(pictures=292, batch=32, imgsz=640) == (292, 256)
    assert store.sizes(pictures=10_000, batch=256, imgsz=640) == (873, 873)
    assert store.sizes(pictures=10_000, batch=16, imgsz=640) == (873, 128)
    assert store.sizes(pictures=10, batch=16, imgsz=640) == (10, 10)


def test_on_a_gpu_pictures_take_a_twentieth_of_its_memory_at_most(monkeypatch):
    properties = SimpleNamespace(total_memory=16 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert store.limit_bytes(torch.device("cuda")) == int(0.05 * 16 * 2**30)
    properties.total_memory = 80 * 2**30
    assert store.limit_bytes(torch.device("cuda")) == store.limit_bytes(CPU) == 2**30


def test_a_batch_always_fits():
    assert store.sizes(pictures=5000, batch=2048, imgsz=1280) == (2048, 2048)


@given(st.lists(st.lists(st.integers(0, 30), max_size=8), max_size=12), st.integers(8, 12))
def test_partners_are_the_last_pictures_each_once(batches: list[list[int]], length: int):
    recent, expected = Recent(length), []
    for batch in batches:
        recent.add(batch)
        for index in batch:
            expected = [other for other in expected if other != index] + [index]
        expected = expected[-length:]
        assert list(recent) == expected
    if expected:
        drawn = recent.pick(np.random.default_rng(0), 200)
        assert set(drawn.tolist()) <= set(expected)


def test_every_recent_picture_is_drawn_equally_often():
    recent = Recent(10)
    recent.add(range(10))
    counts = np.bincount(recent.pick(np.random.default_rng(1), 20_000), minlength=10)
    assert counts.min() > 1800
    assert counts.max() < 2200
