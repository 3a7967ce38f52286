# SPDX-License-Identifier: AGPL-3.0-or-later
"""The compiled kernels of docker/kernels: whether they are here, for every room that calls them."""

from __future__ import annotations

KERNELS = "yolov12_kernels"
"""The package that holds them, and the namespace of their ops."""

OPS = "1.7"
"""Which version of its ops this code calls (VERSION of docker/kernels/build.py)."""


def why_not(capability: tuple[int, int]) -> str | None:
    """Why they do not serve GPUs of this CUDA compute capability, (9, 0) say; None if they do, and then their ops are loaded."""
    try:
        import yolov12_kernels
    except ModuleNotFoundError as error:
        return f"the package {KERNELS} is not installed" if error.name == KERNELS else f"{KERNELS} needs {error.name}"
    if (version := yolov12_kernels.__version__.partition("+")[0]) != OPS:
        return f"{KERNELS} {version} has other ops than {OPS}: build it again"
    return yolov12_kernels.why_not(capability) or yolov12_kernels.load()
