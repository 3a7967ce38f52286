# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which networks run as graphs, and a package of AOTInductor among them; a stand-in replays. Networks of torch are tested with the predictor."""

import pytest
import torch

from tests.unit.engine.stand_in_pool import StandInPools
from yolov12.engine.network import Network, why_not

CPU = torch.device("cpu")


class Package(torch.nn.Module):
    """An AutoBackend with a package in it, which is no module and has no parameters."""

    format = "aoti"

    def __init__(self):
        super().__init__()
        self.backend = type("Backend", (), {"model": staticmethod(torch.neg)})()
        self.calls = 0

    def forward(self, im, augment=False):
        self.calls += 1
        return self.backend.model(im)


def test_a_package_is_replayed_once_its_shape_came_before():
    pools, package = StandInPools(), Package()
    network = Network(package, pools.pool_of(CPU), "predict")
    for value in range(4):
        pictures = torch.full((1, 3, 64, 64), float(value))
        assert network.why_eager(pictures) is None
        assert torch.equal(network(pictures), -pictures)
    assert pools.replays == 3
    network.drop()


def test_hooks_on_the_backend_of_a_package_are_for_ultralytics_own_call():
    package = Package()
    network = Network(package, StandInPools().pool_of(CPU), "predict")
    package.register_forward_hook(lambda *args: None)
    assert network.why_eager(torch.zeros(1, 3, 64, 64)) == "the model has hooks"


@pytest.mark.parametrize(
    ("form", "compiled", "setting", "reason"),
    [
        ("aoti", False, "auto", None),
        ("aoti", True, "auto", "compile=True"),
        ("aoti", False, "0", "compile=0"),
        ("engine", False, "auto", "it runs a file of format engine"),
    ],
)
def test_the_reason_against_a_graph_is_told(monkeypatch, form, compiled, setting, reason):
    monkeypatch.setenv("YOLOV12_COMPILE", setting)
    package = Package()
    package.format = form
    assert why_not(package, compiled) == reason
