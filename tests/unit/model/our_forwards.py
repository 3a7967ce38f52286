# SPDX-License-Identifier: AGPL-3.0-or-later
"""Our forwards in ultralytics' modules while a test runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from yolov12.model import attention, fused


@contextmanager
def fused_installed() -> Iterator[None]:
    """Attention and the fused `Conv`; upstream's are put back afterwards, with what was chosen to be kept for backward."""
    attention.install()
    fused.install()
    try:
        yield
    finally:
        fused.choose({})
        fused.uninstall()
        attention.uninstall()
