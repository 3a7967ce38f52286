# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every kernel that a CPU has, against the plain formula in float64, forward and backward, at the shapes of all five models."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import Tensor

from yolov12.model.attention import flash_package, kernels
from yolov12.model.attention.op import merge_heads, split_heads

HEAD_DIM = 32
HEADS_AND_AREA = [(2, 4), (4, 4), (8, 4), (12, 4), (4, 1), (8, 1), (12, 1)]
"""P4 and P5 of n 2/4, s 4/8, m and l 8/8, x 12/12."""
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}
"""Largest difference, as a share of the reference's largest value."""


def reference(qkv: Tensor, heads: int, area: int) -> Tensor:
    """Area attention as the paper writes it, head by head and area by area, on (batch, channels, height, width)."""
    batch, _, height, width = qkv.shape
    out = []
    for head in qkv.flatten(2).split(3 * HEAD_DIM, dim=1):
        q, k, v = head.split(HEAD_DIM, dim=1)
        areas = [
            (torch.einsum("bcn,bcm->bnm", q_part, k_part) / HEAD_DIM**0.5).softmax(-1) @ v_part.transpose(1, 2)
            for q_part, k_part, v_part in zip(*(t.chunk(area, dim=2) for t in (q, k, v)), strict=True)
        ]
        out.append(torch.cat(areas, dim=1).transpose(1, 2))
    assert len(out) == heads
    return torch.cat(out, dim=1).view(batch, -1, height, width)


def assert_close(got: Tensor, expected: Tensor, dtype: torch.dtype, what: str) -> None:
    difference = (got.double() - expected).abs() / expected.abs().max()
    message = f"{what}: max_diff={difference.max():.3e}, mean_diff={difference.mean():.3e} of the largest value"
    assert difference.max() <= TOLERANCE[dtype], message


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(("heads", "area"), HEADS_AND_AREA)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kernel", [kernels.plain, kernels.sdpa_cpu], ids=lambda kernel: kernel.__name__)
def test_kernel_agrees_with_float64_in_value_and_gradient(kernel, dtype, heads, area, memory_format):
    torch.manual_seed(heads * 10 + area)
    qkv = torch.randn(2, 3 * heads * HEAD_DIM, 8, 6).to(dtype)
    weight = torch.randn(2, heads * HEAD_DIM, 8, 6, dtype=torch.float64)

    exact = qkv.double().clone().requires_grad_()
    expected = reference(exact, heads, area)
    (expected * weight).sum().backward()

    given = qkv.clone(memory_format=memory_format).requires_grad_()
    got = merge_heads(kernel(*split_heads(given, heads, HEAD_DIM, area)), 2, 8, 6)
    (got.double() * weight).sum().backward()

    assert got.dtype == dtype
    assert_close(got, expected, dtype, "output")
    assert_close(given.grad, exact.grad, dtype, "gradient of qkv")


@pytest.mark.parametrize("kernel", [kernels.plain, kernels.sdpa_cpu], ids=lambda kernel: kernel.__name__)
def test_kernel_agrees_with_float64_at_the_size_of_a_real_area(kernel):
    torch.manual_seed(0)
    qkv = torch.randn(1, 3 * 2 * HEAD_DIM, 40, 40)
    got = merge_heads(kernel(*split_heads(qkv, 2, HEAD_DIM, 4)), 1, 40, 40)
    assert_close(got, reference(qkv.double(), 2, 4), torch.float32, "output")


@pytest.mark.parametrize("head_dim", [1, 20, 64])
def test_cpu_kernel_takes_other_head_dimensions(head_dim):
    q, k, v = torch.randn(3, 2, 10, 3, head_dim)
    torch.testing.assert_close(kernels.sdpa_cpu(q, k, v), kernels.plain(q, k, v))


FUSED = [kernels.sdpa_flash, kernels.sdpa_cudnn, kernels.sdpa_efficient, kernels.sdpa_cpu, kernels.flash_attn]


