# SPDX-License-Identifier: AGPL-3.0-or-later
"""The Python side of the `flash_attn` wheel on a CPU: its ops under autograd and torch.compile, and its fallback.

The compiled library is stood in for by ops of the same schemas, read from the dispatcher's source; tests/gpu has the real ones.
"""

from __future__ import annotations

import importlib
import re
import sys
import warnings

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

SHAPE = (2, 5, 3, 32)
FACTS = {"VERSION": "1.2.3+hd32.sm80.sm90", "ARCHS": ["80", "90"], "TORCH": torch.__version__}


def write_package(folder, repository, facts=FACTS):
    """The package as the wheel would install it, without a library."""
    target = folder / "flash_attn"
    target.mkdir()
    for file in (repository / "docker/flash_attn/package/flash_attn").glob("*.py"):
        (target / file.name).write_text(file.read_text())
    (target / "_build.py").write_text("\n".join(f"{name} = {value!r}" for name, value in facts.items()))
    return target


def stand_in_forward(
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float, deterministic: bool
) -> tuple[Tensor, Tensor]:
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k).float() * softmax_scale
    out = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1).to(v.dtype), v)
    return out.contiguous(), scores.logsumexp(-1)


def stand_in_backward(grad_out, q, k, v, out, lse, softmax_scale, deterministic):
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k).mul(softmax_scale).softmax(-1)
    grad_weights = torch.einsum("bqhd,bkhd->bhqk", grad_out, v)
    grad_scores = weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True)) * softmax_scale
    grad_q = torch.einsum("bhqk,bkhd->bqhd", grad_scores, k)
    grad_k = torch.einsum("bhqk,bqhd->bkhd", grad_scores, q)
    return grad_q.contiguous(), grad_k.contiguous(), torch.einsum("bhqk,bqhd->bkhd", weights, grad_out).contiguous()


@pytest.fixture(scope="module")
def flash_attn(tmp_path_factory, repository):
    """The package, once: torch keeps what is registered for an op."""
    folder = tmp_path_factory.mktemp("site-packages")
    write_package(folder, repository)
    dispatcher = (repository / "docker/flash_attn/dispatcher.cpp").read_text()
    schemas = ["".join(re.findall(r'"([^"]*)"', text)) for text in re.findall(r"library\.def\(([^{]*)", dispatcher)]
    library = torch.library.Library("flash_attn_hd32", "DEF")
    loaded = []
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.split(".")[0] == "flash_attn"]:
            patch.delitem(sys.modules, name)
        patch.syspath_prepend(folder)
        patch.setattr(torch.ops, "load_library", loaded.append)
        for schema in schemas:
            library.define(schema)
        library.impl("forward", stand_in_forward, "CPU")
        library.impl("backward", stand_in_backward, "CPU")
        package = importlib.import_module("flash_attn")
        assert loaded == [str(folder / "flash_attn/_hd32.so")]
        yield package
        for name in [name for name in sys.modules if name.split(".")[0] == "flash_attn"]:
            del sys.modules[name]
    library._destroy()


@pytest.fixture
def interface(flash_attn):
    module = sys.modules["flash_attn.flash_attn_interface"]
    module._noticed.clear()
    return module


@pytest.fixture
def on_compiled_ops(interface, monkeypatch):
    """Calls on the CPU take the ops, as on a GPU."""
    monkeypatch.setattr(interface, "_why_not_compiled", lambda q, k, options: None)
    return interface


def qkv(shape=SHAPE, keys=None, kv_heads=None, dtype=torch.float32) -> list[Tensor]:
    batch, queries, heads, head_dim = shape
    kv_shape = (batch, keys or queries, kv_heads or heads, head_dim)
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in (shape, kv_shape, kv_shape)]


def reference(
    q: Tensor, k: Tensor, v: Tensor, seen: list[list[int]] | None = None, scale: float | None = None
) -> Tensor:
    """softmax(q k^T) v, head by head; `seen` says with 1 which keys each query sees."""
    repeats = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(repeats, dim=2), v.repeat_interleave(repeats, dim=2)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if seen is not None:
        scores = scores.masked_fill(torch.tensor(seen) == 0, float("-inf"))
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)


