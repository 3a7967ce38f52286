# SPDX-License-Identifier: AGPL-3.0-or-later
"""From the setting to the kernel: decided once, said once, and nothing in the way of torch.compile."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.overrides import TorchFunctionMode

from yolov12 import log
from yolov12.errors import UserError
from yolov12.model.attention import dispatch, kernels
from yolov12.model.fused import trace

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No decision, no request and no printed line from before."""
    monkeypatch.setattr(dispatch, "_request", None)
    monkeypatch.setattr(dispatch, "_decided", {})
    monkeypatch.setattr(log, "_said", set())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def rows(dtype: torch.dtype = torch.float32, training: bool = False) -> torch.Tensor:
    return torch.randn(2, 6, 2, 32, dtype=dtype, requires_grad=training)


def run_on(dtype: torch.dtype = torch.float32, training: bool = False) -> torch.Tensor:
    return dispatch.attend(*(rows(dtype, training) for _ in range(3)))


def test_the_choice_is_said_once_per_device_dtype_and_direction(capsys):
    dispatch.configure("1")
    for _ in range(3):
        run_on()
    run_on(training=True)
    assert capsys.readouterr().err.splitlines() == [
        "attention: sdpa-cpu (cpu, fp32, inference): torch's fused kernel for CPUs, faster than upstream's arithmetic where it was measured",
        "attention: sdpa-cpu (cpu, fp32, training): torch's fused kernel for CPUs, faster than upstream's arithmetic where it was measured",
    ]


def test_a_decision_is_made_once(monkeypatch):
    dispatch.configure("1")
    made = []
    monkeypatch.setattr(dispatch, "choose", lambda *args: made.append(args) or ("plain", "as told"))
    for _ in range(3):
        run_on()
    assert len(made) == 1


def test_the_setting_decides_when_nobody_configured(monkeypatch):
    monkeypatch.setenv("YOLOV12_FLASH_ATTN", "0")
    assert dispatch.describe("cpu", torch.float32, training=True) == ("plain", "YOLOV12_FLASH_ATTN=0")


def test_configure_holds_for_the_next_forward(monkeypatch):
    ran = []
    monkeypatch.setitem(dispatch.BACKENDS, "plain", dispatch.backends.Backend(lambda *qkv: ran.append("plain"), "any"))
    dispatch.configure("1")
    run_on()
    dispatch.configure("0")
    run_on()
    assert ran == ["plain"]


def test_configure_refuses_an_unknown_name_at_once():
    with pytest.raises(UserError, match="Did you mean sdpa-cudnn"):
        dispatch.configure("sdpa-cudn")


def test_a_request_that_can_not_run_ends_the_first_forward():
    dispatch.configure("sdpa-cudnn")
    with pytest.raises(UserError, match="sdpa-cudnn can not serve"):
        run_on()


def test_describe_says_what_a_forward_would_get_and_prints_nothing(capsys):
    dispatch.configure("1")
    assert dispatch.describe("cpu", torch.bfloat16, training=True)[0] == "plain"
    assert dispatch.describe(CPU, torch.bfloat16, training=False)[0] == "sdpa-cpu"
    assert capsys.readouterr().err == ""


def test_describe_first_does_not_silence_the_forward(capsys):
    dispatch.configure("1")
    dispatch.describe("cpu", torch.float32, training=False)
    run_on()
    assert "attention: sdpa-cpu" in capsys.readouterr().err


def test_models_built_on_the_cpu_beside_a_gpu_are_not_worth_a_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    dispatch.configure("sdpa-flash")
    run_on()
    assert capsys.readouterr().err == ""


def test_a_forward_without_gradients_is_inference_whatever_the_tensors_say():
    dispatch.configure("1")
    seen = []
    kernel = dispatch._backend_for
    dispatch_key = lambda *key: seen.append(key[2]) or kernel(*key)  # noqa: E731  # a recorder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "_backend_for", dispatch_key)
        linear = torch.nn.Linear(32, 32)
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                q = linear(rows())
                dispatch.attend(q, q, q)
    assert seen == [True, False]


def test_determinism_is_part_of_the_case(monkeypatch):
    cases = []
    monkeypatch.setattr(dispatch, "choose", lambda case, *rest: cases.append(case) or ("plain", "as told"))
    dispatch.configure("1")
    try:
        run_on()
        torch.use_deterministic_algorithms(True, warn_only=True)
        run_on()
        torch.use_deterministic_algorithms(True)
        run_on()
    finally:
        torch.use_deterministic_algorithms(False)
    assert [case.deterministic for case in cases] == ["off", "warn", "strict"]


def test_a_trial_run_passes_for_a_kernel_that_runs():
    assert dispatch.probe(kernels.sdpa_cpu, CPU, torch.float32, training=True, head_dim=32) is None


def test_a_trial_run_works_inside_inference_mode_and_autocast():
    with torch.inference_mode(), torch.autocast("cpu"):
        assert dispatch.probe(kernels.sdpa_cpu, CPU, torch.float32, training=True, head_dim=32) is None


def test_a_trial_run_tells_the_start_of_the_error():
    reason = dispatch.probe(kernels.sdpa_flash, CPU, torch.float16, training=True, head_dim=32)
    assert reason.startswith("failed a trial run: Could not run")
    assert len(reason) < 200


