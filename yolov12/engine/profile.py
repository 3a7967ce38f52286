# SPDX-License-Identifier: AGPL-3.0-or-later
"""From what a model keeps (model/fused/trace.py) to what the phases of a step need (memory/plan.py).

Times and the peaks of loss and backward are estimated here, until a run's own steps have measured them (measure.py).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import nn
from ultralytics.nn.modules.conv import Conv

from yolov12.memory.plan import NO_CHUNKS, Block, Chunked, Profile
from yolov12.model.fused import Keep
from yolov12.model.fused.trace import Convolution, Trace
from yolov12.model.loss.assignment import BYTES_PER_ANCHOR, BYTES_PER_PAIR, CHUNK_BYTES

OPERATIONS_PER_BYTE = 100
"""Arithmetic that takes as long as moving one byte, about, in 16-bit formats. It only has to rank blocks: a 1x1 convolution costs its bytes, a
3x3 on many channels its arithmetic."""
CONVOLUTION_FACTOR = 2.0
"""Time of yolov12n's convolutions over that of moving their bytes once, on one H100. Their inputs are rebuilt for it besides."""
LOSS_FACTOR = 2.6
"""Largest memory of the loss over the model's output in float32, measured for yolov12n and yolov12s on one H100: 1.9 to 2.6."""
LOSS_KEEPS = 1.0
"""The same for what is left of it until backward reaches the model: the gradient of the output."""
KERNELS_FACTOR = 2.1
"""Of our loss kernels, over boxes and scores in their own type: these, their gradients, and a few numbers for each anchor."""
HEAD_BEGINS = 0.8
"""Share of the calls after which the head's come, while whose backward runs the output's gradient is still there. About so in YOLO's models."""


@dataclass(frozen=True)
class Measured:
    """What steps of one shape took and needed, of the whole batch."""

    convolution_ms: tuple[float, ...]
    """Of each call's convolution in forward."""
    rest_ms: tuple[float, ...]
    """Of each call's batch norm and activation in forward."""
    loss_excess_bytes: int = 0
    """What the loss needed beyond the estimate; negative if it was less."""
    backward_excess_bytes: int = 0
    """The same for backward."""
    parts: int = 1
    """Into how many micro-batches the steps were cut. What the whole batch needs beyond the estimate follows from fewer of them more closely."""

    @property
    def forward_ms(self) -> float:
        """Of all calls."""
        return sum(self.convolution_ms) + sum(self.rest_ms)


def profile(
    trace: Trace,
    fixed_bytes: int,
    left_alone: Collection[str] = (),
    measured: Measured | None = None,
    assigned: tuple[int, int] = (0, 0),
    loss_by_kernels: bool = False,
) -> Profile:
    """A step with everything kept.

    Args:
        trace: of the model and the whole batch.
        fixed_bytes: in use before the step: weights, optimizer, EMA, the batch itself.
        left_alone: names of modules that planning leaves alone.
        measured: with it costs are milliseconds, without estimates that only rank blocks.
        assigned: (anchors of all images, most boxes of an image), which bound the assignment of boxes.
        loss_by_kernels: the loss runs by our kernels, whose memory does not depend on the boxes.

    Returns:
        Two blocks for each call: its input at 2i, its output at 2i + 1.
    """
    rebuilding = _cost_of_moving_a_byte(trace, measured)
    blocks: list[Block] = []
    for i, call in enumerate(trace.convolutions):
        may_drop = call.name not in left_alone
        rebuilt = tuple(2 * source + 1 for source in call.inputs)
        can = may_drop and call.input_can_be_rebuilt
        input_cost = 2 * call.input_bytes * rebuilding  # reading what it is made from, and writing it
        blocks.append(
            Block(f"{call.name} input", call.input_bytes if can else 0, input_cost, rebuilt, can, is_input=True)
        )
        again = _estimated(call) if measured is None else measured.convolution_ms[i]
        blocks.append(Block(call.name, call.output_bytes, again + input_cost, (len(blocks) - 1,), may_drop))
    by_kernels = loss_by_kernels and trace.level_bytes > 0
    phases, of_weights = _phases(trace, blocks, fixed_bytes, measured, by_kernels)
    chunks = NO_CHUNKS if by_kernels else _assignment(trace, measured, *assigned)
    return Profile(tuple(blocks), fixed_bytes, phases, chunks, of_weights, trace.images)


