# SPDX-License-Identifier: AGPL-3.0-or-later
"""The main job in the image: training on real photographs, as a stranger, on the CPU."""

import os
import time
from pathlib import Path

import pytest

from tests.image.harness import STRANGER, Image, docker, mount, wait_until

FIRST_STEP = """
import os
from ultralytics import YOLO
def end(trainer):
    print("\\nSTEPPED", flush=True)
    os._exit(0)
model = YOLO("yolo12n.yaml")
model.add_callback("on_train_batch_end", end)
model.train(data="bccd.yaml", epochs=1, imgsz=96, batch=4, workers=0, plots=False)
"""
QUICK = ("epochs=1", "imgsz=96", "batch=4", "workers=2", "plots=False")
SCRIPT = """
from ultralytics import YOLO
if __name__ == "__main__":
    model = YOLO("yolov12n.yaml")
    model.train(data="bccd.yaml", epochs=1, imgsz=96, batch=4, workers=2, plots=False, device="cpu")
    print("trainer:", type(model.trainer).__module__)
"""

# Eight pictures, more bytes in flight than there is shared memory. (Training on the CPU uses no workers.)
LOADER = """
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.data.utils import check_det_dataset
if __name__ == "__main__":
    YOLO("yolov12n.yaml")
    from ultralytics.models.yolo.detect import train
    data = check_det_dataset("bccd.yaml")
    dataset = train.build_yolo_dataset(get_cfg(overrides={"imgsz": 1280}), data["train"], 4, data)
    loader = train.build_dataloader(dataset, batch=4, workers=2, shuffle=False)
    pictures = sum(len(batch["img"]) for batch in loader)
    print(f"{loader.num_workers} workers, {pictures} pictures")
"""

pytestmark = pytest.mark.timeout(900)


def test_a_stranger_trains_on_real_photographs(image: Image, photo_workspace: Path):
    ran = image.run("train", "data=bccd.yaml", *QUICK, options=mount(photo_workspace, *STRANGER), timeout_s=600).check()
    print(ran)  # shown by .ci/run
    weights = photo_workspace / "runs/detect/train/weights/last.pt"
    assert weights.stat().st_uid == 12345


def test_the_first_training_step_comes_soon(image: Image, photo_workspace: Path):
    """Seconds on any machine; the benchmark `ready` measures them."""
    (photo_workspace / "first_step.py").write_text(FIRST_STEP)
    began_s = time.monotonic()
    ran = image.run("python", "first_step.py", options=mount(photo_workspace, *STRANGER), timeout_s=300).check()
    print(
        f"{image.name}: the first training step {time.monotonic() - began_s:.1f} s after `docker run`"
    )  # shown by .ci/run
    assert "\nSTEPPED" in ran.out


def test_docker_s_64_mib_of_shared_memory_are_enough_for_loader_workers(image: Image, photo_workspace: Path):
    (photo_workspace / "load.py").write_text(LOADER)
    ran = image.run("python", "load.py", options=mount(photo_workspace, *STRANGER)).check()
    assert ran.out.splitlines()[-1] == "2 workers, 8 pictures"
    assert "loader: workers hand batches over without shared memory: /dev/shm has 64 MiB free" in ran.out + ran.log


def test_root_trains_and_the_owner_of_the_folder_gets_the_outputs(
    image: Image, photo_workspace: Path, foreign_workspace: Path
):
    assert foreign_workspace == photo_workspace
    for path in photo_workspace.rglob("*"):
        os.chown(path, 1001, 1002)
    image.run("train", "data=bccd.yaml", *QUICK, options=mount(photo_workspace), timeout_s=600).check()
    made = list((photo_workspace / "runs").rglob("*"))
    assert made
    assert {path.stat().st_uid for path in made} == {1001}


def test_a_stock_script_trains_with_our_trainer(image: Image, photo_workspace: Path):
    (photo_workspace / "my_script.py").write_text(SCRIPT)
    ran = image.run("python", "my_script.py", options=mount(photo_workspace, *STRANGER), timeout_s=600).check()
    assert "trainer: yolov12." in ran.out
    assert (photo_workspace / "runs/detect/train/weights/best.pt").is_file()


