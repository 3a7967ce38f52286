# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where a setting's value comes from, who wins, and what is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov12 import folders, settings, settings_page
from yolov12.declare import OFF, ON, PREFIX, as_text, switch
from yolov12.errors import RetryableError, UserError

ROOT = Path(__file__).resolve().parents[2]


pytestmark = pytest.mark.usefixtures("no_settings")


# Where a value comes from


def test_the_default_is_used_when_nobody_says_anything():
    assert settings.current() == settings.Settings()
    assert {settings.origin(name) for name in settings.DECLARED} == {"default"}


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("FLASH_ATTN", "sdpa-cudnn", "sdpa-cudnn"),
        ("FLASH_ATTN", "No", "0"),
        ("AMP", "true", "1"),
        ("AMP", "BF16", "bf16"),
        ("AMP", "fp32", "0"),
        ("CHECKPOINT", "all", "all"),
        ("MEM_SAFETY_RATIO", "0.5", 0.5),
        ("DISABLE_MAS_LAYERS", "6, 8", ("6", "8")),
        ("SYNC_BN", "Yes", True),
        ("DIST_TIMEOUT_S", " 90 ", 90),
        ("COMPILE", "default", "1"),
        ("PRICE_PER_GPU_HOUR", "2.5", 2.5),
        ("USER", "1000:1000", "1000:1000"),
    ],
)
def test_a_variable_sets_its_setting(variable, text, value):
    os.environ[PREFIX + variable] = text
    assert getattr(settings.current(), variable.lower()) == value
    assert settings.origin(variable.lower()) == "environment"


def test_a_folder_in_the_environment_is_made_absolute():
    os.environ["YOLOV12_CACHE_DIR"] = "here/cache"
    assert settings.current().cache_dir == Path.cwd() / "here/cache"


def test_an_empty_variable_counts_as_not_set():
    os.environ["YOLOV12_AMP"] = ""
    assert settings.current().amp == "1"
    assert settings.origin("amp") == "default"


def test_a_lower_case_variable_is_not_a_setting():
    os.environ["yolov12_amp"] = "0"  # noqa: SIM112  # that it is not in capitals is the point
    assert settings.current().amp == "1"


def test_a_variable_that_changes_is_seen():
    os.environ["YOLOV12_AMP"] = "0"
    assert settings.current().amp == "0"
    os.environ["YOLOV12_AMP"] = "bf16"
    assert settings.current().amp == "bf16"


# Who wins


SCRIPT = {"amp": "bf16", "checkpoint": "all", "sync_bn": True, "mem_safety_ratio": 0.2, "compile": "reduce-overhead"}
COMMAND_LINE = {"amp": "fp16", "checkpoint": "0", "sync_bn": "1", "mem_safety_ratio": "0.3", "compile": "1"}
ENVIRONMENT = {"amp": "0", "checkpoint": "0", "sync_bn": "off", "mem_safety_ratio": "0.4", "compile": "0"}


@pytest.mark.parametrize("name", SCRIPT)
def test_a_script_argument_beats_the_default(name):
    settings.apply_script_arguments({name: SCRIPT[name]})
    assert as_text(getattr(settings.current(), name)) == as_text(SCRIPT[name])
    assert settings.origin(name) == "script"


@pytest.mark.parametrize("name", SCRIPT)
def test_a_script_argument_loses_to_the_environment(name):
    os.environ[settings.DECLARED[name].env] = ENVIRONMENT[name]
    before = settings.current()
    settings.apply_script_arguments({name: SCRIPT[name]})
    assert settings.current() == before
    assert settings.origin(name) == "environment"


@pytest.mark.parametrize("name", SCRIPT)
def test_a_script_argument_loses_to_the_command_line(name):
    settings.apply_command_line({name: COMMAND_LINE[name]})
    before = settings.current()
    settings.apply_script_arguments({name: SCRIPT[name]})
    assert settings.current() == before
    assert settings.origin(name) == "command line"


