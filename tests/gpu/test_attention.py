# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every attention kernel that this GPU has: against float64, forward and backward, and that it is the one which ran.

    python -m pytest tests/gpu/test_attention.py

A backend that can not serve a case on this GPU (no bf16 below sm_80, flash_attn not installed) is skipped with its reason;
one that should and fails is an error.
"""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor
from ultralytics.nn.modules.block import AAttn
from ultralytics.nn.tasks import DetectionModel

from yolov12.model import attention
from yolov12.model.attention import backends, dispatch, kernels
from yolov12.model.attention.backends import BACKENDS, Case
from yolov12.model.attention.op import merge_heads, split_heads

HEAD_DIM = 32
HEADS_AND_AREA = [(2, 4), (4, 4), (8, 4), (12, 4), (4, 1), (8, 1), (12, 1)]
"""P4 and P5 of n 2/4, s 4/8, m and l 8/8, x 12/12."""
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
TOLERANCE = {torch.float16: 5e-3, torch.bfloat16: 4e-2, torch.float32: 2e-3}
"""Largest difference from float64, as a share of the largest value. For fp32 it leaves room for TF32."""
OPERATOR = {
    "sdpa-flash": "aten::_scaled_dot_product_flash_attention",
    "sdpa-cudnn": "aten::_scaled_dot_product_cudnn_attention",
    "sdpa-efficient": "aten::_scaled_dot_product_efficient_attention",
}
UNFUSED = {"aten::_scaled_dot_product_attention_math", "aten::matmul", "aten::bmm", "aten::baddbmm", "aten::softmax"}
GPU_BACKENDS = [name for name, backend in BACKENDS.items() if backend.device_type != "cpu"]
FUSED_BACKENDS = [name for name in GPU_BACKENDS if name != "plain"]


@pytest.fixture(autouse=True)
def ours(monkeypatch):
    """Our forward during a test, stock's after it; no decision from before."""
    monkeypatch.setattr(dispatch, "_request", None)
    monkeypatch.setattr(dispatch, "_decided", {})
    attention.configure("1")
    attention.install()
    yield
    attention.uninstall()


def skip_unless_served(backend: str, dtype: torch.dtype, training: bool = True) -> None:
    case = Case("cuda", torch.cuda.get_device_capability(), dtype, training)
    if reason := backends.why_not(backend, case):
        pytest.skip(f"{backend} ({case}): {reason}")


