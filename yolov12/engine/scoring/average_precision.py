# SPDX-License-Identifier: AGPL-3.0-or-later
"""Average precision per class, equal to ultralytics' `ap_per_class` (utils/metrics.py:795) to the last bit, without a pass over all
detections for each class and threshold.

Recall rises only at true positives, and the envelope of precision (its running maximum from the right) is flat between them: after one,
precision falls until the next. So of the thousands of points that ultralytics interpolates between, those at true positives decide, and
the last before each. Detections are sorted by class once, so that a class is a slice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ultralytics.utils import metrics as upstream

Floats = NDArray[np.float64]


def ap_per_class(
    tp: NDArray[np.bool_],
    conf: NDArray[Any],
    pred_cls: NDArray[Any],
    target_cls: NDArray[Any],
    plot: bool = False,
    on_plot: Callable[..., Any] | None = None,
    save_dir: Path = Path(),
    names: Mapping[int, str] | None = None,
    eps: float = 1e-16,
    prefix: str = "",
) -> tuple[Any, ...]:
    """Stands in for ultralytics' function of this name; arguments and results are its own."""
    by_score = np.argsort(-conf)  # upstream's call: equal scores come in its order
    classes, labels = np.unique(target_cls, return_counts=True)
    x = np.linspace(0, 1, 1000)
    ap = np.zeros((len(classes), tp.shape[1]))
    p_curve, r_curve, prec_values = (np.zeros((len(classes), 1000)) for _ in range(3))
    # Classes are whole numbers, and numpy sorts the smallest formats of those in linear time.
    whole = np.min_scalar_type(int(pred_cls.max(initial=0)))
    grouped = by_score[np.argsort(pred_cls[by_score].astype(whole), kind="stable")]
    grouped_cls, grouped_conf, grouped_tp = pred_cls[grouped], -conf[grouped], tp[grouped]
    begins, ends = (np.searchsorted(grouped_cls, classes, side=side) for side in ("left", "right"))
    for row, (begin, end, count) in enumerate(zip(begins, ends, labels, strict=True)):
        if begin == end:
            continue
        right, recall_unit = grouped_tp[begin:end], count + eps
        so_far = right[:, 0].cumsum()
        falling = grouped_conf[begin:end]
        r_curve[row] = np.interp(-x, falling, so_far / recall_unit, left=0)
        p_curve[row] = np.interp(-x, falling, so_far / np.arange(1, end - begin + 1), left=1)
        for level in range(tp.shape[1]):
            recall, envelope = _decisive_points(np.flatnonzero(right[:, level]), recall_unit)
            ap[row, level] = upstream._TRAPZ(np.interp(upstream._AP_X, recall, envelope), upstream._AP_X)
            if level == 0:
                prec_values[row] = np.interp(x, recall, envelope)
    # From here on as upstream (utils/metrics.py:874).
    f1_curve = 2 * p_curve * r_curve / (p_curve + r_curve + eps)
    if plot and len(classes):
        known = names or {}
        shown = {i: known[k] for i, k in enumerate(classes) if k in known}
        upstream.plot_pr_curve(x, prec_values, ap, save_dir / f"{prefix}PR_curve.png", shown, on_plot=on_plot)
        for curve, file, title in ((f1_curve, "F1", "F1"), (p_curve, "P", "Precision"), (r_curve, "R", "Recall")):
            path = save_dir / f"{prefix}{file}_curve.png"
            upstream.plot_mc_curve(x, curve, path, shown, ylabel=title, on_plot=on_plot)
    best = upstream.smooth(f1_curve.mean(0), 0.1).argmax() if len(classes) else 0
    p, r, f1 = p_curve[:, best], r_curve[:, best], f1_curve[:, best]
    true = (r * labels).round()
    false = (true / (p + eps) - true).round()
    if not len(classes):
        prec_values = np.zeros((1, 1000))
    return true, false, p, r, f1, ap, classes.astype(int), p_curve, r_curve, f1_curve, x, prec_values


def _decisive_points(places: NDArray[np.int64], recall_unit: float) -> tuple[Floats, Floats]:
    """Recall and the envelope of precision at the points between which ultralytics' interpolation really runs (utils/metrics.py:771).

    Args:
        places: of the true positives among a class's detections, best first.
        recall_unit: what a recall of one counts.
    """
    count = np.arange(1, len(places) + 1)
    envelope = np.maximum.accumulate((count / (places + 1))[::-1])[::-1]
    # Each true positive twice: as the end of the step that leads to its recall, and as the start of the next, whose envelope is the next one's.
    steps = np.repeat(count / recall_unit, 2)
    recall = np.concatenate(([0.0], steps if len(steps) else [0.0], [1.0]))
    precision = np.concatenate((envelope[:1] if len(envelope) else [1.0], np.repeat(envelope, 2)[1:], [0.0, 0.0]))
    return recall, precision
