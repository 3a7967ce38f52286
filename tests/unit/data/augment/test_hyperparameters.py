# SPDX-License-Identifier: AGPL-3.0-or-later

from __future__ import annotations

import dataclasses

import pytest

from tests.unit.data.augment.upstream import arguments
from yolov12.data.augment import Hyperparameters, hyperparameters, why_not


def test_they_are_ultralytics_arguments_by_name():
    hyp = Hyperparameters.of(arguments(mosaic=0.3, scale=0.9, hsv_h=0.1), 640)
    assert (hyp.imgsz, hyp.mosaic, hyp.scale, hyp.hsv_h, hyp.fliplr, hyp.translate) == (640, 0.3, 0.9, 0.1, 0.5, 0.1)
    assert hyp.gains == pytest.approx((0.1, 1.9))


def test_a_scale_may_be_a_list_as_yaml_gives_it():
    assert Hyperparameters.of(arguments(scale=[0.5, 1.2]), 640).gains == (0.5, 1.2)


def test_closing_the_mosaic_closes_what_mixes_pictures_and_nothing_else():
    hyp = Hyperparameters.of(arguments(mixup=0.1, cutmix=0.2, copy_paste=0.3), 640)
    changed = {name for name, value in vars(hyp.without_mosaic()).items() if value != vars(hyp)[name]}
    assert changed == {"mosaic", "mixup", "cutmix", "copy_paste"}


def test_colours_are_touched_only_if_some_gain_is_not_zero():
    hyp = Hyperparameters(imgsz=640)
    assert not hyp.recolours
    assert all(dataclasses.replace(hyp, **{name: 0.1}).recolours for name in ("hsv_h", "hsv_s", "hsv_v"))


def test_plain_detection_needs_no_other_path(monkeypatch):
    monkeypatch.setattr(hyperparameters, "has_albumentations", lambda: False)
    assert why_not(arguments(), "detect", has_segments=False, custom_transforms=False) is None


@pytest.mark.parametrize(
    ("case", "word"),
    [
        ({"task": "segment"}, "task=segment"),
        ({"has_segments": True}, "outlines"),
        ({"custom_transforms": True}, "changed by a script"),
        ({"args": {"rect": True}}, "rect=True"),
    ],
)
def test_what_upstream_would_do_otherwise_is_named(case, word, monkeypatch):
    monkeypatch.setattr(hyperparameters, "has_albumentations", lambda: False)
    case = {"args": {}, "task": "detect", "has_segments": False, "custom_transforms": False} | case
    reason = why_not(arguments(**case.pop("args")), **case)
    assert reason is not None
    assert word in reason


def test_albumentations_is_a_reason_given_or_installed(monkeypatch):
    args = arguments()
    monkeypatch.setattr(hyperparameters, "has_albumentations", lambda: True)
    assert "installed" in str(why_not(args, "detect", has_segments=False, custom_transforms=False))
    args.augmentations = [object()]
    assert "augmentations=" in str(why_not(args, "detect", has_segments=False, custom_transforms=False))
