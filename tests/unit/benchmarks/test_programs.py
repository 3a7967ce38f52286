# SPDX-License-Identifier: AGPL-3.0-or-later
"""Each program with small parameters on the CPU. The numbers mean nothing here; that they come, from the right side, does."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import psutil
import pytest
import torch

from benchmarks import child, harness, kept_runs, record, system, training
from benchmarks.harness import Job

COMMAND = [sys.executable, "-m", "benchmarks"]


@pytest.fixture
def global_settings():
    """Put back what a side sets for its whole process."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = False
    torch.utils.deterministic.fill_uninitialized_memory = True


def run(records: Path, *arguments: str, expected: int = 0) -> dict:
    """The record of `python -m benchmarks run`, which ends with the expected exit code."""
    done = subprocess.run(
        [*COMMAND, "run", *arguments, "--records", str(records)], cwd=system.ROOT, capture_output=True, text=True
    )
    assert done.returncode == expected, done.stderr + "".join(log.read_text() for log in records.glob("*/*.log"))
    (path,) = records.glob("*/*.json")
    content = json.loads(path.read_text())
    jsonschema.validate(content, json.loads(record.SCHEMA.read_text()))
    return content


def job(name: str, side: str, rows: tuple[str, ...], scratch: Path, **parameters: object) -> Job:
    defaults = harness.discover()[name].parameters
    return Job(side, {**defaults, **parameters}, rows, scratch, time.monotonic())


@pytest.mark.timeout(900)  # two whole training processes, a minute of CPU time together
def test_a_training_run_gives_time_and_accuracy_for_both_sides(photos, tmp_path):
    small = {"epochs": 2, "imgsz": 32, "batch": 4, "workers": 0, "device": "cpu", "data": photos}
    settings = [text for key, value in small.items() for text in ("--set", f"{key}={value}")]
    content = run(tmp_path / "records", "bccd_wall", "--no-warmup", *settings)
    rows = {row["name"]: row for row in content["rows"]}
    assert all(len(row["stock"]) == len(row["ours"]) == 1 for row in rows.values())
    assert {side: declared["optimizer"] for side, declared in content["declared"].items()} == {
        "stock": "SGD",
        "ours": "SGD",
    }
    for side in ("stock", "ours"):
        wall_s, *phases_s = (rows[f"bccd_{name}"][side][0] for name in ("wall", "first_epoch", "epoch", "final"))
        assert sum(phases_s) == pytest.approx(wall_s), "with two epochs the phases are the whole"


@pytest.mark.timeout(900)  # two starts of each side
def test_the_first_step_of_both_sides_is_timed_with_empty_caches_and_with_those_of_the_first_start(photos, tmp_path):
    small = {"imgsz": 32, "batch": 4, "workers": 1, "device": "cpu", "data": photos}
    settings = [text for key, value in small.items() for text in ("--set", f"{key}={value}")]
    content = run(tmp_path / "records", "first_step", "--no-warmup", "--repeats", "1", *settings)
    cold, warm = content["rows"]
    said = r"YOLO imported at ([\d.]+) s, first batch asked for at ([\d.]+) s, there at ([\d.]+) s, step done at ([\d.]+) s"
    for row in (cold, warm):
        for side in ("stock", "ours"):
            times_s = [float(text) for text in re.search(f"{side}: {said}", row["note"]).groups()]
            assert times_s == sorted(times_s)
            assert times_s[-1] == pytest.approx(row[side][0], abs=0.051)
    assert content["declared"]["stock"]["batch"] == content["declared"]["ours"]["batch"] == 4
    (log,) = (tmp_path / "records").glob("*/*.log")
    for found_by_the_second_start in (
        r"train: Scanning \S*train\.cache\.\.\.",
        r"train: \S*train\.yolov12-cache: 4 images",
    ):
        assert len(re.findall(found_by_the_second_start, log.read_text())) == 1


