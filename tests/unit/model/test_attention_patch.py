# SPDX-License-Identifier: AGPL-3.0-or-later
"""`AAttn` with our forward: the numbers, weights, files and exports of stock; and the trap of the wrong layout stays shut."""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from ultralytics.nn.modules.block import AAttn
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.tasks import DetectionModel

from yolov12.engine.flops import on_cpu
from yolov12.model import attention
from yolov12.model.attention import dispatch, kernels, patch

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
FUSED = "aten::_scaled_dot_product_flash_attention_for_cpu"
UNFUSED = {"aten::_scaled_dot_product_attention_math", "aten::matmul", "aten::bmm", "aten::baddbmm", "aten::softmax"}
HEADS_AND_AREA = [(2, 4), (4, 4), (8, 4), (12, 4), (4, 1), (8, 1), (12, 1)]
"""P4 and P5 of n 2/4, s 4/8, m and l 8/8, x 12/12."""


@pytest.fixture(autouse=True)
def ours(monkeypatch):
    """Our forward with the best backend during a test, stock's after it."""
    monkeypatch.setattr(dispatch, "_request", None)
    monkeypatch.setattr(dispatch, "_decided", {})
    monkeypatch.setattr(dispatch, "_override", None)
    attention.configure("1")
    attention.install()
    yield
    attention.uninstall()


def aattn(heads: int = 2, area: int = 4) -> AAttn:
    torch.manual_seed(heads * 10 + area)
    return AAttn(32 * heads, heads, area)


def stock(module: torch.nn.Module, x: Tensor) -> Tensor:
    attention.uninstall()
    try:
        return module(x)
    finally:
        attention.install()


def value_and_gradients(run, module: torch.nn.Module, x: Tensor) -> list[Tensor]:
    """Output, and gradients of the input and all parameters, of a fresh copy of `module` in training mode."""
    module, x = copy.deepcopy(module).train(), x.clone().requires_grad_()
    out = run(module, x)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    (out * weight).sum().backward()
    return [out.detach(), x.grad, *(p.grad for p in module.parameters())]


def assert_same(got: list[Tensor], expected: list[Tensor], tolerance: float, floor: float = 1e-3) -> None:
    """Largest difference at most `tolerance` of each tensor's largest value, or of `floor` where that is larger.

    A bias before a batch norm has a gradient of zero, of which rounding alone is left: hence the floor.
    """
    for number, (a, b) in enumerate(zip(got, expected, strict=True)):
        difference = (a.double() - b.double()).abs() / max(b.abs().max().item(), floor)
        message = f"tensor {number}: max_diff={difference.max():.3e}, mean_diff={difference.mean():.3e} of the largest"
        assert difference.max() <= tolerance, message


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("heads", "area"), HEADS_AND_AREA)
@pytest.mark.parametrize("request_", ["0", "1"])
def test_module_equals_stock_in_value_and_every_gradient(request_, heads, area, layout):
    attention.configure(request_)
    module = aattn(heads, area).double()
    x = torch.randn(2, 32 * heads, 8, 6, dtype=torch.float64).to(memory_format=LAYOUTS[layout])
    ours = value_and_gradients(lambda m, x: m(x), module, x)
    assert_same(ours, value_and_gradients(stock, module, x), 1e-10)


@pytest.mark.parametrize("request_", ["0", "1"])
def test_module_equals_stock_under_autocast(request_):
    attention.configure(request_)
    module, x = aattn().eval(), torch.randn(2, 64, 8, 8)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected, got = stock(module, x), module(x)
    assert got.dtype == expected.dtype == torch.bfloat16
    assert_same([got], [expected], 3e-2)


def flat(outputs) -> list[Tensor]:
    """The tensors in what a detection model returns."""
    if isinstance(outputs, Tensor):
        return [outputs]
    values = outputs.values() if isinstance(outputs, dict) else outputs
    return [tensor for value in values for tensor in flat(value)]


def model_gradients(model: DetectionModel, images: Tensor) -> list[Tensor]:
    model = copy.deepcopy(model).train()
    outputs = flat(model(images))
    sum(out.square().mean() for out in outputs).backward()
    return [out.detach() for out in outputs] + [p.grad for p in model.parameters() if p.grad is not None]