@pytest.mark.parametrize("name", SCRIPT)
def test_the_environment_loses_to_the_command_line(name):
    os.environ[settings.DECLARED[name].env] = ENVIRONMENT[name]
    settings.apply_command_line({name: COMMAND_LINE[name]})
    assert as_text(getattr(settings.current(), name)) == COMMAND_LINE[name]
    assert settings.origin(name) == "command line"


LEVELS = ("default", "script", "environment", "command line")


@given(given_by=st.sets(st.sampled_from(LEVELS[1:])), name=st.sampled_from(["sync_bn", "mem_safety_ratio"]))
def test_the_highest_level_that_speaks_is_obeyed(given_by, name):
    values = {
        "sync_bn": {"script": True, "environment": "0", "command line": "1"},
        "mem_safety_ratio": {"script": 0.2, "environment": "0.3", "command line": "0.4"},
    }[name]
    for key in (settings.DECLARED[name].env, settings.ORIGINS):
        os.environ.pop(key, None)
    if "environment" in given_by:
        os.environ[settings.DECLARED[name].env] = values["environment"]
    if "command line" in given_by:
        settings.apply_command_line({name: values["command line"]})
    if "script" in given_by:
        settings.apply_script_arguments({name: values["script"]})
    highest = max({"default", *given_by}, key=LEVELS.index)
    assert settings.origin(name) == highest
    wanted = settings.DECLARED[name].default if highest == "default" else values[highest]
    assert float(getattr(settings.current(), name)) == float(wanted)


def test_a_conflict_with_the_script_is_printed_once(capsys):
    os.environ["YOLOV12_AMP"] = "0"
    for _ in range(2):
        settings.apply_script_arguments({"amp": "bf16"})
    assert capsys.readouterr().err == "YOLOV12_AMP=0 (environment) wins over amp='bf16' (script)\n"


def test_a_conflict_between_command_line_and_environment_is_printed(capsys):
    os.environ["YOLOV12_OFFLINE"] = "0"
    settings.apply_command_line({"offline": "1"})
    assert capsys.readouterr().err == "offline=1 (command line) wins over YOLOV12_OFFLINE=0 (environment)\n"


def test_a_conflict_between_command_line_and_script_is_printed(capsys):
    settings.apply_command_line({"amp": "bf16"})
    settings.apply_script_arguments({"amp": False})
    assert capsys.readouterr().err == "amp=bf16 (command line) wins over amp=False (script)\n"


def test_two_spellings_of_one_value_are_no_conflict(capsys):
    os.environ["YOLOV12_AMP"] = "off"
    settings.apply_script_arguments({"amp": False})
    assert capsys.readouterr().err == ""


# What the script's arguments become


def test_arguments_that_only_we_know_are_taken_away():
    ours = {"checkpoint": True, "sync_bn": False, "ddp": True, "mem_safety_ratio": 0.1, "disable_mas_layers": [6, 8]}
    assert settings.apply_script_arguments({**ours, "epochs": 3, "device": "0,1"}) == {"epochs": 3, "device": "0,1"}
    assert settings.current().disable_mas_layers == ("6", "8")


def test_a_setting_that_is_no_script_argument_is_left_for_ultralytics_to_refuse():
    assert settings.apply_script_arguments({"offline": True}) == {"offline": True}


@pytest.mark.parametrize(
    ("given_amp", "for_ultralytics"), [(True, True), (False, False), ("bf16", "bf16"), ("fp32", False)]
)
def test_amp_goes_on_to_ultralytics(given_amp, for_ultralytics):
    assert settings.apply_script_arguments({"amp": given_amp}) == {"amp": for_ultralytics}


def test_ultralytics_gets_the_amp_that_won():
    os.environ["YOLOV12_AMP"] = "0"
    assert settings.apply_script_arguments({"amp": "bf16"}) == {"amp": False}


