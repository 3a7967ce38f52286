# SPDX-License-Identifier: AGPL-3.0-or-later
"""The AMP check that trainers of all tasks call, without a GPU and without a download."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from yolov12.engine import patches


def model_on(device: str) -> SimpleNamespace:
    return SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=torch.device(device))]))


@pytest.mark.parametrize(("card", "works"), [("NVIDIA H100 80GB HBM3", True), ("NVIDIA GeForce GTX 1660", False)])
def test_fp16_is_trusted_on_all_cards_but_the_faulty_ones(
    card: str, works: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: card)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert patches.amp_works(model_on("cuda")) is works
    assert ("precision: fp32 (fp16 is known to give NaN on" in capsys.readouterr().err) is not works


def test_there_is_no_autocast_on_the_cpu() -> None:
    assert not patches.amp_works(model_on("cpu"))


def test_trainers_of_all_tasks_ask_it() -> None:
    import ultralytics.engine.trainer

    patches.install_patches()
    assert ultralytics.engine.trainer.check_amp is patches.amp_works


@pytest.mark.parametrize("wanted", ["0", "1"])
def test_kernels_of_inference_are_there_unless_they_are_not_wanted(
    wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics.nn.modules.block import A2C2f, C2f
    from ultralytics.nn.modules.conv import Conv
    from ultralytics.nn.modules.head import Detect

    from yolov12.model import blocks
    from yolov12.model.blocks import head, joint
    from yolov12.model.fused import inference

    blocks.uninstall()
    monkeypatch.setenv("YOLOV12_PREDICT_KERNELS", wanted)
    try:
        patches.install_patches()
        forwards = C2f.forward, A2C2f.forward, Detect.forward
        ours = joint.c2f_forward, joint.a2c2f_forward, head.forward
        assert [one is our for one, our in zip(forwards, ours, strict=True)] == [wanted == "1"] * 3
        assert (Conv.forward_fuse is inference.forward_fuse_in_one_kernel) is (wanted == "1")
    finally:
        blocks.uninstall()
        inference.install(in_one_pass=True)
