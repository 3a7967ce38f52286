# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `flash_attn` wheel for head_dim 32 (docker/flash_attn) on a GPU: against float64, forward and backward, and what it refuses.

    python -m pytest tests/gpu/test_flash_attn_package.py

The wheel may be installed, or unpacked in a folder on PYTHONPATH. Nothing else of the image is needed but torch.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

flash_attn = pytest.importorskip("flash_attn", reason="the flash_attn wheel is neither installed nor on PYTHONPATH")
if "+hd32" not in flash_attn.__version__:
    pytest.skip(f"flash_attn {flash_attn.__version__} is not the build for head_dim 32", allow_module_level=True)

from flash_attn import flash_attn_func, flash_attn_interface, flash_attn_qkvpacked_func  # noqa: E402 (after the skips)

OPS = torch.ops.flash_attn_hd32
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
TOLERANCE = {torch.float16: 5e-3, torch.bfloat16: 4e-2}
"""Largest difference from float64, as a share of the largest value."""
SHAPES = [
    (2, 400, 400, 4),
    (1, 400, 400, 2),
    (1, 100, 100, 1),
    (16, 400, 400, 12),
    (2, 128, 128, 3),
    (2, 129, 129, 3),
    (3, 37, 37, 4),
    (2, 1, 1, 2),
    (2, 100, 300, 4),
    (2, 300, 7, 4),
    (1, 1600, 1600, 8),
]
"""(batch, queries, keys, heads): 640 pixels are 400 tokens per area at P4 and at P5; the kernels' tiles are 128 tokens."""


@pytest.fixture(autouse=True)
def no_code_for_this_gpu_is_a_reason_to_skip():
    if reason := flash_attn.why_not(torch.cuda.get_device_capability()):
        pytest.skip(f"flash_attn {flash_attn.__version__}: {reason}")
    flash_attn_interface._noticed.clear()


def tensors(batch: int, queries: int, keys: int, heads: int, dtype: torch.dtype, head_dim: int = 32) -> list[Tensor]:
    """q, k, v that want gradients, and the gradient of the output, the same on every call."""
    generator = torch.Generator("cuda").manual_seed(queries + heads)
    rows = (queries, keys, keys, queries)
    made = [torch.randn(batch, n, heads, head_dim, device="cuda", generator=generator).to(dtype) for n in rows]
    return [x.requires_grad_() for x in made[:3]] + made[3:]


def exact(q: Tensor, k: Tensor, v: Tensor, scale: float = 32**-0.5) -> tuple[Tensor, Tensor]:
    """(output, log of the softmax sums) in float64, with gradients."""
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * scale
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v), scores.logsumexp(-1)


def exact_with_gradients(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> list[Tensor]:
    """Output, dq, dk, dv in float64."""
    leaves = [x.detach().double().requires_grad_() for x in (q, k, v)]
    out, _ = exact(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad_out.double())]


def assert_close(got: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    difference = (got.double() - expected.double()).abs()
    # Where every exact value is (nearly) zero, as dq of a single key is, rounding is all there is: hence at least 1.
    share = difference / expected.abs().max().clamp(min=1.0)
    message = f"{what}: max_diff={share.max():.3e}, mean_diff={share.mean():.3e} of the largest value"
    assert share.max() <= tolerance, message


def assert_all_close(got: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    for name, one, other in zip(("output", "dq", "dk", "dv"), got, expected, strict=True):
        assert one.dtype == dtype
        assert_close(one, other, TOLERANCE[dtype], name)


def run(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor, **arguments) -> list[Tensor]:
    out = flash_attn_func(q, k, v, **arguments)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), grad_out)]


