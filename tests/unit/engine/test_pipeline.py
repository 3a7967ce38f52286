# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which loader feeds the training, and when `auto` changes over."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from yolov12 import settings
from yolov12.data import loader as ours
from yolov12.data.order import Plan
from yolov12.distributed.world import World
from yolov12.engine import pipeline
from yolov12.engine import trainer as of_trainer
from yolov12.engine.data_wait import DataWait
from yolov12.engine.run_plots import RunPlots
from yolov12.errors import UserError


class Loader:
    """Notes what is done to it."""

    def __init__(self, batch_size: int = 4) -> None:
        self.dataset, self.batch_size = Pictures("images"), batch_size
        self.done: list[str] = []
        self.outdated = False

    def is_outdated(self) -> bool:
        return self.outdated

    def close(self) -> None:
        self.done.append("closed")

    def close_mosaic(self) -> None:
        self.done.append("mosaic closed")


class Pictures(list[str]):
    """A data set of one picture."""

    def __init__(self, path: str) -> None:
        super().__init__([path])
        self.path, self.labels = path, []


class Trainer(SimpleNamespace):
    def build_dataset(self, path: str, mode: str, batch: int) -> Any:
        assert self.args.cache is False, "ultralytics would build its own cache"
        return Pictures(path)

    def plan(self, samples: int, batch_of_rank: int) -> Plan:
        return Plan(samples, batch_of_rank)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    monkeypatch.setattr(ours, "obstacle", lambda dataset, args: None)
    monkeypatch.setattr(ours, "build", lambda dataset, args, batch, *rest: Loader(batch))
    monkeypatch.setattr(ours, "bytes_of_all", lambda dataset, batch, device: None)
    monkeypatch.setattr(ours, "readers", lambda args, local_ranks: 2)
    return Trainer(
        device=torch.device("cuda"),
        args=SimpleNamespace(cache="ram", close_mosaic=10),
        train_loader=Loader(),
        vote_group=None,
        world=World(),
        epoch=3,
    )