def test_a_start_ends_with_the_workers_of_its_loader(tmp_path):
    code = """
import multiprocessing, signal, time
from benchmarks.programs import first_step
def fail(*_): raise RuntimeError("a worker went")
signal.signal(signal.SIGCHLD, fail)
worker = multiprocessing.Process(target=time.sleep, args=(600,))
worker.start()
print(worker.pid)
first_step.end_at_once()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=system.ROOT, **CAPTURE)
    wait_for(lambda: not command_of(psutil.Process(int(done.stdout))) if psutil.pid_exists(int(done.stdout)) else True)


def test_a_first_start_that_fails_leaves_nothing_for_a_second(monkeypatch, tmp_path):
    program = harness.discover()["first_step"].run_side
    failed = child.Run([], None, "exit code 1: no such model")
    made = []
    monkeypatch.setitem(program.__globals__, "_start_once", lambda job: made.append(job) or failed)
    measured = program(job("first_step", "ours", ("first_step_cold", "first_step_warm"), tmp_path))
    assert measured.failed == dict.fromkeys(("first_step_cold", "first_step_warm"), "exit code 1: no such model")
    assert len(made) == 1


@pytest.mark.timeout(900)  # four whole training processes side by side
def test_runs_under_a_budget_are_compared_with_unlimited_ones(photos, tmp_path):
    small = {"epochs": 1, "imgsz": 32, "batch": 4, "workers": 0, "device": "cpu", "data": photos, "seeds": 2}
    settings = [text for key, value in small.items() for text in ("--set", f"{key}={value}")]
    content = run(tmp_path / "records", "map_budget", *settings)
    difference, limited, unlimited = content["rows"]
    assert difference["ours"] == pytest.approx([limited["ours"][0] - unlimited["ours"][0]])
    assert "seed 0: " in limited["note"]
    assert "seed 1: " in unlimited["note"]
    assert content["declared"]["ours"]["optimizer"] == "SGD"


MAP_BUDGET = harness.discover()["map_budget"].run_side.__globals__


def compared(limited: list[float], unlimited: list[float]) -> harness.Measured:
    results = {}
    for name, maps in (("limited", limited), ("unlimited", unlimited)):
        results |= {(name, seed): MAP_BUDGET["Result"](value, "no GPU", {}) for seed, value in enumerate(maps)}
    return MAP_BUDGET["compared"](results)


def test_a_difference_of_means_is_noise_up_to_two_standard_errors():
    spread = [0.50, 0.56, 0.62]  # standard deviation 0.06: two standard errors are 0.0693
    assert "within the noise of 0.0693" in compared([0.49, 0.49, 0.50], spread).notes["map_budget"]
    assert "OUTSIDE the noise of 0.0693" in compared([0.48, 0.49, 0.50], spread).notes["map_budget"]


def test_a_hundredth_is_noise_however_near_the_seeds_are():
    near = [0.560, 0.561, 0.562]
    assert "within the noise of 0.0100" in compared([0.552, 0.552, 0.552], near).notes["map_budget"]
    assert "OUTSIDE the noise of 0.0100" in compared([0.550, 0.550, 0.550], near).notes["map_budget"]


def test_a_run_under_the_budget_that_fails_is_a_reason_and_not_a_difference():
    results = {
        ("unlimited", 0): MAP_BUDGET["Result"](0.5, "no GPU", {}),
        ("unlimited", 1): MAP_BUDGET["Result"](0.6, "no GPU", {}),
    }
    results |= {("limited", 0): MAP_BUDGET["Result"](0.5, "no GPU", {}), ("limited", 1): "exit code 75: out of memory"}
    measured = MAP_BUDGET["compared"](results)
    assert measured.values == {"map_budget_unlimited": pytest.approx(0.55)}
    assert measured.failed["map_budget"] == "seed 1: exit code 75: out of memory"


class Calls:
    """Calls of map_budget with a file of kept runs, whose training runs are made up; `made` are those of the last call."""

    def __init__(self, monkeypatch, folder: Path) -> None:
        self.folder, self.made, self.fails = folder, [], set()
        monkeypatch.setattr(kept_runs, "_start", lambda module, folder, asked: child.Started(None, folder))
        monkeypatch.setattr(child, "finished", self._finished)

    def _finished(self, started: child.Started) -> child.Run:
        self.made.append(started.folder.name)
        if started.folder.name in self.fails:
            return child.Run([], None, "exit code 1: a bug")
        return child.Run(["memory: batch 32 needs 1 GiB"], [0.5, "no GPU", {}, []])

    def call(self, **parameters: object) -> harness.Measured:
        self.made.clear()
        asked = {"kept": str(self.folder / "runs.json"), "data": "photos", "seeds": 3, **parameters}
        return MAP_BUDGET["run_side"](job("map_budget", "ours", (), self.folder, **asked))


def test_with_kept_runs_each_call_makes_one_seed_until_all_are_there(monkeypatch, tmp_path):
    calls = Calls(monkeypatch, tmp_path)
    for seed in (0, 1):
        unfinished = calls.call()
        assert calls.made == [f"limited-{seed}", f"unlimited-{seed}"]
        assert "seed 2: not run yet: the same call again makes the next seed" in unfinished.failed["map_budget"]
    measured = calls.call()
    assert calls.made == ["limited-2", "unlimited-2"]
    assert measured.values["map_budget"] == 0
    assert measured.notes["map_budget_limited"].count("batch 32 needs 1 GiB") == 3
    calls.call()
    assert calls.made == []


def test_a_failed_run_is_made_again_and_that_of_other_parameters_is_not_taken(monkeypatch, tmp_path):
    calls = Calls(monkeypatch, tmp_path)
    calls.fails = {"limited-0"}
    assert "seed 0: exit code 1: a bug" in calls.call(seeds=2).failed["map_budget"]
    calls.fails.clear()
    calls.call(seeds=2)
    assert calls.made == ["limited-0"]
    calls.call(seeds=2, epochs=7)
    assert calls.made == ["limited-0", "unlimited-0"]


def test_runs_of_another_device_are_not_taken(monkeypatch, tmp_path):
    calls = Calls(monkeypatch, tmp_path)
    calls.call(seeds=2)
    monkeypatch.setattr(system, "device", lambda gpus: "another-card")
    calls.call(seeds=2)
    assert calls.made == ["limited-0", "unlimited-0"]


MAP_PAIRED = harness.discover()["map_paired"].run_side.__globals__


@pytest.mark.slow  # eight whole training processes, four of them at a time
@pytest.mark.timeout(900)
def test_equal_seeds_of_both_sides_are_paired_over_both_data_sets(photos, tmp_path):
    small = {"bccd_epochs": 1, "synth_epochs": 1, "pictures": 4, "val_pictures": 2, "imgsz": 64, "batch": 4}
    small |= {"workers": 0, "device": "cpu", "data": photos, "seeds": 2, "kept": tmp_path / "runs.json"}
    settings = [text for key, value in small.items() for text in ("--set", f"{key}={value}")]
    rows = [row.name for row in harness.discover()["map_paired"].rows if row.name.startswith("map_paired")]
    run(tmp_path / "first", "map_paired", *settings, expected=1)
    content = run(tmp_path / "second", "map_paired", *settings, "--rows", ",".join(rows))
    difference, *means = [row["ours"][0] for row in content["rows"]]
    assert difference == pytest.approx(((means[1] - means[0]) + (means[3] - means[2])) / 2)
    assert re.search(r"bccd 0: \S+, bccd 1: \S+, synth 0: \S+, synth 1: \S+", content["rows"][0]["note"])
    assert content["declared"]["ours"]["optimizer"] == "SGD"


def paired(
    stock: list[float], ours: list[float], small: float | str = 0.1, our_settings: dict | None = None
) -> harness.Measured:
    """What is said of these mAP of seeds 0, 1, ..., the same on both data sets."""
    results = {}
    for side, maps in (("stock", stock), ("ours", ours)):
        for seed, value in enumerate(maps):
            settings = our_settings if side == "ours" and our_settings else {"deterministic": True}
            found = MAP_PAIRED["Result"](value, small, 7, settings)
            results |= {(f"{side}_{data}", seed): found for data in ("bccd", "synth")}
    return MAP_PAIRED["compared"](results)


def test_ours_is_within_down_to_half_a_hundredth_below_stock():
    near, below = paired([0.5, 0.5], [0.498, 0.493]), paired([0.5, 0.5], [0.498, 0.491])
    assert near.values["map_paired"] == pytest.approx(-0.0045)
    assert near.notes["map_paired"].startswith("within, which is at least -0.005; standard error 0.0014 over 4 pairs")
    assert below.notes["map_paired"].startswith("NOT WITHIN")
    assert near.values["map_paired_ours_bccd"] == pytest.approx(0.4955)
    assert "7 small objects in val" in near.notes["ap_small_paired_stock_bccd"]


@pytest.mark.parametrize(
    ("score", "words"), [(0.2, "take more with"), (0.5, ""), (0.8, "NOT BETWEEN 0.35 and 0.6: take fewer with")]
)
def test_a_drawn_set_that_is_too_easy_or_too_hard_for_stock_is_noted(score, words):
    note = paired([score, score], [0.5, 0.5]).notes["map_paired_stock_synth"]
    assert words in note
    assert ("NOT BETWEEN" in note) == bool(words)


def test_what_the_sides_declared_differently_is_noted_beside_their_difference():
    measured = paired([0.5, 0.5], [0.5, 0.5], our_settings={"deterministic": False})
    assert "DIFFERS deterministic: stock True, ours False" in measured.notes["map_paired"]


def test_without_an_evaluator_only_the_rows_of_small_objects_fail_and_say_what_to_install():
    measured = paired([0.5, 0.5], [0.5, 0.5], small=MAP_PAIRED["ap_small"].NOT_INSTALLED)
    assert measured.values["map_paired"] == 0
    assert {row for row in measured.failed if row.startswith("map")} == set()
    assert measured.failed["ap_small_paired"].startswith(
        "stock_bccd: seed 0, 1: faster-coco-eval is not installed, and not pinned here: pip install faster-coco-eval"
    )


def test_a_training_whose_batch_was_halved_for_want_of_memory_is_no_result(monkeypatch, tmp_path):
    class Model:
        trainer = SimpleNamespace(batch_size=16)

        def __init__(self, name: str) -> None: ...

        def add_callback(self, event: str, function: object) -> None: ...

        def train(self, **arguments: object) -> object:
            return SimpleNamespace(box=SimpleNamespace(map=0.5))

    monkeypatch.setattr(training, "yolo_class", lambda side: Model)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/data.yaml").touch()
    asked = {"model": "yolo12n.yaml", "batch": 32, "imgsz": 64, "workers": 0, "device": "cpu", "seed": 0, "epochs": 1}
    with pytest.raises(harness.BenchmarkError, match="trained with batch 16 instead of 32"):
        MAP_PAIRED["train"]({**asked, "side": "stock", "folder": str(tmp_path)})


@pytest.mark.parametrize(("name", "most"), [("map_budget", 6), ("map_paired", 4)])
def test_without_a_file_all_runs_are_made_and_so_many_share_the_device(monkeypatch, tmp_path, name, most):
    running, shared = set(), []

    def start(module: str, folder: Path, asked: dict) -> child.Started:
        running.add(folder)
        shared.append(len(running))
        return child.Started(None, folder)

    def finished(started: child.Started) -> child.Run:
        running.remove(started.folder)
        return child.Run([], None, "made up")

    monkeypatch.setattr(kept_runs, "_start", start)
    monkeypatch.setattr(child, "finished", finished)
    program = harness.discover()[name].run_side
    program(job(name, "ours", (), tmp_path, seeds=3, kept="", data="photos"))
    assert (max(shared), len(shared)) == (most, {"map_budget": 6, "map_paired": 12}[name])


def test_kept_runs_of_one_data_set_stay_when_the_other_is_changed(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(kept_runs, "_start", lambda module, folder, asked: child.Started(None, folder))
    monkeypatch.setattr(
        child, "finished", lambda started: made.append(started.folder.name) or child.Run([], [0.5, 0.1, 7, {}])
    )

    def call(**parameters: object) -> harness.Measured:
        made.clear()
        asked = {"kept": str(tmp_path / "runs.json"), "data": "photos", "seeds": 2, **parameters}
        return MAP_PAIRED["run_side"](job("map_paired", "ours", (), tmp_path, **asked))

    assert "not run yet" in call().failed["map_paired"]
    assert made == ["stock_bccd-0", "ours_bccd-0", "stock_synth-0", "ours_synth-0"]
    assert call().values["map_paired"] == 0
    call(pictures=7)
    assert made == ["stock_synth-0", "ours_synth-0"]
    monkeypatch.setattr(MAP_PAIRED["ap_small"], "evaluator", lambda: "99.0")
    call(pictures=7)
    assert len(made) == 4


class Clock:
    """A trainer's callbacks at given seconds."""

    def __init__(self, monkeypatch, tmp_path) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(training.time, "monotonic", lambda: self.now_s)
        self.watch = training.Watch(Job("stock", {}, (), tmp_path, started_s=100.0))
        self.callbacks: dict = {}
        self.watch.attach(SimpleNamespace(add_callback=self.callbacks.__setitem__))

    def at(self, second: float, event: str) -> None:
        self.now_s = 100.0 + second
        self.callbacks[event](None)