def test_ultralytics_gets_the_amp_of_the_environment_though_the_script_is_silent():
    os.environ["YOLOV12_AMP"] = "bf16"
    assert settings.apply_script_arguments({"epochs": 1}) == {"epochs": 1, "amp": "bf16"}


def test_ultralytics_gets_no_amp_when_nobody_asked_for_one():
    assert settings.apply_script_arguments({"epochs": 1}) == {"epochs": 1}


def test_compile_auto_is_not_passed_to_ultralytics_which_would_take_it_for_a_mode():
    os.environ["YOLOV12_COMPILE"] = "auto"
    assert settings.apply_script_arguments({"compile": True}) == {}


def test_amp_none_is_left_for_ultralytics_to_refuse():
    assert settings.apply_script_arguments({"amp": None}) == {"amp": None}


def test_the_arguments_of_one_call_are_forgotten_by_the_next():
    settings.apply_script_arguments({"checkpoint": "all", "amp": "bf16"})
    assert settings.apply_script_arguments({"epochs": 1}) == {"epochs": 1}
    assert settings.current() == settings.Settings()
    assert settings.ORIGINS not in os.environ


def test_a_script_may_change_its_mind_without_a_conflict(capsys):
    settings.apply_script_arguments({"amp": "bf16"})
    assert settings.apply_script_arguments({"amp": False}) == {"amp": False}
    assert capsys.readouterr().err == ""


def test_the_script_may_not_switch_ddp_off_on_two_devices():
    with pytest.raises(UserError, match="ddp=False and device='0,1' contradict"):
        settings.apply_script_arguments({"ddp": False, "device": "0,1"})


def test_ddp_off_with_device_auto_asks_for_one_idle_gpu():
    assert settings.apply_script_arguments({"ddp": False, "device": "auto"}) == {"device": -1}


def test_ddp_is_read_strictly():
    with pytest.raises(UserError, match="ddp='maybe': type True or False"):
        settings.apply_script_arguments({"ddp": "maybe"})


def test_the_command_line_keeps_what_is_not_ours():
    assert settings.apply_command_line({"epochs": 3, "sync_bn": "1", "amp": "0"}) == {"epochs": 3, "amp": False}


def test_a_folder_on_the_command_line_is_exported_absolute():
    settings.apply_command_line({"cache_dir": "cache"})
    assert os.environ["YOLOV12_CACHE_DIR"] == str(Path.cwd() / "cache")


# Children


