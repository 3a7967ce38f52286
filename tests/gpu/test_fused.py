# SPDX-License-Identifier: AGPL-3.0-or-later
"""Batch norm and activation by our kernels (docker/kernels) on a GPU: against float64, bits that repeat, whole models, what is refused.

    python -m pytest tests/gpu/test_fused.py

The `yolov12_kernels` wheel may be installed, or unpacked in a folder on PYTHONPATH (docs/kernels.md says how to build it).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.tasks import DetectionModel

from tests.gpu.compiled import DTYPES, OPS, TOLERANCE, kernels, nhwc, skip_without_code
from yolov12.model import fused
from yolov12.model.fused import following, norm

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic algorithms; read at cuBLAS's first use

SUMS_TOLERANCE = 1e-3
"""For the gradients of weight and bias: sums over all pixels, in which the errors of a fast exponential add up too."""
SHAPES = [(4, 16, 80, 80), (3, 80, 33, 17), (2, 384, 20, 20), (1, 2304, 7, 5), (1, 8, 3, 5), (256, 16, 160, 160)]
"""(images, channels, height, width). From 128 channels in fp32 and 256 in the halves on, several blocks share a row; 15 rows are fewer than
a block has lines; the last shape has many rows for each thread."""
FUSED = [fused.Keep.BOTH, fused.Keep.CONVOLUTION, fused.Keep.INPUT, fused.Keep.NOTHING]


@pytest.fixture(autouse=True)
def on_a_gpu_with_code() -> Iterator[None]:
    skip_without_code()
    yield
    torch.cuda.empty_cache()


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """As YOLO's: eps 1e-3, momentum 0.03; with weights and biases that are not those of a fresh one."""
    generator = torch.Generator("cuda").manual_seed(channels)
    module = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03, device="cuda")
    with torch.no_grad():
        module.weight.uniform_(0.5, 1.5, generator=generator)
        module.bias.uniform_(-1, 1, generator=generator)
    return module


@dataclass
class Results:
    """What one forward and backward gives."""

    output: Tensor
    grad_y: Tensor
    grad_weight: Tensor
    grad_bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    batches: int


def by_kernels(y: Tensor, grad: Tensor, module: nn.BatchNorm2d, silu: bool) -> Results:
    module = copy.deepcopy(module)
    with torch.no_grad():
        made = norm.normalise(y, module, silu)
        assert isinstance(made, norm.ByKernels)
        output = made.output(y)
        gradients = made.gradient(grad, y)
    assert module.running_mean is not None
    assert module.running_var is not None
    return Results(output, *gradients, module.running_mean, module.running_var, int(module.num_batches_tracked))


def by_float64(y: Tensor, grad: Tensor, module: nn.BatchNorm2d, silu: bool) -> Results:
    module = copy.deepcopy(module).double()
    leaf = y.double().requires_grad_()
    output = F.silu(module(leaf)) if silu else module(leaf)
    output.backward(grad.double())
    gradients = leaf.grad, module.weight.grad, module.bias.grad
    return Results(output.detach(), *gradients, module.running_mean, module.running_var, 1)