def test_the_wall_clock_is_split_into_first_epoch_median_epoch_and_what_follows(monkeypatch, tmp_path):
    clock = Clock(monkeypatch, tmp_path)
    clock.at(12, "on_train_start")
    for last_batch_s, end_s in [(30, 34), (36, 37), (38, 40), (49, 50)]:
        clock.at(last_batch_s, "on_train_epoch_end")
        clock.at(end_s, "on_fit_epoch_end")
    clock.at(55, "on_fit_epoch_end")  # of the final evaluation
    program = harness.discover()["bccd_wall"].run_side.__globals__
    measured = program["phases"](clock.watch, imported_s=5.0, wall_s=58.0)
    assert measured.values == {"bccd_wall": 58, "bccd_first_epoch": 34, "bccd_epoch": 3, "bccd_final": 8}
    assert measured.notes == {
        "bccd_first_epoch": "YOLO imported at 5.0 s, first batch asked for at 12.0 s, last batch through at 30.0 s",
        "bccd_epoch": "1.00 s of it after the last batch",
    }


def test_one_epoch_alone_has_no_median_of_further_ones(monkeypatch, tmp_path):
    clock = Clock(monkeypatch, tmp_path)
    clock.at(30, "on_train_epoch_end")
    clock.at(34, "on_fit_epoch_end")
    measured = harness.discover()["bccd_wall"].run_side.__globals__["phases"](clock.watch, 5.0, 40.0)
    assert measured.failed == {"bccd_epoch": "one epoch has no further ones"}
    assert measured.values["bccd_final"] == 6


