# SPDX-License-Identifier: AGPL-3.0-or-later
"""What each verb of the command line does; verb_table.py says how it is typed.

Everything heavy is imported inside the verb that needs it, so that help stays instant.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from itertools import chain, count
from pathlib import Path
from typing import Any

from yolov12 import early, folders, recipes, sigterm
from yolov12.distributed import launchers
from yolov12.errors import RetryableError, UserError
from yolov12.export import exported
from yolov12.log import program, say, without

YAML = (".yaml", ".yml")

DEFAULT_MODEL = "yolov12n.yaml"

REPOSITORY = Path("/root/yolov12")
"""Where the image keeps the repository's programs."""

BENCH_VERBS = ("suite", "list", "run", "report", "step")
"""What `python -m benchmarks` takes (benchmarks/__main__.py)."""

Options = dict[str, Any]


def train(words: list[str], options: Options) -> int:
    """Train; without `model=` yolov12n.yaml, which is said."""
    del words
    place = launchers.adopt()  # before ultralytics is imported, which reads RANK
    dry_run = options.pop("dry_run", False)
    resume = options.get("resume")
    if resume and options.get("recipe") is not None:
        raise UserError(
            f"recipe={options['recipe']}: a run that is resumed keeps the arguments that it began with: leave recipe= out"
        )
    options = _with_recipe(options)
    if isinstance(resume, str):
        early.check_resume(resume)
        options["model"], options["resume"] = resume, True
    elif resume and not options.get("model"):
        raise UserError("resume=True does not say which run: type resume=runs/detect/train/weights/last.pt")
    if not options.get("data") and not resume:
        raise UserError("train needs a data set: type data=my.yaml, or data=synth for the bundled one")
    early.check_amp(options)
    early.check_address(options)
    _refuse_early(options, check_folder=not resume)
    if options.get("model"):
        exported.refuse_training(str(options["model"]))
    else:
        options["model"] = DEFAULT_MODEL
        say(f"model={DEFAULT_MODEL} (the default: the smallest, from scratch)")
    if dry_run:
        from yolov12.engine import dryrun

        return dryrun.show(options, place)
    model = _model(options)
    if resume:
        _check_resumable(model, options["model"])
    options = _call_arguments(options)
    if options.get("data"):
        options["data"] = _checked_data(options["data"], model.task, bool(options.get("single_cls")))
    started_s = time.time()
    try:
        model.train(**(options if resume else _with_project(options, model.task)))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_what_is_saved(model, 0.0 if resume else started_s)) from None
    return 0


def val(words: list[str], options: Options) -> int:
    """Validate; without `data=` on the data set that the weights were trained on."""
    del words
    _require(options, "val", model="yolov12n.pt")
    untrained = f"model={options['model']} does not say what it was trained on: type data=my.yaml"
    if not options.get("data") and Path(str(options["model"])).suffix in YAML:
        raise UserError(untrained)
    early.check_address(options)
    _refuse_early(options)
    early.check_pictures_per_call("val", options.get("batch"))
    model = _model(options)
    if not (name := options.get("data") or model.overrides.get("data")):
        raise UserError(untrained)
    options["data"] = _checked_data(name, model.task, bool(options.get("single_cls")))
    _check_channels(model, options)
    model.val(**_with_project(_call_arguments(options), model.task))
    return 0


def predict(words: list[str], options: Options) -> int:
    """Predict, and save the annotated pictures unless `save=False`. Several GPUs share the files of a folder."""
    del words
    _require(options, "predict", model="yolov12n.pt", source="pictures/")
    options.setdefault("save", True)
    _refuse_early(options, check_folder=bool(options["save"]))
    early.check_pictures_per_call("predict", options.get("batch"))
    model = _model(options)
    places, files = tool("spread").places_and_files(options)
    if files:
        return tool("spread").main(options, model.task, files, places)
    options |= {"device": places[0]} if places else {}
    # As a stream: results of a long video do not pile up in memory.
    taken: set[str] = set()
    seen = False
    with without("Results saved to", "ultralytics", unless=lambda: seen):  # said of none too (engine/predictor.py:454)
        for result in model.predict(stream=True, **_with_project(_call_arguments(options), model.task)):
            seen = True
            if options["save"]:
                _require_saved(result, taken)
    # A list may be one process's share of a folder (tools/spread.py): the others are not ended for it.
    if not seen and not str(options["source"]).endswith(".txt"):
        raise UserError(f"source={options['source']}: nothing in it could be read as a picture or a video")
    return 0


