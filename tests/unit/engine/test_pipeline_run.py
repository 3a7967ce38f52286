# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whole CPU runs whose pictures come from our loader, with the stand-in for the augmentation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from yolov12.data import synth

REPOSITORY = Path(__file__).parents[3]

TRAIN = """
import json, os, sys, threading
import torch
torch.set_num_threads(1)
from tests.unit.data.loader import stand_in
stand_in.install()
from yolov12 import YOLO
{before}
model = YOLO("yolov12n.yaml")
loaders = []
model.add_callback("on_train_epoch_end", lambda trainer: loaders.append(type(trainer.train_loader).__name__))
arguments = dict(data=sys.argv[1], project=sys.argv[2], name="run", epochs=2, imgsz=64, batch=4, device="cpu", optimizer="SGD", seed=3,
                 close_mosaic=1, plots=False, exist_ok=True, verbose=False, workers=1)
model.train(**{{**arguments, **json.loads(sys.argv[3])}})
print(json.dumps({{
    "loaders": loaders,
    "samples": [[recipe.indices.tolist(), len(recipe.partners)] for recipe in stand_in.drawn],
    "threads": [thread.name for thread in threading.enumerate() if thread.name.startswith("yolov12")],
    "weights": sum(p.double().abs().sum().item() for p in model.trainer.model.parameters()),
}}))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synth.write(tmp_path_factory.mktemp("data") / "synth", n_train=10, n_val=2, imgsz=64)


def train(
    data: Path, out: Path, *launcher: str, before: str = "", **arguments: object
) -> subprocess.CompletedProcess[str]:
    out.mkdir(parents=True, exist_ok=True)
    script = out / "script.py"
    script.write_text(TRAIN.format(before=before))
    return subprocess.run(
        [sys.executable, *launcher, str(script), str(data), str(out), json.dumps(arguments)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "YOLOV12_CACHE_DIR": str(out)},
        capture_output=True,
        text=True,
        timeout=280,
    )


def answers(done: subprocess.CompletedProcess[str]) -> list[dict]:
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"loaders"')]


def test_a_run_that_asks_for_it_trains_from_our_loader(data: Path, tmp_path: Path):
    done = train(data, tmp_path, data_pipeline="gpu", cache=True)
    (answer,) = answers(done)
    assert answer["loaders"] == ["PictureLoader"] * 2
    assert answer["threads"] == []
    batches = [indices for indices, _ in answer["samples"]]
    epochs = [list(chain(*batches[:3])), list(chain(*batches[3:]))]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]
    assert [partners > 0 for _, partners in answer["samples"]] == [True] * 3 + [False] * 3  # mosaic is closed
    assert (
        "data pipeline: gpu (asked for): pictures are augmented as tensors, the same tensor code on cpu" in done.stderr
    )
    assert "picture cache: written to " in done.stderr


@pytest.mark.slow  # two whole runs
def test_a_run_repeats_with_a_cache_and_without(data: Path, tmp_path: Path):
    runs = [train(data, tmp_path / str(cache), data_pipeline="gpu", cache=cache) for cache in (False, True)]
    assert answers(runs[0]) == answers(runs[1])


CONTRADICTION = """
from yolov12.errors import ExitError
real = YOLO.train
def train(self, **arguments):
    try:
        return real(self, **arguments)
    except ExitError as error:
        sys.exit(f"{error.exit_code}: {error}")
YOLO.train = train
"""


def test_a_run_that_asks_for_two_things_that_exclude_each_other_ends_at_once(data: Path, tmp_path: Path):
    done = train(data, tmp_path, data_pipeline="gpu", rect=True, before=CONTRADICTION)
    assert "2: data_pipeline=gpu and rect=True contradict each other" in done.stderr


CHANGED_BY_A_SCRIPT = """
from yolov12.engine import pipeline
real_begin, real_look = pipeline.Watch.__init__, pipeline.Watch.at_epoch_start
def begin(self, *arguments):
    real_begin(self, *arguments)
    self.is_auto = True  # which takes our loader on a GPU only
def look(self):
    if self.trainer.epoch == 1 and os.environ["RANK"] == "1":
        self.trainer.train_loader.dataset.transforms.transforms[-1].bgr = 0.5
    real_look(self)
pipeline.Watch.__init__, pipeline.Watch.at_epoch_start = begin, look
"""


@pytest.mark.slow  # two processes
def test_two_ranks_go_back_to_ultralytics_loader_together(data: Path, tmp_path: Path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    done = train(data, tmp_path, *launcher, before=CHANGED_BY_A_SCRIPT, data_pipeline="gpu", close_mosaic=0)
    ranks = answers(done)
    assert [rank["loaders"] for rank in ranks] == [["PictureLoader", "OrderedLoader"]] * 2
    samples = [index for rank in ranks for indices, _ in rank["samples"] for index in indices]
    assert sorted(samples) == list(range(10))
    assert done.stderr.count("data pipeline: gpu -> cpu from epoch 2 on: a script changed") == 1
