# SPDX-License-Identifier: AGPL-3.0-or-later
"""The manifests of deploy/kubernetes: their fields exist, they agree with each other and with the image, and their commands are understood.

No cluster has run them; the schema beside tests/data names where it was read.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from yolov12.arguments import parse
from yolov12.distributed.launchers import Machines, find
from yolov12.verb_table import VERBS

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
SCHEMA = json.loads((ROOT / "tests/data/kubernetes/schema.json").read_text())


def manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "deploy/kubernetes" / f"{name}.yaml").read_text())


def job(name: str) -> dict[str, Any]:
    """The template of the Job of a JobSet or of a runtime."""
    spec = manifest(name)["spec"]
    return spec.get("template", {"spec": spec})["spec"]["replicatedJobs"][0]["template"]["spec"]


def arguments_of(name: str) -> list[str]:
    return manifest(name)["spec"]["trainer"]["args"] if name == "trainjob" else container(name)["args"]


def container(name: str) -> dict[str, Any]:
    return job(name)["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_field_exists_and_has_a_value_that_it_takes(file: Path):
    Draft202012Validator.check_schema(SCHEMA)
    found = yaml.safe_load(file.read_text())
    of_kind = {
        **SCHEMA["$defs"][found["kind"]],
        "$defs": SCHEMA["$defs"],
    }  # its errors are more to the point than those of oneOf
    errors = [f"{error.json_path}: {error.message}" for error in Draft202012Validator(of_kind).iter_errors(found)]
    assert not errors
    assert Draft202012Validator(SCHEMA).is_valid(found)


def test_the_schema_refuses_what_does_not_exist():
    broken = manifest("jobset")
    broken["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["enableServiceLink"] = False
    assert not Draft202012Validator(SCHEMA).is_valid(broken)


@pytest.mark.parametrize("name", ["jobset", "training-runtime"])
def test_a_pod_is_a_stranger_without_rights_and_has_time_to_save(name: str):
    pod = job(name)["template"]["spec"]
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["terminationGracePeriodSeconds"] >= 60
    security = container(name)["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert not security["allowPrivilegeEscalation"]


@pytest.mark.parametrize("name", ["jobset", "training-runtime"])
def test_a_pod_runs_as_the_user_of_the_image_for_such_clusters(name: str):
    user = re.search(r"FROM train AS train-nonroot\nUSER (\d+):(\d+)", (ROOT / "docker/Dockerfile").read_text())
    security = job(name)["template"]["spec"]["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"]) == (int(user[1]), int(user[2]))


@pytest.mark.parametrize("name", ["jobset", "training-runtime"])
def test_memory_is_shared_data_is_read_only_and_the_image_has_a_digest(name: str):
    volumes = {volume["name"]: volume for volume in job(name)["template"]["spec"]["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container(name)["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == set(volumes)
    assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"]["medium"] == "Memory"
    assert mounts["/data"]["readOnly"]
    assert volumes["data"]["persistentVolumeClaim"]["readOnly"]
    assert re.fullmatch(r"[a-z0-9./-]+@sha256:[0-9a-f]{64}", container(name)["image"])


@pytest.mark.parametrize("name", ["jobset", "training-runtime"])
def test_only_a_mistake_ends_the_run_for_good(name: str):
    rule = job(name)["podFailurePolicy"]["rules"][0]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2])
    assert rule["onExitCodes"]["containerName"] == container(name)["name"]
    assert job(name)["template"]["spec"]["restartPolicy"] == "Never", "podFailurePolicy needs it"


def test_the_machines_of_a_jobset_find_their_places():
    spec = job("jobset")
    said = {one["name"]: one.get("value", "1") for one in container("jobset")["env"]}
    found = find(said)
    assert isinstance(found, Machines)
    assert found.count == spec["completions"] == spec["parallelism"]
    name, replicated = manifest("jobset")["metadata"]["name"], manifest("jobset")["spec"]["replicatedJobs"][0]["name"]
    assert found.address == f"{name}-{replicated}-0-0.{name}"
    assert found.port == container("jobset")["ports"][0]["containerPort"]


def test_the_trainjob_runs_in_the_runtime():
    assert manifest("trainjob")["spec"]["runtimeRef"]["name"] == manifest("training-runtime")["metadata"]["name"]
    template = manifest("training-runtime")["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]
    assert template["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    assert container("training-runtime")["name"] == "node", "where the operator puts PET_*"


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("name", ["jobset", "trainjob"])
def test_the_command_trains_and_after_a_restart_resumes(name: str, resumed: bool, tmp_path: Path):
    program, option, script, zero, *options = arguments_of(name)
    assert (program, option, zero) == ("bash", "-c", "train")
    run = re.search(r"name=(\S+)", script)[1]
    if resumed:
        (tmp_path / f"runs/detect/{run}/weights").mkdir(parents=True)
        (tmp_path / f"runs/detect/{run}/weights/last.pt").touch()
    stub = tmp_path / "bin/yolov12"
    stub.parent.mkdir()
    stub.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    environ = {**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}"}
    done = subprocess.run(arguments_of(name), cwd=tmp_path, env=environ, capture_output=True, text=True, check=True)
    verb, *words = done.stdout.splitlines()
    assert verb == "train"
    assert words == (
        [f"resume=runs/detect/{run}/weights/last.pt"] if resumed else [*options, f"name={run}", "exist_ok=True"]
    )
    parse(words, VERBS["train"].keys())
