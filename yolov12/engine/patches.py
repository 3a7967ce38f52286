# SPDX-License-Identifier: AGPL-3.0-or-later
"""Everything that is replaced inside ultralytics, switched on in one place."""

from __future__ import annotations


def install_patches() -> None:
    """Put our attention, weight loading and data adapters into ultralytics. May be called again."""
    from yolov12.data import adapter
    from yolov12.model import attention, weights

    attention.install()
    weights.install()
    adapter.install()