def anchors_of(model: nn.Module, size: tuple[int, int]) -> int:
    """Of one image of (height, width): a cell of each stride of the head; 0 for models without strides."""
    strides = getattr(model, "stride", None)
    return 0 if strides is None else sum(int(size[0] // stride) * int(size[1] // stride) for stride in strides)


def _estimated(call: Convolution) -> float:
    """The time of a convolution, as the bytes that could be moved in it."""
    moved = CONVOLUTION_FACTOR * (call.input_bytes + call.output_bytes)
    return max(call.operations / OPERATIONS_PER_BYTE, moved)


def _cost_of_moving_a_byte(trace: Trace, measured: Measured | None) -> float:
    """Batch norm and activation read their input twice, for statistics and values, and write it once: rebuilding does the same work."""
    moved = 3 * sum(call.output_bytes for call in trace.convolutions)
    return 1.0 if measured is None else sum(measured.rest_ms) / max(moved, 1)


def _assignment(trace: Trace, measured: Measured | None, anchors: int, boxes: int) -> Chunked:
    if not boxes:
        return NO_CHUNKS
    counted = int((LOSS_FACTOR - LOSS_KEEPS) * 4 * trace.output_elements)
    counted += measured.loss_excess_bytes if measured else 0
    return Chunked(anchors * (BYTES_PER_ANCHOR + boxes * BYTES_PER_PAIR), CHUNK_BYTES, counted)


def _phases(
    trace: Trace, blocks: list[Block], fixed_bytes: int, measured: Measured | None, by_kernels: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(peaks of the phases, what of them is casts of weights and their gradients)."""
    output_bytes = 4 * trace.output_elements
    loss_bytes = KERNELS_FACTOR * trace.level_bytes if by_kernels else (0.5 + LOSS_FACTOR) * output_bytes
    pending_bytes = trace.level_bytes if by_kernels else LOSS_KEEPS * output_bytes
    weights = sum(call.weight_bytes for call in trace.convolutions)
    alive = fixed_bytes + weights + sum(size for _, size in trace.others) + sum(block.kept_bytes for block in blocks)
    loss_excess = measured.loss_excess_bytes if measured else 0
    found, of_weights = [int(alive + loss_bytes) + loss_excess], [weights]
    alive += measured.backward_excess_bytes if measured else 0
    for i in range(len(trace.convolutions) - 1, -1, -1):
        call = trace.convolutions[i]
        # Gradients of its output, of the convolution's output and of its input, beside what is kept.
        gradients = 2 * call.output_bytes + call.input_bytes
        # That of the weight stays, for the update.
        alive, weights = alive + call.gradient_bytes, weights + call.gradient_bytes
        pending = pending_bytes if i > HEAD_BEGINS * len(trace.convolutions) else 0
        found.append(int(alive + gradients + pending))
        found.append(0)  # the input's own phase, which is its call's
        of_weights += [weights, 0]
        alive -= blocks[2 * i].kept_bytes + blocks[2 * i + 1].kept_bytes
        alive -= sum(size for calls, size in trace.others if calls == i)
    return tuple(found), tuple(of_weights)


def choices(model: nn.Module, known: Profile, dropped: Collection[int]) -> dict[nn.Module, Keep]:
    """What each `Conv` of the model keeps under a plan. A module that is called twice drops what the plan drops of any of its calls."""
    modules = dict(model.named_modules())
    kept: dict[nn.Module, Keep] = {}
    for i, block in enumerate(known.blocks):
        module = modules[block.name.removesuffix(" input")]
        part = Keep.INPUT if block.is_input else Keep.CONVOLUTION
        kept[module] = kept.get(module, Keep.BOTH) & ~(part if i in dropped else Keep.NOTHING)
    return {module: keep for module, keep in kept.items() if isinstance(module, Conv)}
