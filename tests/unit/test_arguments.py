# SPDX-License-Identifier: AGPL-3.0-or-later
"""How a command line is read."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov12 import arguments
from yolov12.arguments import parse, ultralytics_defaults, value_of
from yolov12.declare import OFF, ON, as_argument
from yolov12.distributed.devices import requested_gpus
from yolov12.errors import UserError

KEYS = {
    "mode": "train",
    "task": "detect",
    "data": None,
    "model": None,
    "epochs": 100,
    "batch": 16,
    "imgsz": 640,
    "device": None,
}
KEYS |= {
    "plots": True,
    "dry_run": False,
    "resume": False,
    "cache": False,
    "nms": None,
    "lr0": 0.01,
    "name": None,
    "classes": None,
    "cfg": None,
}


def options(*tokens: str) -> dict:
    return parse(list(tokens), KEYS).options


@pytest.mark.parametrize(
    "tokens",
    [
        ["data=coco.yaml", "batch=256"],
        ["--data", "coco.yaml", "--batch", "256"],
        ["--data=coco.yaml", "--batch=256"],
        ["data", "=", "coco.yaml", "batch=", "256"],
        ["data", "=coco.yaml", "batch=256,"],
        ["--data", "=", "coco.yaml", "batch=256"],
    ],
)
def test_every_common_spelling_of_an_argument_is_read(tokens):
    assert options(*tokens) == {"data": "coco.yaml", "batch": 256}


def test_a_list_that_the_shell_split_at_its_spaces_is_one_value():
    assert options("imgsz=[640,", "480]", "epochs=3") == {"imgsz": [640, 480], "epochs": 3}


def test_a_list_without_its_end_does_not_swallow_what_follows():
    with pytest.raises(UserError, match=r"has a '\[' without its '\]'"):
        options("imgsz=[640,", "epochs=3")


def test_a_negative_number_is_a_value():
    assert options("--device", "-1") == {"device": -1}


@pytest.mark.parametrize(
    "tokens", [["--plots"], ["plots"], ["--plots", "--epochs", "3"], ["--plots", "epochs=3"], ["nms"]]
)
def test_a_switch_may_stand_alone(tokens):
    assert next(iter(options(*tokens).values())) is True


def test_a_switch_that_takes_other_values_takes_the_next_word():
    assert options("--cache", "ram", "--resume", "last.pt") == {"cache": "ram", "resume": "last.pt"}


@pytest.mark.parametrize("tokens", [["--epochs"], ["epochs"], ["--epochs", "--plots"], ["epochs="]])
def test_a_key_without_its_value_is_an_error_with_an_example(tokens):
    with pytest.raises(UserError, match=r"^epochs.* type epochs=100$"):
        options(*tokens)


def test_a_value_with_an_equals_sign_stays_whole():
    assert options("data=a=b.yaml") == {"data": "a=b.yaml"}


def test_a_task_may_be_named_as_in_yolo():
    assert options("segment", "epochs=1") == {"task": "segment", "epochs": 1}


@pytest.mark.parametrize(
    "token", ["flash_attn=0", "flash-attn=0", "--flash-attn=0", "--flash_attn=0", "YOLOV12_FLASH_ATTN=0"]
)
def test_every_spelling_of_a_setting_is_read_and_stays_text(token):
    assert options(token) == {"flash_attn": "0"}


def test_a_setting_that_is_a_switch_may_stand_alone():
    assert options("--sync-bn") == {"sync_bn": "True"}


def test_a_setting_that_is_no_switch_may_not():
    with pytest.raises(
        UserError, match="dist_timeout_s needs a value: type dist_timeout_s=VALUE, where VALUE is seconds"
    ):
        options("--dist-timeout-s")


@pytest.mark.parametrize("token", ["user=root", "--disable", "disable", "YOLOV12_DISABLE=1"])
def test_a_setting_that_is_read_earlier_is_sent_to_the_environment(token):
    with pytest.raises(UserError, match=r"set YOLOV12_(USER|DISABLE) in the environment"):
        options(token)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("epoch=3", "epochs"), ("--img-sz=3", "imgsz"), ("--flash-atn", "flash_attn"), ("batchs=1", "batch")],
)
def test_an_unknown_key_is_an_error_that_names_the_nearest(typed, meant):
    with pytest.raises(UserError, match=f"there is no argument .*did you mean .*{meant}"):
        options(typed)


def test_an_argument_that_only_scripts_have_is_told_what_says_the_same_here():
    with pytest.raises(UserError, match=r"'gradient_checkpointing' on the command line: type checkpoint=all for True"):
        options("gradient_checkpointing=True")


def test_what_is_much_less_similar_is_not_proposed_beside_the_nearest():
    with pytest.raises(UserError, match=r"did you mean batch\?$"):
        options("bacth=1")


@pytest.mark.parametrize(("word", "key"), [("shapes/data.yaml", "data"), ("best.pt", "model"), ("a.onnx", "model")])
def test_a_file_that_stands_alone_is_told_its_key(word, key):
    with pytest.raises(UserError, match=f"'{word}' is not an argument here; did you mean {key}={word}\\?"):
        options(word)


def test_a_word_too_many_is_an_error():
    with pytest.raises(UserError, match="'coco' is not an argument here; arguments are key=value"):
        options("coco")


def test_words_are_kept_where_the_verb_takes_them():
    parsed = parse(["synth", "out", "epochs=1"], KEYS, max_words=2)
    assert (parsed.words, parsed.options) == (["synth", "out"], {"epochs": 1})


def test_the_last_of_two_values_wins_with_a_warning(capsys):
    assert options("epochs=3", "--epochs", "5") == {"epochs": 5}
    assert capsys.readouterr().err == "WARNING epochs is given more than once: epochs=5 wins over epochs=3\n"


def test_the_same_value_twice_is_no_news(capsys):
    options("epochs=3", "epochs=3")
    assert capsys.readouterr().err == ""


# cfg=


def test_a_file_of_arguments_counts_less_than_what_is_typed(tmp_path):
    (tmp_path / "my.yaml").write_text("epochs: 3\nbatch: 8\nmode: train\nsync_bn: true\n")
    assert options(f"cfg={tmp_path}/my.yaml", "batch=16") == {"epochs": 3, "batch": 16, "sync_bn": True}


@pytest.mark.parametrize(
    ("text", "message"),
    [("epoch: 3", "no argument 'epoch'"), ("a: [", "not yaml"), ("- a", "not a list"), (None, "no such file")],
)
def test_a_bad_file_of_arguments_is_an_error(tmp_path, text, message):
    if text is not None:
        (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        options(f"cfg={tmp_path}/my.yaml")


# Values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("None", None),
        ("true", True),
        ("FALSE", False),
        ("3", 3),
        ("1e-3", 0.001),
        ("[1, 2]", [1, 2]),
        ("0,1", (0, 1)),
        ("my.yaml", "my.yaml"),
        ("'quoted'", "quoted"),
        ("__import__('os')", "__import__('os')"),
        ("1+1", "1+1"),
    ],
)
def test_a_value_is_a_literal_or_text(text, value):
    assert value_of("source", text) == value
    assert type(value_of("source", text)) is type(value)


@pytest.mark.parametrize("text", [*ON, *OFF, "True", "False", "No"])
def test_a_switch_of_the_verb_is_on_or_off_in_the_words_of_settings(text):
    assert options(f"dry_run={text}") == {"dry_run": text.lower() in ON}
    assert options("--dry-run", text) == {"dry_run": text.lower() in ON}


@pytest.mark.parametrize("text", ["maybe", "2", "none", "1.0", "y"])
def test_any_other_word_for_a_switch_is_refused(text):
    with pytest.raises(UserError, match=r"dry_run=.*: type dry_run=True or dry_run=False"):
        options(f"dry_run={text}")


def test_a_switch_in_a_file_of_arguments_is_one_too(tmp_path):
    (tmp_path / "my.yaml").write_text("dry_run: 'off'\n")
    assert options(f"cfg={tmp_path}/my.yaml") == {"dry_run": False}


def test_what_ultralytics_switches_may_take_more_than_two_values():
    assert options("cache=ram", "resume=last.pt") == {"cache": "ram", "resume": "last.pt"}


def test_the_name_of_a_run_stays_text():
    assert value_of("name", "2026") == "2026"
    assert value_of("project", "None") is None


@given(st.text())
def test_no_text_is_refused_or_run(text):
    value_of("source", text)


@pytest.mark.parametrize("text", ["(" * 1000, "[" * 100000, "-" * 100000 + "1"])
def test_a_deep_nest_of_brackets_is_text(text):
    assert value_of("source", text) == text


literals = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=6,
)


@given(literals)
def test_what_python_writes_is_read_back(value):
    assert value_of("classes", repr(value)) == value


@given(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.lists(st.integers(), min_size=1)
)
def test_what_is_shown_to_be_typed_is_read_back(value):
    read = value_of("classes", as_argument(value))
    assert (list(read) if isinstance(read, tuple) else read) == value
    assert isinstance(read, bool) == isinstance(value, bool)


@given(st.dictionaries(st.sampled_from(["epochs", "batch", "imgsz", "lr0"]), st.integers(-9, 999), min_size=1))
def test_the_three_spellings_mean_the_same(values):
    plain = options(*(f"{key}={value}" for key, value in values.items()))
    joined = options(*(f"--{key}={value}" for key, value in values.items()))
    apart = options(*(part for key, value in values.items() for part in (f"--{key}", str(value))))
    assert plain == joined == apart == values


@given(st.lists(st.text(max_size=12), max_size=6))
def test_any_command_line_is_read_or_refused_and_nothing_else(tokens):
    with contextlib.suppress(UserError):
        parse([token for token in tokens if "cfg" not in token], KEYS, max_words=1)


# What the rest of the command line needs to know


@pytest.mark.parametrize(
    ("device", "gpus"),
    [
        (7, [7]),
        ("0,1", [0, 1]),
        ((0, 1), [0, 1]),
        ([2], [2]),
        ("cuda:1", [1]),
        ("cuda", [0]),
        ("[0, 3]", [0, 3]),
        ("cpu", []),
        ("auto", []),
        (-1, []),
        (None, []),
        ("mps", []),
        ("npu:0", []),
    ],
)
def test_a_device_names_its_gpus(device, gpus):
    assert requested_gpus(device) == gpus


def test_the_keys_are_those_of_the_pinned_ultralytics():
    from ultralytics.cfg import DEFAULT_CFG_DICT, TASKS, _handle_deprecation

    assert ultralytics_defaults().items() >= DEFAULT_CFG_DICT.items()
    assert arguments.TASKS == TASKS
    old = dict.fromkeys((*arguments.RENAMED, *arguments.REMOVED))
    assert _handle_deprecation(dict(old)).keys().isdisjoint(old), (
        "ultralytics no longer renames these: they are errors now"
    )