def in_a_child(code: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom yolov12 import settings\n{code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_a_child_sees_the_value_and_its_origin():
    settings.apply_script_arguments({"checkpoint": "all"})
    settings.apply_command_line({"sync_bn": "1"})
    os.environ["YOLOV12_OFFLINE"] = "1"
    child = in_a_child(
        "print(*((settings.current().checkpoint, *map(settings.origin, ('checkpoint', 'sync_bn', 'offline')))))"
    )
    assert child.stdout.strip() == "all script command line environment"


def test_a_child_does_not_report_its_parents_script_argument_as_a_conflict():
    settings.apply_script_arguments({"amp": "bf16"})
    child = in_a_child("print(settings.apply_script_arguments({'amp': 'fp16'}))")
    assert (child.stdout.strip(), child.stderr) == ("{'amp': 'fp16'}", "")


def test_a_variable_that_was_set_again_after_the_export_counts_as_the_environment():
    settings.apply_script_arguments({"amp": "bf16"})
    os.environ["YOLOV12_AMP"] = "0"
    assert settings.origin("amp") == "environment"
    assert settings.apply_script_arguments({"amp": "bf16"}) == {"amp": False}


def test_a_broken_origins_variable_is_named():
    os.environ["YOLOV12_AMP"] = "0"
    os.environ[settings.ORIGINS] = "amp=script"
    with pytest.raises(UserError, match="YOLOV12_ORIGINS is internal"):
        settings.origin("amp")


# Wrong values


@pytest.mark.parametrize("word", [word for each in ON for word in (each, each.upper(), each.title())])
def test_on_has_four_words_in_any_case(word):
    assert switch(word) is True


@pytest.mark.parametrize("word", [word for each in OFF for word in (each, each.upper(), each.title())])
def test_off_has_four_words_in_any_case(word):
    assert switch(word) is False


@given(st.text().filter(lambda text: text.strip().lower() not in ON + OFF))
def test_no_other_text_is_a_switch(text):
    with pytest.raises(ValueError):
        switch(text)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("SYNC_BN", "y"),
        ("SYNC_BN", "2"),
        ("SYNC_BN", " "),
        ("AMP", "fp8"),
        ("FLASH_ATTN", "2"),
        ("CHECKPOINT", "some"),
        ("MEM_SAFETY_RATIO", "0.51"),
        ("MEM_SAFETY_RATIO", "-0.1"),
        ("MEM_SAFETY_RATIO", "nan"),
        ("MEM_SAFETY_RATIO", "10%"),
        ("DATA_PIPELINE", "tpu"),
        ("COMPILE", "max"),
        ("GRAD_COMPRESS", "fp16"),
        ("DIST_TIMEOUT_S", "0"),
        ("DIST_TIMEOUT_S", "1.5"),
        ("PRICE_PER_GPU_HOUR", "-1"),
        ("PRICE_PER_GPU_HOUR", "inf"),
        ("USER", "somebody"),
    ],
)
def test_a_wrong_value_names_the_variable_the_value_and_what_to_type(variable, text):
    os.environ[PREFIX + variable] = text
    with pytest.raises(UserError) as error:
        settings.current()
    assert str(error.value).startswith(f"{PREFIX}{variable}={text}: ")
    assert str(error.value).endswith(f"type {settings.DECLARED[variable.lower()].accepts}")


def test_a_wrong_script_argument_is_named_as_the_script_wrote_it():
    with pytest.raises(UserError, match=r"^sync_bn='maybe': not a value of this setting; type 1 or 0$"):
        settings.apply_script_arguments({"sync_bn": "maybe"})


def test_a_wrong_command_line_argument_is_named_as_it_was_typed():
    with pytest.raises(UserError, match=r"^mem_safety_ratio=0\.7: .* type a number from 0 to 0\.5$"):
        settings.apply_command_line({"mem_safety_ratio": "0.7"})


def test_a_wrong_argument_is_not_exported():
    with pytest.raises(UserError):
        settings.apply_command_line({"amp": "fp8"})
    assert "YOLOV12_AMP" not in os.environ


@pytest.mark.parametrize("path", ["runs/detect/train/weights/last.pt", "last.pt", "/somewhere"])
def test_a_path_as_checkpoint_is_answered_with_resume(path):
    os.environ["YOLOV12_CHECKPOINT"] = path
    with pytest.raises(UserError, match=f"use resume={path}"):
        settings.current()


# Unknown names


def test_a_misspelt_name_is_an_error_in_the_launchers():
    with pytest.raises(UserError, match=r"YOLOV12_FLASHATTN, which is no setting; did you mean YOLOV12_FLASH_ATTN\?"):
        settings.check_unknown({"YOLOV12_FLASHATTN": "0"}, strict=True)


def test_a_misspelt_name_is_one_warning_in_the_drop_in(capsys):
    for _ in range(2):
        settings.check_unknown({"YOLOV12_FLASHATTN": "0", "YOLOV12_CHECKPOINTS": "1"}, strict=False)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "YOLOV12_FLASH_ATTN?" in lines[0]
    assert "YOLOV12_CHECKPOINT?" in lines[0]


def test_a_name_close_to_none_is_a_warning_in_the_launchers_too(capsys):
    settings.check_unknown({"YOLOV12_BANANA": "1"}, strict=True)
    assert capsys.readouterr().err == "WARNING ignored: YOLOV12_BANANA, which is no setting\n"