def test_a_training_run_leaves_the_data_set_as_it_was(photos, tmp_path):
    before = sorted(photos.rglob("*"))
    training.prepare_dataset({"data": str(photos)}, tmp_path / "scratch")
    assert sorted(photos.rglob("*")) == before
    assert training.data_yaml(tmp_path / "scratch") == str(tmp_path / "scratch/data/bccd.yaml")


def test_label_caches_of_neither_side_are_copied(photos, tmp_path):
    for name in ("train.cache", "train.yolov12-cache"):
        (photos / "labels" / name).touch()
    training.copy_dataset(photos, tmp_path / "copy")
    assert (tmp_path / "copy/labels/train/0.txt").exists()
    assert not list((tmp_path / "copy/labels").glob("*cache"))


def test_a_folder_without_a_data_yaml_is_refused(tmp_path):
    with pytest.raises(harness.BenchmarkError, match="YOLOV12_BCCD or --set data="):
        training.prepare_dataset({"data": str(tmp_path)}, tmp_path / "scratch")


def test_plots_find_a_font_without_network(tmp_path):
    training.prepare_fonts(tmp_path)
    assert (tmp_path / "config/Ultralytics/Arial.ttf").stat().st_size > 100_000


def test_one_attention_row_is_measured_on_both_sides_and_lists_the_backends(tmp_path):
    small = ["--set", "device=cpu", "--set", "batch_divisor=64", "--set", "budget_ms=1", "--repeats", "1"]
    content = run(tmp_path / "records", "attention", "--rows", "attn_fwd_n_b1_bf16", *small)
    (row,) = content["rows"]
    assert row["stock"][0] > 0
    assert row["ours"][0] > 0
    assert "us per module, p4 + p5: plain " in row["note"]