def assert_close(got: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    difference = (got.double() - expected.double()).abs().max().item()
    largest = expected.abs().max().item()
    assert difference <= tolerance * largest, f"{what}: {difference:.3e} of {largest:.3e}, {difference / largest:.1e}"


def assert_all_close(got: Results, expected: Results, dtype: torch.dtype, tolerance: float | None = None) -> None:
    tolerance = tolerance or TOLERANCE[dtype]
    assert (got.output.dtype, got.grad_y.dtype) == (dtype, dtype)
    assert_close(got.output, expected.output, tolerance, "output")
    assert_close(got.grad_y, expected.grad_y, tolerance, "gradient of y")
    assert_close(got.grad_weight, expected.grad_weight, SUMS_TOLERANCE, "gradient of the weight")
    assert_close(got.grad_bias, expected.grad_bias, SUMS_TOLERANCE, "gradient of the bias")
    assert_close(got.running_var, expected.running_var, 5e-6, "running variance")
    assert got.batches == expected.batches


# ---- values ----


@pytest.mark.parametrize("silu", [True, False], ids=["silu", "plain"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_values_gradients_and_running_statistics_agree_with_float64(dtype, shape, silu):
    y, grad, module = 1.7 * nhwc(*shape, dtype=dtype), nhwc(*shape, dtype=dtype, seed=1), batch_norm(shape[1])
    assert_all_close(by_kernels(y, grad, module, silu), by_float64(y, grad, module, silu), dtype)


@pytest.mark.parametrize(("dtype", "mean"), [(torch.bfloat16, 100.0), (torch.float16, 100.0), (torch.float32, 1000.0)])
def test_a_mean_far_from_zero_does_not_swallow_the_variance(dtype, mean):
    y = (nhwc(8, 64, 40, 40, dtype=torch.float32) * 1.7 + mean).to(dtype)
    grad, module = nhwc(8, 64, 40, 40, dtype=dtype, seed=1), batch_norm(64)
    got, exact = by_kernels(y, grad, module, silu=True), by_float64(y, grad, module, silu=True)
    # In fp32 the last place of y itself is 1e-4 of its deviation.
    assert_all_close(got, exact, dtype, tolerance=max(TOLERANCE[dtype], 2e-4))
    assert_close(got.running_mean, exact.running_mean, 2e-7, "running mean")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_mean_near_zero_is_not_lost_in_the_distance_of_the_first_row(shape):
    """The sums are those of y minus its first row, a deviation or two away; 1e-7 of that would be 1e-4 of a mean over 6 million rows."""
    y, module = 1.7 * nhwc(*shape, dtype=torch.bfloat16), batch_norm(shape[1])
    got, exact = by_kernels(y, y, module, silu=False), by_float64(y, y, module, silu=False)
    assert_close(got.running_mean, exact.running_mean, 8e-5, "running mean")


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_constant_channels_become_the_bias(dtype):
    y, module = torch.full_like(nhwc(2, 16, 9, 9, dtype=dtype), 3.0), batch_norm(16)
    got = by_kernels(y, torch.ones_like(y), module, silu=False)
    assert_close(got.output, module.bias.detach()[:, None, None].expand_as(y), max(TOLERANCE[dtype], 1e-4), "output")
    assert got.grad_y.abs().max() < 1e-3


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_where_the_exponential_overflows_silu_and_its_slope_are_still_right(dtype):
    y = torch.linspace(-300, 300, 2 * 16 * 9 * 9, device="cuda").reshape(2, 16, 9, 9)
    y = y.to(dtype, memory_format=torch.channels_last)
    constants = torch.tensor([0.0, 1.0, 1.0, 0.0], device="cuda")[:, None].repeat(1, 16)
    out = torch.empty_like(y)
    OPS.batch_norm_apply(y, constants, True, out, False)
    assert_close(out, F.silu(y.double()), TOLERANCE[dtype], "output")
    leaf = y.double().requires_grad_()
    F.silu(leaf).sum().backward()
    _, _, grad_bias = OPS.batch_norm_gradient(torch.ones_like(y), y, constants, True)
    assert_close(grad_bias, leaf.grad.sum((0, 2, 3)), SUMS_TOLERANCE, "gradient of the bias")


# ---- parts of wider tensors ----


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_the_gradient_may_be_some_channels_of_a_wider_one(dtype):
    y, wide, module = nhwc(8, 64, 40, 40, dtype=dtype), nhwc(8, 128, 40, 40, dtype=dtype, seed=1), batch_norm(64)
    grad = wide[:, 64:]
    assert OPS.is_rows(grad)
    assert_all_close(by_kernels(y, grad, module, silu=True), by_float64(y, grad, module, silu=True), dtype)


GRADIENT_LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "expanded": lambda x: x[:1, :1, :1, :1].expand_as(x),
    "between two loads": lambda x: torch.cat([x[:, :3], x], 1).contiguous(memory_format=torch.channels_last)[:, 3:],
    "float32": lambda x: x.float(),
}


@pytest.mark.parametrize("layout", GRADIENT_LAYOUTS)
def test_a_gradient_that_can_not_be_read_in_place_is_copied(layout):
    y, module = nhwc(4, 16, 10, 12, dtype=torch.bfloat16), batch_norm(16)
    grad = GRADIENT_LAYOUTS[layout](nhwc(4, 16, 10, 12, dtype=torch.bfloat16, seed=1))
    assert_all_close(by_kernels(y, grad, module, silu=True), by_float64(y, grad, module, silu=True), torch.bfloat16)


@pytest.mark.parametrize("first", [0, 16, 3], ids=["first", "middle", "between two loads"])
@pytest.mark.parametrize("add", [False, True], ids=["written", "added"])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_an_output_is_written_into_some_channels_of_a_wider_tensor_or_added_to_them(dtype, first, add):
    y, module = nhwc(3, 32, 9, 11, dtype=dtype), batch_norm(32)
    wide = nhwc(3, 64, 9, 11, dtype=dtype, seed=1)
    before, place = wide.clone(memory_format=torch.preserve_format), wide.narrow(1, first, 32)
    with torch.no_grad():
        made = norm.normalise(y, module, silu=True)
        alone = made.output(y)
        assert made.output(y, place, add=add) is place
    expected = before.clone(memory_format=torch.preserve_format)
    expected.narrow(1, first, 32).copy_(before.narrow(1, first, 32) + alone if add else alone)
    assert torch.equal(wide, expected)  # also that nothing beside the place was touched


@pytest.mark.parametrize(("first", "last"), [(0, 16), (16, 32), (5, 12), (4, 20)])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_some_channels_are_those_of_the_whole(dtype, first, last):
    y, module = nhwc(3, 32, 9, 11, dtype=dtype), batch_norm(32)
    with torch.no_grad():
        made = norm.normalise(y, module, silu=True)
        part = made.output(y)[:, first:last]
        place = nhwc(3, last - first, 9, 11, dtype=dtype, seed=1)
        added = place + part
        assert torch.equal(made.output(y, channels=slice(first, last)), part)
        assert torch.equal(made.output(y, place, add=True, channels=slice(first, last)), added)


# ---- bits that repeat, streams, torch's own checks ----


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_equal_inputs_give_equal_bits(dtype, shape):
    y, grad, module = nhwc(*shape, dtype=dtype), nhwc(*shape, dtype=dtype, seed=1), batch_norm(shape[1])
    first, second = (vars(by_kernels(y, grad, module, silu=True)) for _ in range(2))
    for name, value in first.items():
        assert value == second[name] if name == "batches" else torch.equal(value, second[name]), name


def test_it_runs_on_the_current_stream():
    y, module = nhwc(64, 64, 40, 40, dtype=torch.bfloat16), batch_norm(64)
    expected = by_kernels(y, y, module, silu=True)
    late = torch.zeros_like(y)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # cycles: a kernel on another stream would read the zeros
        late.copy_(y)
        got = by_kernels(late, y, module, silu=True)
    stream.synchronize()
    assert torch.equal(got.output, expected.output)
    assert torch.equal(got.grad_y, expected.grad_y)


def test_the_ops_pass_torchs_own_checks():
    y, module = nhwc(2, 16, 5, 7, dtype=torch.bfloat16), batch_norm(16)
    weight, bias = module.weight.detach(), module.bias.detach()
    running = (module.running_mean, module.running_var, module.num_batches_tracked)
    constants = OPS.batch_norm_statistics(y, weight, bias, None, None, None, 0.03, 1e-3)
    torch.library.opcheck(OPS.batch_norm_statistics, (y, weight, bias, *running, 0.03, 1e-3))
    torch.library.opcheck(OPS.batch_norm_statistics, (y, weight, bias, None, None, None, 0.03, 1e-3))
    torch.library.opcheck(OPS.batch_norm_apply, (y, constants, True, torch.empty_like(y), False))
    torch.library.opcheck(OPS.batch_norm_gradient, (y, y, constants, True))


# ---- whole models ----


@pytest.fixture
def repeatable(monkeypatch) -> Iterator[None]:
    """Deterministic algorithms where torch has them, upstream's `Conv` replaced by ours, and everything put back afterwards."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    fused.install()
    yield
    fused.choose({})
    fused.uninstall()
    torch.use_deterministic_algorithms(False)


def tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    else:
        for value in output.values() if isinstance(output, dict) else output:
            yield from tensors(value)


def trained(model: nn.Module, x: Tensor, keep: fused.Keep | None) -> dict[str, Tensor]:
    """Gradients, and buffers afterwards, of a copy of the model after one forward and backward, in bf16 but for a float64 input.

    `keep` None is upstream's modules.
    """
    model = copy.deepcopy(model).to(x.dtype)
    fused.choose({} if keep is None else {module: keep for module in model.modules() if isinstance(module, Conv)})
    with torch.autocast("cuda", torch.bfloat16, enabled=x.dtype is torch.float32):
        made = list(tensors(model(x)))
    torch.stack([t.to(x.dtype).square().mean() for t in made if t.requires_grad]).sum().backward()
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return gradients | dict(model.named_buffers())


def yolo12n() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = DetectionModel("yolo12n.yaml", verbose=False).cuda().train().to(memory_format=torch.channels_last)
    return model, nhwc(4, 3, 160, 160, dtype=torch.float32)


@pytest.mark.filterwarnings("ignore:.*deterministic.*")
def test_whatever_is_kept_a_whole_model_has_the_same_bits(repeatable):
    model, x = yolo12n()
    first, *others = [trained(model, x, keep) for keep in FUSED]
    for keep, other in zip(FUSED[1:], others, strict=True):
        assert first.keys() == other.keys()
        different = [name for name, value in first.items() if not torch.equal(value, other[name])]
        assert not different, f"{keep.name} differs from {FUSED[0].name} in {len(different)}: {different[:5]}"


def distance(got: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Of all gradients together from the exact ones, as a share of their length."""
    names = [name for name in exact if name.startswith("gradient of ")]
    difference = sum((got[name].double() - exact[name]).square().sum() for name in names)
    return (difference / sum(exact[name].square().sum() for name in names)).sqrt().item()


@pytest.mark.filterwarnings("ignore:.*deterministic.*")
@pytest.mark.parametrize("keep", FUSED, ids=lambda keep: keep.name)
def test_gradients_of_a_whole_model_are_as_near_to_float64_as_upstreams(repeatable, keep):
    model, x = yolo12n()
    exact = trained(model, x.double(), None)
    upstream, ours = distance(trained(model, x, None), exact), distance(trained(model, x, keep), exact)
    assert ours <= 1.5 * upstream, f"ours {ours:.3e}, upstream's {upstream:.3e} from float64"


@pytest.mark.filterwarnings("ignore:.*deterministic.*")
def test_running_statistics_of_a_whole_model_are_upstreams_but_for_rounding(repeatable):
    model, x = yolo12n()
    upstream, ours = trained(model, x, None), trained(model, x, fused.Keep.CONVOLUTION)
    for name, value in upstream.items():
        if name.endswith("num_batches_tracked"):
            assert torch.equal(value, ours[name]), name
        elif "running" in name:
            assert_close(ours[name], value, 0.3, name)  # bf16 activations of other roundings, layer upon layer


@pytest.mark.filterwarnings("ignore:.*deterministic.*")
def test_most_of_a_model_in_bf16_runs_on_the_kernels(repeatable, monkeypatch):
    served: list[bool] = []
    real = norm.normalise

    def spied(*arguments):
        made = real(*arguments)
        served.append(isinstance(made, norm.ByKernels))
        return made

    monkeypatch.setattr(fused.conv, "normalise", spied)
    trained(*yolo12n(), fused.Keep.CONVOLUTION)
    assert sum(served) > 0.5 * len(served), f"{sum(served)} of {len(served)}"


# ---- what the kernels do not take ----


NOT_ROWS: dict[str, Callable[[], Tensor]] = {
    "contiguous": lambda: torch.zeros(2, 16, 4, 4, device="cuda", dtype=torch.bfloat16),
    "12 channels": lambda: nhwc(2, 12, 4, 4, dtype=torch.bfloat16),
    "channels between two loads": lambda: nhwc(2, 16, 4, 4, dtype=torch.bfloat16)[:, 4:12],
    "every second row": lambda: nhwc(2, 16, 4, 4, dtype=torch.bfloat16)[:, :, ::2],
    "expanded": lambda: nhwc(1, 16, 1, 1, dtype=torch.bfloat16).expand(2, 16, 4, 4),
    "empty": lambda: nhwc(2, 16, 4, 4, dtype=torch.bfloat16)[:0],
    "float64": lambda: nhwc(2, 16, 4, 4, dtype=torch.float64),
}


@pytest.mark.parametrize("case", NOT_ROWS)
def test_other_layouts_and_types_are_not_rows(case):
    assert not OPS.is_rows(NOT_ROWS[case]())


@pytest.mark.parametrize("case", ["contiguous", "12 channels", "float64"])
def test_what_the_kernels_do_not_take_torchs_operations_do(case):
    y = NOT_ROWS[case]()
    module = batch_norm(y.shape[1])
    if y.dtype is torch.float64:
        module = module.double()
    with torch.no_grad():
        made = norm.normalise(y, module, silu=True)
        assert isinstance(made, norm.ByTorch)
        assert made.output(y).shape == y.shape


def test_a_gpu_without_code_is_served_by_torch_after_one_notice(monkeypatch, capsys):
    monkeypatch.setattr(kernels, "why_not", lambda capability: "there is code for sm_10")
    caches = norm.kernels_missing, norm._missing_on
    for cache in caches:
        cache.cache_clear()
    try:
        y, module = nhwc(2, 16, 4, 4, dtype=torch.bfloat16), batch_norm(16)
        with torch.no_grad():
            assert all(isinstance(norm.normalise(y, module, silu=True), norm.ByTorch) for _ in range(3))
    finally:
        for cache in caches:
            cache.cache_clear()
    assert capsys.readouterr().err.count("there is code for sm_10") == 1


def between_two_loads(x: Tensor) -> Tensor:
    """The same numbers, contiguous, 4 bytes behind where a load may begin."""
    return x.new_empty(x.numel() + 1)[1:].view(x.shape).copy_(x)


@pytest.fixture
def good() -> dict[str, Tensor]:
    """Arguments of the ops that go together."""
    module = batch_norm(16)
    y = nhwc(2, 16, 4, 4, dtype=torch.bfloat16)
    weight, bias = module.weight.detach(), module.bias.detach()
    constants = OPS.batch_norm_statistics(y, weight, bias, None, None, None, 0.1, 1e-3)
    return {"y": y, "weight": weight, "bias": bias, "constants": constants}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("y", lambda x: x.contiguous(), r"y of shape \[2, 16, 4, 4\] and strides .* is not channels_last"),
        ("y", lambda x: x.double(), "Double is not float32, float16 or bfloat16"),
        ("y", lambda x: x[0], r"y must be \(images, channels, height, width\), and is \[16, 4, 4\]"),
        ("weight", lambda x: x[:8], r"gamma must be 16 float32 values on cuda:\d, and is \[8\] Float"),
        ("weight", lambda x: x.half(), r"gamma must be 16 float32 values .* \[16\] Half"),
        ("bias", lambda x: x.cpu(), "beta must be 16 float32 values .* on cpu"),
    ],
)
def test_statistics_say_what_is_wrong(good, name, value, message):
    given = good | {name: value(good[name])}
    with pytest.raises(RuntimeError, match=f"yolov12_kernels: {message}"):
        OPS.batch_norm_statistics(given["y"], given["weight"], given["bias"], None, None, None, 0.1, 1e-3)