def test_a_stock_script_trains_in_two_processes(image: Image, photo_workspace: Path):
    (photo_workspace / "my_script.py").write_text(SCRIPT)
    command = ("torchrun", "--standalone", "--nproc-per-node=2", "my_script.py")
    ran = image.run(
        *command, options=mount(photo_workspace, *STRANGER, "--env=OMP_NUM_THREADS=1"), timeout_s=600
    ).check()
    assert ran.out.count("trainer: yolov12.") == 2
    assert (photo_workspace / "runs/detect/train/weights/best.pt").is_file()


def test_train_py_trains_in_two_processes(image: Image, photo_workspace: Path):
    arguments = [word for pair in QUICK for word in (f"--{pair.split('=')[0]}", pair.split("=")[1])]
    command = (
        "torchrun",
        "--standalone",
        "--nproc-per-node=2",
        "train.py",
        "--data",
        "/workspace/bccd.yaml",
        *arguments,
    )
    options = mount(photo_workspace, *STRANGER, "--workdir=/root/yolov12", "--env=OMP_NUM_THREADS=1")
    image.run(*command, options=options, timeout_s=600).check()
    assert (photo_workspace / "runs/detect/train/weights/best.pt").is_file()


def test_two_machines_train_together(image: Image, photo_workspace: Path):
    """The launcher, started twice in one container as if on two machines."""
    launch = f"/root/yolov12/scripts/multinode.sh train data=bccd.yaml device=cpu {' '.join(QUICK)}"
    program = (
        f"export NNODES=2 MASTER_ADDR=127.0.0.1 GPUS_PER_NODE=1; NODE_RANK=1 {launch} & NODE_RANK=0 {launch}; wait $!"
    )
    options = mount(photo_workspace, *STRANGER, "--env=OMP_NUM_THREADS=1")
    image.run("bash", "-euc", program, options=options, timeout_s=600).check()
    assert (photo_workspace / "runs/detect/train/weights/best.pt").is_file()


def test_what_was_trained_validates_predicts_and_exports(image: Image, photo_workspace: Path):
    options = mount(photo_workspace, *STRANGER)
    image.run("train", "data=bccd.yaml", *QUICK, options=options, timeout_s=600).check()
    best = "model=runs/detect/train/weights/best.pt"
    image.run("val", best, "data=bccd.yaml", "imgsz=96", "plots=False", options=options, timeout_s=300).check()
    image.run("predict", best, "source=images/val", "imgsz=96", options=options, timeout_s=300).check()
    assert len(list((photo_workspace / "runs/detect/predict").glob("*.jpg"))) == 4
    image.run("export", best, "format=onnx", "imgsz=96", options=options, timeout_s=300).check()
    assert (photo_workspace / "runs/detect/train/weights/best.onnx").is_file()


def test_docker_stop_ends_training_with_a_checkpoint_and_143(image: Image, photo_workspace: Path):
    arguments = ("data=bccd.yaml", *QUICK, "epochs=500", "val=False")
    with image.started("train", *arguments, options=mount(photo_workspace, *STRANGER)) as container:
        wait_until(container, "2/500", timeout_s=300)
        began = time.monotonic()
        docker("stop", "--time", "30", container)
        assert time.monotonic() - began < 10
        assert docker("inspect", "--format", "{{.State.ExitCode}}", container) == "143"
    assert (photo_workspace / "runs/detect/train/weights/last.pt").is_file()


def test_a_label_outside_the_names_is_a_usage_error(image: Image, photo_workspace: Path):
    label = next((photo_workspace / "labels/train").iterdir())
    label.write_text("9 0.5 0.5 0.1 0.1\n")
    ran = image.run("train", "data=bccd.yaml", *QUICK, options=mount(photo_workspace, *STRANGER), timeout_s=300)
    assert (ran.code, label.name in ran.log) == (2, True)


def test_the_demo_runs_for_a_stranger(image: Image, workspace: Path):
    ran = image.run("demo", options=mount(workspace, *STRANGER), timeout_s=800).check()
    print(ran)
    assert list(workspace.rglob("*.onnx"))
