# SPDX-License-Identifier: AGPL-3.0-or-later
"""The demo: its choices, its folder, and the tour itself. The tour as users get it is in the slow tier (minutes)."""

import io
import re
from contextlib import redirect_stderr

import pytest

from yolov12.errors import UserError
from yolov12.export import boxes, parity
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


def test_where_runs_can_not_go_the_argument_that_is_named_is_the_tours_own(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(demo.folders, "runs_folder", lambda: (tmp_path / "file" / "runs", "a test"))
    with pytest.raises(UserError, match=r"name one with out=FOLDER$"):
        demo.make_folder(None)


@pytest.fixture(scope="module")
def short_tour(tmp_path_factory):
    """A tour too short to learn anything, the error at its end, and what it said before."""
    recipe = demo.Recipe(epochs=1, imgsz=64, batch=4, train_images=8, val_images=4, workers=0)
    tour = demo.Tour(recipe, tmp_path_factory.mktemp("demo"))
    with pytest.raises(ParityError) as error, redirect_stderr(io.StringIO()) as said:
        tour.run()
    return tour, str(error.value), said.getvalue()


def test_a_model_that_finds_nothing_proves_nothing(short_tour):
    assert "Train longer" in short_tour[1]


def test_before_the_export_is_compared_it_says_that_it_will_be(short_tour):
    exporting = short_tour[2].partition("--- export ---")[2].partition("--- check ---")[0]
    assert "`check` comes next: it compares the file with the model" in exporting
    assert "verified" not in exporting


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


def test_the_summary_ends_with_a_command_for_data_of_ones_own_that_the_shell_finds(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "program", lambda: "/with space/yolov12")
    tour = demo.Tour(demo.Recipe(1, 64, 4, 8, 4, 0), tmp_path, seconds={"data": 1.4, "train": 58.0})
    *_, command, form = tour.summary(tmp_path / "data" / "data.yaml")
    assert command.endswith("'/with space/yolov12' train data=my.yaml model=yolov12n.yaml epochs=100")
    assert form.strip() == f"my.yaml is written like {tmp_path}/data/data.yaml"


def test_the_hardware_comes_with_the_reason_why_no_gpu_is_used():
    line = demo.hardware(demo.choose(has_gpu=False, cores=2, args={"device": "cpu"}))
    assert re.fullmatch(r"hardware: the CPU, \d+ cores \((device=cpu|torch sees no NVIDIA GPU)\)", line)


def test_every_stage_says_what_came_of_it_at_once(tmp_path, capsys):
    tour = demo.Tour(demo.Recipe(1, 64, 4, 8, 4, 0), tmp_path)
    with tour.stage("data"):
        pass
    tour.note("data", None, "8 images to train on")
    assert capsys.readouterr().err == "\n--- data ---\n8 images to train on\n"


def test_the_verdict_says_what_was_compared_and_that_it_is_equal():
    whole, beyond = (parity.Distance("output0", largest, 1e-7, 1.0, 9e-4) for largest in (3e-5, 1e-3))
    raw = parity.Parity((whole,), (beyond,), 16, (160, 160))
    same = boxes.BoxParity(16, 71, 71, 0, 0.99999, 4e-7)
    assert demo.verdicts(raw, same, 1e-3) == [
        "ok: the outputs of ONNX and PyTorch differ by at most 3.0e-05 (allowed 1e-03), on 16 images at 160x160",
        "ok: 71 of 71 boxes the same (least IoU 1.0000, scores within 4.0e-07)",
        "where nothing is seen they differ by at most 1.0e-03; PyTorch's own rounding: 9.0e-04",
    ]


def test_options_that_can_not_be_are_refused_before_the_folder_is_made(tmp_path):
    with pytest.raises(UserError, match="imgsz="):
        demo.main({"imgsz": [64, 96], "out": tmp_path / "demo"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_tour_finds_boxes_and_proves_the_export(tmp_path, capsys):
    assert demo.main({"out": tmp_path / "demo", "device": "cpu"}) == 0
    summary = capsys.readouterr().out
    assert re.search(r"ok: the outputs of ONNX and PyTorch differ by at most \d\.\de-0[4-9]", summary)
    assert int(re.search(r"ok: (\d+) of \1 boxes the same", summary)[1]) >= 1
