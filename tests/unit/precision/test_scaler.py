# SPDX-License-Identifier: AGPL-3.0-or-later
"""The scaler beside torch's: fewer skipped updates, the same bits, the same state, and no wait."""

from __future__ import annotations

import functools
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from ultralytics.optim.muon import MuSGD

from tests.unit.engine.counted import Calls
from tests.unit.engine.tiny import batch, model
from tests.unit.precision import streams
from tests.unit.precision.streams import STREAMS, Gradients, Replay, replay, sgd
from yolov12.precision import YoloAMPScaler, loss_scale
from yolov12.precision.scaler import largest_gradients

UNDERFLOW_TOLERANCE = 0.003
"""What the share of elements lost to underflow may exceed torch's: the scale leaves headroom where torch's leaves none."""

OPTIMIZERS: dict[str, Callable[[list[Tensor]], Optimizer]] = {
    "SGD": sgd,
    "fused SGD": lambda of: torch.optim.SGD(of, lr=1e-3, momentum=0.9, nesterov=True, fused=True),
    "fused AdamW": lambda of: torch.optim.AdamW(of, lr=1e-3, fused=True),
    "AdamW": lambda of: torch.optim.AdamW(of, lr=1e-3, fused=False),
    "RMSprop": lambda of: torch.optim.RMSprop(of, lr=1e-3, momentum=0.9),
    "MuSGD": lambda of: MuSGD([{"params": of}], lr=1e-3, momentum=0.9, nesterov=True),
}


@functools.cache
def both(name: str) -> tuple[Replay, Replay]:
    """(torch's scaler, ours) on a stream."""
    stream = STREAMS[name]()
    return replay(GradScaler("cpu"), stream), replay(YoloAMPScaler("cpu"), stream)


@functools.cache
def recorded() -> list[Gradients]:
    """The whole gradients of the first updates of a small detector, in fp32."""
    torch.manual_seed(0)
    detector = model(frozen_batch_norm=False).float()
    parameters = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9)
    stream = []
    for step in range(12):
        one = batch([3, 1, 0, 5], seed=step)
        one["img"] = one["img"].float()
        detector(one)[0].sum().backward()
        stream.append([parameter.grad.clone() for parameter in parameters])
        optimizer.step()
        optimizer.zero_grad()
    return stream