@pytest.mark.parametrize(
    ("running", "message"),
    [
        (lambda x: (x, None, None), "running_mean and running_var go together"),
        (lambda x: (x, x.double(), None), "running_var must be 16 float32 values"),
        (lambda x: (None, None, x), "num_batches_tracked must be int64"),
    ],
)
def test_wrong_running_statistics_are_refused(good, running, message):
    buffers = running(torch.zeros(16, device="cuda"))
    with pytest.raises(RuntimeError, match=f"yolov12_kernels: {message}"):
        OPS.batch_norm_statistics(good["y"], good["weight"], good["bias"], *buffers, 0.1, 1e-3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("out", lambda x: x.contiguous(), "out of shape .* is not channels_last"),
        ("out", lambda x: x.half(), "out must be like y, .* BFloat16 .* Half"),
        ("out", lambda x: x[:1], r"out must be like y, \[2, 16, 4, 4\] .* and is \[1, 16, 4, 4\]"),
        ("constants", lambda x: x[:3], "constants must be what batch_norm_statistics returned for y"),
        ("constants", lambda x: x.bfloat16(), "constants must be what batch_norm_statistics returned for y"),
        ("constants", between_two_loads, "constants must be what batch_norm_statistics returned for y"),
    ],
)
def test_apply_and_gradient_say_what_is_wrong(good, name, value, message):
    given = {"out": torch.zeros_like(good["y"]), "constants": good["constants"]}
    given[name] = value(given[name])
    with pytest.raises(RuntimeError, match=f"yolov12_kernels: {message}"):
        OPS.batch_norm_apply(good["y"], given["constants"], True, given["out"], False)
    with pytest.raises(RuntimeError, match=f"yolov12_kernels: {message.replace('out', 'grad_out', 1)}"):
        OPS.batch_norm_gradient(given["out"], good["y"], given["constants"], True)


def test_repeating_pixels_stays_in_its_own_dtype_under_autocast() -> None:
    x = torch.randn(1, 4, 2, 2, dtype=torch.bfloat16, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        assert F.interpolate(x, scale_factor=2.0).dtype is torch.float32
        with following.tracking():
            assert F.interpolate(x, scale_factor=2.0).dtype is torch.bfloat16
