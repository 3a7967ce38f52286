# SPDX-License-Identifier: AGPL-3.0-or-later
"""The doctor's trials on a GPU. Needs one NVIDIA GPU that nobody else uses; with two, all-reduce is tried as well."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from yolov12.model.attention.backends import BACKENDS
from yolov12.tools.doctor import look, probes
from yolov12.tools.doctor.gpu_checks import all_reduce, attention, clocks, driver, gpu_code, torch_sees


@pytest.fixture(scope="module")
def world() -> look.World:
    visible = "CUDA_VISIBLE_DEVICES"  # where it hides GPUs from torch, the driver counts them all the same
    return look.look({visible: os.environ[visible]} if visible in os.environ else {})


def test_the_driver_is_new_enough_and_torch_sees_each_gpu(world):
    assert world.driver.version
    assert world.driver.cuda
    assert [result.status for result in driver(world)] == ["ok"]
    assert [result.subject for result in torch_sees(world)] == [gpu.subject for gpu in world.gpus]


def test_torch_has_code_for_every_gpu(world):
    assert "fail" not in {result.status for result in gpu_code(world)}


def test_attention_is_right_and_faster_than_upstreams(world):
    for result in attention(world):
        assert result.status == "ok", result


def test_a_wrong_kernel_is_over_what_is_allowed(monkeypatch):
    trial = probes.attention(torch.device("cuda"), images=1, limit_s=0.01)
    assert trial.difference <= trial.allowed
    right = BACKENDS[trial.backend]
    # It is probed before it is chosen: a copy of v with a way back to q and k.
    monkeypatch.setitem(BACKENDS, trial.backend, replace(right, run=lambda q, k, v: v + 0 * (q + k)))
    wrong = probes.attention(torch.device("cuda"), images=1, limit_s=0.01)
    assert not wrong.difference <= wrong.allowed


def test_nvml_says_why_the_clocks_are_what_they_are(world):
    results = list(clocks(world))
    assert {result.name for result in results} == {"clocks"}
    assert "skipped" not in {result.status for result in results}


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_all_reduce_gets_a_verdict(world):
    (result,) = all_reduce(world)
    assert "GB/s" in result.value, result
