# SPDX-License-Identifier: AGPL-3.0-or-later
"""What `yolov12 VERB --help` says about ultralytics' arguments."""

from __future__ import annotations

import pytest

from yolov12 import arguments, arguments_page


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