def export(words: list[str], options: Options) -> int:
    """Export beside the weights, compare with them, and print the path of what was made."""
    del words
    _require(options, "export", model="runs/detect/train/weights/best.pt")
    if options.pop("no_verify", False):
        options["verify"] = False
    _refuse_early(options, check_folder=False)
    exported.refuse(str(options["model"]), options.get("format"))
    early.check_export({"format": "onnx"} | _call_arguments(options))
    weights = Path(str(options["model"]))
    if weights.is_file():
        folders.check_writable(weights.absolute().parent, f"model={weights}")
    if not options.get("format"):
        options["format"] = "onnx"
        say("format=onnx (the default; format=torchscript, engine, ... for others)")
    model = _model(options)
    if options.get("data"):
        options["data"] = _bundled_or(options["data"])
        _check_channels(model, options)
    with sigterm.as_an_exception():
        print(model.export(**_call_arguments(options)))
    return 0


def lr_find(words: list[str], options: Options) -> int:
    """A learning-rate range test on the trainer that `train` would use."""
    del words
    launchers.adopt()  # as in train
    _require(options, "lr-find", data="my.yaml")
    typed = dict(options)
    options = _with_recipe(options)
    typed["model"] = options.setdefault("model", DEFAULT_MODEL)
    early.check_amp(options)
    early.check_address(options)
    lr_find_keys = ("lr_min", "lr_max", "steps")
    _refuse_early({key: value for key, value in options.items() if key not in lr_find_keys})
    model = _model(options)
    options["data"] = _checked_data(options["data"], model.task, bool(options.get("single_cls")))
    return tool("lr_find").main(model, _with_project(_call_arguments(options), model.task), typed)


def cache(words: list[str], options: Options) -> int:
    """`cache ls`, `cache prune` and `cache verify`: the engines that were built here."""
    return tool("cache").main(words, options)


def env(words: list[str], options: Options) -> int:
    """Print what this runs on and the settings with their origins; the settings for programs as JSON, for the documentation as a table."""
    del words
    from yolov12 import settings_page

    if options.get("markdown"):
        print(settings_page.markdown_table(), end="")
        return 0
    rows = settings_page.describe()
    if options.get("json"):
        print(json.dumps(settings_page.as_records(rows), indent=2))
        return 0
    print("\n".join(tool("surroundings").lines()), settings_page.as_table(rows), sep="\n\n")
    return 0


def verify(words: list[str], options: Options) -> int:
    """Compare what is installed with what was promised."""
    return tool("verify").main(options)


def convert(words: list[str], options: Options) -> int:
    """Convert an official checkpoint to upstream's form."""
    if len(words) != 2:
        raise UserError("convert needs two files: yolov12 convert OFFICIAL.pt CONVERTED.pt")
    del options
    source, target = map(Path, words)
    if not source.is_file():
        raise UserError(f"{source}: there is no such file")
    folders.check_writable(target.absolute().parent, str(target))
    from yolov12.model.weights import convert_file

    print("\n".join(convert_file(source, target).lines()))
    return 0


def data(words: list[str], options: Options) -> int:
    """`data synth OUT` writes a small data set, `data check FILE` reads one as training would."""
    from yolov12.data.command import run

    if words[:1] == ["check"]:
        early.check(options)
    print("\n".join(run(words, options)))
    return 0


def demo(words: list[str], options: Options) -> int:
    """The whole tour on the bundled data set; `demo oom` runs out of memory on the way, and goes on."""
    if words not in ([], ["oom"]):
        raise UserError(f"demo knows no {words[0]!r}: type yolov12 demo, or yolov12 demo oom")
    early.check_amp(options)
    early.check({key: value for key, value in options.items() if key != "out"})
    return tool("demo_oom" if words else "demo").main(options)


def nccl_test(words: list[str], options: Options) -> int:
    """Measure the links between the ranks of a run; exit code 1 where a sum was wrong."""
    del words
    return tool("nccl_test").main(options)


def doctor(words: list[str], options: Options) -> int:
    """Look at everything that training depends on here, and say what to type where something is wrong."""
    del words
    if options.get("data"):
        options["data"] = _bundled_or(options["data"])
    return tool("doctor").main(options)


def bench(words: list[str], options: Options) -> int:
    """Run the benchmarks of the repository in the current folder, or of the image; `words` are theirs, unread."""
    del options
    folder = next((found for found in (Path.cwd(), REPOSITORY) if (found / "benchmarks/__main__.py").is_file()), None)
    if folder is None:
        raise UserError(
            f"bench runs the folder `benchmarks`, and {Path.cwd()} has none: run it in a clone of the repository"
        )
    if not words or words[0] not in BENCH_VERBS:  # nothing, or names
        words = ["suite", "--records", str(folders.runs_folder()[0] / "bench"), *words]  # one that is typed wins
    # `step` is told of files of the user's, as seen from here.
    place: dict[str, Any] = {"cwd": folder}
    if words[0] == "step":
        place = {"env": {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}}
    return subprocess.run([sys.executable, "-m", "benchmarks", *words], **place, check=False).returncode