@pytest.mark.parametrize(
    "name",
    [
        "YOLOV12_SERVICE_HOST",
        "YOLOV12_SERVICE_PORT",
        "YOLOV12_SERVICE_PORT_HTTP",
        "YOLOV12_PORT",
        "YOLOV12_PORT_8000_TCP",
        "YOLOV12_PORT_8000_TCP_ADDR",
        "YOLOV12_AMP_SERVICE_HOST",
    ],
)
def test_what_kubernetes_injects_is_ignored(name, capsys):
    settings.check_unknown({name: "10.0.0.1"}, strict=True)
    assert capsys.readouterr().err == ""


def test_known_names_other_programs_and_the_internal_one_are_no_news(capsys):
    known = dict.fromkeys((item.env for item in settings.DECLARED.values()), "1")
    settings.check_unknown({**known, settings.ORIGINS: "{}", "YOLO_OFFLINE": "1", "PATH": "/bin"}, strict=True)
    assert capsys.readouterr().err == ""


def test_no_setting_has_a_name_that_kubernetes_could_inject():
    assert not [item.env for item in settings.DECLARED.values() if settings._INJECTED.fullmatch(item.env)]


# The cache folder


def test_an_explicit_cache_folder_is_made_and_used(tmp_path):
    os.environ["YOLOV12_CACHE_DIR"] = str(tmp_path / "a" / "cache")
    assert settings.cache_dir() == tmp_path / "a" / "cache"
    assert (tmp_path / "a" / "cache").stat().st_mode & 0o777 == 0o700


def test_an_explicit_cache_folder_that_can_not_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    os.environ["YOLOV12_CACHE_DIR"] = str(tmp_path / "file" / "cache")
    with pytest.raises(UserError, match=r"YOLOV12_CACHE_DIR=.*/file/cache \(environment\): can not write there"):
        settings.cache_dir()


def test_the_cache_lies_in_the_workspace_if_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "WORKSPACE", tmp_path)
    assert settings.cache_dir() == tmp_path / ".yolov12"


def test_a_cache_that_nobody_named_is_said_once_with_the_reason(tmp_path, monkeypatch, capsys):
    (tmp_path / ".yolov12").touch()  # a file in the way
    monkeypatch.setattr(folders, "WORKSPACE", tmp_path)
    monkeypatch.setattr(folders.tempfile, "tempdir", str(tmp_path))
    assert settings.cache_dir() == settings.cache_dir() == tmp_path / f"yolov12-{os.getuid()}"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"(temporary: {tmp_path}/.yolov12: file exists; to keep it, mount a folder on {tmp_path}" in lines[0]


