# SPDX-License-Identifier: AGPL-3.0-or-later
"""Peaks by phase, from an allocator that keeps one."""

from __future__ import annotations

import torch

from yolov12.memory.peaks import BETWEEN, Peaks


class OnePeak:
    """An allocator: what is in use, and the most since the last reset."""

    def __init__(self) -> None:
        self.in_use = self.highest = 0

    def use(self, *sizes: int) -> None:
        for size in sizes:
            self.in_use = size
            self.highest = max(self.highest, size)

    def peak(self) -> tuple[int, int]:
        return self.highest, 2 * self.highest

    def reset(self) -> None:
        self.highest = self.in_use


def a_step(peaks: Peaks, memory: OnePeak, forward: int, backward: int) -> None:
    peaks.begin_step()
    peaks.begin("forward")
    memory.use(forward)
    peaks.begin("backward")
    memory.use(backward, 10)
    peaks.begin(BETWEEN)


def test_each_phase_has_its_own_peak():
    memory = OnePeak()
    peaks = Peaks(memory)
    a_step(peaks, memory, forward=50, backward=80)
    assert (peaks.step["forward"], peaks.step["backward"]) == (50, 80)


def test_a_step_is_not_told_what_the_one_before_needed_but_the_run_is():
    memory = OnePeak()
    peaks = Peaks(memory)
    a_step(peaks, memory, forward=50, backward=80)
    a_step(peaks, memory, forward=40, backward=60)
    assert peaks.step["backward"] == 60
    assert peaks.run["backward"] == 80


def test_a_phase_that_comes_again_in_a_step_keeps_the_larger_part():
    memory = OnePeak()
    peaks = Peaks(memory)
    peaks.begin_step()
    for size in (30, 70, 50):
        peaks.begin("forward")
        memory.use(size)
        peaks.begin("backward")
        memory.use(10)
    peaks.begin(BETWEEN)
    assert peaks.step["forward"] == 70


def test_setting_back_the_allocators_peak_loses_nothing_of_what_was_reserved():
    memory = OnePeak()
    peaks = Peaks(memory)
    a_step(peaks, memory, forward=50, backward=80)
    assert memory.peak()[1] < 160
    assert peaks.highest_reserved == 160


def test_a_cpu_has_no_peaks():
    peaks = Peaks.of(torch.device("cpu"))
    peaks.begin_step()
    peaks.begin("forward")
    assert peaks.highest_reserved == 0
