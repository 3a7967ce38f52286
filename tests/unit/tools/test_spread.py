# SPDX-License-Identifier: AGPL-3.0-or-later
"""Predictions by several processes: who takes which file, where they write, and what the end of one of them means. On the CPU."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from yolov12 import folders, verbs
from yolov12.data import synth
from yolov12.distributed import devices
from yolov12.tools import spread


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "WORKSPACE", tmp_path / "no-workspace")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def pictures(tmp_path):
    synth.write(tmp_path / "data", 1, 5, 64, 0)
    return tmp_path / "data" / "images" / "val"


def four_gpus():
    return [devices.Gpu(index, "H100", 70 * 2**30, 80 * 2**30) for index in range(4)]


@pytest.mark.parametrize(
    ("count", "dealt"), [(1, [list("abcde")]), (2, [list("ace"), list("bd")]), (9, [["a"], ["b"], ["c"], ["d"], ["e"]])]
)
def test_every_file_is_dealt_once_and_nobody_goes_without(count, dealt):
    assert spread.shares("abcde", count) == dealt


def test_files_whose_results_would_have_one_name_go_to_one_process():
    assert spread.shares(["a-2.jpg", "a.jpg", "b.jpg", "c/a.png"], 2) == [["a-2.jpg", "a.jpg", "c/a.png"], ["b.jpg"]]
    assert spread.shares(["a.jpg", "b/a.jpg"], 2) == [["a.jpg", "b/a.jpg"]]
    assert spread.shares(["a-1.jpg", "a-2.jpg", "a-3.jpg"], 2) == [
        ["a-1.jpg", "a-3.jpg"],
        ["a-2.jpg"],
    ]  # a camera's numbers


@pytest.mark.parametrize("source", ["0", "rtsp://camera/1", "https://x/y.mp4", "screen 1", "all.streams", 0])
def test_a_stream_has_no_files(source):
    assert spread.files_of(source) == []


def test_a_folder_a_pattern_and_a_list_have_the_files_that_ultralytics_finds(pictures, tmp_path):
    names = sorted(map(str, pictures.iterdir()))
    (tmp_path / "list.txt").write_text("\n".join(names[:2]))
    assert spread.files_of(str(pictures)) == names
    assert spread.files_of(f"{pictures}/*.jpg") == names
    assert spread.files_of("list.txt") == names[:2]


@pytest.mark.parametrize(
    ("device", "places"), [(None, []), ("cpu", []), (1, ["1"]), ("0,2", ["0", "2"]), ([0, 1], ["0", "1"])]
)
def test_only_several_gpus_share(pictures, device, places):
    found, files = spread.places_and_files({"device": device, "source": str(pictures)})
    assert found == places
    assert len(files) == (5 if len(places) > 1 else 0)


def test_auto_means_all_gpus_or_the_cpu(pictures, monkeypatch):
    asked = {"device": "auto", "source": str(pictures)}
    monkeypatch.setattr(devices, "visible_gpus", list)
    assert spread.places_and_files(asked) == (["cpu"], [])
    monkeypatch.setattr(devices, "visible_gpus", four_gpus)
    places, files = spread.places_and_files(asked)
    assert (places, len(files)) == (["0", "1", "2", "3"], 5)


def test_what_can_not_be_shared_is_said(pictures, capsys):
    one = str(next(pictures.iterdir()))
    assert spread.places_and_files({"device": "0,1", "source": one}) == (["0", "1"], [])
    assert f"source={one} can not be shared, so device=0 takes it alone" in capsys.readouterr().err


def test_a_rank_of_a_launcher_shares_with_nobody(pictures, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert spread.places_and_files({"device": "0,1", "source": str(pictures)}) == ([], [])


@pytest.fixture
def programs(monkeypatch):
    """Stand-ins for the processes: each is given by its device."""
    commands = []

    def use(**codes):
        real = subprocess.Popen

        def start(command, env):
            words = dict(word.split("=", 1) for word in command[4:])
            commands.append((words, Path(words["source"]).read_text().split()))
            return real([sys.executable, "-c", codes[words["device"]]])

        monkeypatch.setattr(spread.subprocess, "Popen", start)
        return commands

    return use


def test_each_process_gets_its_files_its_device_and_one_folder(programs, tmp_path):
    commands = programs(a="", b="")
    options = {"model": "best.pt", "source": "pictures", "device": "0,1", "classes": [0, 2], "conf": None, "name": "x"}
    assert spread.main(options, "detect", ["1.jpg", "2.jpg", "3.jpg"], ["a", "b"]) == 0
    folder = str(tmp_path / "runs" / "detect" / "x")
    (first, files_a), (second, files_b) = commands
    assert (files_a, files_b) == (["1.jpg", "3.jpg"], ["2.jpg"])
    assert (first["device"], second["device"]) == ("a", "b")
    assert first["save_dir"] == second["save_dir"] == folder
    assert first["classes"] == "[0, 2]"
    assert not {"conf", "name", "project"} & first.keys()
    assert not Path(first["source"]).exists()


def test_a_star_in_a_name_is_part_of_it(programs, tmp_path, monkeypatch):
    """ultralytics looks for what such a line of a list stands for."""
    from ultralytics.data.loaders import LoadImagesAndVideos

    for name in ("a*b.jpg", "ab.jpg"):
        (tmp_path / name).write_bytes(b"")
    commands = programs(a="", b="")
    files = [str(tmp_path / "a*b.jpg"), str(tmp_path / "ab.jpg")]
    assert spread.main({"model": "best.pt"}, "detect", files, ["a", "b"]) == 0
    for (_, lines), expected in zip(commands, files, strict=True):
        (tmp_path / "list.txt").write_text("\n".join(lines))
        assert LoadImagesAndVideos(str(tmp_path / "list.txt")).files == [expected]


def test_the_first_that_fails_ends_the_others(programs, capsys):
    programs(a="import time; time.sleep(60)", b="raise SystemExit(2)")
    began_s = time.monotonic()
    assert spread.main({"model": "best.pt"}, "detect", ["1.jpg", "2.jpg"], ["a", "b"]) == 2
    assert time.monotonic() - began_s < 30
    assert "the process of device=b ended with exit code 2" in capsys.readouterr().err


def test_a_process_that_was_killed_is_a_failure(programs):
    programs(a="import os; os.kill(os.getpid(), 9)")
    assert spread.main({"model": "best.pt"}, "detect", ["1.jpg"], ["a"]) == 137


def test_a_second_run_gets_a_folder_of_its_own(tmp_path):
    (tmp_path / "runs" / "detect" / "predict").mkdir(parents=True)
    assert spread.folder_of({}, "detect").name == "predict-2"
    assert spread.folder_of({"exist_ok": True}, "detect").name == "predict"
    assert spread.folder_of({"save_dir": "here"}, "detect") == Path("here")


@pytest.mark.slow  # three processes that import torch
def test_two_processes_write_what_one_writes(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(verbs.__file__).parents[1]))
    from ultralytics import YOLO

    YOLO("yolo12n.yaml").save("fresh.pt")
    common = {"model": "fresh.pt", "imgsz": 64, "save_txt": True, "conf": 0.0001, "max_det": 3, "save": True}
    files = spread.files_of(str(pictures))
    assert spread.main({**common, "name": "two"}, "detect", files, ["cpu", "cpu"]) == 0
    assert verbs.predict([], {**common, "name": "one", "source": str(pictures), "device": "cpu"}) == 0
    runs = tmp_path / "runs" / "detect"
    one, two = ({path.relative_to(runs / name): path for path in (runs / name).rglob("*.*")} for name in ("one", "two"))
    assert sorted(one) == sorted(two)
    assert len(one) == 10  # a picture and a text for each
    assert all(path.read_bytes() == two[name].read_bytes() for name, path in one.items())