def overflowing(parameters: list[Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, math.inf)


def of_one(size: int = 4) -> list[Tensor]:
    return [torch.nn.Parameter(torch.ones(size))]


def take(scaler: GradScaler, optimizer: Optimizer, parameters: list[Tensor], gradient: float) -> None:
    scale = scaler.scale(torch.ones(()))
    for parameter in parameters:
        parameter.grad = (torch.full_like(parameter, gradient) * scale).half().float()
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("name", STREAMS)
def test_no_stream_skips_more_updates_than_with_torch(name: str) -> None:
    torchs, ours = both(name)
    assert len(ours.skipped) <= len(torchs.skipped), f"torch {torchs.skipped}, ours {ours.skipped}"


def test_all_streams_together_skip_half_of_torchs_updates_at_most() -> None:
    torchs, ours = (sum(len(replays[side].skipped) for replays in map(both, STREAMS)) for side in (0, 1))
    of_nan = len(both("nan_for_a_while")[1].skipped)  # no scale can take those
    assert ours - of_nan <= (torchs - of_nan) / 2, f"torch {torchs}, ours {ours}"


@pytest.mark.parametrize("name", STREAMS)
def test_no_inf_or_nan_reaches_the_weights(name: str) -> None:
    for weights in both(name)[1].weights:
        assert weights.isfinite().all()


@pytest.mark.parametrize("name", STREAMS)
def test_underflow_takes_no_more_than_with_torch(name: str) -> None:
    torchs, ours = both(name)
    assert ours.underflow <= torchs.underflow + UNDERFLOW_TOLERANCE


def test_a_jump_of_2_to_the_15_costs_four_updates() -> None:
    torchs, ours = both("sudden_jump")
    assert sum(step >= 150 for step in torchs.skipped) >= 14
    assert sum(step >= 150 for step in ours.skipped) <= 4


def test_after_nan_for_a_while_the_scale_is_back_where_it_was() -> None:
    torchs, ours = both("nan_for_a_while")
    assert ours.scales[-1] == pytest.approx(ours.scales[99], rel=3)
    assert torchs.scales[-1] < 1e-6


def test_gradients_that_torchs_first_scale_loses_are_kept_within_a_minute_of_steps() -> None:
    torchs, ours = both("all_tiny")
    assert torchs.underflow > 0.5
    assert ours.underflow < 0.02


def test_a_whole_training_skips_fewer_updates_than_with_torch() -> None:
    torchs, ours = both("training")
    assert len(ours.scales) > 250
    assert len(ours.skipped) < len(torchs.skipped)


def test_a_recorded_detector_skips_fewer_updates_than_with_torch() -> None:
    torchs, ours = replay(GradScaler("cpu"), recorded()), replay(YoloAMPScaler("cpu"), recorded())
    assert len(ours.skipped) < len(torchs.skipped)
    assert all(weights.isfinite().all() for weights in ours.weights)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_overflow_the_weights_have_the_very_bits_that_torch_gives(name: str) -> None:
    """torch's scaler stays at its first scale here, ours moves: by powers of two, which change no bit."""
    stream = streams.layers(streams.quiet_noise(20) - 8, spread_bits=0.3)
    torchs = replay(GradScaler("cpu"), stream, OPTIMIZERS[name])
    ours = replay(YoloAMPScaler("cpu"), stream, OPTIMIZERS[name])
    assert not torchs.skipped
    assert not ours.skipped
    assert (len(set(torchs.scales)), len(set(ours.scales)) > 1) == (1, True)
    assert all(torch.equal(a, b) for a, b in zip(ours.weights, torchs.weights, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_overflows_leave_every_optimizer_as_if_they_had_not_been(name: str) -> None:
    """Skipped at the start, in the middle and at the end; the steps between are those of the plain optimizer."""
    parameters, alone = of_one(), of_one()
    scaler, optimizer, plain = YoloAMPScaler("cpu"), OPTIMIZERS[name](parameters), OPTIMIZERS[name](alone)
    for gradient in (math.inf, 1.0, math.nan, -2.0, math.inf, 0.5, 0.25, math.inf):
        take(scaler, optimizer, parameters, gradient)
        if math.isfinite(gradient):
            alone[0].grad = torch.full_like(alone[0], gradient)
            plain.step()
    assert torch.equal(parameters[0], alone[0])
    of_parameter, of_alone = optimizer.state[parameters[0]], plain.state[alone[0]]
    assert of_parameter.keys() == of_alone.keys()
    for key, value in of_alone.items():
        assert torch.equal(torch.as_tensor(of_parameter[key]), torch.as_tensor(value)), key


def test_clipping_between_unscale_and_step_sees_the_real_gradients() -> None:
    parameters = of_one()
    scaler, optimizer = YoloAMPScaler("cpu"), sgd(parameters)
    parameters[0].grad = torch.full_like(parameters[0], 3.0) * scaler.scale(torch.ones(()))
    scaler.unscale_(optimizer)
    assert float(torch.nn.utils.clip_grad_norm_(parameters, 1.0)) == pytest.approx(6.0)
    scaler.step(optimizer)
    scaler.update()
    assert float((1 - parameters[0].detach()).norm()) == pytest.approx(1e-3 * 1.9, rel=1e-4)


class HostReads(TorchDispatchMode):
    """Counts the operator through which a tensor's value reaches Python, which on a GPU is a wait."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
        return func(*args, **(kwargs or {}))


def reads_of_two_updates(scaler: GradScaler, optimizer: Optimizer, parameters: list[Tensor]) -> int:
    with HostReads() as reads:
        for gradient in (0.25, math.inf):
            scale = scaler.scale(torch.ones(()))
            parameters[0].grad = torch.full_like(parameters[0], gradient) * scale
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    return reads.count


@pytest.mark.parametrize("name", ["SGD", "fused SGD", "fused AdamW"])
def test_nothing_is_read_on_the_host_after_the_first_step(name: str) -> None:
    parameters = of_one()
    scaler, optimizer = YoloAMPScaler("cpu"), OPTIMIZERS[name](parameters)
    take(scaler, optimizer, parameters, 0.25)
    assert reads_of_two_updates(scaler, optimizer, parameters) == 0


def test_with_musgd_nothing_is_read_on_the_host_after_the_first_step() -> None:
    parameters = [torch.nn.Parameter(torch.ones(4, 4))]
    scaler, optimizer = YoloAMPScaler("cpu"), MuSGD([{"params": parameters, "use_muon": True}], lr=1e-3, momentum=0.9)
    take(scaler, optimizer, parameters, 0.25)
    assert reads_of_two_updates(scaler, optimizer, parameters) == 0


def test_fused_adamw_is_not_read_even_at_its_first_step() -> None:
    parameters = of_one()
    assert reads_of_two_updates(YoloAMPScaler("cpu"), OPTIMIZERS["fused AdamW"](parameters), parameters) == 0


def test_the_counter_of_host_reads_sees_those_of_torchs_scaler() -> None:
    parameters = of_one()
    assert reads_of_two_updates(GradScaler("cpu"), sgd(parameters), parameters) > 0


class Countdown(torch.optim.SGD):
    """Keeps a number in its state."""

    def step(self, closure: None = None) -> None:
        super().step(closure)
        for state in self.state.values():
            state["left"] = state.get("left", 100) - 1


def test_an_optimizer_that_can_not_be_put_back_is_read_and_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    parameters = of_one()
    scaler, optimizer = YoloAMPScaler("cpu"), Countdown(parameters, lr=1e-3, momentum=0.9)
    for gradient in [0.25] * 20 + [math.inf] * 5:
        take(scaler, optimizer, parameters, gradient)
    assert optimizer.state[parameters[0]]["left"] == 80
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("loss scale")]
    assert said == [
        "loss scale: updates wait for the device, since Countdown can not be put back: its state 'left' is no float on the device"
    ]


def test_a_state_of_torchs_goes_on_here_and_ours_goes_on_there() -> None:
    torchs, ours = GradScaler("cpu", init_scale=2.0**9), YoloAMPScaler("cpu")
    parameters = of_one()
    optimizer = sgd(parameters)
    for _ in range(3):
        take(torchs, optimizer, parameters, 1.0)
    ours.load_state_dict(torchs.state_dict())
    assert ours.state_dict() == torchs.state_dict()
    for _ in range(3):
        take(ours, optimizer, parameters, 1.0)
    torchs.load_state_dict(ours.state_dict())
    assert torchs.state_dict() == ours.state_dict()
    assert torchs.get_scale() == ours.get_scale()
    take(torchs, optimizer, parameters, 1.0)


def test_a_stock_scaler_can_still_grow_from_our_count() -> None:
    """torch grows when its count equals the interval, so a count beyond it would never grow again."""
    parameters = of_one()
    scaler, optimizer = YoloAMPScaler("cpu", growth_interval=5), sgd(parameters)
    counts = []
    for _ in range(12):
        take(scaler, optimizer, parameters, 1.0)
        counts.append(scaler.state_dict()["_growth_tracker"])
    assert max(counts) < 5


def test_it_takes_over_from_a_scaler_that_was_loaded_before_its_first_use() -> None:
    stock = GradScaler("cpu")
    stock.load_state_dict({**stock.state_dict(), "scale": 128.0, "_growth_tracker": 7})
    ours = YoloAMPScaler.in_place_of(stock)
    assert ours.state_dict() == stock.state_dict()
    assert float(ours.scale(torch.ones(()))) == 128


def test_a_scale_that_is_no_power_of_two_is_used_once_and_then_rounded() -> None:
    parameters = of_one()
    scaler, optimizer = YoloAMPScaler("cpu"), sgd(parameters)
    scaler.load_state_dict({**scaler.state_dict(), "scale": 1000.0})
    take(scaler, optimizer, parameters, 1.0)
    assert parameters[0].tolist() == pytest.approx([1 - 1.9e-3] * 4)
    assert math.log2(scaler.get_scale()).is_integer()


def test_disabled_it_is_torchs_disabled_scaler() -> None:
    parameters = of_one()
    scaler, optimizer = YoloAMPScaler.in_place_of(GradScaler("cuda", enabled=False)), sgd(parameters)
    loss = torch.tensor(3.0)
    assert scaler.scale(loss) is loss
    parameters[0].grad = torch.ones_like(parameters[0])
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert float(parameters[0][0].detach()) < 1
    assert (scaler.is_enabled(), scaler.get_scale(), scaler.state_dict()) == (False, 1.0, {})


def test_a_scale_can_be_set_by_hand() -> None:
    parameters = of_one()
    scaler, optimizer = YoloAMPScaler("cpu"), sgd(parameters)
    take(scaler, optimizer, parameters, 1.0)
    parameters[0].grad = torch.ones_like(parameters[0])
    scaler.unscale_(optimizer)
    scaler.update(64.0)
    assert scaler.get_scale() == 64
    take(scaler, optimizer, parameters, 1.0)


def test_it_can_be_pickled_between_updates() -> None:
    parameters = of_one()
    scaler, optimizer = YoloAMPScaler("cpu"), sgd(parameters)
    take(scaler, optimizer, parameters, 1.0)
    again = pickle.loads(pickle.dumps(scaler))
    assert again.state_dict() == scaler.state_dict()
    take(again, optimizer, parameters, 1.0)


def test_the_mistakes_that_torchs_scaler_reports_are_reported() -> None:
    parameters = of_one()
    scaler, optimizer = YoloAMPScaler("cpu"), sgd(parameters)
    scaler.scale(torch.ones(()))
    with pytest.raises(AssertionError, match="No inf checks were recorded"):
        scaler.update()
    overflowing(parameters)
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="already been called"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="already been called"):
        scaler.step(optimizer)


def empty_parameters(scaler: GradScaler) -> Any:
    parameters = [*of_one(3), torch.nn.Parameter(torch.ones(0))]
    optimizer = sgd(parameters)
    for _ in range(3):
        scaler.scale(sum(parameter.sum() for parameter in parameters)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return parameters[0].tolist()


def sparse_gradients(scaler: GradScaler) -> Any:
    table = torch.nn.Embedding.from_pretrained(torch.ones(4, 2), freeze=False, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    for _ in range(3):
        scaler.scale(table(torch.tensor([1, 1, 2])).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return table.weight.tolist()


def no_gradient_at_all(scaler: GradScaler) -> Any:
    optimizer = sgd(of_one())
    scaler.scale(torch.ones(()))
    scaler.unscale_(optimizer)
    scaler.step(optimizer)


def with_a_closure(scaler: GradScaler, optimizer_of: Callable[[list[Tensor]], Optimizer]) -> Any:
    parameters = of_one()
    scaler.scale(parameters[0].sum()).backward()
    scaler.step(optimizer_of(parameters), closure=lambda: None)


def half_gradients(scaler: GradScaler) -> Any:
    parameters = [torch.nn.Parameter(torch.ones(3, dtype=torch.float16))]
    scaler.scale(parameters[0].sum().float()).backward()
    scaler.step(sgd(parameters))


def unscaled_after_the_step(scaler: GradScaler) -> Any:
    parameters = of_one()
    optimizer = sgd(parameters)
    take(scaler, optimizer, parameters, 1.0)
    scaler.scale(parameters[0].sum()).backward()
    scaler.step(optimizer)
    scaler.unscale_(optimizer)


def setters(scaler: GradScaler) -> Any:
    scaler.set_growth_factor(3.0)
    scaler.set_backoff_factor(0.25)
    scaler.set_growth_interval(7)
    found = scaler.get_growth_factor(), scaler.get_backoff_factor(), scaler.get_growth_interval()
    return found, scaler.is_enabled(), scaler.state_dict()["growth_interval"]


def one_of_two_optimizers_overflows(scaler: GradScaler) -> Any:
    first, second = of_one(), of_one()
    optimizers = sgd(first), sgd(second)
    for gradient in (1.0, math.inf, 1.0):
        scale = scaler.scale(torch.ones(()))
        first[0].grad, second[0].grad = torch.full_like(first[0], gradient) * scale, torch.ones_like(second[0]) * scale
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
    return first[0].tolist(), second[0].tolist()


def optimizers_that_take_turns(scaler: GradScaler) -> Any:
    first, second = of_one(), of_one()
    for parameters, optimizer in ((first, sgd(first)), (second, sgd(second))) * 3:
        take(scaler, optimizer, parameters, 1.0)
    return first[0].tolist(), second[0].tolist()


def a_list_of_losses(scaler: GradScaler) -> Any:
    one, (two, three) = scaler.scale([torch.ones(()), (torch.ones(()), torch.zeros(()))])
    return float(one / two), float(three)


@pytest.mark.parametrize(
    "use",
    [
        empty_parameters,
        sparse_gradients,
        no_gradient_at_all,
        functools.partial(with_a_closure, optimizer_of=OPTIMIZERS["SGD"]),
        functools.partial(with_a_closure, optimizer_of=OPTIMIZERS["fused SGD"]),
        half_gradients,
        unscaled_after_the_step,
        setters,
        one_of_two_optimizers_overflows,
        optimizers_that_take_turns,
        a_list_of_losses,
    ],
)
def test_every_use_ends_as_with_torchs_scaler(use: Callable[[GradScaler], Any]) -> None:
    def outcome(scaler: GradScaler) -> Any:
        try:
            return use(scaler)
        except (RuntimeError, AssertionError, ValueError) as error:
            return type(error), str(error)

    assert outcome(YoloAMPScaler("cpu")) == outcome(GradScaler("cpu"))


def test_two_optimizers_share_one_scale_and_the_louder_decides() -> None:
    loud, quiet = of_one(), of_one(8)
    scaler, optimizers = YoloAMPScaler("cpu", init_scale=4.0), [sgd(loud), sgd(quiet)]
    for _ in range(3):
        scale = scaler.scale(torch.ones(()))
        loud[0].grad, quiet[0].grad = torch.full_like(loud[0], 2.0**14) * scale, torch.ones_like(quiet[0]) * scale
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
    assert 2.0**14 * scaler.get_scale() < 2.0**loss_scale.LARGEST_FP16


def test_the_largest_gradients_stand_in_the_optimizers_order_with_zero_for_none() -> None:
    parameters = [of_one(size)[0] for size in (1, 2, 3, 4)]
    optimizer = torch.optim.SGD([{"params": parameters[2:]}, {"params": parameters[:2]}])
    for parameter, values in zip(
        parameters, ([-3.0], None, [1.0, math.nan, math.inf], [0.5, math.inf, 0.0, 1.0]), strict=True
    ):
        parameter.grad = None if values is None else torch.tensor(values)
    found = largest_gradients(optimizer, torch.device("cpu"))
    assert found.isnan().tolist() == [True, False, False, False]
    assert found[1:].tolist() == [math.inf, 3.0, 0.0]


def test_looking_for_the_largest_gradients_takes_no_call_for_each() -> None:
    parameters = [of_one()[0] for _ in range(40)]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer, device = torch.optim.SGD(parameters), torch.device("cpu")
    with Calls() as calls:
        largest_gradients(optimizer, device)
    assert calls.names == ["_foreach_norm", "zeros", "stack"]


def test_a_frozen_parameter_does_not_hide_that_all_others_are_nan() -> None:
    frozen, trained = of_one(), of_one()
    scaler, optimizer = YoloAMPScaler("cpu", init_scale=2.0**10), sgd([*frozen, *trained])
    for _ in range(20):
        take(scaler, optimizer, trained, 0.25)
    take(scaler, optimizer, trained, math.nan)
    take(scaler, optimizer, trained, 0.25)
    assert scaler.get_scale() == 2.0**10  # no margin was learnt


exponents = st.floats(-40, 14) | st.sampled_from([math.nan, math.inf, -math.inf])


@given(
    st.lists(st.lists(exponents, min_size=3, max_size=3), min_size=1, max_size=25), st.sampled_from(sorted(OPTIMIZERS))
)
@settings(max_examples=60, deadline=None)
def test_any_stream_leaves_finite_weights_and_a_scale_that_is_a_power_of_two(
    stream: list[list[float]], name: str
) -> None:
    gradients = [[torch.full((3,), exponent).exp2() for exponent in of_step] for of_step in stream]
    done = replay(YoloAMPScaler("cpu"), gradients, OPTIMIZERS[name])
    assert all(weights.isfinite().all() for weights in done.weights)
    assert all(math.log2(scale).is_integer() for scale in done.scales)


@given(st.lists(st.floats(-12, 10), min_size=40, max_size=60), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_a_random_stream_never_skips_two_updates_more_than_with_torch(levels: list[float], seed: int) -> None:
    noise = torch.randn(len(levels), 3, generator=torch.Generator().manual_seed(seed))
    stream = streams.layers(torch.tensor(levels)[:, None] + noise, seed)
    torchs, ours = replay(GradScaler("cpu"), stream), replay(YoloAMPScaler("cpu"), stream)
    assert len(ours.skipped) <= len(torchs.skipped) + 1
