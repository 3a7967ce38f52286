# SPDX-License-Identifier: AGPL-3.0-or-later
"""The running means of an epoch's losses, by a few calls for all of them: beside a loader's threads each call of torch takes its time."""

from __future__ import annotations

import torch
from torch import Tensor


def running_means(means: dict[str, Tensor], count: int, items: dict[str, Tensor]) -> dict[str, Tensor]:
    """The means of one more, by ultralytics' formula (engine/trainer.py:558).

    Args:
        means: of the first `count`; they stay as they are, since callbacks may keep them.
        items: the further one.
    """
    sums = torch._foreach_mul([means[name] for name in items], count)
    torch._foreach_add_(sums, list(items.values()))
    torch._foreach_div_(sums, count + 1)
    return dict(zip(items, sums, strict=True))
