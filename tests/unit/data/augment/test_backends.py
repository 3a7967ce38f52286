# SPDX-License-Identifier: AGPL-3.0-or-later

from __future__ import annotations

import importlib.util
import os
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


@pytest.mark.parametrize("chosen", [None, "elsewhere"])
def test_what_triton_compiled_is_kept_with_our_other_caches_unless_the_user_says_where(
    all_there, monkeypatch, tmp_path, chosen
):
    monkeypatch.setenv("YOLOV12_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", chosen or "")  # so that it is put back afterwards
    if chosen is None:
        monkeypatch.delenv("TRITON_CACHE_DIR")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    backends._choose.__wrapped__(torch.device("cuda"))
    assert os.environ["TRITON_CACHE_DIR"] == (chosen or str(tmp_path / "triton"))
