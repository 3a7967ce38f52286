# SPDX-License-Identifier: AGPL-3.0-or-later
"""A network's hash: the same for the same file, another for whatever changes what is traced, and none where that can not be seen."""

import copy
import functools

import pytest
import torch
from torch import nn
from ultralytics.nn.modules import Conv, Detect, head
from ultralytics.utils.tal import dist2bbox

from yolov12.export import fingerprint


@pytest.fixture
def network(model):
    return copy.deepcopy(model.model)


def test_two_loads_of_one_file_are_one(model, tmp_path):
    from yolov12 import YOLO

    model.save(tmp_path / "a.pt")
    first, second = (fingerprint.of(YOLO(tmp_path / "a.pt").model) for _ in range(2))
    assert first == second is not None


def test_where_it_lies_and_what_it_was_trained_with_are_not_part_of_it(network):
    before = fingerprint.of(network)
    network.pt_path, network.args = "/elsewhere/best.pt", object()
    assert fingerprint.of(network) == before


def changed_weight(network):
    with torch.no_grad():
        network.model[0].conv.weight[0, 0, 0, 0] += 1e-6


def changed_statistic(network):
    network.model[0].bn.running_mean[0] += 1e-6


def changed_constant(network):
    network.model[0].bn.eps = 1e-5


def changed_areas(network):
    next(module for module in network.modules() if hasattr(module, "area")).area += 1


def changed_order(network):
    first, *others = network.model[-1].cv3
    network.model[-1].cv3 = nn.ModuleList([*others, first])


def changed_activation(network):
    network.model[0].act = nn.ReLU()


def changed_layers(network):
    network.model[3].f = -2


@pytest.mark.parametrize(
    "change",
    [
        changed_weight,
        changed_statistic,
        changed_constant,
        changed_areas,
        changed_order,
        changed_activation,
        changed_layers,
        nn.Module.half,
    ],
)
def test_what_decides_a_trace_is_another(network, change):
    before = fingerprint.of(network)
    change(network)
    assert fingerprint.of(network) not in (before, None)


def test_our_own_code_and_the_settings_of_forwards_are_part_of_it(network, monkeypatch):
    found = {fingerprint.of(network)}
    monkeypatch.setenv("YOLOV12_FLASH_ATTN", "0")
    found.add(fingerprint.of(network))
    monkeypatch.setattr(fingerprint, "_sources", lambda: "after an upgrade")
    found.add(fingerprint.of(network))
    assert len(found - {None}) == 3


def test_an_attribute_that_a_script_has_set_on_a_class_is_part_of_it(network, monkeypatch):
    before = fingerprint.of(network)
    monkeypatch.setattr(Detect, "max_det", Detect.max_det + 1)
    assert fingerprint.of(network) not in (before, None)


@pytest.mark.parametrize(
    ("module", "name", "another"),
    [(nn.functional, "silu", nn.functional.relu), (nn.functional, "relu", torch.sigmoid), (torch, "cat", torch.stack)],
)
def test_a_function_of_torch_under_the_name_of_another_is_part_of_it(network, monkeypatch, module, name, another):
    before = fingerprint.of(network)
    monkeypatch.setattr(module, name, another)
    assert fingerprint.of(network) not in (before, None)


def test_under_autocast_another_graph_is_traced(network):
    found = {fingerprint.of(network)}
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            found.add(fingerprint.of(network))
    assert len(found - {None}) == 3


class Mine(nn.Module):
    """A layer of a script: what it calls is not known."""

    def forward(self, x):
        return x


def with_a_layer_of_mine(network, monkeypatch):
    network.model[0].act = Mine()


def with_a_hook(network, monkeypatch):
    network.model[0].register_forward_hook(lambda *_: None)


def with_a_method_on_the_object(network, monkeypatch):
    network.model[0].forward = lambda x: x


def with_a_method_on_the_class(network, monkeypatch):
    monkeypatch.setattr(Conv, "forward", lambda self, x: x)


def with_a_method_that_goes_by_the_name_of_ultralytics_own(network, monkeypatch):
    upstream = Conv.forward
    monkeypatch.setattr(Conv, "forward", functools.wraps(upstream)(lambda self, x: 2 * upstream(self, x)))


def with_a_method_that_is_called_in_another_way(network, monkeypatch):
    monkeypatch.setattr(Conv, "forward", functools.partialmethod(Conv.forward))


def with_a_method_behind_a_decorator_of_torch(network, monkeypatch):
    mine = functools.wraps(Conv.forward)(lambda self, x: x)
    monkeypatch.setattr(Conv, "forward", torch.no_grad()(mine))


def with_a_function_of_ultralytics_replaced(network, monkeypatch):
    monkeypatch.setattr(head, "dist2bbox", lambda *args, **options: dist2bbox(*args, **options) + 1)


def with_a_function_of_torch_replaced(network, monkeypatch):
    monkeypatch.setattr(nn.functional, "silu", lambda x, inplace=False: x)


def with_an_object_in_the_place_of_a_function(network, monkeypatch):
    monkeypatch.setattr(nn.functional, "silu", Mine())


def with_a_partial_in_the_place_of_a_function(network, monkeypatch):
    monkeypatch.setattr(torch, "cat", functools.partial(torch.cat, dim=0))


def with_hooks_of_all(network, monkeypatch):
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    monkeypatch.setattr(nn.modules.module, "_global_forward_hooks", {handle.id: handle})
    handle.remove()


@pytest.mark.parametrize(
    "change",
    [
        with_a_layer_of_mine,
        with_a_hook,
        with_a_method_on_the_object,
        with_a_method_on_the_class,
        with_a_method_that_goes_by_the_name_of_ultralytics_own,
        with_a_method_that_is_called_in_another_way,
        with_a_method_behind_a_decorator_of_torch,
        with_a_function_of_ultralytics_replaced,
        with_a_function_of_torch_replaced,
        with_an_object_in_the_place_of_a_function,
        with_a_partial_in_the_place_of_a_function,
        with_hooks_of_all,
    ],
)
def test_where_a_script_may_decide_there_is_none(network, monkeypatch, change):
    assert fingerprint.of(network) is not None
    change(network, monkeypatch)
    assert fingerprint.of(network) is None


@pytest.mark.parametrize("name", ["yolov12n.yaml", "yolo11n-seg.yaml", "yolov8n-pose.yaml", "yolo26n.yaml"])
def test_ultralytics_networks_have_one(name):
    from yolov12 import YOLO

    assert fingerprint.of(YOLO(name).model) is not None
