# SPDX-License-Identifier: AGPL-3.0-or-later
"""The detection loss by our kernels (docker/kernels) against upstream's on the same numbers: losses, gradients, hard cases, equal bits, CUDA graphs.

python -m pytest tests/gpu/test_loss.py
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.loss import v8DetectionLoss
from ultralytics.utils.tal import TaskAlignedAssigner

from tests.gpu.compiled import DTYPES, skip_without_code
from yolov12.model import loss
from yolov12.model.loss import kernels
from yolov12.model.loss.levels import Levels

STRIDES = (8, 16, 32)
GRADIENT_TOLERANCE = {torch.bfloat16: 8e-3, torch.float16: 1e-3, torch.float32: 2e-4}
"""Of the largest gradient of an output: the last place of its type, or float32's errors where a box nearly fits."""
LOSS_SCALE = 1024.0
"""As fp16's scaler would, so that gradients are no denormals."""


class OfWhatFits(TaskAlignedAssigner):
    """Upstream's assigner, but that an anchor whose box does not fit at all is not chosen. Upstream fills an object's candidates up with such, in an
    order that torch.topk does not promise; they weigh nothing, but may take part in a conflict over an anchor."""

    def select_topk_candidates(self, metrics: Tensor, topk_mask: Tensor | None = None) -> Tensor:
        return super().select_topk_candidates(metrics, topk_mask) * (metrics > 0)


@pytest.fixture(autouse=True)
def on_a_gpu_with_code() -> Iterator[None]:
    skip_without_code()
    loss.uninstall()
    yield
    loss.uninstall()
    torch.cuda.empty_cache()


def criterion(classes: int, class_weights: Tensor | None = None, topk: int = 10) -> v8DetectionLoss:
    head = SimpleNamespace(stride=torch.tensor(STRIDES, dtype=torch.float32), nc=classes, reg_max=16)
    model = nn.Linear(1, 1, device="cuda")
    model.model, model.args, model.class_weights = [head], get_cfg(), class_weights
    return v8DetectionLoss(model, tal_topk=topk)


