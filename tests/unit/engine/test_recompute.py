# SPDX-License-Identifier: AGPL-3.0-or-later
"""Plans of a run: made from the memory that a stand-in reports, and tightened, split and loosened again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.tasks import DetectionModel

from yolov12 import settings
from yolov12.engine import recompute
from yolov12.engine.layers import names_of
from yolov12.engine.profile import choices, profile
from yolov12.engine.recompute import Recomputation, mode_for
from yolov12.errors import UserError
from yolov12.memory.budget import Memory
from yolov12.memory.plan import everything
from yolov12.model import fused
from yolov12.model.fused import Keep
from yolov12.model.fused.conv import _choices
from yolov12.model.fused.trace import trace

SHAPE = (8, 3, 128, 128)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> DetectionModel:
    return DetectionModel("yolo12n.yaml", verbose=False).train()


@pytest.fixture(autouse=True)
def fused_convolutions() -> Iterator[None]:
    fused.install()
    yield
    fused.choose({})
    fused.uninstall()


class Card:
    """A device of which `free` bytes are left."""

    def __init__(self, free: int) -> None:
        self.free = free

    def read(self, device: torch.device) -> Memory:
        return Memory(self.free, 0, 0, 10**15)


def planned(model: nn.Module, card: Card, monkeypatch: pytest.MonkeyPatch, **chosen: object) -> Recomputation:
    monkeypatch.setattr(recompute, "mode_for", lambda *_: ("planned", "as in a test"))
    current = replace(settings.current(), mem_safety_ratio=0.0, **chosen)
    return Recomputation(model, CPU, torch.float32, current, card.read)


def needs(model: nn.Module) -> int:
    """Bytes with everything kept."""
    return max(profile(trace(model, SHAPE, torch.float32), 0).peaks)


def kept() -> set[Keep]:
    return set(_choices.values())


def test_with_room_everything_is_kept(model, monkeypatch):
    run = planned(model, Card(10**12), monkeypatch)
    assert run.before(SHAPE) == 1
    assert kept() == {Keep.BOTH}


def test_with_less_room_something_is_rebuilt(model, monkeypatch):
    run = planned(model, Card(int(0.6 * needs(model))), monkeypatch)
    assert run.before(SHAPE) == 1
    assert run.plan is not None
    assert run.plan.fits
    assert kept() != {Keep.BOTH}


def test_with_far_too_little_the_batch_is_cut(model, monkeypatch, capsys):
    run = planned(model, Card(needs(model) // 6), monkeypatch)
    assert run.before(SHAPE) > 1
    assert "batch normalisation sees parts" in capsys.readouterr().err


def test_running_out_of_memory_tightens_the_plan_and_says_from_what_to_what(model, monkeypatch):
    run = planned(model, Card(10**12), monkeypatch)
    run.before(SHAPE)
    before = run.plan.peak_bytes
    change = run.tighten()
    assert change is not None
    assert " -> " in change
    assert run.plan.peak_bytes <= recompute.TIGHTER * before


def test_whether_the_plan_fits_is_asked_of_the_device(model, monkeypatch):
    card = Card(10**12)
    run = planned(model, card, monkeypatch)
    assert not run.fits_now()  # there is no plan yet
    run.before(SHAPE)
    assert run.fits_now()
    card.free = needs(model) // 2
    assert not run.fits_now()


def test_there_is_an_end_to_tightening(model, monkeypatch):
    run = planned(model, Card(10**12), monkeypatch)
    run.before(SHAPE)
    for _ in range(100):
        if run.tighten() is None:
            return
    pytest.fail("tightened for ever")


def test_a_neighbour_that_grows_tightens_the_next_step_before_it_fails(model, monkeypatch, capsys):
    card = Card(10**12)
    run = planned(model, card, monkeypatch)
    run.before(SHAPE)
    card.free = int(0.6 * needs(model))
    run.before(SHAPE)
    assert run.plan.peak_bytes <= card.free
    assert " -> " in capsys.readouterr().err


def test_a_neighbour_that_leaves_too_little_for_any_plan_is_said_once(model, monkeypatch, capsys):
    card = Card(10**12)
    run = planned(model, card, monkeypatch)
    run.before(SHAPE)
    card.free = 1000
    for _ in range(3):
        run.before(SHAPE)
    assert not run.plan.fits
    assert capsys.readouterr().err.count("more than there is") == 1


def test_after_a_calm_time_the_plan_grows_back(model, monkeypatch):
    monkeypatch.setattr(recompute, "CALM_STEPS", 3)
    card = Card(int(0.6 * needs(model)))
    run = planned(model, card, monkeypatch)
    run.before(SHAPE)
    assert run.plan.dropped
    card.free = 10**12
    for _ in range(3):
        run.before(SHAPE)
    assert not run.plan.dropped


def test_a_smaller_last_batch_keeps_the_plan(model, monkeypatch):
    run = planned(model, Card(10**12), monkeypatch)
    run.before(SHAPE)
    plan = run.plan
    run.before((3, *SHAPE[1:]))
    assert run.plan is plan


def test_layers_that_are_left_alone_keep_everything(model, monkeypatch):
    run = planned(model, Card(int(0.3 * needs(model))), monkeypatch, disable_mas_layers=("backbone.2",))
    run.before(SHAPE)
    assert {_choices[module] for module in model.model[2].modules() if isinstance(module, Conv)} == {Keep.BOTH}


def test_an_unknown_layer_is_refused_with_those_that_there_are(model):
    with pytest.raises(UserError, match=r"neck\.99.*backbone\.0 to backbone\.8"):
        names_of(model, ["neck.99"])


def test_all_unknown_layers_are_named_at_once(model):
    with pytest.raises(UserError, match=r"disable_mas_layers=backbone\.99,foo: "):
        names_of(model, ["backbone.99", "head", "foo"])


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("backbone.4", "model.4."), ("neck.2", "model.11."), ("head", "model.21."), ("model.6", "model.6.")],
)
def test_layers_have_the_names_that_users_give_them(model, name: str, prefix: str):
    found = names_of(model, [name])
    assert found
    assert all(convolution.startswith(prefix) for convolution in found)


@pytest.mark.parametrize(
    ("checkpoint", "device", "has_card", "mode"),
    [
        ("0", "cuda", False, "off"),
        ("1", "cpu", False, "off"),
        ("1", "cpu", True, "planned"),
        ("all", "cpu", False, "all"),
        ("all", "cpu", True, "all"),
    ],
)
def test_the_setting_and_the_device_decide(checkpoint: str, device: str, has_card: bool, mode: str):
    found, reason = mode_for(checkpoint, torch.device(device), has_card)
    assert found == mode
    assert reason


@pytest.mark.parametrize(("checkpoint", "is_refused"), [("1", True), ("all", True), ("0", False)])
def test_one_image_that_can_not_fit_is_refused_wherever_memory_is_planned_or_saved(model, checkpoint, is_refused):
    """With checkpoint=0 nothing is traced: it is the plain path."""
    run = Recomputation(model, CPU, torch.float32, replace(settings.current(), checkpoint=checkpoint), Card(1000).read)
    assert (run.why_not_one_image(SHAPE) is not None) is is_refused


def test_where_nobody_counts_memory_nothing_is_refused(model):
    run = Recomputation(model, CPU, torch.float32, replace(settings.current(), checkpoint="all"))
    assert run.why_not_one_image(SHAPE) is None


def test_all_means_that_no_convolution_is_kept(model):
    run = Recomputation(model, CPU, torch.float32, replace(settings.current(), checkpoint="all"))
    run.before(SHAPE)
    assert kept()
    assert kept() <= {Keep.NOTHING, Keep.INPUT}


def test_tracing_leaves_the_model_as_it_was(model):
    before = {name: (buffer.clone(), buffer.device) for name, buffer in model.named_buffers()}
    trace(model, SHAPE, torch.bfloat16)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name][0])
        assert buffer.device == before[name][1]
    assert not _choices


def test_the_trace_has_the_bytes_of_every_convolution(model):
    found = trace(model, SHAPE, torch.bfloat16).convolutions
    assert len(found) == sum(isinstance(module, Conv) for module in model.modules())
    assert (found[0].name, found[0].output_bytes) == ("model.0", 8 * 16 * 64 * 64 * 2)


def test_a_plan_names_each_convolution_once(model):
    known = profile(trace(model, SHAPE, torch.bfloat16), 0)
    assert set(choices(model, known, everything(known).dropped)) == {m for m in model.modules() if isinstance(m, Conv)}


def test_sizes_that_vary_are_planned_for_the_largest(model, monkeypatch):
    run = planned(model, Card(10**12), monkeypatch)
    run.before(SHAPE)
    plan = run.plan
    run.before((8, 3, 64, 128))
    assert run.plan is plan
    run.before((8, 3, 160, 160))
    assert run.plan.peak_bytes > plan.peak_bytes


def test_after_a_run_convolutions_are_upstreams_again(model, monkeypatch):
    run = planned(model, Card(10**12), monkeypatch)
    run.before(SHAPE)
    run.close()
    assert not _choices


class OnlyWithData(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(x.max())


def test_a_model_that_needs_data_to_run_is_trained_without_a_plan_and_that_is_said(monkeypatch, capsys):
    run = planned(nn.Sequential(OnlyWithData()), Card(10**12), monkeypatch)
    assert run.before(SHAPE) == 1
    assert run.before(SHAPE) == 1
    assert capsys.readouterr().err.count("no plan, everything is kept") == 1


def test_after_each_failure_it_takes_twice_as_long_until_the_old_plan_comes_back_and_it_does(model, monkeypatch):
    """Also where as much is free as when it failed: that may have been a neighbour's, or more than the plan knew."""
    monkeypatch.setattr(recompute, "CALM_STEPS", 2)
    monkeypatch.setattr(recompute, "MOST_CALM_STEPS", 8)
    run = planned(model, Card(2 * needs(model)), monkeypatch)
    run.before(SHAPE)
    waited = []
    for _ in range(4):
        run.tighten()
        run.tighten()  # the same step, again
        steps = 0
        while run.plan.dropped:
            run.before(SHAPE)
            run.history.steps += 1
            steps += 1
        waited.append(steps)
    assert waited == [4, 8, 8, 8]


def test_frozen_layers_in_evaluation_are_in_no_plan(monkeypatch):
    frozen = DetectionModel("yolo12n.yaml", verbose=False).train()
    for layer in frozen.model[:9]:
        layer.eval().requires_grad_(False)
    found = trace(frozen, SHAPE, torch.bfloat16).convolutions
    assert not [call.name for call in found if call.name.startswith("model.4.")]
    assert [call.name for call in found if call.name.startswith("model.20.")]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = Conv(3, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.conv(x))


def test_a_module_that_is_called_twice_drops_what_the_plan_drops_of_either_call():
    twice = Twice().train()
    known = profile(trace(twice, SHAPE, torch.bfloat16), 0)
    assert choices(twice, known, {1})[twice.conv] == Keep.INPUT
