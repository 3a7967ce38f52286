# SPDX-License-Identifier: AGPL-3.0-or-later
"""Average precision, curves and counts equal ultralytics' to the last bit."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.utils import metrics as upstream

from yolov12.engine.scoring.average_precision import ap_per_class


def statistics(detections: int, targets: int, classes: int, seed: int, levels: int, share: float):
    """Random, with equal scores (`levels`), classes without labels and classes without detections."""
    random = np.random.default_rng(seed)
    conf = (random.integers(0, levels, detections) / levels).astype(np.float32)
    tp = random.random((detections, 1)) < share * np.linspace(1, 0.1, 10)
    pred_cls = random.integers(0, classes, detections).astype(np.float32)
    target_cls = random.integers(1, classes + 2, targets).astype(np.float32)
    return tp, conf, pred_cls, target_cls


def assert_equal(*given_statistics: np.ndarray) -> None:
    for ours, theirs in zip(ap_per_class(*given_statistics), upstream.ap_per_class(*given_statistics), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=150, deadline=None)
@given(
    detections=st.integers(0, 300),
    targets=st.integers(0, 60),
    classes=st.integers(1, 6),
    seed=st.integers(0, 10**6),
    levels=st.sampled_from([3, 50, 2**20]),
    share=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
)
def test_any_statistics(detections, targets, classes, seed, levels, share):
    assert_equal(*statistics(detections, targets, classes, seed, levels, share))


def test_more_true_positives_than_grid_points():
    assert_equal(*statistics(20_000, 9_000, 3, seed=1, levels=2**20, share=0.4))


def test_plots_are_made_from_the_same_curves(tmp_path, monkeypatch):
    options = {"plot": True, "save_dir": tmp_path, "names": {1: "a", 2: "b"}, "prefix": "Box"}
    drawn = []
    for name in ("plot_pr_curve", "plot_mc_curve"):
        monkeypatch.setattr(upstream, name, lambda x, y, *rest, **more: drawn.append((y, rest, more)))
    ap_per_class(*statistics(200, 40, 3, seed=2, levels=50, share=0.5), **options)
    upstream.ap_per_class(*statistics(200, 40, 3, seed=2, levels=50, share=0.5), **options)
    assert len(drawn) == 8
    for ours, theirs in zip(drawn[:4], drawn[4:], strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_equal(ours[1:], theirs[1:])
