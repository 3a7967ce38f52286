# SPDX-License-Identifier: AGPL-3.0-or-later
"""The fused Conv against upstream's three modules, on the CPU, where both must agree to the bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from ultralytics.nn.modules.block import C2f, C3k2
from ultralytics.nn.modules.conv import Conv, DWConv
from ultralytics.nn.tasks import DetectionModel

from tests.unit.model.our_forwards import fused_installed
from yolov12.model import fused
from yolov12.model.fused import following, lineage
from yolov12.model.fused.conv import is_eligible

FUSED = [fused.Keep.BOTH, fused.Keep.CONVOLUTION, fused.Keep.INPUT, fused.Keep.NOTHING]


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    with fused_installed():
        yield


def keep_everywhere(model: nn.Module, keep: fused.Keep | None) -> None:
    """None: upstream's modules."""
    fused.choose({} if keep is None else {module: keep for module in model.modules() if isinstance(module, Conv)})


def tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    else:
        for value in output.values() if isinstance(output, dict) else output:
            yield from tensors(value)


def trained(model: nn.Module, x: Tensor, keep: fused.Keep | None) -> tuple[dict[str, Tensor | None], dict[str, Tensor]]:
    """(gradients, buffers) of a copy of the model after one forward and backward."""
    model = copy.deepcopy(model)
    keep_everywhere(model, keep)
    sum(t.float().square().mean() for t in tensors(model(x)) if t.requires_grad).backward()
    return {name: p.grad for name, p in model.named_parameters()}, dict(model.named_buffers())


def assert_equal(ours: dict[str, Tensor | None], plain: dict[str, Tensor | None]) -> None:
    assert ours.keys() == plain.keys()
    for name, value in plain.items():
        assert (value is None) == (ours[name] is None), name
        assert value is None or torch.equal(ours[name], value), name


@pytest.mark.parametrize("keep", FUSED)
@pytest.mark.parametrize("name", ["yolo12n.yaml", "yolo11n.yaml", "yolov8n.yaml"])
def test_gradients_and_running_statistics_of_whole_models_are_those_of_upstreams_modules(
    name: str, keep: fused.Keep | None
):
    torch.manual_seed(0)
    model, x = DetectionModel(name, verbose=False).train(), torch.randn(2, 3, 64, 64)
    plain, ours = trained(model, x, None), trained(model, x, keep)
    assert_equal(ours[0], plain[0])
    assert_equal(ours[1], plain[1])


@pytest.mark.parametrize("keep", FUSED)
@pytest.mark.parametrize(
    "make", [lambda: Conv(8, 16, 3, 2), lambda: Conv(8, 8, 1, act=False), lambda: DWConv(8, 16, 3)]
)
def test_the_gradient_of_the_input_is_upstreams(make, keep: fused.Keep | None):
    torch.manual_seed(0)
    module, x = make().train(), torch.randn(2, 8, 6, 10)

    def gradient(keep: fused.Keep | None) -> Tensor:
        keep_everywhere(module, keep)
        leaf = x.clone().requires_grad_()
        module(leaf).square().sum().backward()
        return leaf.grad

    assert torch.equal(gradient(keep), gradient(None))


class Saved:
    """Bytes that autograd keeps between forward and backward, each storage once, and those that the calls keep."""

    def __init__(self) -> None:
        self.storages: dict[int, int] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        self.storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor


def kept_bytes(model: nn.Module, x: Tensor, keep: fused.Keep | None) -> int:
    """Live bytes of activations after a forward pass: what the garbage collector can find of tensors, each storage once."""
    import gc

    keep_everywhere(model, keep)
    weights = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), x)}
    saved = Saved()
    with torch.autograd.graph.saved_tensors_hooks(saved, lambda t: t):
        loss = sum(t.square().mean() for t in tensors(model(x)) if t.requires_grad)
    gc.collect()
    for thing in gc.get_objects():
        if type(thing) is fused.conv.Call and thing.source is not None:
            inputs = [leaf.tensor for leaf in lineage.leaves(thing.source) if isinstance(leaf, lineage.Kept)]
            for tensor in inputs if thing.convolved is None else [*inputs, thing.convolved]:
                saved(tensor)
    loss.backward()
    return sum(size for pointer, size in saved.storages.items() if pointer not in weights)


def test_less_is_kept_with_each_step_down():
    model, x = DetectionModel("yolo12n.yaml", verbose=False).train(), torch.randn(2, 3, 64, 64)
    sizes = [kept_bytes(model, x, keep) for keep in (None, fused.Keep.BOTH, fused.Keep.CONVOLUTION, fused.Keep.NOTHING)]
    assert sizes[1] < 0.8 * sizes[0]
    assert sizes[2] < 0.8 * sizes[1]
    assert sizes[3] < 0.5 * sizes[2]


def test_nothing_is_kept_after_backward():
    module = Conv(8, 8, 3).train()
    keep_everywhere(module, fused.Keep.CONVOLUTION)
    made = module(torch.randn(1, 8, 4, 4, requires_grad=True))
    call = made.grad_fn.call  # type: ignore[union-attr]  # our operation's
    made.sum().backward()
    assert (call.convolved, call.source, call.weight) == (None, None, None)


def test_a_second_backward_says_what_it_needs():
    module = Conv(8, 8, 3).train()
    keep_everywhere(module, fused.Keep.CONVOLUTION)
    loss = module(torch.randn(1, 8, 4, 4, requires_grad=True)).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="retain_graph"):
        loss.backward()