def quietly(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def test_the_version_says_what_was_built(flash_attn):
    assert flash_attn.__version__ == "1.2.3+hd32.sm80.sm90"


def test_upstreams_module_of_functions_can_be_imported_too(flash_attn):
    assert importlib.import_module("flash_attn.flash_attn_interface").flash_attn_func is flash_attn.flash_attn_func


def test_another_release_of_torch_is_an_import_error_that_names_both(tmp_path, repository, flash_attn, monkeypatch):
    write_package(tmp_path, repository, FACTS | {"TORCH": "1.0.2"})
    for name in [name for name in sys.modules if name.split(".")[0] == "flash_attn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ImportError, match=rf"built against torch 1\.0\.2, and this is torch {re.escape(torch.__version__)}"
    ):
        importlib.import_module("flash_attn")


@pytest.mark.parametrize(
    ("capability", "served"),
    [((8, 0), True), ((8, 6), True), ((8, 9), True), ((9, 0), True), ((7, 5), False), ((10, 0), False)],
)
def test_a_gpu_is_served_by_code_of_its_own_major_version(flash_attn, capability, served):
    assert (flash_attn.why_not(capability) is None) == served


def test_a_gpu_without_code_is_told_what_there_is(flash_attn):
    assert flash_attn.why_not((7, 5)) == "there is code for sm_80, sm_90, and this GPU is sm_75"


# ---- the ops ----


def test_the_ops_pass_torchs_own_checks(flash_attn):
    torch.library.opcheck(torch.ops.flash_attn_hd32.forward, (*qkv(), 0.2, False))
    q, k, v = (x.detach() for x in qkv())
    out, lse = torch.ops.flash_attn_hd32.forward(q, k, v, 0.2, True)
    torch.library.opcheck(torch.ops.flash_attn_hd32.backward, (torch.ones_like(out), q, k, v, out, lse, 0.2, True))


def test_fake_kernels_give_contiguous_results_for_strided_views(flash_attn):
    q, k, v = torch.empty(2, 5, 3, 96, dtype=torch.float16, device="meta").split(32, dim=-1)
    out, lse = torch.ops.flash_attn_hd32.forward(q, k[:, :4], v[:, :4], 0.2, False)
    assert (out.shape, out.dtype, out.is_contiguous()) == (SHAPE, torch.float16, True)
    assert (lse.shape, lse.dtype) == ((2, 3, 5), torch.float32)
    gradients = torch.ops.flash_attn_hd32.backward(out, q, k[:, :4], v[:, :4], out, lse, 0.2, False)
    assert [gradient.shape for gradient in gradients] == [SHAPE, (2, 4, 3, 32), (2, 4, 3, 32)]
    assert all(gradient.is_contiguous() for gradient in gradients)


def test_values_and_gradients_go_through_the_ops(on_compiled_ops):
    inputs = qkv()
    weight = torch.randn(SHAPE)
    out = on_compiled_ops.flash_attn_func(*inputs, softmax_scale=0.3)
    expected = reference(*inputs, scale=0.3)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(torch.autograd.grad(out, inputs, weight), torch.autograd.grad(expected, inputs, weight))


def test_the_scale_defaults_to_the_root_of_the_head_dimension(on_compiled_ops):
    inputs = qkv()
    torch.testing.assert_close(on_compiled_ops.flash_attn_func(*inputs), reference(*inputs))


def test_packed_input_is_the_same_function(on_compiled_ops):
    packed = torch.stack(qkv(), dim=2)
    torch.testing.assert_close(on_compiled_ops.flash_attn_qkvpacked_func(packed), reference(*packed.unbind(2)))


def test_probabilities_asked_for_give_the_log_of_the_softmax_sum_without_a_gradient(on_compiled_ops):
    q, k, v = qkv()
    out, lse, nothing = on_compiled_ops.flash_attn_func(q, k, v, return_attn_probs=True)
    torch.testing.assert_close(lse, (torch.einsum("bqhd,bkhd->bhqk", q, k) * 32**-0.5).logsumexp(-1))
    assert out.requires_grad
    assert not lse.requires_grad
    assert nothing.numel() == 0


def test_torch_compile_sees_through_forward_and_backward(on_compiled_ops):
    inputs = qkv()
    torch._dynamo.reset()
    compiled = torch.compile(on_compiled_ops.flash_attn_func, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        torch.autograd.grad(compiled(*inputs).sum(), inputs), torch.autograd.grad(reference(*inputs).sum(), inputs)
    )


@pytest.mark.parametrize(
    ("argument", "mode", "expected"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_deterministic_comes_from_the_argument_or_from_torchs_mode(
    on_compiled_ops, monkeypatch, argument, mode, expected
):
    seen = []

    def forward(q, k, v, scale, deterministic):
        seen.append(deterministic)
        return q, None

    monkeypatch.setattr(on_compiled_ops._ops, "forward", forward)
    torch.use_deterministic_algorithms(mode)
    try:
        on_compiled_ops.flash_attn_func(*qkv(), deterministic=argument)
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen == [expected]


def test_what_the_kernels_can_not_read_in_place_is_copied(interface):
    in_place = torch.empty(2, 5, 3, 96).split(32, dim=-1)[1]
    strides_over_planes = torch.empty(2, 3, 32, 5).permute(0, 3, 1, 2)
    odd_rows = torch.empty(2, 5, 3, 33)[..., :32]
    assert interface._in_rows(in_place) is in_place
    assert interface._in_rows(strides_over_planes).is_contiguous()
    assert interface._in_rows(odd_rows).is_contiguous()


# ---- the choice, and the fallback ----


def test_on_the_cpu_sdpa_runs_after_one_notice(interface):
    inputs = qkv()
    with pytest.warns(
        UserWarning, match=r"1\.2\.3\+hd32\.sm80\.sm90: the tensors are on cpu: torch's scaled_dot_product"
    ):
        first = interface.flash_attn_func(*inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = interface.flash_attn_func(*inputs)
    torch.testing.assert_close(first, reference(*inputs))
    assert torch.equal(first, second)
    assert first.is_contiguous()


def on_fake_gpu(*shape, dtype=torch.float16) -> Tensor:
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        return torch.empty(*shape, dtype=dtype, device="cuda")


@pytest.mark.parametrize(
    ("q", "k", "options", "expected"),
    [
        (SHAPE, SHAPE, [], None),
        ((*SHAPE[:3], 64), (*SHAPE[:3], 64), [], "head_dim is 64, not 32"),
        (SHAPE, (2, 5, 1, 32), [], "k and v have fewer heads than q"),
        ((0, 5, 3, 32), (0, 5, 3, 32), [], "there is nothing to attend"),
        (SHAPE, SHAPE, ["dropout", "a window"], "dropout and a window asked for"),
    ],
)
def test_the_reason_against_the_compiled_ops_is_given_in_words(interface, monkeypatch, q, k, options, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    assert interface._why_not_compiled(on_fake_gpu(*q), on_fake_gpu(*k), options) == expected


def test_fp32_is_not_for_the_compiled_ops(interface, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    q = on_fake_gpu(*SHAPE, dtype=torch.float32)
    assert interface._why_not_compiled(q, q, []) == "float32 is neither float16 nor bfloat16"


def test_the_options_of_a_call_become_its_reason(interface):
    asked = []
    interface_reason = interface._why_not_compiled

    def record(q, k, options):
        asked.append(options)
        return interface_reason(q, k, options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interface, "_why_not_compiled", record)
        quietly(interface.flash_attn_func, *qkv(), dropout_p=0.5, causal=True, window_size=(2, 0))
        quietly(interface.flash_attn_func, *qkv(), window_size=(5, 7))  # as wide as there are keys, so none at all
    assert asked == [["dropout", "a causal mask", "a window"], []]


@pytest.mark.parametrize(
    ("queries", "keys", "arguments", "seen"),
    [
        (3, 3, {"causal": True}, [[1, 0, 0], [1, 1, 0], [1, 1, 1]]),
        (2, 4, {"causal": True}, [[1, 1, 1, 0], [1, 1, 1, 1]]),
        (1, 3, {"causal": True}, [[1, 1, 1]]),
        (3, 3, {"window_size": (1, 0)}, [[1, 0, 0], [1, 1, 0], [0, 1, 1]]),
        (3, 3, {"window_size": (-1, 1)}, [[1, 1, 0], [1, 1, 1], [1, 1, 1]]),
        (2, 4, {"causal": True, "window_size": (1, -1)}, [[0, 1, 1, 0], [0, 0, 1, 1]]),
        (4, 2, {"window_size": (1, -1)}, [[1, 1], [1, 1], [1, 1], [1, 1]]),
    ],
)
def test_masks_mean_what_upstream_says_they_mean(interface, queries, keys, arguments, seen):
    inputs = qkv((2, queries, 3, 32), keys)
    out = quietly(interface.flash_attn_func, *inputs, **arguments)
    torch.testing.assert_close(out, reference(*inputs, seen=seen))


def test_heads_that_share_keys_are_served(interface):
    inputs = qkv((2, 5, 4, 32), kv_heads=2)
    torch.testing.assert_close(quietly(interface.flash_attn_func, *inputs), reference(*inputs))


def test_dropout_drops_in_the_fallback(interface):
    q, k, v = qkv((2, 50, 3, 32))
    out = quietly(interface.flash_attn_func, q, k, v, dropout_p=0.5)
    assert not torch.allclose(
        out, scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    )


@pytest.mark.parametrize(
    ("arguments", "keys", "word"),
    [
        ({"softcap": 2.0}, 5, "softcap"),
        ({"alibi_slopes": torch.ones(3)}, 5, "alibi_slopes"),
        ({"return_attn_probs": True}, 5, "return_attn_probs"),
        ({"causal": True}, 3, "5 queries over 3 keys"),
    ],
)
def test_what_sdpa_can_not_do_either_is_refused(interface, arguments, keys, word):
    with pytest.raises(NotImplementedError, match=rf"{word}.*install upstream's flash-attn"):
        quietly(interface.flash_attn_func, *qkv(keys=keys), **arguments)


def test_the_notice_is_given_while_torch_compile_traces(interface):
    inputs = qkv()
    torch._dynamo.reset()
    compiled = torch.compile(interface.flash_attn_func, fullgraph=True, backend="aot_eager")
    with pytest.warns(UserWarning, match="the tensors are on cpu"):
        out = compiled(*inputs)
    torch.testing.assert_close(out, reference(*inputs))