def test_the_choice_of_the_cache_can_be_asked_for_without_a_word(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(folders, "WORKSPACE", tmp_path)
    assert settings.cache_choice() == (tmp_path / ".yolov12", f"{tmp_path} is not a mount: lost with the container")
    assert capsys.readouterr().err == ""


def test_the_backends_that_the_setting_takes_are_those_that_exist():
    from yolov12.model.attention.backends import BACKENDS

    assert settings.DECLARED["flash_attn"].choices == ("1", "0", *BACKENDS)
    assert all(name in settings.DECLARED["flash_attn"].accepts for name in BACKENDS)


def test_engines_lie_in_the_cache_unless_told_otherwise(tmp_path):
    os.environ["YOLOV12_CACHE_DIR"] = str(tmp_path / "cache")
    assert settings.trt_cache_dir() == tmp_path / "cache" / "engines"
    assert settings.trt_cache_dir().is_dir()
    os.environ["YOLOV12_TRT_CACHE_DIR"] = str(tmp_path / "engines")
    assert settings.trt_cache_dir() == tmp_path / "engines"


# The page


def test_the_page_says_value_and_origin():
    os.environ["YOLOV12_AMP"] = "0"
    rows = {row.name: row for row in settings_page.describe()}
    assert (rows["YOLOV12_AMP"].value, rows["YOLOV12_AMP"].origin) == ("0", "environment")
    assert (rows["YOLOV12_CACHE_DIR"].value, rows["YOLOV12_CACHE_DIR"].origin) == (None, "default")


def test_the_page_and_the_help_say_what_has_no_effect_yet():
    for page in (settings_page.as_table(settings_page.describe()).splitlines(), list(settings_page.help_lines())):
        marked = {line.split()[0] for line in page if line.endswith("(no effect yet)")}
        assert marked == {item.env for item in settings.DECLARED.values() if item.later}


def test_the_records_are_json():
    os.environ["YOLOV12_CACHE_DIR"] = "/cache"
    os.environ["YOLOV12_DISABLE_MAS_LAYERS"] = "6,8"
    records = {
        item["name"]: item["value"]
        for item in json.loads(json.dumps(settings_page.as_records(settings_page.describe())))
    }
    assert records["YOLOV12_CACHE_DIR"] == "/cache"
    assert records["YOLOV12_DISABLE_MAS_LAYERS"] == ["6", "8"]
    assert records["YOLOV12_SYNC_BN"] is False
    assert records["YOLOV12_USER"] is None


@pytest.mark.parametrize("page", ["docs/settings.md", "README.md"])
def test_the_table_in_the_documentation_is_up_to_date(page):
    assert settings_page.markdown_table() in (ROOT / page).read_text(encoding="utf-8"), f"{page}: run `make render`"


def test_every_setting_says_what_it_means_and_what_to_type():
    for item in settings.DECLARED.values():
        assert item.doc.endswith("."), item.name
        assert item.accepts, item.name
        assert "|" not in item.doc + item.accepts, f"{item.name}: would break the table"


READ_ELSEWHERE = {
    "amp": "as ultralytics' argument of the same name",
    "compile": "as ultralytics' argument of the same name",
    "user": "by scripts/entrypoint.sh",
    "disable": "by yolov12/compat.py",
}


def test_the_settings_without_effect_are_those_that_nothing_reads():
    sources = "".join(
        file.read_text(encoding="utf-8") for file in (ROOT / "yolov12").rglob("*.py") if file.name != "settings.py"
    )
    for name, item in settings.DECLARED.items():
        is_read = (
            name in READ_ELSEWHERE or re.search(rf"current(\(\))?\.{name}\b|settings\.{name}\(", sources) is not None
        )
        assert is_read != item.later, (
            f"{name} is {'' if is_read else 'not '}read: {'drop' if is_read else 'set'} later=True"
        )


def test_a_setting_without_effect_says_so_when_it_is_set(monkeypatch, capsys):
    unread = replace(settings.DECLARED["data_pipeline"], later=True)
    monkeypatch.setattr(settings, "DECLARED", {**settings.DECLARED, "data_pipeline": unread})
    os.environ["YOLOV12_DATA_PIPELINE"] = "gpu"
    for _ in range(2):
        settings.current()
    assert capsys.readouterr().err == "WARNING YOLOV12_DATA_PIPELINE has no effect in this version\n"


def test_importing_the_settings_imports_nothing_heavy():
    child = in_a_child("print(sorted({'torch', 'ultralytics', 'pydantic', 'yaml', 'numpy'} & set(sys.modules)))")
    assert child.stdout.strip() == "[]"


def test_engines_may_lie_on_a_full_disk_where_nothing_else_of_the_cache_may(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(folders.FULL[0], "No space left on device")

    os.environ["YOLOV12_CACHE_DIR"] = str(tmp_path)
    monkeypatch.setattr(folders.tempfile, "TemporaryFile", full)
    with pytest.raises(RetryableError, match="make room"):
        settings.cache_dir()
    assert settings.cache_choice()[0] == tmp_path
    monkeypatch.setattr(Path, "mkdir", full)
    assert settings.trt_cache_dir() == tmp_path / "engines"
