# SPDX-License-Identifier: AGPL-3.0-or-later
"""The command line around the verbs: settings, exit codes and messages, help."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.command_line import called, error_of
from yolov12 import __version__, cli, early, settings, verb_table, verbs
from yolov12.errors import RetryableError, UserError

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("command_line")


# env and settings


def test_env_prints_every_setting_with_its_origin(capsys):
    os.environ["YOLOV12_AMP"] = "bf16"
    assert cli.main(["env", "sync_bn=1"]) == 0
    table = capsys.readouterr().out.partition("\n\n")[2]
    lines = [line.partition("(no")[0].split() for line in table.splitlines()]
    assert lines[0] == ["NAME", "VALUE", "ORIGIN"]
    assert ["YOLOV12_AMP", "bf16", "environment"] in lines
    assert ["YOLOV12_SYNC_BN", "1", "command", "line"] in lines
    assert len(lines) == len(settings.DECLARED) + 1


def test_env_says_what_it_runs_on_and_where_it_writes(capsys, tmp_path):
    os.environ["YOLOV12_CACHE_DIR"] = str(tmp_path / "cache")
    assert cli.main(["env"]) == 0
    said = capsys.readouterr()
    facts = dict(line.split(maxsplit=1) for line in said.out.partition("\n\n")[0].splitlines())
    assert facts["python"].startswith(sys.version.split()[0])
    assert facts["torch"][0].isdigit()
    assert facts["runs"].startswith(f"{tmp_path}/runs (")
    assert facts["cache"].startswith(f"{tmp_path}/cache (")
    assert said.err == ""


def test_env_speaks_json(capsys):
    assert cli.main(["env", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert {"name": "YOLOV12_DIST_TIMEOUT_S", "value": 180, "origin": "default"} in records


def test_env_prints_the_table_of_the_documentation(capsys):
    assert cli.main(["env", "--markdown"]) == 0
    assert capsys.readouterr().out in (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


def test_a_setting_on_the_command_line_is_exported_and_not_passed_on(yolo):
    assert cli.main(["train", "data=a.yaml", "--flash-attn", "0", "YOLOV12_OFFLINE=1"]) == 0
    assert (settings.current().flash_attn, settings.current().offline) == ("0", True)
    assert called(yolo, "train").keys() == {"data", "project"}


def test_amp_is_a_setting_and_goes_on_to_ultralytics(yolo, monkeypatch):
    monkeypatch.setattr(early, "DRIVER", (ROOT,))  # there is one
    assert cli.main(["train", "data=a.yaml", "amp=bf16"]) == 0
    assert called(yolo, "train")["amp"] == "bf16"
    assert settings.origin("amp") == "command line"


def test_a_wrong_setting_ends_with_2(yolo, capsys):
    assert cli.main(["train", "data=a.yaml", "sync_bn=maybe"]) == 2
    assert error_of(capsys) == "error: sync_bn=maybe: not a value of this setting; type 1 or 0"
    assert yolo.calls == []


def test_a_misspelt_variable_ends_with_2(yolo, capsys):
    os.environ["YOLOV12_CHECKPIONT"] = "0"
    assert cli.main(["train", "data=a.yaml"]) == 2
    assert "did you mean YOLOV12_CHECKPOINT?" in error_of(capsys)


def test_env_still_answers_when_a_variable_is_misspelt(capsys):
    os.environ["YOLOV12_CHECKPIONT"] = "0"
    assert cli.main(["env"]) == 0
    assert "did you mean YOLOV12_CHECKPOINT?" in capsys.readouterr().err


# Mistakes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian data=a.yaml", "there is no verb 'trian'; did you mean train?"),
        ("detect", "'detect' is a task, and no verb: type, for example, yolov12 detect train data=my.yaml"),
        ("data=a.yaml train", "'data=a.yaml' comes before a verb: type, for example, yolov12 train data=a.yaml"),
        ("train data=a.yaml epoch=3", "there is no argument 'epoch'; did you mean epochs"),
        ("train data=a.yaml coco", "'coco' is not an argument here; arguments are key=value"),
        ("train data=a.yaml user=root", "user is read before the command line is: set YOLOV12_USER in the environment"),
    ],
)
def test_a_mistyped_line_ends_with_2_and_says_what_was_meant(yolo, capsys, line, message):
    assert cli.main(line.split()) == 2
    assert error_of(capsys).startswith(f"error: {message}")
    assert yolo.calls == []


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (UserError("label 7 in a.txt, but there are 3 classes"), 2),
        (RetryableError("a peer is gone"), 75),
        (OSError(errno.ENOSPC, "No space left on device", "last.pt"), 75),
        (FileNotFoundError("'a.yaml' does not exist"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_failure_has_its_exit_code_and_no_traceback(yolo, capsys, failure, code):
    yolo.failure = failure
    assert cli.main(["train", "data=a.yaml"]) == code
    error_of(capsys)


@pytest.fixture
def last(yolo, tmp_path):
    """An interrupted training whose last.pt this is."""
    yolo.failure = KeyboardInterrupt()
    yolo.trainer = SimpleNamespace(last=tmp_path / "weights" / "last.pt")
    yolo.trainer.last.parent.mkdir()
    return yolo.trainer.last


def test_an_interrupted_training_says_what_is_saved_and_how_to_go_on(yolo, last, capsys, monkeypatch):
    monkeypatch.setattr(verbs, "program", lambda: "yolov12")
    monkeypatch.setattr(verbs.time, "time", lambda: 1.0)  # the file is younger
    last.touch()
    assert cli.main(["train", "data=a.yaml"]) == 130
    assert error_of(capsys) == (
        f"interrupted: {last} holds the finished epochs; go on with yolov12 train resume={last}"
    )


def test_a_training_that_is_interrupted_in_its_first_epoch_says_that_nothing_is_saved(last, capsys):
    assert cli.main(["train", "data=a.yaml"]) == 130
    assert error_of(capsys) == "interrupted: no epoch was finished, so nothing is saved"


def test_the_checkpoint_of_an_earlier_run_in_the_same_folder_is_not_taken_for_this_ones(last, capsys):
    last.touch()
    os.utime(last, (1.0, 1.0))
    assert cli.main(["train", "data=a.yaml"]) == 130
    assert error_of(capsys) == "interrupted: no epoch was finished, so nothing is saved"


def test_a_bug_is_raised(yolo):
    yolo.failure = AttributeError("'AAttn' object has no attribute 'qkv'")
    with pytest.raises(AttributeError):
        cli.main(["train", "data=a.yaml"])


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "WORLD_SIZE=2 is set, and neither NODE_RANK"),
        ({"NODE_RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "NODE_RANK=2 and WORLD_SIZE=2 contradict"),
        ({"NODE_RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR is not set"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE=two: type a whole number"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK=one: type a whole number"),
    ],
)
def test_a_launcher_that_says_half_or_contradicts_itself_is_refused(yolo, capsys, monkeypatch, said, words):
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["train", "data=a.yaml"]) == 2
    assert words in error_of(capsys)
    assert not yolo.calls


def test_among_several_ranks_the_error_names_its_rank(yolo, capsys, monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert cli.main(["train"]) == 2
    assert error_of(capsys).startswith("error: [rank 1] train needs a data set")


# Help


@pytest.mark.parametrize("line", [[], ["help"], ["--help"], ["-h"]])
def test_help_names_every_verb_and_every_setting(line, capsys):
    assert cli.main(line) == 0
    page = capsys.readouterr().out
    for verb in (*verb_table.VERBS, *verb_table.LATER):
        assert f" {verb}" in page
    for item in settings.DECLARED.values():
        assert item.env in page


@pytest.mark.parametrize(
    "line",
    [["train", "--help"], ["help", "train"], ["--help", "train"], ["train", "help"], ["train", "data=a.yaml", "-h"]],
)
def test_a_verb_has_its_own_help(line, capsys):
    assert cli.main(line) == 0
    page = capsys.readouterr().out
    assert page.startswith("yolov12 train: train a model\n")
    assert "  close_mosaic=10          disable mosaic" in page


@pytest.mark.parametrize("line", [["help", "trian"], ["trian", "--help"]])
def test_help_about_a_verb_that_does_not_exist_is_refused_like_the_verb(line, capsys):
    assert cli.main(line) == 2
    assert "there is no verb 'trian'; did you mean train?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", [["help", "detect"], ["detect", "--help"], ["detect", "help"], ["--help", "detect"], ["-h", "detect"]]
)
def test_help_about_a_task_says_where_it_stands(line, capsys):
    assert cli.main(line) == 0
    page = capsys.readouterr().out
    assert page.startswith("detect is a task, and no verb: it may stand before a verb")
    assert "  yolov12 detect train data=my.yaml " in page
    assert "verbs that take one: train, val, predict, export, lr-find, data; " in page


@pytest.mark.parametrize(
    "line", [["segment", "train", "help"], ["segment", "train", "-h"], ["train", "segment", "help"]]
)
def test_help_about_a_verb_after_a_task_is_that_verbs(line, capsys):
    assert cli.main(line) == 0
    assert capsys.readouterr().out.startswith("yolov12 train: ")


def test_help_about_a_verb_with_a_hyphen_is_that_verbs(capsys):
    assert cli.main(["help", "nccl-test"]) == 0
    assert capsys.readouterr().out.startswith("yolov12 nccl-test: ")


def test_a_reader_that_has_seen_enough_is_no_failure():
    command = f"set -o pipefail; {sys.executable} -m yolov12.cli --help | true"
    child = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert (child.returncode, child.stderr) == (0, "")


def test_a_reader_that_leaves_early_is_no_traceback():
    read, write = os.pipe()
    os.close(read)
    child = subprocess.run(
        [sys.executable, "-m", "yolov12.cli", "env", "--json"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (child.returncode, child.stderr) == (cli.NOBODY_READS, "")


def test_a_pipe_that_is_not_the_output_keeps_its_traceback(monkeypatch, capfd):
    def break_another(argv):
        raise BrokenPipeError("of a worker")

    monkeypatch.setattr(cli, "run", break_another)
    with pytest.raises(BrokenPipeError, match="of a worker"):
        cli.main(["env"])


@pytest.mark.parametrize("name", ["doctor", "verify", "bench", "nccl-test"])
def test_the_help_says_whose_exit_code_1_is_a_verdict(name):
    page = "\n".join(cli.overview())
    assert re.search(rf"^ +1: what .*\b{name}\b.* is not as it should be", page, re.MULTILINE)


def test_the_help_of_data_shows_the_defaults_of_what_it_calls(capsys):
    import inspect

    from yolov12.data import synth

    assert cli.main(["data", "synth", "--help"]) == 0
    page = capsys.readouterr().out
    for name, parameter in inspect.signature(synth.write).parameters.items():
        assert name == "out" or f" {name}={parameter.default}" in page


def test_only_the_overview_and_env_list_the_settings(capsys):
    for verb in verb_table.VERBS:
        assert cli.main([verb, "--help"]) == 0
        assert ("YOLOV12_SYNC_BN" in capsys.readouterr().out) == (verb == "env")


@pytest.mark.parametrize("verb", verb_table.VERBS.values(), ids=lambda verb: verb.name)
def test_the_example_of_a_verb_can_be_read(verb):
    from yolov12.arguments import parse

    if verb.name == "bench":
        return  # its words are the benchmarks' own
    for example in verb.example.split("    |    "):
        parse(example.split()[1:], verb.keys(), verb.max_words)


@pytest.mark.parametrize("line", [["--version"], ["version"], ["help", "version"]])
def test_the_version_is_printed(line, capsys):
    assert cli.main(line) == 0
    assert capsys.readouterr().out == f"yolov12 {__version__}\n"


@pytest.mark.parametrize("line", [["--help"], ["train", "--help"], ["help", "pose"], ["--version"], ["serve"]])
def test_help_imports_nothing_heavy(line):
    code = f"import sys\nfrom yolov12 import cli\ncli.main({line!r})\n"
    code += (
        "print('HEAVY', {'torch', 'ultralytics', 'pydantic', 'pydantic_settings', 'numpy', 'cv2'} & set(sys.modules))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdout.splitlines()[-1] == "HEAVY set()"


def test_the_module_runs_as_a_program():
    child = subprocess.run(
        [sys.executable, "-m", "yolov12.cli", "val"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (child.returncode, child.stderr) == (2, "error: val needs model=: for example model=yolov12n.pt\n")
