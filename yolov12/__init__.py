# SPDX-License-Identifier: AGPL-3.0-or-later
"""Train, validate and export YOLOv12 on NVIDIA GPUs, on top of the pinned ultralytics.

Importing this package costs next to nothing: it runs at the start of every interpreter of the image (compat.py), so torch and
ultralytics are imported only when `YOLO` is first asked for.
"""

TYPE_CHECKING = False  # typing itself costs more to import than this package may (compat.py)
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"
__all__ = ["YOLO", "__version__"]


def __getattr__(name: str) -> "Any":
    """Import `YOLO` on first use (PEP 562)."""
    if name == "YOLO":
        from yolov12 import compat

        return compat.yolo_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