@pytest.mark.parametrize("kernel", FUSED, ids=lambda kernel: kernel.__name__)
def test_a_fused_kernel_refuses_the_strides_of_an_nchw_split(kernel):
    qkv = (
        torch.randn(1, 2 * 96, 4, 4).flatten(2).transpose(1, 2)
    )  # as upstream cuts it: no copy, rows with stride H * W
    q, k, v = qkv.view(1, 16, 2, 96).split(32, dim=-1)
    with pytest.raises(RuntimeError, match="last stride of 1"):
        kernel(q, k, v)


def test_cudnn_is_spared_a_sequence_of_one_token():
    q, k, v = torch.randn(3, 2, 1, 4, 32)
    torch.testing.assert_close(kernels.sdpa_cudnn(q, k, v), kernels.plain(q, k, v))


@pytest.fixture
def installed(monkeypatch):
    """Put a `flash_attn` of a given version in reach, and forget what was found before; returns the recorded calls."""

    def install(version: str) -> list[dict]:
        calls = []
        module = types.ModuleType("flash_attn")
        module.__version__ = version
        module.flash_attn_func = lambda q, k, v, **options: calls.append(options) or kernels.plain(q, k, v)
        monkeypatch.setitem(sys.modules, "flash_attn", module)
        forget(monkeypatch)
        return calls

    return install


def forget(monkeypatch) -> None:
    untouched = {
        "_looked": False,
        "_attend": None,
        "_why_not_on": None,
        "_version": "",
        "_missing": "not looked for yet",
    }
    for name, fresh in untouched.items():
        monkeypatch.setattr(flash_package, name, fresh)


def test_the_installed_package_gets_the_tensors_as_they_are(installed):
    calls = installed("2.8.3+hd32")
    assert flash_package.why_not(head_dim=32) is None
    q, k, v = split_heads(torch.randn(2, 192, 4, 4), heads=2, head_dim=32, area=1)
    assert torch.equal(kernels.flash_attn(q, k, v), kernels.plain(q, k, v))
    assert calls == [{}], "the head_dim 32 build reads torch's deterministic mode itself"


def test_upstreams_package_is_told_when_to_be_deterministic(installed):
    calls = installed("2.8.3")
    assert flash_package.why_not(head_dim=64) is None
    kernels.flash_attn(*torch.randn(3, 1, 4, 2, 64))
    assert calls == [{"deterministic": False}]


def test_the_head_dim_32_build_is_not_used_for_other_dimensions(installed):
    installed("2.8.3+hd32")
    assert "built for head_dim 32, not 64" in flash_package.why_not(head_dim=64)


def test_the_head_dim_32_build_is_not_used_on_a_gpu_that_it_has_no_code_for(installed, monkeypatch):
    installed("2.8.3+hd32")
    no_code = "there is code for sm_90, and this GPU is sm_80"
    sys.modules["flash_attn"].why_not = lambda capability: None if capability == (9, 0) else no_code
    assert flash_package.why_not(head_dim=32, capability=(9, 0)) is None
    assert flash_package.why_not(head_dim=32, capability=(8, 0)) == no_code


def test_a_package_that_is_not_there_is_said_to_be_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)  # makes `import flash_attn` fail
    forget(monkeypatch)
    assert flash_package.why_not(head_dim=32) == "not installed"
    with pytest.raises(RuntimeError, match="not installed"):
        kernels.flash_attn(*torch.randn(3, 1, 4, 2, 32))


def test_a_package_built_for_another_torch_is_said_not_to_load(monkeypatch, tmp_path):
    (tmp_path / "flash_attn.py").write_text("raise ImportError('undefined symbol: _ZN3c104cuda')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    forget(monkeypatch)
    assert flash_package.why_not(head_dim=32) == "installed, but does not load: undefined symbol: _ZN3c104cuda"
