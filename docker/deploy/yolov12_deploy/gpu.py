# SPDX-License-Identifier: AGPL-3.0-or-later
"""The GPU through the driver's own library, libcuda.so.1: is there one, memory on it, and copies to and from there.

The images without torch have nothing else for it, and the few functions that are needed (CUDA driver API, the modules Initialization,
Device Management, Primary Context Management, Memory Management) do not justify the size of its Python bindings.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from yolov12_deploy.errors import UsageError

LIBRARY = "libcuda.so.1"
CUDA_MAJOR = 13
"""Of the libraries in the images. A driver for any 13.x will do, one for 12.x will not."""
CAPABILITY = (75, 76)
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""


class GpuError(UsageError):
    """The driver refused; the message has its words."""


def find() -> tuple[Gpu | None, str]:
    """The first visible GPU and its name, or None and why there is none."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return None, "no NVIDIA driver is visible (docker run --gpus all)"
    version = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    major, minor = version.value // 1000, version.value % 1000 // 10
    if major < CUDA_MAJOR:
        return (
            None,
            f"the driver is for CUDA {major}.{minor}, and this needs one for CUDA {CUDA_MAJOR} (update it on the host)",
        )
    try:
        gpu = Gpu(library)
    except GpuError as error:
        return None, str(error)
    return gpu, f"{gpu.name} (sm_{gpu.arch})"


class Gpu:
    """The first visible GPU, made current for this thread. What is allocated stays until the process ends."""

    def __init__(self, library: Any) -> None:
        """GpuError if the driver has no GPU that can be used."""
        self._library = library
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", ctypes.c_uint(0))
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        # The one context that libraries on CUDA's runtime share, so that TensorRT finds what is allocated here.
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        name = ctypes.create_string_buffer(128)
        self._call("cuDeviceGetName", name, ctypes.c_int(len(name)), device)
        self.name = name.value.decode()
        self.arch = "".join(str(self._attribute(number, device)) for number in CAPABILITY)
        """As nvcc names it after `sm_`."""

    def allocate(self, size_bytes: int) -> int:
        """The address of so much memory."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size_bytes))
        return address.value

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, array: np.ndarray, address: int) -> None:
        """Copy a contiguous array to the GPU."""
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), ctypes.c_void_p(array.ctypes.data), _size(array))

    def download(self, address: int, array: np.ndarray) -> None:
        """Copy from the GPU over a contiguous array."""
        self._call("cuMemcpyDtoH_v2", ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(address), _size(array))

    def _attribute(self, number: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(number), device)
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        if code := getattr(self._library, function)(*arguments):
            words = ctypes.c_char_p()
            self._library.cuGetErrorString(ctypes.c_int(code), ctypes.byref(words))
            said = (words.value or b"unknown").decode()
            raise GpuError(f"the NVIDIA driver says: {said} ({function}, error {code})")


def _size(array: np.ndarray) -> ctypes.c_size_t:
    return ctypes.c_size_t(array.nbytes)
