# SPDX-License-Identifier: AGPL-3.0-or-later
"""The demo: its choices, its folder, and the tour itself. The tour as users get it is in the slow tier (minutes)."""

import re

import pytest

from yolov12.errors import UserError
from yolov12.export.parity import ParityError
from yolov12.tools import demo


def test_without_a_gpu_the_images_are_small():
    assert demo.choose(has_gpu=False, cores=2, args={}).imgsz == 160


def test_a_gpu_gets_full_size_images():
    assert demo.choose(has_gpu=True, cores=16, args={}).imgsz == 640


def test_device_cpu_on_a_machine_with_a_gpu_is_the_cpu_recipe():
    assert demo.choose(has_gpu=True, cores=16, args={"device": "cpu"}).imgsz == 160


def test_two_cores_load_images_in_the_training_process():
    assert demo.choose(has_gpu=False, cores=2, args={}).workers == 0
    assert demo.choose(has_gpu=False, cores=4, args={}).workers == 3


def test_what_the_user_gave_wins():
    recipe = demo.choose(has_gpu=False, cores=2, args={"epochs": 3, "imgsz": 96, "seed": 7, "out": "somewhere"})
    assert (recipe.epochs, recipe.imgsz, recipe.seed) == (3, 96, 7)


def test_an_unknown_option_is_named_beside_the_known_ones():
    with pytest.raises(UserError, match=r"no lr0=; it takes epochs=, imgsz="):
        demo.choose(has_gpu=False, cores=2, args={"lr0": 0.1})


@pytest.mark.parametrize("epochs", [0, -1, 2.5, "many"])
def test_a_number_of_epochs_that_makes_no_sense_is_refused(epochs):
    with pytest.raises(UserError, match=f"epochs={epochs} is not a positive whole number"):
        demo.choose(has_gpu=False, cores=2, args={"epochs": epochs})


def test_each_demo_gets_the_next_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(demo.folders, "runs_folder", lambda: (tmp_path / "runs", "a test"))
    assert [demo.make_folder(None).name for _ in range(3)] == ["demo-1", "demo-2", "demo-3"]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="is not empty"):
        demo.make_folder(tmp_path)


def test_a_folder_that_can_not_be_made_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can not write"):
        demo.make_folder(tmp_path / "file" / "out")


@pytest.fixture(scope="module")
def short_tour(tmp_path_factory):
    """A tour too short to learn anything, with what it said at its end."""
    recipe = demo.Recipe(epochs=1, imgsz=64, batch=4, train_images=8, val_images=4, workers=0)
    tour = demo.Tour(recipe, tmp_path_factory.mktemp("demo"))
    with pytest.raises(ParityError) as error:
        tour.run()
    return tour, str(error.value)


def test_a_model_that_finds_nothing_proves_nothing(short_tour):
    assert "Train longer" in short_tour[1]


def test_every_stage_leaves_its_files_in_one_folder(short_tour):
    out = short_tour[0].out
    assert sorted(path.name for path in out.iterdir()) == ["data", "export", "predict", "train", "val"]
    assert (out / "train" / "weights" / "best.pt").is_file()
    assert (out / "export" / "yolov12n.onnx").is_file()


def test_every_validation_picture_is_annotated_under_its_own_name(short_tour):
    out = short_tour[0].out
    pictures = sorted(path.name for path in (out / "data" / "images" / "val").iterdir())
    assert sorted(path.name for path in (out / "predict").iterdir()) == pictures


def test_every_stage_is_timed(short_tour):
    tour = short_tour[0]
    assert list(tour.seconds) == ["data", "train", "val", "predict", "export"]
    assert re.match(r"val +\d+\.\d s  mAP50 0\.\d{3}, mAP50-95 0\.\d{3}", next(x for x in tour.lines if x[:3] == "val"))


def test_the_summary_ends_with_a_command_to_type(tmp_path):
    tour = demo.Tour(demo.Recipe(1, 64, 4, 8, 4, 0), tmp_path / "my demo", seconds={"data": 1.4, "train": 58.0})
    *_, command = tour.summary(tour.out / "best.pt", tour.out / "val")
    assert f"model='{tmp_path}/my demo/best.pt' source='{tmp_path}/my demo/val'" in command


def test_the_hardware_comes_with_the_reason_for_the_kernel(capsys):
    demo._describe_hardware(demo.choose(has_gpu=False, cores=2, args={"device": "cpu"}))
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["hardware", "precision", "attention"]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_tour_finds_boxes_and_proves_the_export(tmp_path, capsys):
    assert demo.main({"out": tmp_path / "demo", "device": "cpu"}) == 0
    summary = capsys.readouterr().out
    assert re.search(r"raw outputs, ONNX against PyTorch \(allowed 1e-03\): max \d\.\de-0[4-9]", summary)
    assert int(re.search(r"boxes after NMS: (\d+) boxes", summary)[1]) >= 1
