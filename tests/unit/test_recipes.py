# SPDX-License-Identifier: AGPL-3.0-or-later
"""`recipe=NAME`: what it sets, what the user's own arguments do to it, and that its page and its records are there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from yolov12 import arguments, cli, recipes, values, verbs
from yolov12.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
EVERY = [(name, size) for name in recipes.known() for size in recipes.SIZES]


def apply(name: str, **options) -> tuple[dict, str]:
    return recipes.apply(name, options, "yolov12n.yaml")


def test_the_recipes_are_those_that_are_announced():
    assert set(recipes.known()) == {"paper", "finetune", "small-objects", "edge"}


@pytest.mark.parametrize(("name", "size"), EVERY)
def test_every_value_is_one_that_ultralytics_takes(name, size):
    presets = {argument.key: argument.value(size) for argument in recipes.known()[name].arguments}
    values.check(presets)
    assert presets.keys() <= arguments.ultralytics_defaults().keys()


@pytest.mark.parametrize("name", recipes.known())
def test_every_argument_has_a_reason_and_a_source_and_every_record_is_there(name):
    recipe = recipes.known()[name]
    assert all(argument.why and argument.source for argument in recipe.arguments)
    assert all((ROOT / "benchmarks/records" / record).is_file() for record in recipe.tried_on)


@pytest.mark.parametrize(
    ("model", "scale", "mixup", "copy_paste"),
    [("yolov12n.yaml", 0.5, 0.0, 0.1), ("yolo12s.yaml", 0.9, 0.05, 0.15), ("weights/yolov12x.pt", 0.9, 0.2, 0.6)],
)
def test_the_papers_augmentations_go_by_the_size_of_the_model(model, scale, mixup, copy_paste):
    options, _ = apply("paper", model=model)
    assert (options["scale"], options["mixup"], options["copy_paste"]) == (scale, mixup, copy_paste)


def test_without_a_model_the_default_ones_size_counts():
    assert apply("paper")[0]["scale"] == 0.5


def test_what_the_user_typed_wins_and_the_line_says_so():
    options, line = apply("paper", batch=64, imgsz=640, data="coco.yaml")
    assert (options["batch"], options["imgsz"], options["epochs"], options["data"]) == (64, 640, 600, "coco.yaml")
    assert line == (
        "recipe=paper: epochs=600 imgsz=640 optimizer=SGD scale=0.5 mosaic=1.0 mixup=0.0 copy_paste=0.1; yours win: batch=64; "
        "tried on: 2026-11-30-nvidia-h200/recipes.log"
    )
    assert line in (ROOT / "docs/recipes.md").read_text()


@pytest.mark.parametrize(
    ("name", "model", "words"),
    [
        ("papper", "yolov12n.yaml", "did you mean paper? there are paper, finetune, small-objects, edge"),
        ("fast", "yolov12n.yaml", "recipe=fast: there are paper, finetune"),
        ("paper", "yolo11n.yaml", "and yolo11n.yaml names none"),
        ("finetune", "yolov12n.yaml", "type model=yolov12n.pt"),
    ],
)
def test_what_can_not_be_is_refused_with_what_to_type(name, model, words):
    with pytest.raises(UserError) as error:
        apply(name, model=model)
    assert words in str(error.value)


def test_the_command_line_takes_a_recipe(monkeypatch, capsys):
    seen = {}
    monkeypatch.setattr(verbs, "_refuse_early", lambda options, check_folder: seen.update(options) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["train", "recipe=edge", "data=synth", "--epochs", "3"])
    assert seen == {"model": "yolov12n.yaml", "imgsz": 320, "data": "synth", "epochs": 3}
    assert (
        "recipe=edge: model=yolov12n.yaml imgsz=320; tried on: 2026-11-30-nvidia-h200/recipes.log"
        in capsys.readouterr().err
    )


def test_lr_find_takes_a_recipe_and_hands_on_what_was_typed(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(verbs, "_model", lambda options: SimpleNamespace(task="detect"))
    monkeypatch.setattr(verbs, "_checked_data", lambda name, *more: f"/found/{name}")
    monkeypatch.setattr(verbs, "tool", lambda name: SimpleNamespace(main=lambda *given: seen.extend(given) or 0))
    assert cli.main(["lr-find", "recipe=finetune", "data=synth", "model=a.pt", "patience=5", "steps=30"]) == 0
    _, options, typed = seen
    assert options["optimizer"] == "AdamW"
    assert (options["patience"], options["data"], options["steps"]) == (5, "/found/synth", 30)
    assert typed == {"recipe": "finetune", "data": "synth", "model": "a.pt", "patience": 5, "steps": 30}
    assert "recipe=finetune: optimizer=AdamW lr0=0.001" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["recipe=none-such", "data=synth"], ["recipe=paper", "resume=last.pt"]])
def test_a_wrong_recipe_is_a_usage_error(words, capsys):
    assert cli.main(["train", *words]) == 2
    assert "error: recipe=" in capsys.readouterr().err


def test_the_page_shows_the_file():
    text = (ROOT / "docs/recipes.md").read_text()
    between = text.partition("of `python -m yolov12.recipes` -->\n")[2].partition("\n<!-- recipes: end -->")[0]
    assert between == "\n".join(recipes.table()).rstrip(), (
        "run `python -m yolov12.recipes` and put its output into docs/recipes.md"
    )


def test_a_reader_of_the_table_that_has_seen_enough_sees_no_traceback():
    with subprocess.Popen(
        [sys.executable, "-m", "yolov12.recipes"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