def test_whole_model_equals_stock_in_every_output_and_gradient():
    torch.manual_seed(0)
    model, images = DetectionModel("yolo12n.yaml", verbose=False).double(), torch.rand(2, 3, 64, 96).double()
    ours = model_gradients(model, images)
    attention.uninstall()
    stock = model_gradients(model, images)
    assert len(ours) > 300
    assert_same(ours, stock, 1e-8, floor=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("area", [1, 4])
def test_the_backend_is_handed_rows_whatever_layout_comes_in(layout, area, monkeypatch):
    handed = []
    monkeypatch.setattr(dispatch, "_override", lambda *qkv: handed.extend(qkv) or kernels.plain(*qkv))
    aattn(area=area)(torch.randn(2, 64, 8, 8).to(memory_format=LAYOUTS[layout]))
    assert [tensor.stride(-1) for tensor in handed] == [1, 1, 1]
    assert {tensor.shape for tensor in handed} == {(2 * area, 64 // area, 2, 32)}


def operators(run) -> list[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return [event.name for event in profile.events()]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("area", [1, 4])
def test_the_fused_kernel_runs_forward_and_backward_and_no_matrix_product_does(layout, area):
    module, x = aattn(area=area), torch.randn(2, 64, 8, 8).to(memory_format=LAYOUTS[layout])
    ran = operators(lambda: module(x).sum().backward())
    assert ran.count(FUSED) == 1
    assert ran.count(f"{FUSED}_backward") == 1
    assert not UNFUSED & set(ran)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_attention_of_a_model_runs_fused(layout):
    model = DetectionModel("yolo12n.yaml", verbose=False).eval()
    images = torch.rand(1, 3, 64, 64).to(memory_format=LAYOUTS[layout])
    ran = operators(lambda: model(images))
    assert ran.count(FUSED) == sum(isinstance(module, AAttn) for module in model.modules()) == 8


def test_the_output_is_channels_last_for_both_layouts():
    for layout in LAYOUTS.values():
        out = aattn()(torch.randn(2, 64, 8, 8).to(memory_format=layout))
        assert out.is_contiguous(memory_format=torch.channels_last)


def test_another_kernel_size_of_the_position_encoding_is_used_as_it_is():
    module = aattn().eval()
    module.pe = Conv(64, 64, 5, 1, 2, g=64, act=False).eval()
    x = torch.randn(1, 64, 8, 8)
    assert_same([module(x)], [stock(module, x)], 1e-5)


def test_checkpoints_from_before_all_head_dim_existed_run():
    module, x = aattn().eval(), torch.randn(1, 64, 8, 8)
    expected = stock(module, x)
    del module.all_head_dim
    assert_same([module(x)], [expected], 1e-5)


def test_a_head_dimension_that_no_model_has_works():
    module, x = AAttn(60, 3, 1).eval(), torch.randn(1, 60, 4, 4)
    assert_same([module(x)], [stock(module, x)], 1e-5)


def test_frozen_attention_is_inference():
    attention.configure("1")
    module = aattn().requires_grad_(False)
    module(torch.randn(1, 64, 8, 8))
    assert [key.training for key in dispatch._decided] == [False]


def test_state_dict_and_class_stay_those_of_stock():
    before = aattn().state_dict().keys()
    attention.uninstall()
    assert before == aattn().state_dict().keys()
    assert AAttn.__module__ == "ultralytics.nn.modules.block"
    assert "forward" not in vars(aattn())


def test_installing_twice_and_uninstalling_once_leaves_stock():
    attention.install()
    assert AAttn.forward is patch.forward
    attention.uninstall()
    assert AAttn.forward.__module__ == "ultralytics.nn.modules.block"


def test_a_pickled_model_loads_and_agrees_in_stock_ultralytics(tmp_path):
    model, images = DetectionModel("yolo12n.yaml", verbose=False).eval(), torch.rand(1, 3, 64, 64)
    model(images)  # whatever a forward might leave behind is in the file
    file = io.BytesIO()
    torch.save({"model": model, "images": images, "outputs": model(images)[0].detach()}, file)
    assert b"yolov12" not in file.getvalue()
    (tmp_path / "model.pt").write_bytes(file.getvalue())
    script = (
        "import sys, torch\n"
        "saved = torch.load('model.pt', weights_only=False)\n"
        "assert 'yolov12.model' not in sys.modules\n"
        "print(float((saved['model'](saved['images'])[0] - saved['outputs']).abs().max()))\n"
    )
    environment = {**os.environ, "YOLOV12_DISABLE": "1", "PYTHONPATH": ""}
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 1e-3  # of pixel coordinates


def test_the_printed_gflops_are_those_of_stock():
    model = DetectionModel("yolo12n.yaml", verbose=False)
    ours = on_cpu(model)
    attention.uninstall()
    assert ours == on_cpu(model)


def test_a_compiled_module_has_no_graph_break_and_runs_the_fused_kernel():
    module, x = aattn().eval(), torch.randn(2, 64, 8, 8)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            compiled(x)
            assert FUSED in operators(lambda: compiled(x))
            assert_same([compiled(x)], [module(x)], 1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_traced_module_is_the_graph_of_stock():
    module, x = aattn().eval(), torch.randn(1, 64, 8, 8)
    ours = torch.jit.trace(module, x)
    attention.uninstall()
    stock = torch.jit.trace(module, x)
    kinds = [[node.kind() for node in traced.inlined_graph.nodes()] for traced in (ours, stock)]
    assert kinds[0] == kinds[1]


def onnx_of(model: DetectionModel, images: Tensor, dynamic: bool) -> bytes:
    file = io.BytesIO()
    axes = {"images": {0: "batch", 2: "height", 3: "width"}, "output0": {0: "batch", 2: "anchors"}} if dynamic else None
    names = {"input_names": ["images"], "output_names": ["output0"]}
    model = copy.deepcopy(model)  # the head keeps the anchors of the last size, and would not trace them twice
    torch.onnx.export(model, (images,), file, dynamo=False, opset_version=18, dynamic_axes=axes, **names)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_onnx_has_the_operators_and_the_outputs_of_stock(dynamic):
    onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the export extra is not installed")
    torch.manual_seed(0)
    model = DetectionModel("yolo12n.yaml", verbose=False).eval().requires_grad_(False)
    model.model[-1].export, model.model[-1].dynamic, model.model[-1].format = True, dynamic, "onnx"
    images = torch.rand(1, 3, 64, 64)
    ours = onnx_of(model, images, dynamic)
    attention.uninstall()
    stock = onnx_of(model, images, dynamic)

    kinds = [[node.op_type for node in onnx.load_from_string(file).graph.node] for file in (ours, stock)]
    assert kinds[0] == kinds[1]
    sessions = [onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]) for file in (ours, stock)]
    for shape in [(1, 3, 64, 64), (3, 3, 96, 160)] if dynamic else [(1, 3, 64, 64)]:
        images = torch.rand(shape)
        got, expected = (torch.from_numpy(s.run(None, {"images": images.numpy()})[0]) for s in sessions)
        assert (got - expected).abs().max() <= 1e-4
        assert_same([got], flat(model(images))[:1], 1e-4)