def asked(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("YOLOV12_DATA_PIPELINE", value)


def made(trainer: Any) -> Any:
    return pipeline.train_loader(trainer, "images", 4, lambda: "ultralytics' loader")


@pytest.mark.parametrize("value", ["cpu", "auto"])
def test_training_begins_with_ultralytics_loader(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, value: str):
    asked(monkeypatch, value)
    assert made(trainer) == "ultralytics' loader"


def test_auto_takes_ours_from_the_beginning_where_all_pictures_stay_decoded(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    asked(monkeypatch, "auto")
    monkeypatch.setattr(ours, "bytes_of_all", lambda dataset, batch, device: 2**29)
    assert isinstance(made(trainer), Loader)
    assert "data pipeline: gpu (auto: all 1 pictures stay decoded on the GPU, 0.50 GiB)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("readers", "cache", "said"),
    [
        (4, False, "gpu (auto: 4 read, and the GPU augments)"),
        (
            8,
            "ram",
            "cpu (auto: cache=ram is ultralytics', and there are more of 1 pictures than the GPU keeps decoded)",
        ),
        (
            3,
            False,
            "cpu (auto: 3 would read and decode, as NVIDIA DALI is not installed, and there are more of 1 pictures than the GPU keeps decoded: "
            "ours is taken from 4 on)",
        ),
    ],
    ids=str,
)
def test_auto_takes_ours_from_the_beginning_where_enough_read_and_none_asks_for_a_cache(
    trainer: Trainer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    readers: int,
    cache: Any,
    said: str,
):
    asked(monkeypatch, "auto")
    trainer.args.cache = cache
    monkeypatch.setattr(ours, "readers", lambda args, local_ranks: readers)
    monkeypatch.setattr(ours, "gpu_decodes", lambda: False)
    assert isinstance(made(trainer), Loader) == said.startswith("gpu")
    assert f"data pipeline: {said}" in capsys.readouterr().err


def test_auto_takes_ours_where_one_reads_and_the_gpu_decodes(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    asked(monkeypatch, "auto")
    trainer.args.cache = False
    monkeypatch.setattr(ours, "readers", lambda args, local_ranks: 1)
    monkeypatch.setattr(ours, "gpu_decodes", lambda: True)
    assert isinstance(made(trainer), Loader)
    assert (
        "data pipeline: gpu (auto: 1 read, NVIDIA DALI is there to decode, and the GPU augments)"
        in capsys.readouterr().err
    )


def test_auto_takes_ours_on_all_ranks_or_on_none(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    asked(monkeypatch, "auto")
    monkeypatch.setattr(ours, "bytes_of_all", lambda dataset, batch, device: 2**29)
    monkeypatch.setattr(pipeline, "from_all", lambda choice, group: [choice, (False, "2 threads read")])
    assert made(trainer) == "ultralytics' loader"
    assert "data pipeline: cpu (auto: 2 threads read)" in capsys.readouterr().err


def test_auto_on_the_cpu_builds_no_data_set_for_it(trainer: Trainer, monkeypatch: pytest.MonkeyPatch):
    asked(monkeypatch, "auto")
    trainer.device = torch.device("cpu")
    monkeypatch.setattr(trainer, "build_dataset", None)
    assert made(trainer) == "ultralytics' loader"


@pytest.mark.parametrize(("cache", "again"), [("ram", True), (False, False)])
def test_a_data_set_is_built_twice_only_where_ultralytics_is_to_cache_it(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, cache: Any, again: bool
):
    asked(monkeypatch, "auto")
    trainer.args.cache = cache
    first = Pictures("images")
    monkeypatch.setattr(
        Trainer, "build_dataset", lambda *_: first if trainer.args.cache is False else Pictures("other")
    )
    found = pipeline.train_loader(trainer, "images", 4, lambda: trainer.build_dataset("images", "train", 4))
    assert (found is not first) == again


@pytest.mark.parametrize(("device", "where"), [("cuda", "on the GPU"), ("cpu", "the same tensor code on cpu")])
def test_ours_is_taken_where_it_is_asked_for(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], device: str, where: str
):
    asked(monkeypatch, "gpu")
    trainer.device, trainer.args.cache = torch.device(device), False
    assert isinstance(made(trainer), Loader)
    assert where in capsys.readouterr().err


def test_a_cache_that_is_asked_for_lies_in_the_cache_folder(trainer: Trainer, monkeypatch: pytest.MonkeyPatch):
    asked(monkeypatch, "gpu")
    folders = []
    monkeypatch.setattr(ours, "build", lambda *arguments: folders.append(arguments[-1]))
    made(trainer)
    trainer.args.cache = False
    made(trainer)
    assert folders == [settings.cache_dir() / "pictures", None]


def test_what_the_data_rule_out_falls_back_with_a_reason(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    asked(monkeypatch, "gpu")
    monkeypatch.setattr(ours, "obstacle", lambda dataset, args: ours.Obstacle("albumentations is installed"))
    assert made(trainer) == "ultralytics' loader"
    assert "data pipeline: gpu -> cpu: albumentations is installed" in capsys.readouterr().err


def test_two_wishes_that_contradict_each_other_end_the_run(trainer: Trainer, monkeypatch: pytest.MonkeyPatch):
    asked(monkeypatch, "gpu")
    monkeypatch.setattr(ours, "obstacle", lambda dataset, args: ours.Obstacle("several shapes", "rect=True"))
    with pytest.raises(UserError, match=r"data_pipeline=gpu and rect=True contradict each other \(several shapes\)"):
        made(trainer)


@pytest.mark.parametrize("arguments", [{"rect": True}, {"augmentations": [object()]}], ids=["rect", "augmentations"])
def test_a_run_of_two_wishes_that_contradict_each_other_leaves_no_folder(
    arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    from yolov12.engine.trainer import YOLOv12Trainer

    asked(monkeypatch, "gpu")
    given = {"model": "yolov12n.yaml", "data": "a.yaml", "device": "cpu", "project": str(tmp_path), **arguments}
    with pytest.raises(UserError, match=r"data_pipeline=gpu and (rect=True|augmentations=) contradict each other"):
        YOLOv12Trainer(overrides=given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "arguments", "ranks"),
    [("gpu", {"rect": True}, 2), ("gpu", {"rect": False, "augmentations": None}, 1), ("auto", {"rect": True}, 1)],
)
def test_what_does_not_contradict_is_not_refused(
    value: str, arguments: dict[str, Any], ranks: int, monkeypatch: pytest.MonkeyPatch
):
    asked(monkeypatch, value)
    pipeline.check_arguments(arguments, ranks)


def with_share(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, share: float | None) -> pipeline.Watch:
    asked(monkeypatch, "auto")
    watch = pipeline.Watch(trainer, DataWait())
    assert watch.wait is not None
    watch.wait.steps = 50
    monkeypatch.setattr(watch.wait, "share", lambda: share)
    return watch


def test_auto_says_where_the_loop_waits_for_data(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    before = trainer.train_loader
    watch = with_share(trainer, monkeypatch, 0.4)
    watch.at_epoch_start()
    assert trainer.train_loader is before
    said = capsys.readouterr().err
    assert (
        "data pipeline: cpu, although 40% of the time of 50 steps was spent waiting for data; data_pipeline=gpu" in said
    )
    watch.at_epoch_start()
    assert capsys.readouterr().err == ""  # once


def test_auto_stays_where_data_are_no_hindrance(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    before = trainer.train_loader
    with_share(trainer, monkeypatch, 0.02).at_epoch_start()
    assert trainer.train_loader is before
    assert "data pipeline: cpu: 2% of the time" in capsys.readouterr().err


def test_auto_waits_until_it_has_seen_enough(trainer: Trainer, monkeypatch: pytest.MonkeyPatch):
    watch = with_share(trainer, monkeypatch, None)
    watch.at_epoch_start()
    assert watch.wait is not None


def test_the_rank_that_waits_most_counts(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(pipeline, "from_all", lambda share, group: [share, None, 0.5])
    with_share(trainer, monkeypatch, 0.01).at_epoch_start()
    assert "50% of the time of 50 steps was spent waiting for data; data_pipeline=gpu" in capsys.readouterr().err


def test_auto_stays_where_a_callback_changed_the_transforms_meanwhile(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    before = trainer.train_loader
    watch = with_share(trainer, monkeypatch, 0.4)
    monkeypatch.setattr(ours, "obstacle", lambda dataset, args: ours.Obstacle("changed by a script"))
    watch.at_epoch_start()
    assert trainer.train_loader is before
    assert "data pipeline: cpu (changed by a script), although 40%" in capsys.readouterr().err


@pytest.mark.parametrize("cache", [False, "ram"])
@pytest.mark.parametrize("ranks", [[True, True], [False, True]])
def test_what_auto_took_is_given_back_for_transforms_that_it_would_leave_out(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ranks: list[bool], cache: Any
):
    asked(monkeypatch, "auto")
    monkeypatch.setattr(ours, "PictureLoader", Loader)
    monkeypatch.setattr(pipeline, "from_all", lambda outdated, group: ranks)
    before = trainer.train_loader
    trainer.args.cache = cache
    trainer.upstreams_loader = lambda: SimpleNamespace(dataset=trainer.build_dataset("images", "train", 4))
    watch = pipeline.Watch(trainer, DataWait())
    watch.at_epoch_start()
    assert before.done == ["closed"]
    assert trainer.train_loader.dataset is before.dataset
    assert "data pipeline: gpu -> cpu from epoch 4 on: a script changed" in capsys.readouterr().err


def test_transforms_that_our_loader_would_leave_out_end_the_run(trainer: Trainer, monkeypatch: pytest.MonkeyPatch):
    asked(monkeypatch, "gpu")
    watch = pipeline.Watch(trainer, DataWait())
    monkeypatch.setattr(ours, "PictureLoader", Loader)
    watch.at_epoch_start()
    trainer.train_loader.outdated = True
    with pytest.raises(UserError, match=r"a script changed the data set's transforms.*: type data_pipeline=cpu"):
        watch.at_epoch_start()


@pytest.mark.parametrize("why", ["no GPU", "an obstacle"])
def test_auto_says_why_it_does_not_take_ours(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], why: str
):
    asked(monkeypatch, "auto")
    if why == "no GPU":
        trainer.device = torch.device("cpu")
    else:
        monkeypatch.setattr(ours, "obstacle", lambda dataset, args: ours.Obstacle("an obstacle"))
    assert made(trainer) == "ultralytics' loader"
    said = capsys.readouterr().err
    assert said.startswith("data pipeline: cpu (auto: ")
    assert why in said


def test_without_a_gpu_nobody_watches_the_loop(trainer: Trainer, monkeypatch: pytest.MonkeyPatch):
    asked(monkeypatch, "auto")
    trainer.device = torch.device("cpu")
    assert pipeline.Watch(trainer, DataWait()).wait is None


def test_a_run_that_fails_before_its_first_step_leaves_no_loader_behind(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
):
    """Ours has reading processes and keeps pictures on the GPU until it is closed: a script may catch the error and train again."""
    first = trainer.train_loader
    del trainer.train_loader

    def set_up() -> None:
        trainer.train_loader = first
        raise UserError("all epochs are done")

    trainer._setup_train, trainer.drawing, trainer.args.plots = set_up, RunPlots(trainer), False
    monkeypatch.setattr(of_trainer.segments, "grow", lambda device: None)
    with pytest.raises(UserError, match="all epochs are done"):
        of_trainer.YOLOv12Trainer._do_train(trainer)
    assert first.done == ["closed"]
