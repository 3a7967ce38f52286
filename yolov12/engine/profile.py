# SPDX-License-Identifier: AGPL-3.0-or-later
"""From what a model keeps (model/fused/trace.py) to what the phases of a step need (memory/plan.py)."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn
from ultralytics.nn.modules.conv import Conv

from yolov12.memory.plan import Block, Profile
from yolov12.model.fused import Keep
from yolov12.model.fused.trace import Trace

OPERATIONS_PER_BYTE = 100
"""Arithmetic that takes as long as moving one byte, about, in 16-bit formats. It only has to rank blocks: a 1x1 convolution costs its bytes, a
3x3 on many channels its arithmetic."""
CONVOLUTION_FACTOR = 2.0
"""Time of yolov12n's convolutions over that of moving their bytes once, on one H100. Their inputs are rebuilt for it besides."""
LOSS_FACTOR = 2.6
"""Largest memory of the loss over the model's output in float32, measured for yolov12n and yolov12s on one H100: 1.9 to 2.6."""
LOSS_KEEPS = 1.0
"""The same for what is left of it until backward reaches the model: the gradient of the output."""
HEAD_BEGINS = 0.8
"""Share of the calls after which the head's come, while whose backward runs the output's gradient is still there. About so in YOLO's models."""


def profile(trace: Trace, fixed_bytes: int, left_alone: Collection[str] = ()) -> Profile:
    """A step with everything kept.

    Args:
        trace: of the model and the whole batch.
        fixed_bytes: in use before the step: weights, optimizer, EMA, the batch itself.
        left_alone: names of modules that planning leaves alone.

    Returns:
        Two blocks for each call: its input at 2i, its output at 2i + 1.
    """
    blocks: list[Block] = []
    for call in trace.convolutions:
        may_drop = call.name not in left_alone
        rebuilt = tuple(2 * i + 1 for i in call.inputs)
        can = may_drop and call.input_can_be_rebuilt
        # Reading what it is made from, and writing it.
        blocks.append(
            Block(
                f"{call.name} input",
                call.input_bytes if can else 0,
                2.0 * call.input_bytes,
                rebuilt,
                can,
                is_input=True,
            )
        )
        moved = CONVOLUTION_FACTOR * (call.input_bytes + call.output_bytes)
        cost = max(call.operations / OPERATIONS_PER_BYTE, moved) + 2.0 * call.input_bytes
        blocks.append(Block(call.name, call.output_bytes, cost, (len(blocks) - 1,), may_drop))
    return Profile(tuple(blocks), fixed_bytes, _phases(trace, blocks, fixed_bytes))


def _phases(trace: Trace, blocks: list[Block], fixed_bytes: int) -> tuple[int, ...]:
    output_bytes = 4 * trace.output_elements
    weights = sum(call.weight_bytes for call in trace.convolutions)
    alive = fixed_bytes + weights + sum(size for _, size in trace.others) + sum(block.kept_bytes for block in blocks)
    found = [int(alive + output_bytes / 2 + LOSS_FACTOR * output_bytes)]
    for i in range(len(trace.convolutions) - 1, -1, -1):
        call = trace.convolutions[i]
        # Gradients of its output, of the convolution's output and of its input, beside what is kept.
        gradients = 2 * call.output_bytes + call.input_bytes
        pending = LOSS_KEEPS * output_bytes if i > HEAD_BEGINS * len(trace.convolutions) else 0
        found.append(int(alive + gradients + pending))
        found.append(0)  # the input's own phase, which is its call's
        alive -= blocks[2 * i].kept_bytes + blocks[2 * i + 1].kept_bytes
        alive -= sum(size for calls, size in trace.others if calls == i)
    return tuple(found)


def choices(model: nn.Module, profile: Profile, dropped: Collection[int]) -> dict[nn.Module, Keep]:
    """What each `Conv` of the model keeps under a plan. A module that is called twice drops what the plan drops of any of its calls."""
    modules = dict(model.named_modules())
    kept: dict[nn.Module, Keep] = {}
    for i, block in enumerate(profile.blocks):
        module = modules[block.name.removesuffix(" input")]
        part = Keep.INPUT if block.is_input else Keep.CONVOLUTION
        kept[module] = kept.get(module, Keep.BOTH) & ~(part if i in dropped else Keep.NOTHING)
    return {module: keep for module, keep in kept.items() if isinstance(module, Conv)}