def outputs(
    images: int, classes: int, size: tuple[int, int], dtype: torch.dtype, by_pixel: bool = True, seed: int = 0
) -> Levels:
    """Of a head that has learnt a little: boxes of some size, scores of some spread."""
    generator = torch.Generator("cuda").manual_seed(seed)

    def plane(channels: int, stride: int, spread: float) -> Tensor:
        shape = (images, channels, size[0] // stride, size[1] // stride)
        made = spread * torch.randn(shape, device="cuda", generator=generator)
        layout = torch.channels_last if by_pixel else torch.contiguous_format
        return made.to(dtype, memory_format=layout).requires_grad_()

    boxes, scores = [plane(64, s, 2.0) for s in STRIDES], [plane(classes, s, 2.0) for s in STRIDES]
    return Levels(boxes, scores, feats=[box.detach() for box in boxes])


def batch_of(counts: list[int], classes: int, seed: int = 0, side: float = 0.4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    return {
        "batch_idx": torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).float().cuda(),
        "cls": torch.randint(classes, (total, 1), generator=generator).float().cuda(),
        "bboxes": torch.cat(
            [torch.rand(total, 2, generator=generator), 0.005 + side * torch.rand(total, 2, generator=generator)], 1
        ).cuda(),
    }


def in_float32(levels: Levels) -> Levels:
    """The same numbers, for upstream: in its own types it rounds distances and scores."""

    def wide(planes: list[Tensor]) -> list[Tensor]:
        return [plane.detach().float().requires_grad_() for plane in planes]

    return Levels(wide(levels.boxes), wide(levels.scores), levels["feats"])


def assert_like_upstream(of: v8DetectionLoss, levels: Levels, batch: dict[str, Tensor]) -> None:
    expected, assigner = in_float32(levels), of.assigner
    expected["feats"] = [level.float() for level in levels["feats"]]
    of.assigner = OfWhatFits(assigner.topk, assigner.num_classes, 0.5, 6.0, list(STRIDES))
    wanted, wanted_items = of.loss(expected, batch)
    of.assigner = assigner
    weights = LOSS_SCALE * torch.tensor([1.0, 0.7, 1.3], device="cuda")
    (wanted * weights).sum().backward()
    assert kernels.serves(of, levels)
    found, items = kernels.loss(of, levels, batch)
    (found * weights).sum().backward()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert list(items) == list(wanted_items)
    tolerance = GRADIENT_TOLERANCE[levels.boxes[0].dtype]
    for mine, theirs in zip((*levels.boxes, *levels.scores), (*expected.boxes, *expected.scores), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert mine.grad.stride() == mine.stride()
        largest = theirs.grad.abs().max().clamp(min=1e-9)
        worst = ((mine.grad.float() - theirs.grad).abs().max() / largest).item()
        assert worst <= tolerance, f"a gradient differs by {worst:.1e} of the largest"


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("by_pixel", [True, False], ids=["channels-last", "contiguous"])
def test_losses_and_gradients_are_upstreams(dtype, by_pixel):
    levels = outputs(4, 80, (320, 320), dtype, by_pixel)
    assert_like_upstream(criterion(80), levels, batch_of([7, 0, 3, 12], 80))


@pytest.mark.parametrize("seed", range(6))
def test_crowds_in_which_boxes_share_anchors(seed):
    levels = outputs(3, 5, (256, 192), torch.float32, seed=seed)
    assert_like_upstream(criterion(5), levels, batch_of([150, 1, 60], 5, seed, side=0.9))


def test_boxes_smaller_than_a_cell_and_beyond_the_picture():
    batch = batch_of([4, 4], 3)
    batch["bboxes"] = torch.tensor(
        [[0.5, 0.5, 0.004, 0.004], [0.99, 0.99, 0.3, 0.3], [0.01, 0.5, 0.1, 0.9], [0.3, 0.3, 0.02, 0.5]] * 2
    ).cuda()
    assert_like_upstream(criterion(3), outputs(2, 3, (320, 320), torch.float32), batch)


def test_two_objects_with_the_same_box():
    batch = batch_of([2], 3)
    batch["bboxes"] = torch.tensor([[0.5, 0.5, 0.3, 0.3]] * 2).cuda()
    batch["cls"] = torch.tensor([[1.0], [1.0]]).cuda()
    assert_like_upstream(criterion(3), outputs(1, 3, (320, 320), torch.float32), batch)


def test_no_object_at_all():
    assert_like_upstream(criterion(3), outputs(2, 3, (160, 160), torch.float32), batch_of([0, 0], 3))


def test_class_weights_count():
    weights = torch.tensor([0.5, 2.0, 1.0], device="cuda")
    assert_like_upstream(criterion(3, weights), outputs(2, 3, (160, 224), torch.float32), batch_of([4, 5], 3))


def test_fewer_candidates():
    assert_like_upstream(criterion(7, topk=3), outputs(2, 7, (160, 224), torch.float32), batch_of([9, 5], 7))


def test_rows_of_padding_change_nothing():
    of, batch = criterion(80), batch_of([5, 2], 80)
    levels, again = (outputs(2, 80, (320, 320), torch.bfloat16) for _ in range(2))
    objects = kernels.objects_of(batch, torch.device("cuda"))
    padded = torch.cat([objects, torch.full((9, 6), -1.0, device="cuda")])
    found = [kernels.detection_loss(levels, objects, kernels.rules_of(of)).losses]
    found.append(kernels.detection_loss(again, padded, kernels.rules_of(of)).losses)
    for losses in found:
        losses.sum().backward()
    assert torch.equal(*found)
    for mine, theirs in zip((*levels.boxes, *levels.scores), (*again.boxes, *again.scores), strict=True):
        assert torch.equal(mine.grad, theirs.grad)


def test_the_sum_of_target_scores_is_heard():
    of, batch, heard = criterion(80), batch_of([5, 2], 80), []
    kernels.listen(of, lambda divisor, total: heard.append((divisor.item(), total.item())))
    kernels.loss(of, outputs(2, 80, (320, 320), torch.bfloat16), batch)
    kernels.loss(of, outputs(2, 80, (320, 320), torch.bfloat16), batch_of([0, 0], 80))
    (divisor, total), nothing = heard
    assert divisor == max(total, 1.0)
    assert total > 0
    assert nothing == (1.0, 0.0)


def test_a_box_that_is_not_a_number_makes_the_loss_so():
    levels = outputs(1, 3, (160, 160), torch.float32)
    with torch.no_grad():
        levels.boxes[1][0, 5, 3, 3] = float("nan")
    assert kernels.loss(criterion(3), levels, batch_of([0], 3))[0][0].isnan()


def test_equal_inputs_give_equal_bits():
    made = []
    for _ in range(2):
        levels = outputs(8, 80, (320, 320), torch.bfloat16)
        losses, _ = kernels.loss(criterion(80), levels, batch_of([40] * 8, 80))
        losses.sum().backward()
        made.append([losses.detach(), *(plane.grad for plane in (*levels.boxes, *levels.scores))])
    assert all(torch.equal(first, second) for first, second in zip(*made, strict=True))


def test_a_captured_loss_follows_its_objects():
    of, batches = criterion(80), [batch_of([5, 2], 80, seed) for seed in (0, 1)]
    rules = kernels.rules_of(of)

    def run(levels: Levels, objects: Tensor) -> list[Tensor]:
        losses = kernels.detection_loss(levels, objects, rules).losses
        return [losses.detach(), *torch.autograd.grad(losses.sum(), [*levels.boxes, *levels.scores])]

    objects = [kernels.objects_of(batch, torch.device("cuda")) for batch in batches]
    expected = [run(outputs(2, 80, (320, 320), torch.bfloat16), each) for each in objects]
    levels, held, graph = outputs(2, 80, (320, 320), torch.bfloat16), objects[0].clone(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(levels, held)
    for each, wanted in zip(objects, expected, strict=True):
        held.copy_(each)
        graph.replay()
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(captured, wanted, strict=True))


def test_a_training_step_of_a_model_takes_the_kernels_and_agrees():
    def gradients(ours: bool) -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(0)
        model: Any = DetectionModel("yolo12n.yaml", nc=3, verbose=False).cuda().train()
        model.args = get_cfg()
        (loss.install if ours else loss.uninstall)()
        batch = batch_of([3, 1], 3) | {"img": torch.rand(2, 3, 160, 160, device="cuda")}
        total = model(batch)[0].sum()
        total.backward()
        return total.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    (mine, my_grads), (theirs, their_grads) = gradients(ours=True), gradients(ours=False)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=0)
    assert my_grads.keys() == their_grads.keys()
    # As a whole: some gradients are sums that all but cancel, before the batch norm of a later layer.
    mine, theirs = (torch.cat([grad.flatten() for grad in grads.values()]) for grads in (my_grads, their_grads))
    assert (mine - theirs).norm() < 1e-2 * theirs.norm()
