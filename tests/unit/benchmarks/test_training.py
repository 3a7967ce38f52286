# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the programs that train have in common: their copy of the data set, a font, and the peak of memory."""

from __future__ import annotations

import pytest
import torch

from benchmarks import harness, training


def test_a_training_run_leaves_the_data_set_as_it_was(photos, tmp_path):
    before = sorted(photos.rglob("*"))
    training.prepare_dataset({"data": str(photos)}, tmp_path / "scratch")
    assert sorted(photos.rglob("*")) == before
    assert training.data_yaml(tmp_path / "scratch") == str(tmp_path / "scratch/data/bccd.yaml")


def test_label_caches_of_neither_side_are_copied(photos, tmp_path):
    for name in ("train.cache", "train.yolov12-cache"):
        (photos / "labels" / name).touch()
    training.copy_dataset(photos, tmp_path / "copy")
    assert (tmp_path / "copy/labels/train/0.txt").exists()
    assert not list((tmp_path / "copy/labels").glob("*cache"))


def test_a_folder_without_a_data_yaml_is_refused(tmp_path):
    with pytest.raises(harness.BenchmarkError, match="YOLOV12_BCCD or --set data="):
        training.prepare_dataset({"data": str(tmp_path)}, tmp_path / "scratch")


def test_plots_find_a_font_without_network(tmp_path):
    training.prepare_fonts(tmp_path)
    assert (tmp_path / "config/Ultralytics/Arial.ttf").stat().st_size > 100_000


class Allocator:
    """Stands in for torch's on a GPU."""

    def __init__(self, monkeypatch) -> None:
        self.in_use = self.most = 0
        for name, answer in {
            "is_available": lambda: True,
            "max_memory_allocated": lambda: self.most,
            "max_memory_reserved": lambda: 2 * self.most,
            "reset_peak_memory_stats": self.reset,
        }.items():
            monkeypatch.setattr(torch.cuda, name, answer)

    def use(self, size: int) -> None:
        self.in_use, self.most = size, max(self.most, size)

    def reset(self, device: object = None) -> None:
        self.most = self.in_use


def test_a_peak_outlives_resets_by_the_program_that_is_measured(monkeypatch):
    allocator = Allocator(monkeypatch)
    allocator.use(9)
    allocator.use(1)
    with training.kept_peak() as peak:
        allocator.use(5)
        allocator.use(2)
        torch.cuda.reset_peak_memory_stats("cuda:0")
        allocator.use(3)
    assert (peak.allocated, peak.reserved) == (5, 10)  # and not 9, which was before
    assert torch.cuda.reset_peak_memory_stats == allocator.reset