@pytest.mark.parametrize("deterministic", [False, True], ids=["any-order", "deterministic"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", HALVES.values(), ids=HALVES)
def test_values_and_gradients_agree_with_float64(dtype, shape, deterministic):
    q, k, v, grad_out = tensors(*shape, dtype)
    got = run(q, k, v, grad_out, deterministic=deterministic)
    assert_all_close(got, exact_with_gradients(q, k, v, grad_out), dtype)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("dtype", HALVES.values(), ids=HALVES)
def test_the_parts_of_one_qkv_tensor_are_read_in_place(dtype, batch):
    """As YOLOv12 packs them: per head [q | k | v], so that rows of 32 lie 96 apart."""
    packed = torch.randn(batch, 400, 4, 96, device="cuda", dtype=dtype, requires_grad=True)
    grad_out = torch.randn(batch, 400, 4, 32, device="cuda", dtype=dtype)
    parts = packed.split(32, dim=-1)
    assert all(flash_attn_interface._in_rows(part) is part for part in parts)
    out = flash_attn_func(*parts)
    (gradient,) = torch.autograd.grad(out, packed, grad_out)
    assert out.is_contiguous()
    assert_all_close([out, *gradient.split(32, dim=-1)], exact_with_gradients(*parts, grad_out), dtype)


@pytest.mark.parametrize("dtype", HALVES.values(), ids=HALVES)
def test_packed_input_agrees_with_float64(dtype):
    packed = torch.randn(2, 400, 3, 4, 32, device="cuda", dtype=dtype, requires_grad=True)
    grad_out = torch.randn(2, 400, 4, 32, device="cuda", dtype=dtype)
    out = flash_attn_qkvpacked_func(packed)
    (gradient,) = torch.autograd.grad(out, packed, grad_out)
    assert_all_close([out, *gradient.unbind(2)], exact_with_gradients(*packed.unbind(2), grad_out), dtype)


def test_a_layout_that_can_not_be_read_in_place_is_copied():
    q, k, v, grad_out = tensors(2, 400, 400, 4, torch.float16)
    strided = [x.detach().transpose(1, 3).contiguous().transpose(1, 3).requires_grad_() for x in (q, k, v)]
    assert strided[0].stride(-1) != 1
    assert_all_close(run(*strided, grad_out), exact_with_gradients(q, k, v, grad_out), torch.float16)


def test_softmax_scale_and_the_returned_log_sums_agree_with_float64():
    q, k, v, _ = tensors(2, 100, 300, 4, torch.float16)
    out, lse, nothing = flash_attn_func(q, k, v, softmax_scale=0.31, return_attn_probs=True)
    expected_out, expected_lse = exact(q.double(), k.double(), v.double(), 0.31)
    assert_close(out, expected_out, 5e-3, "output")
    assert_close(lse, expected_lse, 1e-3, "log of the softmax sums")
    assert (lse.shape, lse.dtype, lse.requires_grad, nothing.numel()) == ((2, 4, 100), torch.float32, False, 0)


GRADIENT_LAYOUTS = {
    "expanded": lambda x: x[:1, :1, :1, :1].expand_as(x),
    "heads-first": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "dimension-first": lambda x: x.transpose(1, 3).contiguous().transpose(1, 3),
    "odd-rows": lambda x: torch.nn.functional.pad(x, (0, 1))[..., :32],
    "misaligned": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
}


@pytest.mark.parametrize("layout", GRADIENT_LAYOUTS)
def test_a_gradient_may_come_in_any_layout(layout):
    q, k, v, grad_out = tensors(2, 400, 400, 4, torch.float16)
    grad_out = GRADIENT_LAYOUTS[layout](grad_out)
    assert_all_close(run(q, k, v, grad_out), exact_with_gradients(q, k, v, grad_out), torch.float16)


@pytest.mark.parametrize("how", ["argument", "torch's mode"])
@pytest.mark.parametrize("dtype", HALVES.values(), ids=HALVES)
def test_deterministic_gradients_are_bit_equal(dtype, how):
    inputs = tensors(64, 400, 400, 4, dtype)
    torch.use_deterministic_algorithms(how == "torch's mode")
    try:
        runs = [run(*inputs, deterministic=how == "argument") for _ in range(4)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for later in runs[1:] for a, b in zip(runs[0], later, strict=True))


def test_the_ops_pass_torchs_own_checks():
    q, k, v, grad_out = tensors(2, 100, 100, 2, torch.float16)
    out, lse = OPS.forward(q, k, v, 0.2, False)
    torch.library.opcheck(OPS.forward, (q, k, v, 0.2, False))
    torch.library.opcheck(
        OPS.forward, (*(x.detach().repeat(1, 1, 1, 3).split(32, -1)[0] for x in (q, k, v)), 0.2, False)
    )
    saved = [x.detach() for x in (q, k, v, out, lse)]
    torch.library.opcheck(OPS.backward, (grad_out, *saved, 0.2, True))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_torch_compile_sees_through_without_a_graph_break(backend, dynamic):
    torch._dynamo.reset()

    def attend(packed: Tensor) -> Tensor:
        q, k, v = packed.split(32, dim=-1)
        return flash_attn_func(q * 1.5, k, v).relu()

    compiled = torch.compile(attend, fullgraph=True, dynamic=dynamic, backend=backend)
    for batch, tokens in ((2, 400), (3, 100)) if dynamic else ((2, 400),):
        packed = torch.randn(batch, tokens, 4, 96, device="cuda", dtype=torch.float16, requires_grad=True)
        grad_out = torch.randn(batch, tokens, 4, 32, device="cuda", dtype=torch.float16)
        results = []
        for function in (attend, compiled):
            out = function(packed)
            results.append((out.detach(), *torch.autograd.grad(out, packed, grad_out)))
        for name, got, expected in zip(("output", "gradient"), results[1], results[0], strict=True):
            assert_close(got, expected, 5e-3, name)


def test_a_cuda_graph_replays_it():
    q, k, v = (x.detach() for x in tensors(2, 400, 400, 4, torch.float16)[:3])
    expected = flash_attn_func(q, k, v)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        flash_attn_func(q, k, v)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = flash_attn_func(q, k, v)
    out.zero_()
    graph.replay()
    assert torch.equal(out, expected)


def test_it_runs_on_the_current_stream():
    q, k, v = (x.detach() for x in tensors(16, 400, 400, 4, torch.float16)[:3])
    expected = flash_attn_func(q, k, v)
    late = torch.zeros_like(q)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # cycles: a kernel on another stream would read the zeros
        late.copy_(q)
        out = flash_attn_func(late, k, v)
    stream.synchronize()
    assert torch.equal(out, expected)


def test_offsets_past_two_to_the_31_elements_are_right():
    apart = 2**31
    if torch.cuda.mem_get_info()[0] < 8 * 2**30:
        pytest.skip("needs 8 GiB of free GPU memory")
    q, k, v, _ = tensors(2, 400, 400, 2, torch.float16)
    far = torch.empty(apart + q[0].numel(), device="cuda", dtype=torch.float16)
    far = far.as_strided(q.shape, (apart, *q.stride()[1:]))
    far.copy_(q.detach())
    assert torch.equal(flash_attn_func(far, k, v), flash_attn_func(q, k, v))


def test_the_largest_batch_is_served():
    q, k, v, grad_out = tensors(65535, 2, 2, 1, torch.float16)
    assert_all_close(run(q, k, v, grad_out), exact_with_gradients(q, k, v, grad_out), torch.float16)


# ---- what the ops refuse ----


def refused(q: Tensor, k: Tensor, v: Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        OPS.forward(q, k, v, 0.2, False)


def halves(*shape: int) -> Tensor:
    return torch.zeros(shape, device="cuda", dtype=torch.float16)


@pytest.mark.parametrize(
    ("strided", "message"),
    [
        (lambda: halves(2, 4, 32, 8).transpose(2, 3), "its last stride is not 1"),
        (lambda: halves(2, 4, 8, 36)[..., :32], "a stride is not a multiple of 8 elements"),
        (lambda: halves(2 * 4 * 8 * 32 + 4)[4:].view(2, 4, 8, 32), "not at a multiple of 16 bytes"),
    ],
)
def test_the_ops_say_what_they_can_not_read_in_place(strided, message):
    good = halves(2, 4, 8, 32)
    refused(strided(), good, good, f"q of strides .*{message}.*clone")
    refused(good, good, strided(), f"v of strides .*{message}.*clone")


@pytest.mark.parametrize(
    ("k", "message"),
    [
        (lambda: halves(2, 4, 2, 32), r"k must be \(2, 4, 8, 32\), with as many heads as q, got \[2, 4, 2, 32\]"),
        (lambda: halves(3, 4, 8, 32), r"k must be \(2, 4, 8, 32\).*got \[3, 4, 8, 32\]"),
        (lambda: halves(2, 4, 8, 64), r"k must be \(2, 4, 8, 32\).*got \[2, 4, 8, 64\]"),
        (lambda: halves(2, 4, 8, 32).bfloat16(), "k is BFloat16 and q Half"),
        (lambda: halves(2, 4, 8, 32).float(), "k must be float16 or bfloat16, not Float"),
        (lambda: halves(2, 4, 8, 32).cpu(), "k is on cpu, not on a CUDA device"),
        (lambda: halves(2, 8, 32), r"must be \(batch, tokens, heads, 32\), got .* and \[2, 8, 32\]"),
    ],
)
def test_the_ops_say_what_does_not_go_together(k, message):
    q = halves(2, 4, 8, 32)
    refused(q, k(), q, message)


@pytest.mark.parametrize(
    ("batch", "heads", "message"),
    [
        (65536, 1, "at most 65535 for batch and heads, got 65536 and 1"),
        (1, 65536, "at most 65535 for batch and heads, got 1 and 65536"),
        (40000, 40000, r"40000 \* 40000 \* 128 is past 2\^31 - 1: split the batch"),
        (0, 1, "nothing to attend"),
    ],
)
def test_the_ops_refuse_what_is_past_their_limits(batch, heads, message):
    x = halves(1, 1, 1, 32).expand(batch, 1, heads, 32)
    refused(x, x, x, message)


def test_a_backward_with_the_wrong_log_sums_is_refused():
    x, lse = halves(2, 4, 8, 32), torch.zeros(2, 4, 8, device="cuda")
    with pytest.raises(RuntimeError, match=r"lse must be what forward returned, got Float \[2, 4, 8\]"):
        OPS.backward(x, x, x, x, x, lse, 0.2, False)


# ---- what torch's SDPA serves instead ----


@pytest.mark.parametrize(
    ("head_dim", "dtype", "arguments", "reason"),
    [
        (64, torch.float16, {}, "head_dim is 64, not 32"),
        (32, torch.float32, {}, "float32 is neither float16 nor bfloat16"),
        (32, torch.float16, {"causal": True}, "a causal mask asked for"),
        (32, torch.float16, {"window_size": (3, 3)}, "a window asked for"),
    ],
)
def test_the_rest_runs_on_sdpa_after_one_notice(head_dim, dtype, arguments, reason):
    q, k, v, _ = tensors(2, 100, 100, 4, dtype, head_dim)
    with pytest.warns(UserWarning, match=f"{reason}: torch's scaled_dot_product_attention runs instead"):
        out = flash_attn_func(q, k, v, **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flash_attn_func(q, k, v, **arguments)
    place = torch.arange(100, device="cuda")
    offset = place - place[:, None]
    left, right = arguments.get("window_size", (100, 0 if arguments else 100))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double()) * head_dim**-0.5
    scores = scores.masked_fill((offset < -left) | (offset > right), float("-inf"))
    assert_close(out, torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v.double()), 5e-3, "output")


def test_a_compiled_fallback_gives_its_notice_while_tracing():
    torch._dynamo.reset()
    q, k, v, _ = tensors(2, 100, 100, 4, torch.float16, head_dim=64)
    compiled = torch.compile(flash_attn_func, fullgraph=True, backend="aot_eager")
    with pytest.warns(UserWarning, match="head_dim is 64"):
        out = compiled(q, k, v)
    assert_close(out, exact(q.double(), k.double(), v.double(), 64**-0.5)[0], 5e-3, "output")


def test_deterministic_for_one_call_is_refused_where_sdpa_would_have_to_serve_it():
    q, k, v, _ = tensors(2, 100, 100, 4, torch.float16, head_dim=64)
    with pytest.raises(NotImplementedError, match="deterministic=True for a single call"):
        flash_attn_func(q, k, v, deterministic=True)
