# SPDX-License-Identifier: AGPL-3.0-or-later
"""The verbs of the command line: what help says about each, what may follow it, and the function in verbs.py that it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from yolov12 import arguments, verbs
from yolov12.errors import NotYetError
from yolov12.export import request
from yolov12.verbs import Options

DEVICES = "device=  0 (the first GPU), 0,1, auto (all GPUs) or cpu; default: the first GPU, without one the CPU"


@dataclass(frozen=True)
class Verb:
    """One verb: what help says about it, what may follow it, and what it does."""

    name: str
    summary: str
    example: str
    run: Callable[[list[str], Options], int]
    """Takes the bare words and the options that are no settings; returns the exit code."""
    keys: Callable[[], Mapping[str, Any]] = dict
    """The valid keys besides the settings, with their defaults."""
    max_words: int = 0
    notes: tuple[str, ...] = field(default=())
    """Lines for `yolov12 VERB --help`."""


def _yolo_keys(*more: str) -> Callable[[], Mapping[str, Any]]:
    return lambda: arguments.ultralytics_defaults() | dict.fromkeys(more)


VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb(
            "train",
            "train a model",
            "train data=my.yaml model=yolov12n.yaml epochs=100 batch=64 device=auto",
            verbs.train,
            lambda: {**_yolo_keys("ddp", "recipe")(), "dry_run": False},
            notes=(
                "data=    required: a data set's yaml; synth is the bundled one",
                "model=   yolov12{n,s,m,l,x}.yaml from scratch, a .pt to start from; default yolov12n.yaml",
                "resume=  PATH/last.pt continues a run",
                "recipe=  paper, finetune, small-objects or edge: presets below what you type (docs/recipes.md)",
                "--dry-run  shows the processes, their GPUs and shares of the batch that this would start",
                DEVICES,
            ),
        ),
        Verb(
            "val",
            "validate a model",
            "val model=runs/detect/train/weights/best.pt data=my.yaml",
            verbs.val,
            _yolo_keys(),
            notes=("model=   required", "data=    default: what the weights were trained on", DEVICES),
        ),
        Verb(
            "predict",
            "find objects in pictures and videos",
            "predict model=yolov12n.pt source=pictures/",
            verbs.predict,
            _yolo_keys(),
            notes=(
                "model=   required",
                "source=  required: a file, folder, pattern, URL or camera number",
                "save=    False keeps no pictures",
                DEVICES,
                "         several GPUs share the files of a folder, a pattern or a list (docs/predict.md)",
            ),
        ),
        Verb(
            "export",
            "write a model for another runtime",
            "export model=runs/detect/train/weights/best.pt format=onnx",
            verbs.export,
            lambda: arguments.ultralytics_defaults() | request.OWN_KEYS | {"no_verify": False},
            notes=(*request.NOTES, DEVICES),
        ),
        Verb(
            "lr-find",
            "find the learning rate to train with",
            "lr-find data=my.yaml model=yolov12n.yaml batch=64",
            verbs.lr_find,
            _yolo_keys("ddp", "lr_min", "lr_max", "steps"),
            notes=(
                "data=    required; the other arguments of train count too: batch, imgsz, optimizer, device, ...",
                "lr_min=1e-6 lr_max=1 steps=100: from which learning rate to which, in how many updates",
                "writes lr_find.csv and lr_find.png, and says which lr0= to type (docs/lr-find.md)",
            ),
        ),
        Verb(
            "demo",
            "the whole tour on bundled data",
            "demo    |    demo out=FOLDER epochs=5 device=cpu    |    demo oom",
            verbs.demo,
            lambda: dict.fromkeys(verbs.tool("demo").OPTIONS),
            max_words=1,
            notes=(
                "out= names the folder; the other defaults depend on whether there is a GPU",
                "oom  trains twice, the second time beside a neighbour that takes half of the card in mid-run, and compares the weights;",
                "     without a GPU the card is simulated; exit code 1 if they are not what docs/memory.md promises",
            ),
        ),
        Verb(
            "data",
            "write a small data set, or check one",
            "data synth FOLDER n_train=64 n_val=16 seed=0    |    data check my.yaml",
            verbs.data,
            lambda: {"n_train": 64, "n_val": 16, "imgsz": 320, "seed": 0, "task": "detect"},
            max_words=2,
            notes=("task= is for check, the others for synth",),
        ),
        Verb(
            "convert",
            "bring official YOLOv12 weights into upstream's form",
            "convert OFFICIAL.pt CONVERTED.pt",
            verbs.convert,
            max_words=2,
        ),
        Verb(
            "env",
            "show versions, hardware, and the settings with their origins",
            "env    |    env --json",
            verbs.env,
            lambda: {"json": False, "markdown": False},
        ),
        Verb(
            "nccl-test",
            "measure the links between GPUs, and judge them",
            "nccl-test    |    nccl-test minbytes=1M maxbytes=1G ngpus=4",
            verbs.nccl_test,
            lambda: {"minbytes": "1M", "maxbytes": "256M", "stepfactor": 4, "iters": 20, "warmup_iters": 5, "ngpus": 0},
            notes=("one rank for each GPU here; under a launcher, such as srun, the ranks that it started",),
        ),
        Verb(
            "cache",
            "the engines that were built here",
            "cache ls    |    cache prune max_gib=2    |    cache verify",
            verbs.cache,
            lambda: {"max_gib": 0.0},
            1,
            ("prune without max_gib= removes all; exported engines stay, and stay trusted",),
        ),
        Verb(
            "doctor",
            "find what is wrong here, and what to type",
            "doctor    |    doctor data=my.yaml    |    doctor --json",
            verbs.doctor,
            lambda: {"data": None, "project": None, "deep": False, "json": False},
            notes=(
                "data=      also measure the disk that this data set lies on, and its room",
                "project=   look at this folder instead of where runs go by default",
                "deep       without a GPU: also whether ranks on the CPU reach each other",
                "exit code 1 where something failed; 0 if all is well, or could be better",
            ),
        ),
        Verb("verify", "prove what is inside", "verify    |    verify --json", verbs.verify, lambda: {"json": False}),
        Verb(
            "bench",
            "compare with stock ultralytics",
            "bench    |    bench memory,attention    |    bench list    |    bench run NAME    |    bench step",
            verbs.bench,
            notes=(
                "alone: all that this machine can run, small where there is no GPU, and one table; records go to runs/bench",
                "run, list and report: docs/benchmarks.md",
                "step  where a training step's time goes, and a trace: bench step model=yolov12n.yaml batch=64 imgsz=640 data=my.yaml",
                "      without data= on a drawn batch; also device=, steps=10 and out=FOLDER (docs/performance.md)",
            ),
        ),
    )
}

LATER = ("serve", "tune", "distill")
"""Announced, and not there yet."""


def not_yet(name: str) -> NotYetError:
    """The error of an announced verb."""
    from yolov12 import __version__

    return NotYetError(
        f"`yolov12 {name}` is planned and not in this version ({__version__}); `yolov12 help` lists what is"
    )