def test_attention_trains_too(tmp_path):
    program = harness.discover()["attention"]
    row = "attn_fwdbwd_n_b1_bf16"
    measured = program.run_side(job("attention", "stock", (row,), tmp_path, device="cpu", budget_ms=1.0))
    assert measured.values[row] > 0


@pytest.mark.parametrize(("side", "deterministic"), [("stock", True), ("tuned", False)])
def test_a_training_step_is_measured_under_the_settings_it_declares(tmp_path, global_settings, side, deterministic):
    program = harness.discover()["train_step"]
    small = {"device": "cpu", "imgsz": 32, "batch_divisor": 32, "warmup_steps": 1, "steps": 1}
    measured = program.run_side(job("train_step", side, ("train_step_n_b64",), tmp_path, **small))
    assert measured.values["train_step_n_b64"] > 0
    assert measured.declared["deterministic"] is deterministic
    assert measured.notes["train_step_n_b64"] == "no GPU"


def test_augmentation_is_measured_on_both_sides(tmp_path):
    small = {"device": "cpu", "imgsz": 32, "batch": 2, "pictures": 4, "steps": 1}
    settings = [text for key, value in small.items() for text in ("--set", f"{key}={value}")]
    content = run(tmp_path / "records", "augment", *settings, "--repeats", "1")
    assert len(content["rows"]) == 2
    assert all(row[side][0] > 0 for row in content["rows"] for side in ("stock", "ours"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("side", ["stock", "ours"])
def test_training_from_files_gives_images_a_second(tmp_path, global_settings, monkeypatch, side):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = harness.discover()["train_e2e"]
    small = {"device": "cpu", "pictures": 8, "epochs": 2, "imgsz": 32, "batch_divisor": 64, "workers": 1}
    asked = job("train_e2e", side, ("train_e2e_n_2cores",), tmp_path, **small)
    program.prepare(asked.parameters, tmp_path)
    before = os.sched_getaffinity(0)
    measured = program.run_side(asked)
    assert measured.values["train_e2e_n_2cores"] > 0
    assert "1 further epochs" in measured.notes["train_e2e_n_2cores"]
    assert measured.declared["cache"] is False
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("row", ["mem_half_n_b256", "fits_s_b256_16g"])
def test_steps_under_a_limit_are_timed_and_their_plan_is_noted(tmp_path, global_settings, row):
    program = harness.discover()["memory"]
    small = {"device": "cpu", "imgsz": 64, "batch_divisor": 128, "warmup_steps": 1, "steps": 1}
    measured = program.run_side(job("memory", "ours", (row,), tmp_path, **small))
    assert measured.values[row] > 0
    assert "no plan on cpu" in measured.notes[row]
    assert list(measured.itself) == ([row] if row == "mem_half_n_b256" else [])


class Allocator:
    """Stands in for torch's on a GPU."""

    def __init__(self, monkeypatch) -> None:
        self.in_use = self.most = 0
        for name, answer in {
            "is_available": lambda: True,
            "max_memory_allocated": lambda: self.most,
            "max_memory_reserved": lambda: 2 * self.most,
            "reset_peak_memory_stats": self.reset,
        }.items():
            monkeypatch.setattr(torch.cuda, name, answer)

    def use(self, size: int) -> None:
        self.in_use, self.most = size, max(self.most, size)

    def reset(self, device: object = None) -> None:
        self.most = self.in_use


def test_a_peak_outlives_resets_by_the_program_that_is_measured(monkeypatch):
    allocator = Allocator(monkeypatch)
    allocator.use(9)
    allocator.use(1)
    with training.kept_peak() as peak:
        allocator.use(5)
        allocator.use(2)
        torch.cuda.reset_peak_memory_stats("cuda:0")
        allocator.use(3)
    assert (peak.allocated, peak.reserved) == (5, 10)  # and not 9, which was before
    assert torch.cuda.reset_peak_memory_stats == allocator.reset


def test_the_drop_in_is_read_in_fresh_interpreters(tmp_path):
    content = run(
        tmp_path / "records", "start", "--rows", "dropin_start_ms", "--set", "light_starts=2", "--repeats", "1"
    )
    (row,) = content["rows"]
    assert row["stock"][0] > 0
    assert row["ours"][0] > 0


def test_a_start_that_fails_is_a_reason_and_not_a_time(tmp_path, monkeypatch):
    program = harness.discover()["start"]
    monkeypatch.setitem(
        program.run_side.__globals__["PROCESSES"], ("cli_help_ms", "ours"), "raise SystemExit('broken')"
    )
    measured = program.run_side(job("start", "ours", ("cli_help_ms",), tmp_path, heavy_starts=1))
    assert measured.failed == {"cli_help_ms": "broken"}


@pytest.mark.slow
def test_the_exports_of_both_sides_are_timed(tmp_path):
    small = ["--rows", "ort_cpu_n", "--set", "imgsz=64", "--set", "calls=2", "--repeats", "1"]
    (row,) = run(tmp_path, "export", *small)["rows"]
    assert row["stock"][0] > 0
    assert row["ours"][0] > 0


def test_a_picture_on_the_host_becomes_boxes_on_the_host(tmp_path):
    small = {"device": "cpu", "imgsz": 64, "calls": 2, "warmup_calls": 1}
    measured = harness.discover()["infer"].run_side(job("infer", "ours", ("frame_to_boxes_n",), tmp_path, **small))
    assert measured.values["frame_to_boxes_n"] > 0
    assert re.fullmatch(r"p90 [\d.]+, p99 [\d.]+ ms of 2 calls; [1-9]\d* boxes", measured.notes["frame_to_boxes_n"])


@pytest.mark.slow  # two networks are made for each of three processes
@pytest.mark.timeout(900)
def test_answers_are_timed_on_all_sides_and_all_find_the_same(tmp_path):
    small = {
        "device": "cpu",
        "imgsz": 64,
        "files": 3,
        "val_images": 3,
        "calls": 3,
        "warmup_calls": 1,
        "batch_divisor": 64,
    }
    settings = [text for key, value in small.items() for text in ("--set", f"{key}={value}")]
    content = run(tmp_path / "records", "infer", *settings, "--set", "compile=", "--set", "workers=0", "--repeats", "1")
    rows = {row["name"]: row for row in content["rows"]}
    assert all(len(row[side]) == 1 for row in rows.values() for side in ("stock", "tuned", "ours"))
    assert all(rows[name]["ours"][0] > 0 for name in rows if name != "val_memory_n_b128")
    assert "p99 " in rows["infer_s_b32"]["note"]
    found = re.findall(r"(\d+) boxes", rows["frame_to_boxes_n"]["note"])
    assert len(set(found)) == 1
    assert int(found[0]) > 0


def test_every_program_declares_what_a_reader_must_know(tmp_path):
    done = subprocess.run(
        [*COMMAND[:2], "benchmarks.side", "start", "stock", "--rows", "dropin_start_ms"], cwd=system.ROOT, **CAPTURE
    )
    assert set(record.DECLARED) <= set(json.loads(done.stdout)["declared"])


def test_stopping_the_program_stops_the_side_that_it_runs(tmp_path):
    arguments = [
        "run",
        "start",
        "--rows",
        "dropin_start_ms",
        "--set",
        "light_starts=100000",
        "--records",
        str(tmp_path),
    ]
    parent = psutil.Popen([*COMMAND, *arguments], cwd=system.ROOT, stderr=subprocess.DEVNULL)
    side = wait_for(lambda: [child for child in parent.children() if "benchmarks.side" in command_of(child)])[0]
    parent.terminate()
    assert parent.wait(30) == 143
    wait_for(lambda: not command_of(side))


CAPTURE = {
    "capture_output": True,
    "text": True,
    "check": True,
    "env": {**os.environ, "PYTHONPATH": str(system.ROOT), "YOLOV12_DISABLE": "1"},
}


def command_of(process: psutil.Process) -> list[str]:
    """Its command line; nothing once it has ended, whether somebody waited for it or not."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def wait_for(condition, limit_s: float = 60):
    """What `condition` gives once it is true."""
    end_s = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end_s, "waited too long"
        time.sleep(0.05)
    return found


def test_files_that_were_not_compiled_count_as_their_nearest_kind():
    program = harness.discover()["flash_attn_build"].run_side.__globals__
    sample_s = {
        "flash_fwd_hdim32_fp16_sm80.cu": 1.0,
        "flash_fwd_hdim128_fp16_sm80.cu": 10.0,
        "flash_bwd_hdim32_fp16_sm80.cu": 100.0,
    }
    files = ["flash_fwd_hdim64_bf16_sm80.cu", "flash_fwd_hdim192_fp16_causal_sm80.cu", "flash_bwd_hdim256_fp16_sm80.cu"]
    assert program["extrapolated_s"](files, sample_s) == 1.0 + 10.0 + 100.0


@pytest.mark.parametrize("name", ["flash_attn_build", "flash_attn_archs"])
def test_a_flash_attention_build_without_its_sources_says_what_to_name(name, tmp_path):
    job = Job("ours", {"cuda_home": str(tmp_path), "sdist": str(tmp_path / "none.tar.gz")}, (), tmp_path, 0.0)
    with pytest.raises(harness.BenchmarkError, match=r"there is no sdist .*FLASH_ATTN_SDIST=PATH"):
        harness.discover()[name].run_side(job)


def test_the_wheel_is_measured_for_each_arch_that_has_code_of_its_own_and_for_all_of_them():
    archs = harness.discover()["flash_attn_archs"].run_side.__globals__["ARCHS"]
    source = (system.ROOT / "docker/flash_attn/build.py").read_text()
    (served,) = (line for line in source.splitlines() if line.startswith("CODE_FOR = "))
    codes = {code for code in ast.literal_eval(served.partition("=")[2].strip()).values() if code}
    assert {f"sm{code}": code for code in codes} == {name: code for name, code in archs.items() if name != "all"}
    assert set(archs["all"].split()) == codes


def test_every_variant_has_its_rows_and_those_of_the_same_layers_are_built_anew_once():
    program = harness.discover()["images"].run_side.__globals__
    bake = {"target": {"a": {"args": {"X": "1"}}, "a-b": {"args": {"X": "1"}}, "c": {"args": {"X": "2"}}}}
    names = [row.name for row in program["rows"](bake)]
    assert [name for name in names if name.endswith("_cold")] == ["image_a_cold", "image_c_cold"]
    assert {"image_a_b_cached", "image_a_b_size", "image_a_b_help"} <= set(names)


def test_an_image_that_can_not_be_built_does_not_hide_the_others(monkeypatch, tmp_path):
    program = harness.discover()["images"].run_side.__globals__

    def measure(kind: str, variant: str) -> tuple[float, str]:
        if variant == "train":
            raise subprocess.CalledProcessError(1, ["docker/build.sh"], stderr="steps\nbuild: too large\n")
        return 1.0, ""

    monkeypatch.setitem(program, "_measure", measure)
    rows = ("image_train_cold", "image_train_size", "image_train_nonroot_size", "image_deploy_size")
    measured = program["run_side"](job("images", "ours", rows, tmp_path))
    assert measured.failed == dict.fromkeys(rows[:2], "build: too large")
    assert measured.values == dict.fromkeys(rows[2:], 1.0)


def test_a_failed_build_says_why_in_the_words_of_the_step_that_failed():
    why_failed = harness.discover()["images"].run_side.__globals__["why_failed"]
    steps = "#11 23.66 fetch: ADDRESS\n------\n > [miniforge 1/1] RUN x:\n23.66 fetch: ADDRESS can not be fetched\n------\nERROR: failed to solve\n"
    assert why_failed(steps) == "fetch: ADDRESS can not be fetched"
    assert why_failed("steps\nbuild: too large\n") == "build: too large"
    assert why_failed("") == ""


def test_the_first_line_of_a_program_that_fails_is_no_time():
    first_line_s = harness.discover()["images"].run_side.__globals__["first_line_s"]
    assert first_line_s(["echo", "line"]) > 0
    with pytest.raises(subprocess.CalledProcessError):
        first_line_s(["bash", "-c", "echo line; exit 3"])


@pytest.mark.slow  # two whole trainings and six validations
@pytest.mark.timeout(900)
def test_both_sides_validate_the_same_weights_on_the_pictures_asked_for(tmp_path):
    small = {"images": 6, "train_images": 4, "epochs": 1, "batch": 4, "imgsz": 64, "workers": 0, "device": "cpu"}
    settings = [text for key, value in small.items() for text in ("--set", f"{key}={value}")]
    content = run(tmp_path / "records", "val", *settings, "--repeats", "1")
    rows = {row["name"]: row for row in content["rows"]}
    assert rows["val_5000_n_map50_95"]["ours"] == rows["val_5000_n_map50_95"]["stock"]
    assert "main process busy" in rows["val_5000_n"]["note"]