def test_a_trial_run_covers_the_backward_when_training():
    class NoBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q):
            return q.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("no kernel image is available for execution on the device")

    def kernel(q, k, v):
        return NoBackward.apply(q)

    assert dispatch.probe(kernel, CPU, torch.float32, training=False, head_dim=32) is None
    assert "no kernel image" in dispatch.probe(kernel, CPU, torch.float32, training=True, head_dim=32)


def test_running_out_of_memory_in_a_trial_run_is_not_held_against_the_kernel():
    def kernel(q, k, v):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        dispatch.probe(kernel, CPU, torch.float32, training=False, head_dim=32)


@pytest.fixture
def tried(monkeypatch) -> list[str]:
    """The backends whose kernels are tried on a GPU of sm_90 that has all of them but sdpa-cudnn; there is no such GPU here."""
    seen: list[str] = []
    names = {backend.run: name for name, backend in dispatch.BACKENDS.items()}

    def probe(kernel, *about) -> str | None:
        seen.append(names[kernel])
        return "failed a trial run: no engine" if seen[-1] == "sdpa-cudnn" else None

    monkeypatch.setattr(dispatch, "probe", probe)
    monkeypatch.setattr(dispatch, "_probed", {})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    return seen


def test_only_what_may_be_chosen_is_tried_and_once_for_all_sizes(tried):
    dispatch.configure("1")
    assert dispatch.describe("cuda", torch.bfloat16, training=True)[0] == "sdpa-flash"
    assert tried == ["sdpa-flash"]
    name, reason = dispatch.describe("cuda", torch.bfloat16, training=True, large=True)
    assert (name, tried) == ("sdpa-flash", ["sdpa-flash", "sdpa-cudnn"])
    assert "(sdpa-cudnn: failed a trial run: no engine)" in reason


def test_planning_the_memory_tries_no_kernel_that_only_large_calls_have_a_use_for(tried):
    dispatch.configure("1")
    assert trace._attention(torch.device("cuda"), torch.bfloat16) is kernels.sdpa_flash
    assert tried == ["sdpa-flash"]


def graphs_of(function, *args) -> list[set[str]]:
    """The operators in each graph that torch.compile makes of a call, graph breaks being errors."""
    graphs = []

    def backend(module, inputs):
        graphs.append({getattr(node.target, "__name__", str(node.target)) for node in module.graph.nodes})
        return module.forward

    torch._dynamo.reset()
    torch.compile(function, fullgraph=True, backend=backend)(*args)
    return graphs


def test_a_compiled_graph_holds_the_chosen_kernel_and_no_decision():
    dispatch.configure("1")
    (graph,) = graphs_of(dispatch.attend, *(rows(training=True) for _ in range(3)))
    assert "_scaled_dot_product_flash_attention_for_cpu" in graph
    assert not graph & {"matmul", "softmax"}


def test_a_compiled_graph_of_the_plain_backend_holds_its_matrix_products():
    dispatch.configure("0")
    (graph,) = graphs_of(dispatch.attend, *(rows(training=True) for _ in range(3)))
    assert {"matmul", "softmax"} <= graph


@pytest.mark.parametrize("request_", ["1", "0", "sdpa-cpu"])
def test_an_exported_program_holds_torchs_public_function_whatever_was_asked_for(request_):
    dispatch.configure(request_)

    class Attention(torch.nn.Module):
        def forward(self, q, k, v):
            return dispatch.attend(q, k, v)

    inputs = tuple(rows() for _ in range(3))
    program = torch.export.export(Attention(), inputs)
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert torch.ops.aten.scaled_dot_product_attention.default in calls
    torch.testing.assert_close(program.module()(*inputs), dispatch.attend(*inputs))


def test_the_trial_run_of_a_kernel_can_happen_while_compiling(monkeypatch):
    tried = []

    def try_on_cpu(name, case, key):
        reason = dispatch.backends.why_not(name, case)
        if reason is None:
            tried.append(dispatch.probe(dispatch.BACKENDS[name].run, key.device, key.dtype, key.training, key.head_dim))
        return reason

    monkeypatch.setattr(dispatch, "_why_not", try_on_cpu)
    dispatch.configure("1")
    (graph,) = graphs_of(dispatch.attend, *(rows(training=True) for _ in range(3)))
    assert tried == [None]
    assert "_scaled_dot_product_flash_attention_for_cpu" in graph


def test_attention_does_not_import_the_compiler():
    """torch._dynamo takes seconds to import, which every run would pay before its first epoch."""
    code = "import sys; from yolov12.model import attention; attention.install(); print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_a_trial_run_is_not_seen_by_modes_that_count_operations() -> None:
    class Seen(TorchFunctionMode):
        def __init__(self) -> None:
            super().__init__()
            self.functions: list[object] = []

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.functions.append(func)
            return func(*args, **(kwargs or {}))

    with Seen() as seen:
        assert dispatch.probe(kernels.sdpa_cpu, CPU, torch.float32, training=False, head_dim=32) is None
        assert seen.functions == []
        torch.zeros(1).add(1)
        assert seen.functions  # the mode itself works