def test_a_tensor_that_was_written_into_is_kept_and_not_rebuilt():
    first, second = Conv(8, 8, 1).train(), Conv(8, 8, 1).train()
    keep_everywhere(nn.Sequential(first, second), fused.Keep.CONVOLUTION)
    x = torch.randn(2, 8, 4, 4)

    def gradient() -> Tensor:
        second.zero_grad()
        with following.tracking():
            middle = first(x)
            middle.mul_(2)
            second(middle).square().sum().backward()
        return second.conv.weight.grad.clone()

    ours = gradient()
    fused.choose({})
    assert torch.equal(ours, gradient())


def test_writing_into_a_kept_tensor_before_backward_is_an_error_and_no_wrong_gradient():
    first, second = Conv(8, 8, 1).train(), Conv(16, 8, 1).train()
    keep_everywhere(nn.Sequential(first, second), fused.Keep.NOTHING)
    other = torch.randn(2, 8, 4, 4)
    with following.tracking():
        loss = second(torch.cat([first(torch.randn(2, 8, 4, 4)), other], 1)).sum()
    other.add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_tensors_that_come_by_name_are_kept():
    module = Conv(8, 8, 1).train()
    keep_everywhere(module, fused.Keep.NOTHING)
    with following.tracking():
        made = module(torch.randn(1, 8, 4, 4))
        assert lineage.known_source(torch.add(input=made, other=made)) is None
        assert lineage.known_source(torch.chunk(input=made, chunks=2, dim=1)[0]) is None


def test_a_convolution_that_nothing_is_learnt_from_runs_upstreams_code():
    module = Conv(8, 8, 3).train().requires_grad_(False)
    assert not is_eligible(module, torch.randn(1, 8, 4, 4))
    assert is_eligible(module, torch.randn(1, 8, 4, 4, requires_grad=True))


def test_a_frozen_weight_gets_no_gradient_and_the_rest_does():
    module = Conv(8, 8, 3).train()
    keep_everywhere(module, fused.Keep.NOTHING)
    module.conv.weight.requires_grad_(False)
    module(torch.randn(1, 8, 4, 4, requires_grad=True)).sum().backward()
    assert module.conv.weight.grad is None
    assert module.bn.weight.grad is not None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: m.eval(), "evaluation"),
        (lambda m: m.bn.eval(), "frozen statistics"),
        (lambda m: setattr(m, "act", nn.ReLU()), "another activation"),
        (lambda m: setattr(m, "bn", nn.SyncBatchNorm(8)), "batch norm over ranks"),
        (lambda m: m.conv.register_forward_hook(lambda *_: None), "a hook that wants to see the convolution"),
    ],
)
def test_what_is_not_an_ordinary_conv_in_training_runs_upstreams_code(change, why: str):
    module = Conv(8, 8, 3).train()
    assert is_eligible(module, torch.randn(1, 8, 4, 4))
    change(module)
    assert not is_eligible(module, torch.randn(1, 8, 4, 4)), why


def test_without_gradients_upstreams_code_runs():
    module = Conv(8, 8, 3).train()
    with torch.no_grad():
        assert not is_eligible(module, torch.randn(1, 8, 4, 4))


def test_choices_are_not_in_copies_and_checkpoints():
    module = Conv(8, 8, 3)
    before = set(vars(module))
    keep_everywhere(module, fused.Keep.NOTHING)
    assert set(vars(module)) == before


@pytest.mark.parametrize("block", [C2f(16, 16, 2, shortcut=True), C3k2(16, 16, 2, True)])
def test_a_block_rebuilds_its_concatenation(block: nn.Module):
    keep_everywhere(block, fused.Keep.CONVOLUTION)
    with following.tracking():
        made = block.train()(torch.randn(1, 16, 8, 8))
    assert isinstance(made.grad_fn.call.source, lineage.Joined)  # type: ignore[union-attr]  # our operation's


def source(channels: int = 4) -> tuple[Tensor, lineage.Source]:
    tensor = torch.randn(2, channels, 3, 5)
    return tensor, lineage.Kept(tensor)


def test_each_source_rebuilds_what_it_stands_for():
    (a, kept_a), (b, kept_b) = source(), source()
    assert torch.equal(lineage.Joined([kept_a, kept_b]).rebuild(), torch.cat([a, b], 1))
    assert torch.equal(lineage.Sum(kept_a, kept_b).rebuild(), a + b)
    assert torch.equal(lineage.Upsampled(kept_a, 2.0).rebuild(), F.interpolate(a, scale_factor=2.0))
    assert torch.equal(lineage.Joined([kept_a, kept_b]).part(3, 2).rebuild(), torch.cat([a, b], 1)[:, 3:5])
    assert torch.equal(lineage.Sum(kept_a, kept_b).part(1, 2).rebuild(), (a + b)[:, 1:3])


def test_rebuilding_leaves_the_kept_tensor_as_it_is():
    (a, kept_a), (_, kept_b) = source(), source()
    before = a.clone()
    lineage.Sum(kept_a, kept_b).rebuild()
    lineage.Joined([lineage.Sum(kept_a, kept_b), kept_b]).rebuild()
    assert torch.equal(a, before)


@pytest.mark.parametrize(
    "make", [lambda a, b: lineage.Joined([a, b]), lineage.Sum, lambda a, b: lineage.Upsampled(a, 2.0)]
)
def test_rebuilding_into_a_place_and_adding_to_it(make):
    (_, a), (_, b) = source(), source()
    whole = make(a, b).rebuild()
    place = torch.ones_like(whole)
    assert torch.equal(make(a, b).rebuild(place), whole)
    assert torch.equal(make(a, b).rebuild(place.fill_(1), add=True), 1 + whole)
