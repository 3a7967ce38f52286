# SPDX-License-Identifier: AGPL-3.0-or-later
"""NVIDIA DALI as a JPEG decoder. Imported only where it is installed.

The pipeline only decodes: DALI's own augmentation is not ultralytics' (`fn.hsv` does not do OpenCV's 8-bit arithmetic). On the CPU it decodes there,
which is how its use can be tried without a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from torch import Tensor

THREADS = 4
"""Of the decoder itself; more bring little."""
HARDWARE_SHARE = 1.0
"""Of the files that go to the hardware decoder where there is one; with less, the GPU's cores become the bottleneck."""


class Dali:
    """Decodes lists of files of any length; a pipeline is made for the longest seen so far."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pipeline: Any = None
        self._most = 0

    def __call__(self, files: Sequence[bytes]) -> list[Tensor]:
        if self.device.type == "cuda":
            # The memory of the last call's pictures is used anew or given back, so whoever copies them must be through.
            torch.cuda.current_stream(self.device).synchronize()
        if self._pipeline is None or len(files) > self._most:
            self._most = len(files)
            self._pipeline = self._built(self._most)
        try:
            self._pipeline.feed_input("files", [np.frombuffer(data, np.uint8) for data in files])
            (decoded,) = self._pipeline.run()
        except RuntimeError:
            self._pipeline = None  # it takes no more work after an error
            raise
        return [torch.from_dlpack(decoded[place]) for place in range(len(files))]

    def _built(self, most: int) -> Any:
        on_gpu = self.device.type == "cuda"
        options: dict[str, Any] = {"hw_decoder_load": HARDWARE_SHARE} if on_gpu else {}

        # One after the other: the loader's thread works ahead already, and a run must return what it was fed.
        @pipeline_def(
            batch_size=most,
            num_threads=THREADS,
            device_id=(self.device.index or 0) if on_gpu else None,
            exec_async=False,
            exec_pipelined=False,
        )
        def pipeline() -> Any:
            files = fn.external_source(name="files", dtype=types.UINT8, ndim=1)
            return fn.decoders.image(
                files,
                device="mixed" if on_gpu else "cpu",
                output_type=types.BGR,
                adjust_orientation=False,  # done for all decoders in one place (resize.upright)
                **options,
            )

        built = pipeline()
        built.build()
        return built
