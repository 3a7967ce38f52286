# SPDX-License-Identifier: AGPL-3.0-or-later
"""The demo of running out of memory: what it shows, and that its comparison can fail."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from yolov12.errors import RetryableError, UserError
from yolov12.memory.history import Event
from yolov12.tools import demo, demo_oom
from yolov12.tools.demo_oom import Trained, judge

CHANGED = (Event(4, "retry", "full"), Event(4, "plan", "a -> b"))
CLEAN = Trained({"a": torch.zeros(3), "b": torch.ones(2)}, (), 1, 1.0)
EQUAL = replace(CLEAN, events=CHANGED)
OTHER = replace(EQUAL, weights={"a": torch.tensor([0.0, 0.5, 0.0]), "b": torch.ones(2)})
TINY = demo.Recipe(epochs=1, imgsz=128, batch=4, train_images=16, val_images=4, workers=0, device="cpu")


def test_equal_bits_are_as_promised():
    assert judge(CLEAN, EQUAL, 4) == ("ok: all 2 tensors are equal to the bit", True)


def test_other_bits_under_recomputation_alone_are_not_as_promised():
    verdict, is_as_promised = judge(CLEAN, OTHER, 4)
    assert not is_as_promised
    assert verdict.startswith("NOT as promised: 1 of 2 tensors differ, by at most 5.0e-01 (a)")


def test_not_a_number_is_a_difference():
    broken = replace(EQUAL, weights={**CLEAN.weights, "b": torch.full((2,), torch.nan)})
    assert judge(CLEAN, broken, 4)[1] is False


def test_a_difference_has_its_reason_where_the_batch_was_cut():
    verdict, is_as_promised = judge(CLEAN, replace(OTHER, micro_batches=2), 4)
    assert is_as_promised
    assert "batch norm saw 2 micro-batches" in verdict


def test_a_difference_has_its_reason_where_images_were_made_smaller():
    event = Event(5, "smaller images", "640 -> 608")
    verdict, is_as_promised = judge(CLEAN, replace(OTHER, events=(*CHANGED, event)), 4)
    assert is_as_promised
    assert "made smaller" in verdict


def test_a_neighbour_that_changed_nothing_shows_nothing():
    assert judge(CLEAN, CLEAN, 4) == ("nothing is shown: the neighbour changed no plan", False)


def test_a_plan_that_changed_before_the_neighbour_came_is_not_its_work():
    assert judge(CLEAN, EQUAL, 5)[1] is False


def trained_as(answers: list[Trained | Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings that end at once."""

    def train(*_: object) -> Trained:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(demo_oom, "train", train)


ARGUMENTS = {"device": "cpu", "epochs": 3, "imgsz": 64}


@pytest.mark.parametrize(("second", "code"), [(EQUAL, 0), (OTHER, 1), (RetryableError("out of memory"), 1)])
def test_the_exit_code_says_whether_it_is_as_promised(second, code, tmp_path, monkeypatch, capsys):
    trained_as([CLEAN, second], monkeypatch)
    assert demo_oom.main({**ARGUMENTS, "out": tmp_path / "demo"}) == code
    assert ("ok: all 2 tensors" in capsys.readouterr().out) == (code == 0)


def test_an_unknown_option_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match="no lr0="):
        demo_oom.main({"lr0": 1, "out": tmp_path / "demo"})
    assert list(tmp_path.iterdir()) == []


def test_several_gpus_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match=r"device=0,1: demo oom trains on one GPU"):
        demo_oom.main({"device": "0,1", "out": tmp_path / "demo"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("checkpoint", ["0", "all"])
def test_a_setting_without_plans_is_refused_before_anything_runs(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("YOLOV12_CHECKPOINT", checkpoint)
    with pytest.raises(UserError, match=f"checkpoint={checkpoint}: demo oom shows how plans change"):
        demo_oom.main({"out": tmp_path / "demo"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("main", [demo_oom.main, demo_oom.demo.main])
def test_an_unknown_layer_is_refused_before_a_folder_is_made(main, tmp_path, monkeypatch):
    monkeypatch.setenv("YOLOV12_DISABLE_MAS_LAYERS", "neck.99")
    with pytest.raises(UserError, match=r"neck\.99: the model has no such layer"):
        main({"out": tmp_path / "demo"})
    assert list(tmp_path.iterdir()) == []


def test_a_last_batch_that_is_not_full_is_a_step_too():
    assert demo_oom.steps(replace(TINY, epochs=2, train_images=17)) == 10


def test_a_run_beside_a_simulated_neighbour_repeats_a_step_and_ends_with_the_bits_of_the_clean_one(tmp_path, capfd):
    lines, is_as_promised = demo_oom.run(TINY, tmp_path, is_on_gpu=False)
    told = "\n".join(lines)
    assert is_as_promised, told
    assert re.search(r"needs 0\.\d\d of 921\.60 GiB", "".join(capfd.readouterr())), (
        "the first training has 1 TiB, of which a tenth stays free"
    )
    assert "neighbour step  3  a simulated process took" in told
    assert "retry     step  3  rank 0: OutOfMemoryError: out of memory on the simulated card" in told
    assert re.search(r"plan +step +3 .*recompute 0 convolutions and 0 inputs .* -> ", told)
    assert {"memory.csv", "memory.png"} <= {path.name for path in (tmp_path / "beside").iterdir()}
