# SPDX-License-Identifier: AGPL-3.0-or-later
"""The tour: data, training, validation, prediction, export and its proof, on whatever this machine has.

`make demo` and `docker run IMAGE demo` run it. It needs no network and no data, and everything it makes lies in one
folder. What went wrong ends it with the error of that stage.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolov12 import folders, settings
from yolov12.errors import UserError
from yolov12.log import program, say

if TYPE_CHECKING:
    from yolov12.export import boxes, parity

MODEL = "yolov12n.yaml"
LEAST_PICTURE_PX = 320
"""Pictures are drawn at least this large, so that the words on the boxes do not cover them."""
CONFIDENCE = 0.25
"""Boxes below this score are not shown: ultralytics' default for prediction."""
CHECKED_IMAGES = 16
"""Images on which the export is compared with its source."""
INDENT = " " * 19
"""Below the words of a line of the summary."""
OPTIONS = ("epochs", "imgsz", "batch", "device", "seed", "workers", "out")

Sizes = Mapping[str, Mapping[str, int]]
SIZES: Sizes = {
    "gpu": {"epochs": 20, "imgsz": 640, "batch": 16, "train_images": 400, "val_images": 80},
    "cpu": {"epochs": 8, "imgsz": 160, "batch": 8, "train_images": 200, "val_images": 40},
}


@dataclass(frozen=True)
class Recipe:
    """How much is trained on how much. Chosen so that boxes are found reliably, with time to spare."""

    epochs: int
    imgsz: int
    batch: int
    train_images: int
    val_images: int
    workers: int
    seed: int = 0
    device: str | int | None = None


def main(args: Mapping[str, Any]) -> int:
    """Run the tour and print where everything lies and the numbers; 0 when the exported model proved equal.

    Args:
        args: `epochs`, `imgsz`, `batch`, `device`, `seed` and `workers` change the recipe, `out` the folder.

    Raises:
        UserError: an option or a layer (disable_mas_layers) that the demo does not have, or a folder that is in use or can not be written.
        ParityError: the export differs from the model, or the model found nothing to compare.
    """
    choose(has_gpu=False, cores=1, args=args)  # refuses wrong options before torch is imported, which takes seconds
    refuse_unknown_layers()
    out = make_folder(args.get("out"))
    import torch

    recipe = choose(torch.cuda.is_available(), os.cpu_count() or 1, args)
    say(hardware(recipe))
    print("\n".join(Tour(recipe, out).run()))
    return 0


def choose(has_gpu: bool, cores: int, args: Mapping[str, Any], sizes: Sizes = SIZES) -> Recipe:
    """The recipe for this machine, with the user's changes.

    Args:
        sizes: how much is trained on a GPU and on the CPU.

    Raises:
        UserError: an option is unknown, or is no positive whole number.
    """
    if unknown := [name for name in args if name not in OPTIONS]:
        raise UserError(f"demo has no {unknown[0]}=; it takes {', '.join(f'{name}=' for name in OPTIONS)}")
    on_gpu = has_gpu and str(args.get("device")) != "cpu"
    changes = {name: value for name, value in args.items() if name != "out" and value is not None}
    for name in ("epochs", "imgsz", "batch"):
        if name in changes and (not isinstance(changes[name], int) or changes[name] < 1):
            raise UserError(f"{name}={changes[name]} is not a positive whole number; leave it out for the default")
    size: Mapping[str, Any] = sizes["gpu" if on_gpu else "cpu"]
    # A core for the network, the others for loading; with one or two, loading in the same process is faster.
    return Recipe(**{**size, "workers": min(cores - 1, 8) if cores > 2 else 0, **changes})


def refuse_unknown_layers() -> None:
    """Before a folder is made.

    Raises:
        UserError: `disable_mas_layers` names a layer that the model of the demo does not have.
    """
    if wanted := settings.current().disable_mas_layers:
        from yolov12 import YOLO
        from yolov12.engine.layers import names_of

        names_of(YOLO(MODEL).model, wanted)


def make_folder(asked: str | Path | None) -> Path:
    """The folder of this tour, empty: what was asked for, or the first free `demo-N` where runs go.

    Raises:
        UserError: it can not be made, or something is in it.
    """
    if asked is not None:
        out = Path(asked).absolute()
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"out={asked} is not empty; name a new folder, or leave it out")
        folders.check_writable(out, f"out={asked}")
        out.mkdir(parents=True, exist_ok=True)
        return out
    runs, _ = folders.runs_folder()
    folders.check_writable(runs, argument="out")
    runs.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        try:
            (runs / f"demo-{number}").mkdir()
        except FileExistsError:  # an earlier tour, or one that started at the same moment
            number += 1
        else:
            return runs / f"demo-{number}"


