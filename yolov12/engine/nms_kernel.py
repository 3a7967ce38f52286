# SPDX-License-Identifier: AGPL-3.0-or-later
"""torchvision's kernel for NMS without the package around it.

`import torchvision` imports its models, and through them all of torch's compiler: two seconds before the first boxes of a prediction on a CPU. The
kernel is an operator in a library of the package, and loading that takes milliseconds. Imported later, the package finds its library loaded.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from yolov12.engine.not_yet import itself, put_off
from yolov12.seams import Seam

SEAMS = (Seam("utils/nms.py", 13, "ultralytics.utils.nms.non_max_suppression", "51cdbaecdb06"),)

Kernel = Callable[[Tensor, Tensor, float], Tensor]

PACKAGE, LIBRARY = "torchvision", "_C"
"""As torchvision/extension.py names it."""


@contextmanager
def at_hand() -> Iterator[None]:
    """Within it ultralytics' `non_max_suppression` suppresses by torchvision's kernel, as it does where that is imported (utils/nms.py:99).

    Where the kernel can not be loaded by itself, torchvision is imported, with whatever error that ends in.
    """
    found = kernel()
    if found is None:
        importlib.import_module(PACKAGE)
        yield
        return
    with put_off(PACKAGE, ops=_Ops(found)):
        yield


class _Ops:
    """`torchvision.ops` for another thread too, which may import it within the block: all but the kernel is the package's."""

    def __init__(self, nms: Kernel) -> None:
        self.nms = nms

    def __getattr__(self, attribute: str) -> Any:
        return getattr(itself(PACKAGE).ops, attribute)


@cache
def kernel() -> Kernel | None:
    """(boxes (n, 4), scores (n,), IoU) -> positions of the boxes that stay; None if it is not where this torchvision should have it."""
    package = importlib.util.find_spec(PACKAGE)
    folders = list(package.submodule_search_locations or ()) if package else []
    loaders = importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES
    for folder in folders:
        library = importlib.machinery.FileFinder(folder, loaders).find_spec(LIBRARY)
        if library is None or library.origin is None:
            continue
        try:
            torch.ops.load_library(library.origin)
            return torch.ops.torchvision.nms.default
        except (OSError, AttributeError):  # made for another torch, or of another version that names it otherwise
            return None
    return None
