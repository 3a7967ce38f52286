# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a doctor's report promises: its JSON, its exit code, and that one check's trouble is not another's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
import torch

from tests.unit.tools.doctor import worlds
from yolov12 import cli
from yolov12.errors import UserError
from yolov12.tools.doctor import look, machine_checks, report
from yolov12.tools.doctor.result import Result, fail, ok, skipped, warn, worst
from yolov12.tools.doctor.world import Driver

TEXT = {"type": "string"}
SCHEMA = {
    "type": "object",
    "required": ["schema", "yolov12", "status", "checks"],
    "properties": {
        "schema": {"const": 1},
        "yolov12": TEXT,
        "status": {"enum": ["ok", "warn", "fail"]},
        "checks": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "subject", "status", "value", "why", "to_type"],
                "properties": dict.fromkeys(("name", "subject", "value", "why", "to_type"), TEXT)
                | {"status": {"enum": ["ok", "skipped", "warn", "fail"]}},
            },
        },
    },
}
"""What programs may rely on: change it only together with report.SCHEMA."""

GOOD, LESS, BAD = ok("a", "1"), warn("b", "2", "because", "do this"), fail("c", "3", "because", "do that")


def run(monkeypatch, world, **options) -> int:
    monkeypatch.setattr(report, "look", lambda options: world)
    return report.main(options)


def test_json_has_the_promised_form_and_nothing_else_on_stdout(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, worlds.healthy(tmp_path), json=True) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, SCHEMA)
    assert document["status"] == "ok"


@pytest.mark.parametrize(
    ("changes", "code"),
    [({}, 0), ({"shm_free_bytes": 2**26}, 0), ({"driver": Driver("470.1", (11, 4), True, 580)}, 1)],
    ids=["ok", "warn", "fail"],
)
def test_the_exit_code_is_1_where_something_failed(monkeypatch, tmp_path, capsys, changes, code):
    assert run(monkeypatch, replace(worlds.healthy(tmp_path), **changes)) == code


def test_a_person_reads_why_and_what_to_type_only_where_something_is_to_be_done():
    assert list(report.lines(GOOD)) == ["ok       a           1"]
    assert list(report.lines(BAD)) == [
        "FAIL     c           3",
        "                     why: because",
        "                     type: do that",
    ]
    assert list(report.lines(skipped("d", "no GPU"))) == ["skipped  d           no GPU"]
    assert report.summary([GOOD, BAD, GOOD]) == "1 fail, 2 ok"


@pytest.mark.parametrize("error", [OSError("gone"), ZeroDivisionError("gone")])
def test_a_check_that_can_not_look_fails_by_its_name_and_the_others_go_on(tmp_path, error):
    def breaks(world):
        yield GOOD
        raise error

    found = list(report.examine(worlds.healthy(tmp_path), [("gpu code", breaks), ("b", lambda world: iter([LESS]))]))
    assert [result.status for result in found] == ["ok", "fail", "warn"]
    assert "gone" in found[1].why
    assert found[1].name == "gpu code"


def test_every_check_speaks_under_the_name_that_it_is_registered_by(tmp_path):
    world = worlds.healthy(tmp_path)
    for name, check in report.CHECKS:
        assert {result.name for result in check(world)} == {name}


def test_who_decodes_is_said_as_training_says_it(tmp_path):
    (result,) = machine_checks.loader(worlds.healthy(tmp_path))
    assert (result.status, result.why) == ("ok", "JPEG decoder: nvJPEG through torchvision")


def test_a_dead_gpu_is_left_out_with_what_torch_said(monkeypatch):
    def ask(index):
        if index == 0:
            raise RuntimeError("device >= 0 && device < num_gpus INTERNAL ASSERT FAILED\nat CUDAContext.cpp:49")
        return SimpleNamespace(name="NVIDIA H100", major=9, minor=0, pci_domain_id=0, pci_bus_id=27, pci_device_id=0)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", ask)
    gpus, failures = look._gpus()
    assert [gpu.index for gpu in gpus] == [1]
    assert failures == {0: "device >= 0 && device < num_gpus INTERNAL ASSERT FAILED"}


@pytest.mark.parametrize(
    ("results", "status"), [([], "ok"), ([skipped("d", "")], "ok"), ([GOOD, LESS], "warn"), ([BAD, LESS], "fail")]
)
def test_the_worst_counts(results, status):
    assert worst(results) == status


@pytest.mark.parametrize("why", [("", "do this"), ("because", "")])
def test_a_complaint_without_a_reason_or_a_command_can_not_be_made(why):
    with pytest.raises(ValueError, match="must say why and what to type"):
        Result("a", "", "warn", "1", *why)


