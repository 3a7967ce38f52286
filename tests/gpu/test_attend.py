# SPDX-License-Identifier: AGPL-3.0-or-later
"""docker/kernels/attend.h: attention as exact as torch's in the same type. Needs one NVIDIA GPU from sm_80 on.

python -m pytest tests/gpu/test_attend.py
"""

from __future__ import annotations

import pytest
import torch

from tests.gpu.compiled import skip_without_code
from tests.unit.docker.test_attend_on_host import HEAD, exact
from yolov12.model.attention import kernels

GPU = torch.device("cuda", 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("sequences", "tokens", "heads"), [(4, 400, 2), (1, 400, 4), (32, 400, 8), (1, 1, 1), (3, 65, 2), (1, 1600, 4)]
)
@pytest.mark.parametrize("early", [False, True])
def test_it_is_as_exact_as_torchs(dtype: torch.dtype, sequences: int, tokens: int, heads: int, early: bool) -> None:
    skip_without_code(least=(8, 0))
    torch.manual_seed(0)
    packed = 2 * torch.randn(sequences, tokens, 3 * heads * HEAD, device=GPU).to(dtype)
    q, k, v = (part.unflatten(2, (heads, HEAD)) for part in packed.split(heads * HEAD, 2))
    assert torch.ops.yolov12_kernels.is_attend(q, k, v)
    ours, theirs, expected = (
        torch.ops.yolov12_kernels.attend(q, k, v, early),
        kernels.sdpa_flash(q, k, v),
        exact(q, k, v),
    )
    assert ours.is_contiguous()
    mine, yours = ((one.double() - expected).square().mean().sqrt().item() for one in (ours, theirs))
    assert mine <= 1.1 * yours + 1e-6, f"{mine:.2e} from exact, torch's {yours:.2e}"
    assert torch.equal(ours, torch.ops.yolov12_kernels.attend(q, k, v, early))
