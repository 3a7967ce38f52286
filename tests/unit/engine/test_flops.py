# SPDX-License-Identifier: AGPL-3.0-or-later
"""The operations that are printed of a model are those that ultralytics counts on the CPU, to the last digit, and are counted once."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import ultralytics.utils.torch_utils as upstream
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from yolov12.engine import flops
from yolov12.engine.flops import known, on_cpu
from yolov12.errors import UserError
from yolov12.model import attention, fused

stock = flops._own


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("YOLOV12_CACHE_DIR", str(tmp_path))
    return tmp_path / "operations"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Models that ultralytics counted."""
    seen: list[nn.Module] = []
    monkeypatch.setattr(flops, "_own", lambda model, imgsz: seen.append(model) or stock(model, imgsz))
    return seen


def elsewhere(model: nn.Module) -> nn.Module:
    """A copy whose weights are on a device that is not the CPU and whose values nobody can read."""
    return nn.Module._apply(copy.deepcopy(model), lambda tensor: tensor.to("meta"))


def of(name: str = "yolo11n.yaml", **arguments: int) -> DetectionModel:
    return DetectionModel(name, verbose=False, **arguments)


@pytest.mark.parametrize("name", ["yolo12n.yaml", "yolo11n.yaml"])
def test_they_are_ultralytics_own_fused_and_not(name):
    attention.install()
    fused.install()
    model = of(name)
    for form in (model, copy.deepcopy(model).eval().fuse(verbose=False)):
        copied = elsewhere(form)
        assert on_cpu(copied) == stock(form) == known(copied) == known(form) > 5
        assert on_cpu(copied, [320, 640]) == stock(form, [320, 640]) == known(form, [320, 640])
        assert all(parameter.is_meta for parameter in copied.parameters())
        assert next(copied.parameters()).requires_grad == next(form.parameters()).requires_grad


def test_a_model_on_the_cpu_is_counted_where_it_is():
    model = of()
    assert on_cpu(model, 96) == stock(model, 96)


def test_another_kind_of_model_is_counted_by_ultralytics_alone(folder):
    assert known(nn.Linear(2, 2)) == stock(nn.Linear(2, 2)) == 0
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    assert known(model) == stock(model) > 0
    assert not list(folder.glob("*"))


def test_a_model_of_the_same_layers_is_counted_once(counted):
    first, again = of(), of()
    again(next(again.parameters()).new_zeros(1, 3, 64, 64))  # what a forward leaves in it is nothing of its structure
    assert known(first) == known(again.train()) == known(elsewhere(first))
    assert len(counted) == 1


@pytest.mark.parametrize(
    "another",
    [
        pytest.param(lambda: (of("yolo12n.yaml"), 640), id="another-model"),
        pytest.param(lambda: (of(nc=3), 640), id="classes"),
        pytest.param(lambda: (of(), 320), id="size"),
        pytest.param(lambda: (of().eval().fuse(verbose=False), 640), id="fused"),
        pytest.param(lambda: (_with_kernel_of_one(of()), 640), id="a-layer-by-hand"),
    ],
)
def test_another_structure_is_counted_by_itself(counted, another):
    known(of())
    model, imgsz = another()
    assert known(model, imgsz) == stock(model, imgsz)
    assert len(counted) == 2


def _with_kernel_of_one(model: DetectionModel) -> DetectionModel:
    model.model[1].conv = nn.Conv2d(16, 32, 1, stride=2, bias=False)
    return model


class OfSomebodyElse(nn.SiLU):
    """Nothing says what it will be in the next run."""


def test_what_a_version_does_not_tell_apart_is_counted_each_time(counted, folder):
    with_class, with_hook, with_method = of(), of(), of()
    with_class.model[0].act = OfSomebodyElse()
    with_hook.model[0].register_forward_hook(lambda *_: None)
    with_method.model[0].forward = lambda x: nn.functional.avg_pool2d(x, 2)[:, :1].expand(-1, 16, -1, -1)
    for model in (with_class, with_hook, with_method):
        for _ in range(2):
            assert known(model) == stock(model)
    assert len(counted) == 6
    assert not list(folder.glob("*"))


def test_another_version_counts_anew(counted, monkeypatch):
    known(of())
    monkeypatch.setattr(flops.ultralytics, "__version__", "0")
    known(of())
    assert len(counted) == 2


def test_a_model_that_can_not_be_counted_is_not_kept_as_free(monkeypatch, folder):
    monkeypatch.setattr(flops, "_own", lambda *_: 0.0)
    assert known(of()) == 0
    assert not list(folder.glob("*"))


def test_a_broken_file_is_said_and_made_anew(folder, capsys):
    expected = known(of())
    (kept,) = folder.iterdir()
    kept.write_text("{")
    assert known(of()) == expected
    assert f"{kept} is ignored" in capsys.readouterr().err
    assert known(of()) == expected
    assert "ignored" not in capsys.readouterr().err


def test_where_nothing_can_be_kept_it_is_counted_all_the_same(counted, tmp_path):
    (tmp_path / "operations").write_text("no folder")
    assert known(of()) == known(of()) > 5
    assert len(counted) == 2


def test_a_folder_that_is_refused_ends_nothing(monkeypatch, counted):
    def refuse():
        raise UserError("YOLOV12_CACHE_DIR can not be written to")

    monkeypatch.setattr(flops.settings, "cache_choice", refuse)
    assert known(of()) == known(of()) > 5
    assert len(counted) == 2


def test_installed_the_line_about_a_model_takes_it_from_here(monkeypatch, counted):
    monkeypatch.setattr(upstream, "get_flops", stock)
    flops.install()
    assert of().info() == of().info()
    assert len(counted) == 1