def test_the_world_here_can_be_looked_at(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLOV12_CACHE_DIR", str(tmp_path))
    world = look.look({"project": str(tmp_path / "runs")})
    assert world.runs == tmp_path / "runs"
    assert world.cpus.total >= len(world.cpus.allowed) > 0
    assert world.cache == tmp_path
    assert world.data is None


def test_a_data_set_that_is_not_there_is_a_usage_error():
    with pytest.raises(UserError, match=r"missing\.yaml"):
        look.look({"data": "missing.yaml"})


def test_limits_that_no_file_tells_are_said_to_be_unknown(tmp_path):
    world = worlds.healthy(tmp_path)
    blind = replace(
        world,
        limits=replace(world.limits, processes_unread="no file"),
        cpus=replace(world.cpus, quota_unread="no file"),
    )
    checks = [pair for pair in report.CHECKS if pair[0] in ("limits", "cpus")]
    unknown = [(one.name, one.subject) for one in report.examine(blind, checks) if one.status == "skipped"]
    assert unknown == [("limits", "processes"), ("cpus", "quota")]
    assert not [one for one in report.examine(world, checks) if one.status == "skipped"]


def test_images_for_older_drivers_are_read():
    assert look.older_drivers("570=12.8 525=12.4\n") == ((570, "12.8"), (525, "12.4"))
    assert look.older_drivers("none") == ()


def test_the_page_lists_every_check_and_every_field(tmp_path):
    page = (Path(__file__).parents[4] / "docs/doctor.md").read_text()
    checks = page.partition("## Planted faults")[0]
    named = set(re.findall(r"^\| ([a-z -]+) \| ", checks, re.MULTILINE)) - {"check"}
    assert named == {result.name for result in report.examine(worlds.healthy(tmp_path))}
    assert set(re.findall(r"^\| `checks\[\]\.(\w+)`", page, re.MULTILINE)) == set(GOOD.__dataclass_fields__)


def test_the_verb_is_typed_like_the_others(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(report, "look", lambda options: replace(worlds.healthy(tmp_path), deep=options["deep"]))
    assert cli.main(["doctor", "--json", "deep=1"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "ok"


@pytest.mark.parametrize(("word", "deep"), [("no", False), ("off", False), ("1", True)])
def test_deep_is_what_was_typed(monkeypatch, tmp_path, capsys, word, deep):
    seen = {}
    monkeypatch.setattr(report, "look", lambda options: seen.update(options) or worlds.healthy(tmp_path))
    assert cli.main(["doctor", f"deep={word}", "json=no"]) == 0
    assert seen["deep"] is deep
    assert capsys.readouterr().out.startswith("ok ")


def test_deep_that_is_neither_is_refused(capsys):
    assert cli.main(["doctor", "deep=maybe"]) == 2
    assert "type deep=True or deep=False" in capsys.readouterr().err


def doctor_beside(folder: Path, module: str, error: str) -> dict[str, dict[str, str]]:
    """The checks of a doctor for whom this module can not be imported."""
    (folder / f"{module}.py").write_text(f"raise ImportError({error!r})")
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[4])])
    child = subprocess.run(
        [sys.executable, "-m", "yolov12.cli", "doctor", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "YOLOV12_CACHE_DIR": str(folder / "cache")},
        cwd=folder,
    )
    assert child.returncode == 1, child.stderr
    return {check["name"]: check for check in json.loads(child.stdout)["checks"]}


def test_without_torch_the_doctor_says_so_and_looks_at_the_rest(tmp_path):
    found = doctor_beside(tmp_path, "torch", "libcudart.so.13: cannot open shared object file")
    assert (found["torch"]["status"], found["loader"]["status"]) == ("fail", "skipped")
    assert "libcudart.so.13" in found["torch"]["why"]
    assert found["disk"]["status"] in ("ok", "warn", "skipped")
    assert not [check for check in found.values() if "could not look" in check["why"]]


def test_without_ultralytics_too(tmp_path):
    found = doctor_beside(tmp_path, "ultralytics", "no ultralytics here")
    assert (found["weights"]["status"], found["torch"]["status"]) == ("fail", "ok")
    assert "no ultralytics here" in found["weights"]["why"]


def test_whatever_an_import_says_the_document_stands_alone(monkeypatch, tmp_path, capsys):
    def greeting(options):
        print("Creating new Settings file")
        return worlds.healthy(tmp_path)

    monkeypatch.setattr(report, "look", greeting)
    monkeypatch.setattr(report, "CHECKS", ())
    report.main({"json": True})
    said = capsys.readouterr()
    assert json.loads(said.out)["schema"] == report.SCHEMA
    assert "Creating new Settings file" in said.err