def _require_saved(result: Any, taken: set[str]) -> None:
    """Look whether the annotated picture is there and whole: ultralytics does not (engine/predictor.py:589), and a full disk would lose it silently.

    Args:
        result: of one picture; those of videos and streams are passed over.
        taken: names of the pictures before; a second one of a name gets a number behind it, as in ultralytics (engine/predictor.py:508).

    Raises:
        RetryableError: it is not.
    """
    from yolov12.data import pictures

    source = Path(result.path)
    if source.suffix[1:].lower() not in pictures.FORMATS:
        return
    name = next(one for one in chain([source.stem], (f"{source.stem}-{k}" for k in count(2))) if one not in taken)
    taken.add(name)
    saved = Path(result.save_dir) / f"{name}.jpg"
    if pictures.damage(str(saved))[0] != "keep":
        saved.unlink(missing_ok=True)
        raise RetryableError(f"{saved} can not be written: make room there and run the same command again")


def _with_recipe(options: Options) -> Options:
    """The options with those of `recipe=` below them, which is said.

    Raises:
        UserError: no such recipe, or the model is none that it is for.
    """
    others = {key: value for key, value in options.items() if key != "recipe"}
    if options.get("recipe") is None:
        return others
    found, line = recipes.apply(options["recipe"], others, DEFAULT_MODEL)
    say(line)
    return found


def _refuse_early(options: Options, check_folder: bool = True) -> None:
    """Refuse what can be known without importing torch, in an instant and before a word is said.

    Raises:
        UserError: a wrong value, something that is not there, a folder that can not be written to.
    """
    early.check(options)
    if check_folder:
        folders.check_run(options)


def _model(options: Options) -> Any:
    """`YOLO(model)`.

    Raises:
        UserError: no such model, or a model of another task than `task=`.
    """
    from yolov12.model.names import resolve

    options["model"] = early.network_file(early.whole_file(resolve(str(options["model"]))))
    from yolov12 import YOLO

    # A yaml or .pt knows its task; an exported model may not.
    knows_task = Path(options["model"]).suffix in (".pt", *YAML)
    task = options.get("task")
    model = YOLO(options["model"], task=None if knows_task else task)
    if task and task != model.task:
        raise UserError(
            f"task={task}, but {options['model']} is a model for {model.task}: leave task= out, or name another model"
        )
    return model


def _what_is_saved(model: Any, since_s: float) -> str:
    """What an interrupted training leaves behind and how to go on; a checkpoint from before `since_s` is not this run's."""
    last = getattr(getattr(model, "trainer", None), "last", None)
    if last is None or not last.is_file() or last.stat().st_mtime < since_s:
        return "no epoch was finished, so nothing is saved"
    return f"{last} holds the finished epochs; go on with {program()} train resume={last}"


def _check_resumable(model: Any, path: str) -> None:
    """Refuse weights without the state of a run: ultralytics would begin a new one, on a data set of its choice (engine/model.py:877).

    Raises:
        UserError: the run is finished, or the file never held one.
    """
    checkpoint = model.ckpt or {}
    if checkpoint.get("epoch", -1) < 0 or checkpoint.get("optimizer") is None:
        raise UserError(
            f"{path} can not be resumed: its run is finished, or it holds weights only;"
            f" to train on from it, type model={path} data=my.yaml"
        )


def _checked_data(name: Any, task: str, single_class: bool) -> str:
    """The path of the data set, after every label was read, in this run or, where nothing changed, in an earlier one."""
    path = _bundled_or(name)
    from yolov12.data.check import dataset

    for line in dataset(path, task, single_class=single_class, reuse_scan=True).lines():
        say(line)
    return path


def _check_channels(model: Any, options: Options) -> None:
    """Refuse a data set whose pictures have other channels than the model takes."""
    if model.task != "classify":  # its data set is a folder, and says nothing of them
        tool("channels").check(model, str(options["model"]), options["data"])


def _bundled_or(name: Any) -> str:
    if str(name) != "synth":
        return str(name)
    from yolov12.data.synth import bundled

    return str(bundled())


def _require(options: Options, verb: str, **examples: str) -> None:
    for key, example in examples.items():
        if options.get(key) in (None, ""):
            raise UserError(f"{verb} needs {key}=: for example {key}={example}")


def _call_arguments(options: Options) -> Options:
    """What the method of the model is called with: the model knows its own name and task."""
    return {key: value for key, value in options.items() if key not in ("model", "task", "mode")}


def _with_project(options: Options, task: str) -> Options:
    """`options` with the folder of runs made explicit: ultralytics would look it up in its settings file."""
    folder = folders.of_run(options, task)
    return options if folder is None else options | {"project": str(folder)}


def tool(name: str) -> Any:
    """A program of tools/, imported when its verb needs it."""
    return importlib.import_module(f"yolov12.tools.{name}")