@dataclass
class Tour:
    """The stages in order; each leaves its line for the summary."""

    recipe: Recipe
    out: Path
    lines: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self) -> list[str]:
        """Go through all stages and return the summary."""
        from yolov12 import YOLO
        from yolov12.data import synth
        from yolov12.export import boxes, onnx, parity

        recipe, out = self.recipe, self.out
        common = {"imgsz": recipe.imgsz, "device": recipe.device, "project": str(out), "exist_ok": True}

        with self.stage("data"):
            size_px = max(recipe.imgsz, LEAST_PICTURE_PX)
            data = synth.write(out / "data", recipe.train_images, recipe.val_images, size_px, recipe.seed)
            pictures = out / "data" / "images" / "val"
        self.note("data", data, f"{recipe.train_images} images to train on, {recipe.val_images} to validate on")

        with self.stage("train"):
            model = YOLO(MODEL)
            model.train(data=str(data), name="train", **training_arguments(recipe), **common)
            best = out / "train" / "weights" / "best.pt"
        self.note("train", best, f"{recipe.epochs} epochs of {MODEL}")

        with self.stage("val"):
            scores = YOLO(best).val(data=str(data), name="val", workers=recipe.workers, **common).box
        self.note("val", out / "val", f"mAP50 {scores.map50:.3f}, mAP50-95 {scores.map:.3f}")

        with self.stage("predict"):
            found = YOLO(best).predict(pictures, save=True, conf=CONFIDENCE, verbose=False, name="predict", **common)
        self.note("predict", out / "predict", f"{len(found)} pictures, {sum(map(len, found))} boxes")

        with self.stage("export"):
            # Compared below, on pictures of the kind that it was trained on and after NMS too.
            exported = onnx.export(YOLO(best), out / "export" / "yolov12n.onnx", imgsz=recipe.imgsz, verify=False)
            say("`check` comes next: it compares the file with the model")
        self.note("export", exported, f"{exported.stat().st_size / 2**20:.1f} MiB")

        with self.stage("check"):
            checked = sorted(pictures.glob("*.jpg"))[:CHECKED_IMAGES]
            raw = parity.require_raw(parity.compare_raw(YOLO(best).model, exported, checked))
            both = (boxes_of(YOLO(best), recipe.imgsz), boxes_of(YOLO(exported, task="detect"), recipe.imgsz))
            same = boxes.require_boxes(boxes.compare_boxes(*both, checked))
        verdict, *details = verdicts(raw, same, parity.RAW_THRESHOLD)
        self.note("check", None, verdict)
        self.lines += [f"{INDENT}{line}" for line in details]
        return self.summary(data)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage and time it."""
        say(f"\n--- {name} ---")
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start

    def note(self, name: str, place: Path | None, words: str) -> None:
        """A line of the summary, said at once too; `place` is shown as the user would type it."""
        say(words)
        self.lines.append(f"{name:8} {self.seconds[name]:6.1f} s  {words}")
        if place is not None:
            self.lines.append(f"{INDENT}{typed(place)}")

    def summary(self, data: Path) -> list[str]:
        """The final block."""
        total = sum(self.seconds.values())
        size = f"{self.recipe.imgsz}x{self.recipe.imgsz}"
        return [
            "",
            f"demo finished in {total:.0f} s at {size} pixels; everything lies in {typed(self.out)}",
            *self.lines,
            f"next     your own data: {shlex.quote(program())} train data=my.yaml model={MODEL} epochs=100",
            f"{INDENT}my.yaml is written like {typed(data)}",
        ]


def verdicts(raw: parity.Parity, same: boxes.BoxParity, allowed: float) -> list[str]:
    """The comparison of the exported model with its source, for people, after it was found good enough."""
    height, width = raw.height_width
    lines = [
        f"ok: the outputs of ONNX and PyTorch differ by at most {raw.max_abs_diff:.1e} (allowed {allowed:.0e}), "
        f"on {raw.images} images at {width}x{height}",
        f"ok: {same.exported_boxes} of {same.source_boxes} boxes the same (least IoU {same.least_iou:.4f}, "
        f"scores within {same.largest_score_difference:.1e})",
    ]
    return lines + [
        f"where nothing is seen they differ by at most {part.max_abs_diff:.1e}; PyTorch's own rounding: {part.rounding:.1e}"
        for part in raw.unseen
    ]


def training_arguments(recipe: Recipe) -> dict[str, Any]:
    """What differs from ultralytics' defaults, which are made for hundreds of epochs on a large data set."""
    return {
        "epochs": recipe.epochs,
        "batch": recipe.batch,
        "workers": recipe.workers,
        "seed": recipe.seed,
        "nbs": recipe.batch,  # an update per batch: accumulating to 64 images would leave too few of them
        "optimizer": "AdamW",
        "lr0": 0.003,
        "warmup_epochs": 1,
        "mosaic": 0.0,  # four images in one make objects too small at these sizes
        "close_mosaic": 0,
        "verbose": False,
    }


def boxes_of(model: Any, imgsz: int) -> Any:
    """A function image -> boxes after NMS (n, 6), on the CPU; rect=False because a fixed ONNX input is square."""

    def predict(image: Any) -> Any:
        (result,) = model.predict(image, imgsz=imgsz, conf=CONFIDENCE, rect=False, device="cpu", verbose=False)
        return result.boxes.data.cpu().numpy()

    return predict


def hardware(recipe: Recipe) -> str:
    """The first line: what was found. Number format and kernels are told by the training, with their reasons."""
    import torch

    if torch.cuda.is_available() and str(recipe.device) != "cpu":
        properties = torch.cuda.get_device_properties(torch.device("cuda"))
        return f"hardware: {properties.name}, {properties.total_memory / 2**30:.0f} GiB, {os.cpu_count()} CPU cores"
    why = "device=cpu" if torch.cuda.is_available() else "torch sees no NVIDIA GPU"
    return f"hardware: the CPU, {os.cpu_count()} cores ({why})"


def typed(path: Path) -> str:
    """A path as short as it can be typed from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
