# SPDX-License-Identifier: AGPL-3.0-or-later
"""What `yolov12 VERB --help` says about ultralytics' arguments."""

from __future__ import annotations

import inspect

import pytest

from yolov12 import arguments, arguments_page
from yolov12.export import request


def test_every_argument_of_ultralytics_is_read_with_its_default():
    defaults = {key: value for key, value in arguments.ultralytics_defaults().items() if key not in arguments.RENAMED}
    read = {line.key: line.default for line in arguments_page.read()}
    assert set(read) == set(defaults) - {"save_dir", *arguments.REMOVED}
    assert {key: arguments.value_of(key, text or "None") for key, text in read.items()} == {
        key: defaults[key] for key in read
    }


@pytest.mark.parametrize("verb", arguments_page.SHOWN)
def test_a_verb_shows_what_is_about_it_in_lines_that_fit(verb):
    lines = list(arguments_page.lines(verb))
    assert len(lines) > 8
    assert max(map(len, lines)) <= arguments_page.WIDTH
    assert all(line.isascii() for line in lines)


def test_the_training_page_has_no_arguments_of_prediction_or_export():
    keys = {line.split("=")[0].split()[0] for line in arguments_page.lines("train")}
    assert {"epochs", "lr0", "mosaic"} <= keys
    assert keys.isdisjoint({"source", "show_labels", "simplify", "format"})


@pytest.mark.parametrize("verb", arguments_page.SHOWN)
def test_every_section_and_key_that_is_asked_for_exists(verb):
    sections, keys = arguments_page.SHOWN[verb]
    lines = list(arguments_page.read())
    assert set(sections) <= {line.section for line in lines}
    assert set(keys) <= {line.key for line in lines}


def shown(verb):
    """The defaults that the page has, by key."""
    words = (line.split()[0] for line in arguments_page.lines(verb))
    return dict(word.partition("=")[::2] for word in words)


def test_the_pages_have_the_defaults_of_their_verb_where_ultralytics_file_has_another():
    pages = {verb: shown(verb) for verb in arguments_page.SHOWN}
    assert {verb: page["batch"] for verb, page in pages.items()} == {
        "train": "16",
        "val": "16",
        "predict": "1",
        "export": "1",
    }
    assert {verb: page["imgsz"] for verb, page in pages.items()} == {
        "train": "640",
        "val": "",
        "predict": "",
        "export": "",
    }
    assert pages["val"]["rect"] == "True"


def test_what_is_otherwise_is_on_the_page():
    for verb, keys in arguments_page.OTHERWISE.items():
        assert set(keys) <= set(shown(verb))


def test_the_page_of_export_says_what_an_export_without_arguments_takes():
    asked, engine = request.of({"format": "onnx"}), request.of({"format": "engine"})
    assert (str(asked.batch), str(asked.dynamic)) == (shown("export")["batch"], shown("export")["dynamic"])
    assert (asked.precision, engine.precision, engine.dynamic) == ("fp32", "fp16", True)
    meanings = {key: meaning for key, (_, meaning) in arguments_page.OTHERWISE["export"].items()}
    assert f"default {asked.opset}" in meanings["opset"]
    assert "default 32, for an engine 16" in meanings["quantize"]
    assert "for an engine True" in meanings["dynamic"]


def test_ultralytics_methods_have_the_defaults_that_are_shown():
    """Those of engine/model.py, which no file lists."""
    from ultralytics.engine.model import Model

    for method, words in ((Model.predict, '"batch": 1'), (Model.val, '"rect": True'), (Model.export, '"batch": 1')):
        assert words in inspect.getsource(method)
