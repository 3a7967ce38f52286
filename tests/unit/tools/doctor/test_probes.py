# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the doctor tries: on this machine, and where it goes wrong."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import threading
import types

import cv2
import numpy as np
import pytest
import torch

from yolov12.errors import UserError
from yolov12.model.attention.backends import BACKENDS
from yolov12.tools.doctor import probes

CPU = torch.device("cpu")


def picture(path) -> None:
    cv2.imwrite(str(path), np.full((32, 32, 3), 114, np.uint8))


def test_attention_on_this_machine_is_right():
    trial = probes.attention(CPU, images=1, limit_s=0.01)
    assert trial.difference <= trial.allowed
    assert min(trial.duration_ms, trial.plain_ms) > 0
    assert (trial.backend, trial.dtype) == ("sdpa-cpu", "fp32")


@pytest.mark.parametrize(
    "wrong", [lambda q, k, v: BACKENDS["plain"].run(q, k, v) * 1.01, lambda q, k, v: v * math.nan, lambda q, k, v: v]
)
def test_attention_that_is_wrong_is_over_what_is_allowed(monkeypatch, wrong):
    monkeypatch.setitem(BACKENDS, "sdpa-cpu", dataclasses.replace(BACKENDS["sdpa-cpu"], run=wrong))
    trial = probes.attention(CPU, images=1, limit_s=0.01)
    assert not trial.difference <= trial.allowed


def test_a_disk_is_written_and_left_as_it_was(tmp_path):
    assert probes.write_speed(tmp_path, 2**20).mb_per_s > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("size", "is_enough"), [(15 * 2**20, False), (16 * 2**20, True)])
def test_a_disk_is_judged_from_16_mib_on(tmp_path, size, is_enough):
    assert probes.write_speed(tmp_path, size).is_enough is is_enough


@pytest.mark.parametrize(
    ("changes", "is_enough"), [({}, False), ({"READ_FILES": 3}, True), ({"LEAST_BYTES": 100}, True)]
)
def test_a_few_small_pictures_are_too_little_to_judge_reading_by(tmp_path, monkeypatch, changes, is_enough):
    for index in range(3):
        picture(tmp_path / f"{index}.jpg")
    for name, value in changes.items():
        monkeypatch.setattr(probes, name, value)
    assert probes.read_speed(tmp_path).is_enough is is_enough


def test_reading_that_took_too_long_is_judged_however_little_it_was(tmp_path):
    picture(tmp_path / "0.jpg")
    assert probes.read_speed(tmp_path, limit_s=0.0).is_enough


def test_pictures_are_read_wherever_they_lie_and_other_files_are_not(tmp_path):
    assert probes.read_speed(tmp_path) is None
    (tmp_path / "labels.txt").write_text("0")
    (tmp_path / "images/train").mkdir(parents=True)
    for index in range(3):
        picture(tmp_path / f"images/train/{index}.jpg")
    speed = probes.read_speed(tmp_path, most_files=2)
    assert speed is not None
    assert speed.what.startswith("read 2 pictures")
    assert speed.pictures_per_s > 0


def test_the_loader_decodes_and_its_processes_bring_batches(monkeypatch):
    monkeypatch.setattr(probes, "DECODE_S", 0.01)
    trial = probes.loader(on_gpu=False)
    assert trial.pictures_per_s > 0
    assert trial.worker_failure == ""
    assert "OpenCV" in trial.decoder


@pytest.mark.parametrize(
    ("failures", "told"),
    [([], ("", "")), (["came too late"], ("", "came too late")), (["came too late", "died"], ("died", ""))],
)
def test_a_loader_process_that_fails_once_is_tried_again(monkeypatch, failures, told):
    answers = iter([*failures, ""])
    threads = threading.active_count()

    def failure(files):
        assert threading.active_count() == threads, "a process that forks beside our threads may hang"
        return next(answers)

    monkeypatch.setattr(probes, "_worker_failure", failure)
    monkeypatch.setattr(probes, "DECODE_S", 0.05)
    trial = probes.loader(on_gpu=False)
    assert (trial.worker_failure, trial.first_failure) == told


def test_a_loader_process_that_fails_is_the_reason(monkeypatch):
    class Dies:
        """A loader whose process dies; torch's own, taken down so, complains in threads of later tests."""

        def __init__(self, *arguments, **options) -> None:
            assert options["num_workers"] == 2

        def __iter__(self):
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error.")

    monkeypatch.setattr(torch.utils.data, "DataLoader", Dies)
    assert probes._worker_failure([]) == "DataLoader worker (pid 7) is killed by signal: Bus error."


def test_a_picture_that_can_not_be_read_is_an_error_of_its_process(tmp_path):
    with pytest.raises(RuntimeError, match="No such file"):
        probes.Pictures([str(tmp_path / "missing.jpg")])[0]


@pytest.mark.parametrize(
    ("out", "err", "verdict"),
    [("table\nverdict: good: 400 GB/s\n", "launch: 2", "good: 400 GB/s"), ("", "a\nerror: no", None)],
)
def test_the_verdict_of_nccl_test_is_taken_or_its_last_words(monkeypatch, out, err, verdict):
    ran = types.SimpleNamespace(stdout=out, stderr=err, returncode=75)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: ran)
    if verdict:
        assert probes.all_reduce(True) == verdict
    else:
        with pytest.raises(OSError, match=r"^error: no$"):
            probes.all_reduce(True)


def test_ranks_that_never_answer_are_an_error(monkeypatch):
    def late(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", late)
    with pytest.raises(OSError, match="no answer in 180 s"):
        probes.all_reduce(True)


def test_a_checkpoint_that_would_run_code_is_refused():
    assert not probes.runs_code_from_weights()


def test_a_reader_that_runs_code_is_noticed(monkeypatch):
    from yolov12.model import reading

    def careless(path, trust):
        torch.load(path, weights_only=False)
        raise UserError("no checkpoint")

    monkeypatch.setattr(reading, "read", careless)
    assert probes.runs_code_from_weights()
