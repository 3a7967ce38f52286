# SPDX-License-Identifier: AGPL-3.0-or-later
"""Digests on a GPU: those of the CPU, without waiting. Needs one NVIDIA GPU."""

from __future__ import annotations

import pytest
import torch

from yolov12.distributed.agree import Fingerprints
from yolov12.distributed.flat import FlatBuffers

GPU = torch.device("cuda", 0)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def test_digests_are_the_cpus_and_nothing_waits_for_them() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(64, 3, 3, 3), (512, 512, 3, 3), (512,), (80,), ()]
    of = [torch.randn(shape, generator=generator) for shape in shapes]
    on_gpu = [tensor.to(GPU) for tensor in of]
    fingerprints = Fingerprints(FlatBuffers(on_gpu))
    fingerprints.of(on_gpu)
    torch.cuda.set_sync_debug_mode("error")
    try:
        made = fingerprints.of(on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.allclose(made.cpu(), Fingerprints(FlatBuffers(of)).of(of), rtol=1e-4, atol=1e-2)
