# SPDX-License-Identifier: AGPL-3.0-or-later
"""Joining in one pass, on the CPU, with torch's operations in the kernels' place: results must be upstream's. The kernels: tests/gpu/test_join.py."""

from __future__ import annotations

import copy
import gc
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from ultralytics.nn.modules.block import A2C2f, C2f, C3k2
from ultralytics.nn.modules.conv import Concat, Conv
from ultralytics.nn.tasks import DetectionModel

from tests.unit.model.our_forwards import fused_installed
from yolov12.model import fused
from yolov12.model.fused import following, join, walk

KEEPS = [fused.Keep.BOTH, fused.Keep.CONVOLUTION, fused.Keep.INPUT, fused.Keep.NOTHING]
MODELS = ["yolo12n.yaml", "yolo11n.yaml", "yolov8n.yaml"]


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    with fused_installed():
        yield


@pytest.fixture
def joins(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As on a GPU with our kernels, but that torch's operations do what they would. Undo it for upstream's way."""
    monkeypatch.setattr(join, "_is_taken", lambda x: x.requires_grad and torch.is_grad_enabled() and x.dim() == 4)
    return monkeypatch


def image(channels: int = 8, seed: int = 0, height: int = 6, width: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(2, channels, height, width, dtype=torch.float64, generator=generator)
    return made.contiguous(memory_format=torch.channels_last).requires_grad_()


def gradients(of: Tensor, *leaves: Tensor) -> list[Tensor]:
    weights = torch.linspace(-1, 1, of.numel(), dtype=of.dtype).view_as(of)
    return list(torch.autograd.grad((of * weights).sum(), leaves))


def assert_same(ours: Sequence[Tensor], plain: Sequence[Tensor]) -> None:
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


# ---- the operations, each against torch's ----


def test_a_concatenation_has_torchs_values_and_gradients(joins):
    a, b = image(8), image(16, seed=1)
    with following.tracking():
        made = torch.cat([a, b], 1)
    assert type(made.grad_fn).__name__ == "_ConcatenatedBackward"
    plain = torch.cat([a, b], 1)
    assert torch.equal(made, plain)
    assert_same(gradients(made, a, b), gradients(plain, a, b))


def test_a_doubled_part_is_upsampled_in_forward_and_summed_in_backward(joins):
    small, wide = image(8, height=3, width=2), image(16, seed=1)
    with following.tracking():
        made = join.concatenated([wide, join.Doubled(small)])
    plain = torch.cat([wide, F.interpolate(small, scale_factor=2.0, mode="nearest")], 1)
    assert torch.equal(made, plain)
    assert_same(gradients(made, wide, small), gradients(plain, wide, small))


@pytest.mark.parametrize("divide", [lambda x: x.chunk(2, 1), lambda x: x.split((8, 8), 1), lambda x: x.split(8, dim=1)])
def test_gradients_of_all_uses_of_parts_meet_in_one_assembly(joins, divide):
    x = image(16)

    def made_of(parts: Sequence[Tensor]) -> Tensor:
        a, b = parts
        return torch.cat([a, b, b + b * b], 1)

    seen: list[list[int]] = []
    assembled = join.assembled
    joins.setattr(
        join,
        "assembled",
        lambda ranges, *rest: seen.append([len(terms) for terms in ranges]) or assembled(ranges, *rest),
    )
    with following.tracking():
        made = made_of(divide(x))
    forward = len(seen)
    plain = made_of(divide(x))
    assert torch.equal(made, plain)
    assert_same(gradients(made, x), gradients(plain, x))
    # b * b is torch's and takes b itself: its two gradients were one when they came.
    assert seen[forward:] == [[1, 3]]


def test_a_part_without_a_gradient_counts_as_zeros(joins):
    x = image(16)
    with following.tracking():
        a, _ = x.chunk(2, 1)
        made = torch.cat([a, a], 1)
    a, _ = x.chunk(2, 1)
    assert_same(gradients(made, x), gradients(torch.cat([a, a], 1), x))


def test_what_nothing_was_learnt_from_has_no_gradient(joins):
    x = image(16)
    other = image(8, seed=1)
    with following.tracking():
        a, _ = x.chunk(2, 1)
        made = torch.cat([join.use(a).detach().requires_grad_(), other], 1)
    assert torch.autograd.grad(made.sum(), x, allow_unused=True) == (None,)


def test_convolutions_and_sums_get_a_part_by_itself_and_share_the_copy(joins):
    x, y = image(16), image(8, seed=1)
    copies: list[Tensor] = []
    assembled = join.assembled
    joins.setattr(join, "assembled", lambda ranges, *rest: copies.append(assembled(ranges, *rest)) or copies[-1])
    with following.tracking():
        part = x.chunk(2, 1)[1]
        alone = join.alone(part)
        made = part + y
        whole = join.alone(x)
    assert len(copies) == 1
    assert alone.is_contiguous(memory_format=torch.channels_last)
    assert alone.data_ptr() == copies[0].data_ptr()
    assert whole.data_ptr() == x.data_ptr()
    plain = x.chunk(2, 1)[1]
    assert torch.equal(made, plain + y)
    assert_same(gradients(made + alone * 3, x, y), gradients(plain + y + plain * 3, x, y))


@pytest.mark.parametrize("uses", range(1, join.MOST_USES + 3))
def test_any_number_of_uses_gives_the_sum_of_their_gradients(joins, uses):
    x = image()
    with following.tracking():
        made = sum(number * join.use(x) ** 2 for number in range(1, uses + 1))
    plain = sum(number * x**2 for number in range(1, uses + 1))
    assert torch.equal(made, plain)
    assert_same(gradients(made, x), gradients(plain, x))


def test_what_was_written_into_between_two_uses_has_the_gradient_of_that_too(joins):
    leaf = image()

    def made_of(x: Tensor) -> Tensor:
        first = torch.cat([x, x], 1).sin()
        x.mul_(3)
        return first + torch.cat([x, x], 1)

    with following.tracking():
        made = made_of(leaf * 2)
    assert_same(gradients(made, leaf), gradients(made_of(leaf * 2), leaf))


def test_another_dimension_another_dtype_and_arguments_by_name_are_torchs(joins):
    a, b = image(), image(seed=1)
    with following.tracking():
        made = [torch.cat([a, b], 2), torch.cat([a, b.float()], 1), torch.cat(tensors=[a, b], dim=1)]
        made += [torch.add(a, b, alpha=2), *a.split(2, dim=2), *a.chunk(2, 3), a + 1, a[:, :1] + b]
    assert not [one for one in made if type(one.grad_fn).__name__.startswith("_")]


def test_without_tracking_or_without_gradients_everything_is_torchs(joins):
    a, b = image(), image(seed=1)
    assert join.use(a) is a
    assert not join.serves(a)
    with following.tracking(), torch.no_grad():
        assert torch.cat([a, b], 1).grad_fn is None
        assert join.use(a) is a
    with following.tracking():
        pass
    assert not join.serves(a)


def test_on_a_cpu_everything_is_torchs():
    a, b = image(), image(seed=1)
    with following.tracking():
        assert type(torch.cat([a, b], 1).grad_fn).__name__ == "CatBackward0"
        assert join.use(a) is a


def test_aliases_make_no_cycles(joins):
    gc.collect()
    gc.disable()
    try:
        x = image() * 2
        with following.tracking():
            a, b = x.chunk(2, 1)
            made = torch.cat([a, b, join.alone(b)], 1).sum()
        del a, b, x
        made.backward()
        del made
        assert gc.collect() == 0
    finally:
        gc.enable()


# ---- blocks and whole models ----


def trained(
    model: nn.Module, x: Tensor, keep: fused.Keep | None
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Outputs in one, gradients and buffers of a copy of the model after one forward and backward."""
    model, x = copy.deepcopy(model), x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    fused.choose({} if keep is None else {module: keep for module in model.modules() if isinstance(module, Conv)})
    with following.tracking():
        outputs = list(tensors(model(x)))
    sum(output.square().mean() for output in outputs).backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None} | {"x": x.grad}
    return torch.cat([output.detach().flatten() for output in outputs]), grads, dict(model.named_buffers())


def tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.requires_grad:
            yield output
    else:
        for value in output.values() if isinstance(output, dict) else output:
            yield from tensors(value)


def assert_trained_alike(ours: tuple, plain: tuple) -> None:
    assert torch.equal(ours[0], plain[0])
    for mine, others in zip(ours[1:], plain[1:], strict=True):
        assert mine.keys() == others.keys()
        for name, value in others.items():
            # Sums of more than two gradients may be taken in another order.
            torch.testing.assert_close(
                mine[name], value, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize(
    "make",
    [lambda: C2f(16, 16, 2, shortcut=True), lambda: C3k2(16, 16, 1, True), lambda: A2C2f(64, 64, 1, True, 4)],
    ids=["C2f", "C3k2", "A2C2f"],
)
def test_a_block_learns_as_upstreams(joins, make, keep: fused.Keep):
    torch.manual_seed(0)
    block = make().double().train()
    x = image(block.cv1.conv.in_channels, height=8, width=8)
    ours = trained(block, x, keep)
    joins.undo()
    assert_trained_alike(ours, trained(block, x, None))


@pytest.mark.parametrize("keep", [fused.Keep.BOTH, fused.Keep.NOTHING])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_learns_as_upstreams(joins, name: str, keep: fused.Keep):
    torch.manual_seed(0)
    model, x = DetectionModel(name, verbose=False).double().train(), image(3, height=64, width=64)
    ours = trained(model, x, keep)
    joins.undo()
    assert_trained_alike(ours, trained(model, x, None))


class Listed(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names[operator.overloadpacket.__name__] += 1
        return operator(*args, **(kwargs or {}))


def test_the_engine_adds_no_two_gradients_of_activations_in_yolov12(joins):
    """Each addition in backward would be a pass of its own; one assembly takes all gradients of a tensor."""
    model = DetectionModel("yolo12n.yaml", verbose=False).train()
    fused.choose({module: fused.Keep.BOTH for module in model.modules() if isinstance(module, Conv)})
    made = model(torch.randn(2, 3, 64, 64))
    loss = made["boxes"].sum() + made["scores"].sum()
    ours = 0
    assembled = join.assembled

    def counted(ranges: Sequence[Sequence[Tensor]], *rest: object) -> Tensor:
        nonlocal ours
        ours += sum(len(terms) - 1 for terms in ranges)
        return assembled(ranges, *rest)

    joins.setattr(join, "assembled", counted)
    with Listed() as listed:
        loss.backward()
    assert ours > 40
    assert listed.names["add"] == ours


def living_bytes(model: nn.Module, x: Tensor, keep: fused.Keep) -> int:
    """Of all that is there between forward and backward, each storage once: what Python holds, what calls hold, what autograd saved."""
    fused.choose({module: keep for module in model.modules() if isinstance(module, Conv)})
    found: dict[int, int] = {}

    def see(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    # Detached: an output that its own operation saved would hold that operation.
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: see(tensor).detach(), lambda tensor: tensor):
        made = model(x)
    gc.collect()
    for thing in gc.get_objects():
        if type(thing) in (Tensor, nn.Parameter):  # an earlier test of this process may have left tensors without data
            see(thing)
    assert made["scores"].requires_grad
    return sum(found.values())


@pytest.mark.parametrize("keep", KEEPS)
def test_no_more_is_kept_for_backward_than_by_torchs_operations(joins, keep: fused.Keep):
    """Aliases, copies of parts and gradients that wait hold nothing that the convolutions did not."""
    model = DetectionModel("yolo12n.yaml", verbose=False).train()
    x = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    ours = living_bytes(model, x, keep)
    joins.undo()
    assert ours <= living_bytes(model, x, keep)
    assert ours > living_bytes(model, x, fused.Keep.NOTHING) or keep is fused.Keep.NOTHING


# ---- the walk ----


def upsampling(after: nn.Module, save: Sequence[int] = ()) -> bool:
    layer = nn.Upsample(None, 2, "nearest")
    layer.i, after.f, after.i = 0, [-1, 0], 1  # type: ignore[assignment]  # as ultralytics numbers layers
    return walk.is_left_to(layer, after, list(save))


def test_upsampling_is_left_to_a_concatenation_that_alone_reads_it():
    assert upsampling(Concat(1))
    assert not upsampling(Concat(2))
    assert not upsampling(Concat(1), save=[0])
    assert not upsampling(nn.Identity())
    heard = Concat(1)
    heard.register_forward_hook(lambda *_: None)
    assert not upsampling(heard)


def test_both_upsamplings_of_yolov12_are_left_to_concatenations(joins):
    model = DetectionModel("yolo12n.yaml", verbose=False).train()
    fused.choose({module: fused.Keep.BOTH for module in model.modules() if isinstance(module, Conv)})
    seen: list[int] = []
    concatenated = join.concatenated
    joins.setattr(
        join,
        "concatenated",
        lambda parts: seen.append(sum(isinstance(part, join.Doubled) for part in parts)) or concatenated(parts),
    )
    model(torch.randn(2, 3, 64, 64))
    assert sum(seen) == 2
