# SPDX-License-Identifier: AGPL-3.0-or-later
"""How much a step may use."""

from __future__ import annotations

from yolov12.memory.budget import Memory

GIB = 2**30


def test_what_is_in_use_and_what_is_free_without_the_share_that_stays_free():
    memory = Memory(device_free=10 * GIB, reserved=3 * GIB, allocated=2 * GIB, cap=100 * GIB)
    assert memory.budget(0.0) == 13 * GIB
    assert memory.budget(0.5) == 2 * GIB + int(5.5 * GIB)


def test_a_cap_on_the_process_counts():
    memory = Memory(device_free=10 * GIB, reserved=3 * GIB, allocated=2 * GIB, cap=4 * GIB)
    assert memory.budget(0.0) == 4 * GIB


def test_a_full_device_leaves_what_is_in_use():
    memory = Memory(device_free=0, reserved=2 * GIB, allocated=2 * GIB, cap=100 * GIB)
    assert memory.budget(0.1) == 2 * GIB
