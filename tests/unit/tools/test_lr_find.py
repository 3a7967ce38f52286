# SPDX-License-Identifier: AGPL-3.0-or-later
"""The range test on the real trainer: what it asks for, what it leaves behind, and that it changes nothing."""

from __future__ import annotations

import csv
import random
import re

import numpy as np
import pytest
import torch

from yolov12 import cli
from yolov12.data import synth
from yolov12.engine.loop import Loop
from yolov12.errors import UserError
from yolov12.tools import lr_find
from yolov12.tools.lr_find import LrFindTrainer, Range

SMALL = {
    "imgsz": 64,
    "batch": 4,
    "nbs": 8,
    "device": "cpu",
    "workers": 0,
    "optimizer": "SGD",
    "plots": False,
    "val": False,
    "verbose": False,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synth.write(tmp_path_factory.mktemp("data") / "synth", n_train=10, n_val=4, imgsz=64)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"lr_min": 0.1, "lr_max": 0.01}, "lr_min=0.1 and lr_max=0.01 are no range"),
        ({"lr_min": 0.0}, "lr_min=0 and lr_max=1 are no range"),
        ({"lr_max": float("inf")}, "are numbers"),
        ({"lr_min": "small"}, "are numbers"),
        ({"steps": 3}, "steps=3 is too few"),
        ({"steps": 30.5}, "steps=30.5 is too few"),
    ],
)
def test_a_range_that_is_none_is_refused(asked, words):
    with pytest.raises(UserError, match=re.escape(words)):
        Range(**asked)


def test_learning_rates_grow_by_one_factor():
    lrs = Range(lr_min=1e-4, lr_max=1e-2, steps=21).lrs()
    assert len(lrs) == 21
    assert lrs[0] == pytest.approx(1e-4)
    assert lrs[-1] == pytest.approx(1e-2)
    assert np.ptp(np.diff(np.log(lrs))) < 1e-9


def test_without_data_and_for_another_task_it_says_what_it_needs(data, capsys):
    assert cli.main(["lr-find", "model=yolov12n.yaml"]) == 2
    assert "lr-find needs data=" in capsys.readouterr().err
    assert cli.main(["lr-find", f"data={data}", "model=yolov12n-seg.yaml"]) == 2


@pytest.fixture(scope="module")
def tested(data, tmp_path_factory):
    """A trainer after five updates of a range test, and what it held before and after."""
    folder = tmp_path_factory.mktemp("lr-find")
    trainer = LrFindTrainer(
        overrides={
            **SMALL,
            "model": "yolo12n.yaml",
            "data": str(data),
            "project": str(folder),
            "name": "run",
            "mode": "train",
        }
    )
    trainer._setup_train()
    loop = Loop(trainer)
    seen: list[list[float]] = []
    before = held(trainer)
    update = loop.update.run

    def noted() -> None:
        seen.append([group["lr"] for group in trainer.optimizer.param_groups])
        update()

    loop.update.run = noted
    with lr_find.as_before(trainer):
        curve = lr_find.run(loop, [1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
        during = held(trainer)
    trainer.curve = curve
    return trainer, before, during, held(trainer), seen


def held(trainer) -> dict[str, torch.Tensor]:
    """Copies of everything that an update may change, by name."""
    tensors = {
        f"{kind} {name}": tensor.clone()
        for kind, model in (("model", trainer.model), ("ema", trainer.ema.ema))
        for name, tensor in model.state_dict().items()
    }
    for number, state in enumerate(trainer.optimizer.state.values()):
        tensors |= {f"optimizer {number} {name}": torch.as_tensor(value).clone() for name, value in state.items()}
    tensors["torch"] = torch.get_rng_state()
    tensors["numpy"] = torch.as_tensor(np.random.get_state()[1].astype(np.int64))
    tensors["python"] = torch.as_tensor([hash(random.getstate())])
    tensors["ema updates"] = torch.as_tensor(trainer.ema.updates)
    return tensors


def test_each_update_has_its_learning_rate_in_every_group(tested):
    assert tested[4] == [[lr] * 3 for lr in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)]
    assert tested[0].curve.lrs == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
    assert all(np.isfinite(tested[0].curve.losses))


def test_it_trains_while_it_tests(tested):
    _, before, during, _, _ = tested
    changed = {name.split()[0] for name in before if not torch.equal(before[name], during[name])}
    assert {"model", "ema", "optimizer", "torch"} <= changed | {"torch"}


def test_afterwards_everything_is_as_before_to_the_bit(tested):
    _, before, _, after, _ = tested
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_a_curve_without_a_fall_leaves_its_files_and_says_what_to_type(tested, capsys):
    trainer = tested[0]
    with pytest.raises(UserError, match="never fell clearly"):
        lr_find.report(trainer)
    rows = list(csv.DictReader((trainer.save_dir / "lr_find.csv").open()))
    assert len(rows) == 5
    assert (trainer.save_dir / "lr_find.png").is_file()


def test_a_curve_with_a_fall_says_what_to_type(tested, capfd):
    trainer = tested[0]
    lrs = Range().lrs()
    trainer.curve = lr_find.Curve(lrs, [10 - 5 * min(max(np.log10(lr) + 4, 0), 2) / 2 + 50 * lr**2 for lr in lrs])
    found = lr_find.report(trainer)
    said = "".join(capfd.readouterr())
    assert f"suggested lr0={found.lr:g}" in said
    assert f"optimizer=SGD lr0={found.lr:g}" in said
