# SPDX-License-Identifier: AGPL-3.0-or-later
"""Blocks in inference whose parts read and write where they lie, by stand-ins for the kernels. On a GPU: tests/gpu/test_blocks.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from ultralytics.nn.modules.block import C3, C3TR, A2C2f, ABlock, Bottleneck, C2f, C3k2
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.tasks import DetectionModel

from tests.unit.model import one_kernel_stand_in
from tests.unit.model.inference_networks import blocks_installed, folded, upstreams
from tests.unit.model.one_kernel_stand_in import Call
from yolov12.model.attention import kernels
from yolov12.model.blocks import attention as block_attention
from yolov12.model.blocks import joint
from yolov12.model.fused import beside, inference


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with blocks_installed(monkeypatch):
        yield


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Makes the CPU a GPU with kernels."""

    for module in (inference, joint):
        monkeypatch.setattr(module, "is_undisturbed", lambda x: not torch.is_grad_enabled())
    monkeypatch.setattr(inference, "_is_ordinary", lambda module, x: False)
    monkeypatch.setattr(block_attention, "_takes_heads", lambda q, k, v: False)
    return one_kernel_stand_in.install(monkeypatch)


def picture(channels: int = 64, images: int = 2) -> Tensor:
    return torch.randn(images, channels, 8, 8).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("make", "kernels", "into_parts", "with_shortcuts"),
    [
        (lambda: C2f(64, 48, 2, True), 6, 3, 2),
        (lambda: C3k2(64, 64, 1, False, 0.25), 4, 2, 1),
        (lambda: C3k2(64, 32, 1, True), 8, 3, 2),
        (lambda: C3(64, 32, 2), 6, 1, 2),
        (lambda: C3(64, 32, 1), 4, 1, 1),
        (lambda: A2C2f(64, 64, 1, False, -1), 8, 3, 2),
        (lambda: A2C2f(64, 128, 2, True, 4), 22, 3, 12),
        (lambda: A2C2f(64, 64, 1, True, 1, residual=True), 12, 2, 6),
    ],
)
@pytest.mark.parametrize("images", [1, 2])
def test_a_block_is_upstreams_and_its_parts_are_written_where_they_belong(
    calls, make, kernels, into_parts, with_shortcuts, images
):
    torch.manual_seed(0)
    module, x = folded(make()), picture(images=images)
    if getattr(module, "gamma", None) is not None:
        module.gamma.fill_(0.7)
    with torch.inference_mode():
        ours = module(x)
        assert len(calls) == kernels
        assert sum(call.out_is_part for call in calls) == into_parts
        assert sum(call.has_residual for call in calls) == with_shortcuts
        theirs = upstreams(module, x)
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert ours.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("config", ["yolo12n.yaml", "yolo12l.yaml", "yolo11n.yaml", "yolov8n.yaml", "yolo26n.yaml"])
def test_a_whole_network_is_upstreams(calls, config):
    torch.manual_seed(0)
    network = DetectionModel(config, nc=8, verbose=False).eval().fuse(verbose=False)
    network = network.to(memory_format=torch.channels_last)
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        ours = network(x)[0]
        assert any(call.out_is_part for call in calls)
        theirs = upstreams(network, x)[0]
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_hooks_within_a_block_hear_their_calls(calls):
    module, heard = folded(C3k2(64, 32, 2, True)), []
    inner = [part for part in module.modules() if isinstance(part, Bottleneck | Conv)]
    for part in inner:
        part.register_forward_hook(lambda part, *_: heard.append(part))
    with torch.inference_mode():
        module(picture())
    assert set(heard) == set(inner)


@pytest.mark.parametrize("part", ["attn", "mlp", "attn.qkv", "attn.pe", "attn.proj", "mlp.0", "mlp.1"])
def test_hooks_within_area_attention_hear_their_calls(calls, part):
    module, heard = folded(A2C2f(64, 64, 1, True, 4)), []
    module.m[0][1].get_submodule(part).register_forward_hook(lambda *_: heard.append(part))
    x = picture()
    with torch.inference_mode():
        ours = module(x)
        assert heard == [part]
        assert torch.allclose(ours, upstreams(module, x), atol=1e-5)


def test_between_may_be_something_else_than_bottlenecks(calls):
    torch.manual_seed(0)
    module, x = folded(C3TR(64, 32, 1)), picture()
    with torch.inference_mode():
        ours = module(x)
        assert [call.out_is_part for call in calls] == [False, True, False]
        assert torch.allclose(ours, upstreams(module, x), atol=1e-5)


def test_a_hook_on_all_modules_leaves_the_block_to_upstream(calls):
    module, heard = folded(C2f(64, 48, 1)), []
    with torch.inference_mode(), nn.modules.module.register_module_forward_hook(lambda one, *_: heard.append(one)):
        module(picture())
    assert module.m[0] in heard


def test_parts_that_begin_between_two_loads_are_upstreams(calls):
    module, x = folded(C2f(64, 24, 1)), picture()  # parts of 12 channels
    with torch.inference_mode():
        assert torch.equal(module(x), upstreams(module, x))
    assert not any(call.out_is_part for call in calls)


def test_blocks_that_are_not_fused_or_learn_are_upstreams(calls):
    module, x = C3k2(64, 32, 1, True).to(memory_format=torch.channels_last), picture()
    with torch.no_grad():
        module.eval()(x)
    folded(module)(x.requires_grad_())
    assert not calls


def test_filters_of_attention_that_change_are_put_in_order_anew(calls):
    block, x = folded(A2C2f(64, 64, 1, True, 1)), picture()
    with torch.no_grad():
        block(x)
        assert (
            len(beside.kept_for(block)) == 2 * 3
        )  # for each area attention: filters and bias in another order, and taps
        for part in block.modules():
            if isinstance(part, ABlock):
                part.attn.qkv.conv.weight.mul_(-1.5)
        assert torch.allclose(block(x), upstreams(block, x), atol=1e-5)


def test_nothing_is_ours_on_the_cpu():
    module, x = folded(C3k2(64, 32, 1, True)), picture()
    with torch.inference_mode():
        assert torch.equal(module(x), upstreams(module, x))


def test_convolutions_of_one_input_that_are_not_alike_stay_two(calls):
    block, x = folded(C3(64, 32, 1)), picture()
    block.cv2.act = nn.Identity()
    with torch.inference_mode():
        ours = block(x)
        assert len(calls) == 5
        assert torch.allclose(ours, upstreams(block, x), atol=1e-5)


@pytest.mark.parametrize("most_tokens", [15, 16])
def test_short_sequences_attend_by_our_kernel(calls, monkeypatch, most_tokens):
    heads = []

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads.append(tuple(q.shape))
        return kernels.plain(q, k, v).contiguous()

    monkeypatch.setattr(block_attention, "_takes_heads", lambda q, k, v: True)
    monkeypatch.setattr(block_attention, "_attend_by_ours", attend)
    monkeypatch.setattr(block_attention, "MOST_TOKENS", most_tokens)
    block, x = folded(A2C2f(64, 128, 1, True, 4)), picture()
    with torch.inference_mode():
        ours = block(x)
        assert heads == ([(8, 16, 2, 32)] * 2 if most_tokens == 16 else [])
        assert torch.allclose(ours, upstreams(block, x), atol=1e-5)