@functools.cache
def exact(batch: int, heads: int, area: int, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """(qkv, weight, output, gradient): random input in `dtype`, and what float64 makes of it, head by head and area by area."""
    generator = torch.Generator("cuda").manual_seed(heads * 10 + area)
    shape = (batch, 3 * heads * HEAD_DIM, height, width)
    qkv = torch.randn(shape, device="cuda", generator=generator).to(dtype)
    weight = torch.randn(batch, heads * HEAD_DIM, height, width, device="cuda", generator=generator).to(dtype)
    source = qkv.double().requires_grad_()
    out = []
    for head in source.flatten(2).split(3 * HEAD_DIM, dim=1):
        q, k, v = (part.unflatten(2, (area, -1)).permute(0, 2, 3, 1) for part in head.split(HEAD_DIM, dim=1))
        out.append(((q @ k.transpose(-2, -1) / HEAD_DIM**0.5).softmax(-1) @ v).flatten(1, 2).transpose(1, 2))
    output = torch.cat(out, dim=1).view(batch, -1, height, width)
    (output * weight).sum().backward()
    return qkv, weight, output.detach(), source.grad


def assert_close(got: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    difference = (got.double() - expected.double()).abs() / expected.abs().max()
    message = f"{what}: max_diff={difference.max():.3e}, mean_diff={difference.mean():.3e} of the largest value"
    assert difference.max() <= tolerance, message


def check_against_float64(backend: str, dtype: torch.dtype, layout: str, shape: tuple[int, int, int, int, int]) -> None:
    batch, heads, area, height, width = shape
    qkv, weight, output, gradient = exact(*shape, dtype)
    given = qkv.clone(memory_format=LAYOUTS[layout]).requires_grad_()
    got = merge_heads(BACKENDS[backend].run(*split_heads(given, heads, HEAD_DIM, area)), batch, height, width)
    got.backward(weight)  # contiguous, so not the layout in which the kernel returned its output
    assert got.dtype == dtype
    assert_close(got, output, TOLERANCE[dtype], f"{backend} output")
    assert_close(given.grad, gradient, TOLERANCE[dtype], f"{backend} gradient of qkv")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("heads", "area"), HEADS_AND_AREA)
@pytest.mark.parametrize("dtype", HALVES.values(), ids=HALVES)
@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_kernel_agrees_with_float64_in_value_and_gradient(backend, dtype, heads, area, layout):
    skip_unless_served(backend, dtype)
    side = 40 if area == 4 else 20
    check_against_float64(backend, dtype, layout, (2, heads, area, side, side))


@pytest.mark.parametrize(
    "shape", [(1, 2, 4, 40, 40), (3, 4, 1, 5, 7), (2, 2, 4, 2, 6), (1, 2, 1, 1, 1), (2, 2, 4, 2, 2)]
)
@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_odd_numbers_of_tokens_and_a_single_one_agree_with_float64(backend, shape):
    skip_unless_served(backend, torch.float16)
    check_against_float64(backend, torch.float16, "nhwc", shape)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", ["plain", "sdpa-efficient"])
def test_fp32_agrees_with_float64(backend, layout):
    check_against_float64(backend, torch.float32, layout, (2, 4, 4, 40, 40))


def operators(run) -> list[str]:
    """Names of the operators that ran, backward included; the first profile of a process may miss events, so run before."""
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
        torch.cuda.synchronize()
    return [event.name for event in profile.events()]


def half_aattn(dtype: torch.dtype, area: int = 4) -> AAttn:
    torch.manual_seed(0)
    return AAttn(64, 2, area).cuda().to(dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("area", [1, 4])
@pytest.mark.parametrize("dtype", HALVES.values(), ids=HALVES)
@pytest.mark.parametrize("backend", OPERATOR)
def test_the_kernel_asked_for_ran_forward_and_backward_and_no_unfused_one_did(backend, dtype, area, layout):
    skip_unless_served(backend, dtype)
    attention.configure(backend)
    module = half_aattn(dtype, area)
    x = torch.randn(2, 64, 40, 40, device="cuda", dtype=dtype).to(memory_format=LAYOUTS[layout])
    ran = operators(lambda: module(x).sum().backward())
    assert ran.count(OPERATOR[backend]) == 1
    assert ran.count(f"{OPERATOR[backend]}_backward") == 1
    assert not UNFUSED & set(ran)
    others = set(OPERATOR.values()) - {OPERATOR[backend]}
    assert not others & set(ran)


@pytest.mark.parametrize("backend", OPERATOR)
def test_inference_runs_the_kernel_asked_for(backend):
    skip_unless_served(backend, torch.float16, training=False)
    attention.configure(backend)
    module, x = half_aattn(torch.float16).eval(), torch.randn(1, 64, 40, 40, device="cuda", dtype=torch.float16)
    with torch.inference_mode():
        ran = operators(lambda: module(x))
    assert ran.count(OPERATOR[backend]) == 1
    assert not UNFUSED & set(ran)


@pytest.mark.parametrize("backend", FUSED_BACKENDS)
def test_what_a_fused_kernel_returns_becomes_channels_last_without_a_copy(backend):
    skip_unless_served(backend, torch.float16)
    qkv = torch.randn(2, 192, 40, 40, device="cuda", dtype=torch.float16).to(memory_format=torch.channels_last)
    out = BACKENDS[backend].run(*split_heads(qkv, 2, HEAD_DIM, 4))
    merged = merge_heads(out, 2, 40, 40)
    assert merged.is_contiguous(memory_format=torch.channels_last)
    assert merged.data_ptr() == out.data_ptr()


@pytest.mark.parametrize("backend", FUSED_BACKENDS)
def test_a_compiled_module_has_no_graph_break_and_the_same_values(backend):
    skip_unless_served(backend, torch.float16)
    attention.configure(backend)
    module = half_aattn(torch.float16).eval()
    x, weight = torch.randn(2, 2, 64, 40, 40, device="cuda", dtype=torch.float16)
    compiled_module = copy.deepcopy(module)
    torch._dynamo.reset()
    compiled = torch.compile(compiled_module, fullgraph=True, backend="aot_eager")
    outputs = module(x), compiled(x)
    for out in outputs:
        out.backward(weight)
    assert_close(outputs[1], outputs[0], 2e-3, "output")
    assert_close(compiled_module.qkv.conv.weight.grad, module.qkv.conv.weight.grad, 2e-2, "gradient")


@pytest.mark.parametrize("backend", ["sdpa-flash", "sdpa-efficient"])
def test_gradients_are_bit_equal_in_strict_deterministic_mode(backend):
    skip_unless_served(backend, torch.float16)
    q, k, v = (t.detach().requires_grad_() for t in torch.randn(3, 64, 400, 4, 32, device="cuda", dtype=torch.float16))
    weight = torch.randn_like(q)
    torch.use_deterministic_algorithms(True)
    try:
        runs = [torch.autograd.grad(BACKENDS[backend].run(q, k, v), (q, k, v), weight) for _ in range(3)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("dtype", [*HALVES.values(), torch.float32, torch.float64], ids=str)
def test_the_best_backend_of_this_gpu_has_passed_its_trial_run(dtype, training):
    name, reason = attention.describe("cuda", dtype, training)
    assert "failed a trial run" not in reason, reason
    assert dispatch.probe(BACKENDS[name].run, torch.device("cuda"), dtype, training, HEAD_DIM) is None


@functools.cache
def yolo12n() -> tuple[DetectionModel, Tensor]:
    torch.manual_seed(0)
    return DetectionModel("yolo12n.yaml", verbose=False), torch.rand(2, 3, 320, 320)


def flat(outputs) -> list[Tensor]:
    """The tensors in what a detection model returns."""
    if isinstance(outputs, Tensor):
        return [outputs]
    values = outputs.values() if isinstance(outputs, dict) else outputs
    return [tensor for value in values for tensor in flat(value)]


@pytest.mark.parametrize("dtype", HALVES.values(), ids=HALVES)
@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_a_whole_model_predicts_what_stock_does(backend, dtype):
    skip_unless_served(backend, dtype, training=False)
    attention.configure(backend)
    model, images = yolo12n()
    model, images = copy.deepcopy(model).cuda().eval(), images.cuda()
    with torch.inference_mode(), torch.autocast("cuda", dtype):
        got = flat(model(images))[0]
        attention.uninstall()
        expected = flat(model(images))[0]
    assert got.isfinite().all()
    assert_close(got, expected, 2e-2, f"{backend} predictions")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", HALVES.values(), ids=HALVES)
@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_a_whole_model_trains(backend, dtype, layout):
    skip_unless_served(backend, dtype)
    attention.configure(backend)
    model, images = yolo12n()
    model = copy.deepcopy(model).cuda().to(memory_format=LAYOUTS[layout]).train()
    images = images.cuda().to(memory_format=LAYOUTS[layout])
    with torch.autocast("cuda", dtype):
        loss = sum(out.float().square().mean() for out in flat(model(images)))
    (1024 * loss).backward()  # far enough from what fp16 rounds to zero
    attentions = [module for module in model.modules() if isinstance(module, AAttn)]
    assert len(attentions) == 8
    for module in attentions:
        gradient = module.qkv.conv.weight.grad
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


def test_plain_on_the_gpu_is_upstreams_arithmetic():
    module, x = half_aattn(torch.float32).eval(), torch.randn(2, 64, 40, 40, device="cuda")
    attention.configure("0")
    got = module(x)
    attention.uninstall()
    assert_close(got, module(x), 1e-4, "plain output")
    assert BACKENDS["plain"].run is kernels.plain
