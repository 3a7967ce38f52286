# SPDX-License-Identifier: AGPL-3.0-or-later
"""Streams of gradients, and their replay through a loss scaler as fp16 would do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from tests.unit.precision import record_gradients

Gradients = list[Tensor]
LAYER_SIZE = 256
LEVELS_BITS = torch.tensor([4.0, 2.0, 1.0, 0.0, -2.0, -3.0, -5.0, -7.0])
"""Largest gradient of each layer, roughly, about as far apart as those of a detector's layers."""


@dataclass
class Replay:
    """What a scaler did with a stream."""

    skipped: list[int]
    scales: list[float]
    underflow: float
    """Share of non-zero elements that fp16 made zero, over the updates taken."""
    weights: list[Tensor]


def layers(bits: Tensor, seed: int = 0, spread_bits: float = 2.5) -> list[Gradients]:
    """Gradients whose layers' sizes follow `bits`, shape (steps, layers): log-normal within a layer, over some 16 bits."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for of_step in bits:
        spread = torch.randn(len(of_step), LAYER_SIZE, generator=generator) * spread_bits - 7
        sign = torch.randint(0, 2, spread.shape, generator=generator) * 2 - 1
        made.append(list((sign * torch.exp2(spread + of_step[:, None])).unbind()))
    return made


def quiet_noise(steps: int, seed: int = 0) -> Tensor:
    """Bits of an ordinary run: each layer at its level, give or take half a bit."""
    return LEVELS_BITS + torch.randn(steps, 8, generator=torch.Generator().manual_seed(seed)) * 0.5


def sgd(parameters: list[Tensor]) -> Optimizer:
    """As ultralytics builds it."""
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, nesterov=True)


def replay(
    scaler: GradScaler, stream: list[Gradients], optimizer_of: Callable[[list[Tensor]], Optimizer] = sgd
) -> Replay:
    """Train parameters on a stream: each gradient is scaled, rounded to fp16 and handed to the scaler."""
    parameters = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in stream[0]]
    optimizer = optimizer_of(parameters)
    skipped, scales, lost, elements = [], [], 0, 0
    for step, gradients in enumerate(stream):
        scale = scaler.scale(torch.ones(()))
        scales.append(float(scale))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = (gradient * scale).half().float()
        together = torch.cat([parameter.grad.flatten() for parameter in parameters])
        if together.isfinite().all():
            real = torch.cat([gradient.flatten() for gradient in gradients])
            lost += int(((together == 0) & (real != 0)).sum())
            elements += int((real != 0).sum())
        else:
            skipped.append(step)
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    return Replay(skipped, scales, lost / max(elements, 1), [parameter.detach() for parameter in parameters])


def spikes() -> list[Gradients]:
    """All layers a thousand times larger at one step of seventy."""
    bits = quiet_noise(500)
    bits[70::70] += 10
    return layers(bits)


def drift_up() -> list[Gradients]:
    """Steadily 2**12 larger within fifty steps."""
    bits = quiet_noise(300)
    bits += (torch.arange(300) - 100).clamp(0, 50)[:, None] * 12 / 50
    return layers(bits)


def one_tiny_layer() -> list[Gradients]:
    """A layer whose gradients are a billionth of the others'."""
    bits = quiet_noise(300)
    bits[:, -1] -= 30
    return layers(bits)


def heavy_tails() -> list[Gradients]:
    """Student's t with two degrees of freedom instead of half a bit of normal noise."""
    torch.manual_seed(0)
    noise = torch.distributions.StudentT(2.0).sample((600, 1))
    return layers(quiet_noise(600) + noise)


def nan_for_a_while() -> list[Gradients]:
    """Forty steps of NaN everywhere, as after a bad batch or a forward pass that overflows."""
    stream = layers(quiet_noise(300))
    for gradients in stream[100:140]:
        for gradient in gradients:
            gradient.fill_(float("nan"))
    return stream


def all_zero() -> list[Gradients]:
    """Nothing to learn from, in the beginning and later."""
    stream = layers(quiet_noise(300))
    for gradients in stream[:30] + stream[200:230]:
        for gradient in gradients:
            gradient.zero_()
    return stream


def sudden_jump() -> list[Gradients]:
    """From one step on 2**15 larger, for good."""
    bits = quiet_noise(300)
    bits[150:] += 15
    return layers(bits)


def all_tiny() -> list[Gradients]:
    """So small that most are lost at the usual scale."""
    return layers(quiet_noise(300) - 34)


def training() -> list[Gradients]:
    """The layers' largest gradients in eight epochs of a real training with ultralytics' warm-up (record_gradients.py)."""
    quarters = torch.from_numpy(np.load(record_gradients.FILE)["quarter_bits"])
    return layers(quarters.float() / record_gradients.QUARTERS)


STREAMS = {
    stream.__name__: stream
    for stream in (
        training,
        spikes,
        drift_up,
        one_tiny_layer,
        heavy_tails,
        nan_for_a_while,
        all_zero,
        sudden_jump,
        all_tiny,
    )
}
