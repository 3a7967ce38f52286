# SPDX-License-Identifier: AGPL-3.0-or-later

from __future__ import annotations

import importlib.util
import shutil

import pytest
import torch

from yolov12.data.augment import backends


def test_on_the_cpu_torchs_operations_run_and_nothing_is_said(capsys):
    assert backends.choose(torch.device("cpu")) is backends.PLAIN
    assert capsys.readouterr().err == ""


@pytest.fixture
def all_there(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/gcc")


def test_a_gpu_from_turing_on_is_served_by_the_kernels(all_there):
    assert backends.why_plain((7, 5)) is None
    assert backends.why_plain((12, 0)) is None


def test_an_older_gpu_is_not(all_there):
    assert "6.1 is below 7.5" in str(backends.why_plain((6, 1)))


def test_without_triton_or_a_compiler_the_reason_says_so(all_there, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "install gcc" in str(backends.why_plain((9, 0)))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "triton is not installed" in str(backends.why_plain((9, 0)))


def test_the_setting_for_our_kernels_holds_for_these_too(all_there, monkeypatch):
    monkeypatch.setenv("YOLOV12_KERNELS", "0")
    assert backends.why_plain((9, 0)) == "YOLOV12_KERNELS=0"
