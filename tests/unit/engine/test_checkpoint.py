# SPDX-License-Identifier: AGPL-3.0-or-later
"""A checkpoint of ours holds what stock's holds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils.torch_utils import EarlyStopping, ModelEMA

from tests.unit.engine.tiny import batch, model
from yolov12.engine.checkpoint import KEY, Checkpoint
from yolov12.model.seal import flaw

OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, amsgrad=True),
}


def a_run(folder: Path, optimizer: str = "SGD", layout: torch.memory_format = torch.contiguous_format) -> Any:
    """What `save_model` reads of a trainer, after one update."""
    live = model(frozen_batch_norm=False).float().to(memory_format=layout)
    ema = ModelEMA(live)
    steps = OPTIMIZERS[optimizer](live.parameters())
    one = {name: value.float() if isinstance(value, Tensor) else value for name, value in batch([1, 2]).items()}
    loss, _ = live(one)
    loss.sum().backward()
    steps.step()
    ema.update(live)
    return SimpleNamespace(
        model=live,
        ema=ema,
        optimizer=steps,
        epoch=3,
        best_fitness=0.5,
        fitness=0.5,
        stopper=EarlyStopping(),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        args=SimpleNamespace(epochs=9, imgsz=64),
        metrics={"metrics/mAP50(B)": 0.7},
        read_results_csv=lambda: {"epoch": [1, 2, 3]},
        wdir=folder,
        last=folder / "last.pt",
        best=folder / "best.pt",
        save_period=-1,
    )


def tensors_of(value: Any, path: str = "") -> dict[str, Tensor]:
    """All tensors in nested dictionaries, lists and modules, by where they are."""
    if isinstance(value, Tensor):
        return {path: value}
    if isinstance(value, nn.Module):
        value = value.state_dict()
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {}
    return {where: found for key, item in value.items() for where, found in tensors_of(item, f"{path}/{key}").items()}


def saved(run: Any, more: dict[str, Any] | None = None, in_full: bool = False) -> dict[str, Any]:
    """What a reader finds in the file."""
    checkpoint, path = Checkpoint(run, more), run.wdir / "written.pt"
    (checkpoint.write_in_full if in_full else checkpoint.write_as_stock)(path)
    assert flaw(path) is None
    return torch.load(path, weights_only=False)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_equals_stocks_to_the_bit(tmp_path: Path, optimizer: str, layout: torch.memory_format) -> None:
    run = a_run(tmp_path, optimizer, layout)
    BaseTrainer.save_model(run)
    stock = torch.load(run.last, weights_only=False)
    ours = saved(run, more={})
    assert ours.keys() == stock.keys()
    expected, found = tensors_of(stock), tensors_of(ours)
    assert len(expected) > 600
    assert found.keys() == expected.keys()
    for where, tensor in expected.items():
        assert found[where].dtype is tensor.dtype, where
        assert torch.equal(found[where], tensor), where
        assert found[where].stride() == tensor.stride(), where
    plain = [key for key in stock if not isinstance(stock[key], nn.Module) and key not in ("optimizer", "date")]
    assert {key: ours[key] for key in plain} == {key: stock[key] for key in plain}
    assert str(ours["ema"]) == str(stock["ema"])


@pytest.mark.parametrize("in_full", [True, False])
def test_a_tool_that_saves_a_layer_of_what_it_loaded_saves_no_more_than_that(tmp_path: Path, in_full: bool) -> None:
    run = a_run(tmp_path)
    found = saved(run, more={"weights": run.model.state_dict()}, in_full=in_full)
    tensors = tensors_of([found["ema"], found["optimizer"]])
    assert len(tensors) > 600
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in tensors.values())


def test_saving_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    run.ema.ema.criterion = "the loss"
    before = {name: tensor.clone() for name, tensor in run.ema.ema.state_dict().items()}
    Checkpoint(run)
    assert run.ema.ema.criterion == "the loss"
    after = run.ema.ema.state_dict()
    assert all(
        torch.equal(after[name], tensor) and after[name].dtype is tensor.dtype for name, tensor in before.items()
    )


def test_the_loss_is_not_saved(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    run.ema.ema.criterion = "the loss"
    assert saved(run)["ema"].criterion is None


def test_an_average_that_became_nan_begins_anew_from_the_live_weights(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    name = next(iter(dict(run.ema.ema.named_parameters())))
    average = dict(run.ema.ema.named_parameters())[name]
    average.data.view(-1)[0] = float("nan")
    found = saved(run)["ema"]
    live = dict(run.model.named_parameters())[name]
    assert torch.equal(dict(found.named_parameters())[name], live.half())
    assert torch.equal(average, live)


def test_what_fp16_can_not_hold_becomes_its_largest_number(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    name = next(iter(dict(run.ema.ema.named_parameters())))
    dict(run.ema.ema.named_parameters())[name].data.view(-1)[0] = 1e6
    found = saved(run)["ema"]
    assert float(dict(found.named_parameters())[name].view(-1)[0]) == torch.finfo(torch.float16).max


def test_in_full_nothing_is_rounded_and_there_is_more(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    held = [torch.rand(3), None, torch.rand(2)]
    found = saved(run, more={"held": held, "seen": 8}, in_full=True)
    assert found[KEY]["seen"] == 8
    assert [None if tensor is None else tensor.tolist() for tensor in found[KEY]["held"]] == [
        None if tensor is None else tensor.tolist() for tensor in held
    ]
    expected = tensors_of([run.ema.ema, run.optimizer.state_dict()])
    assert len(expected) > 600
    for where, tensor in tensors_of([found["ema"], found["optimizer"]]).items():
        assert tensor.dtype is expected[where].dtype, where
        assert torch.equal(tensor, expected[where]), where


def test_what_is_written_is_the_run_as_it_was_when_it_was_taken(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    before = {name: tensor.clone() for name, tensor in run.ema.ema.state_dict().items()}
    checkpoint = Checkpoint(run)
    with torch.no_grad():
        for average in run.ema.ema.parameters():
            average.zero_()
    checkpoint.write_in_full(tmp_path / "later.pt")
    found = torch.load(tmp_path / "later.pt", weights_only=False)["ema"].state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in before.items())
