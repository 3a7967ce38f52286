# SPDX-License-Identifier: AGPL-3.0-or-later
"""The workflow follows from the bake file, has the form that GitHub reads, and its scripts are scripts. It is not run here."""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from env import workflow

ROOT = Path(__file__).resolve().parents[3]
BAKE = json.loads((ROOT / "docker/docker-bake.json").read_text())
VERSIONS = yaml.safe_load((ROOT / "env/versions.yaml").read_text())
SCANNER = {"name": "example/scanner:1", "digest": "sha256:" + "0" * 64}
SCANNING = VERSIONS | {"images": VERSIONS["images"] | {"scanner": SCANNER}}


def parsed(versions: Any = SCANNING) -> dict[str, Any]:
    """The workflow as GitHub reads it: YAML 1.2, where `on` is a word and not a truth value."""
    document = yaml.safe_load(workflow.workflow(BAKE, versions))
    document["on"] = document.pop(True)
    return document


def scripts(versions: Any = SCANNING) -> list[str]:
    return [step["run"] for job in parsed(versions)["jobs"].values() for step in job["steps"]]


def test_the_committed_workflow_is_the_rendered_one():
    assert (ROOT / workflow.WORKFLOW).read_text() == workflow.expected(), "run `make render`"


@pytest.mark.parametrize(
    ("schema", "file"), [("vendor.github-workflows", workflow.WORKFLOW), ("vendor.renovate", "renovate.json")]
)
def test_what_others_read_fits_their_schema(schema, file):
    command = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", schema, ROOT / file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_has_what_github_asks_of_a_workflow_and_nothing_that_it_does_not_know():
    document = parsed()
    assert document.keys() == {"name", "on", "permissions", "concurrency", "jobs"}
    assert document["on"].keys() == {"pull_request", "push", "schedule", "workflow_dispatch"}
    for name, job in document["jobs"].items():
        known = {"name", "runs-on", "timeout-minutes", "permissions", "defaults", "steps"}
        more = {"package": set(), "scheduled": {"if"}, "release": {"if", "needs", "strategy", "env"}}
        assert job.keys() == known | more.get(name, {"if", "strategy", "env"})
        for step in job["steps"]:
            assert {"name", "run"} <= step.keys() <= {"name", "run", "env"}, (
                "an action would have to be pinned by its hash"
            )


def test_each_variant_is_built_once_and_those_of_one_lock_and_arguments_together():
    for name in ("image", "release"):
        job = parsed()["jobs"][name]
        machines = [entry["variants"].split() for entry in job["strategy"]["matrix"]["include"]]
        assert sorted(variant for machine in machines for variant in machine) == sorted(BAKE["target"])
        assert ["train", "train-nonroot"] in machines
        assert ["deploy", "deploy-nonroot"] in machines


def test_each_machine_tests_an_image_that_it_built_or_none():
    for name in ("image", "release"):
        job = parsed()["jobs"][name]
        assert job["env"]["TEST_IMAGE"] == "${{ matrix.image }}"
        for machine in job["strategy"]["matrix"]["include"]:
            variants, image = machine["variants"].split(), machine["image"].removeprefix("yolov12:")
            assert image == (variants[0] if variants[0].startswith("train") else "train")


def test_a_release_has_nvidia_s_nccl_tests_where_they_can_be_built():
    jobs = parsed()["jobs"]
    assert jobs["release"]["env"]["NCCL_TESTS"] == "${{ matrix.nccl_tests }}"
    assert "NCCL_TESTS" not in jobs["image"]["env"]
    machines = {entry["variants"]: entry for entry in jobs["release"]["strategy"]["matrix"]["include"]}
    assert machines["train train-nonroot"]["nccl_tests"] == "1"
    assert "nccl_tests" not in machines["train-cu128"]
    assert "nccl_tests" not in machines["deploy deploy-nonroot"]


def test_a_new_variant_of_the_bake_file_gets_a_machine():
    more = {"target": BAKE["target"] | {"other": {"args": {"LOCK": "another"}}}}
    assert ["other"] in workflow.machines(more)


def test_only_a_version_s_tag_may_write_packages_and_sign():
    jobs = parsed()["jobs"]
    assert jobs["image"]["permissions"] == {"contents": "read"}
    assert jobs["release"]["permissions"] == {"contents": "read", "packages": "write", "id-token": "write"}
    assert jobs["release"]["if"] == "startsWith(github.ref, 'refs/tags/v')"
    assert jobs["image"]["if"] == "${{ !startsWith(github.ref, 'refs/tags/v') }}"
    assert not [step for step in jobs["image"]["steps"] if re.search("make (push|sign)|cosign", step["run"])]
    assert jobs["release"]["steps"][-1]["run"].count("make push") == 1


def test_every_push_and_pull_request_runs_lint_and_the_tests_of_the_package():
    package = yaml.safe_load(workflow.expected())["jobs"]["package"]
    assert "if" not in package
    assert yaml.safe_load(workflow.expected())["jobs"]["release"]["needs"] == "package"
    assert package["permissions"] == {"contents": "read"}
    assert package["steps"][-1]["run"].split("\n")[-4:-1] == ["make setup", "make lint", "make test"]


def test_what_a_release_pushes_is_signed_by_its_digest_with_the_pinned_cosign(tmp_path):
    *_, get, push = parsed()["jobs"]["release"]["steps"]
    pin = VERSIONS["downloads"]["cosign"]
    assert pin["url"].format(version=pin["version"]) in get["run"]
    assert f'"{pin["sha256"]}  $RUNNER_TEMP/cosign" | sha256sum --check' in get["run"]
    stubs = {
        "docker": "cat >/dev/null",
        "make": 'echo "$*" >>asked; [[ $1 != push ]] || printf "pushed  there\\ndocker pull there@sha256:%s\\n" "${3#VARIANT=}"',
    }
    for name, body in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "RUNNER_TEMP": str(tmp_path), "VARIANTS": "a b"}
    environment |= {"GITHUB_REPOSITORY_OWNER": "Team", "GITHUB_ACTOR": "me", "TOKEN": "secret"}
    subprocess.run(["bash", "-eo", "pipefail", "-c", push["run"]], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "asked").read_text().splitlines() == [
        f"{verb} {what}"
        for variant in "ab"
        for verb, what in (
            ("push", f"REGISTRY=ghcr.io/team VARIANT={variant}"),
            ("sign", f"IMAGE=there@sha256:{variant}"),
        )
    ]


def test_the_scheduled_tier_runs_on_a_schedule_and_not_for_a_pull_request():
    document = parsed()
    job = document["jobs"]["scheduled"]
    assert document["on"]["schedule"][0]["cron"]
    assert job["if"] == "github.event_name == 'schedule' || github.event_name == 'workflow_dispatch'"
    assert job["permissions"] == {"contents": "read"}
    program = job["steps"][-1]["run"].split()[-1]
    assert (ROOT / program).stat().st_mode & 0o100


def test_the_tag_is_compared_with_a_line_that_the_package_has():
    script = next(script for script in scripts() if "GITHUB_REF_NAME" in script)
    version = re.search(r'__version__ = "(.+)"', (ROOT / "yolov12/__init__.py").read_text())
    assert version
    for tag, code in ((f"v{version[1]}", 0), ("v9.9.9", 1)):
        done = subprocess.run(
            ["bash", "-ec", script], cwd=ROOT, env={"GITHUB_REF_NAME": tag, "PATH": "/usr/bin:/bin"}, check=False
        )
        assert done.returncode == code, tag


@pytest.mark.parametrize("script", sorted(set(scripts())), ids=lambda script: script.strip().splitlines()[-1][:40])
def test_a_script_is_clean_and_takes_nothing_from_an_event_but_by_variables(script):
    assert "${{" not in script, "text of an event would be run as a command"
    done = subprocess.run(
        [ROOT / ".venv/bin/shellcheck", "--shell=bash", "-"], input=script, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_a_pinned_scanner_scans_each_image_by_its_digest_with_the_exceptions():
    script = next(script for script in scripts() if "--severity" in script)
    assert f"{SCANNER['name']}@{SCANNER['digest']} image " in script
    assert f"$PWD/{workflow.EXCEPTIONS}:" in script
    assert "--exit-code 1" in script


# The exceptions of the scan


def complaints(document: dict[str, Any], today: datetime.date) -> list[str]:
    """What is wrong with each exception: no reason, no day, or a day that has come."""
    found = []
    for entry in document["vulnerabilities"]:
        name, day = entry.get("id", "an entry without id"), entry.get("expired_at")
        if not re.fullmatch(r"[A-Z]+-[\w-]+", name):
            found.append(f"{name} is no identifier")
        if len(entry.get("statement", "")) < 10:
            found.append(f"{name} has no reason (statement)")
        if not isinstance(day, datetime.date):
            found.append(f"{name} has no day (expired_at: 2027-01-31)")
        elif day <= today:
            found.append(f"{name} ran out on {day}: is there a fix? Remove it, or look again and give it another day")
        if unknown := entry.keys() - {"id", "purls", "paths", "expired_at", "statement"}:
            found.append(f"{name} has keys that Trivy does not know: {', '.join(unknown)}")
    return found


def test_every_exception_has_a_reason_and_a_day_that_has_not_come():
    document = yaml.safe_load((ROOT / workflow.EXCEPTIONS).read_text())
    assert document.keys() == {"vulnerabilities"}
    assert complaints(document, datetime.datetime.now(datetime.UTC).date()) == []


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"expired_at": datetime.date(2026, 1, 1)}, "ran out"),
        ({"expired_at": None}, "has no day"),
        ({"expired_at": "soon"}, "has no day"),
        ({"statement": ""}, "has no reason"),
        ({"id": "libc"}, "is no identifier"),
        ({"expires": "never"}, "does not know: expires"),
    ],
)
def test_an_exception_without_reason_or_past_its_day_is_found(changed, complaint):
    entry = {"id": "CVE-2026-1", "statement": "never parsed here", "expired_at": datetime.date(2026, 2, 1)}
    today = datetime.date(2026, 1, 31)
    assert complaints({"vulnerabilities": [entry]}, today) == []
    found = complaints({"vulnerabilities": [entry | changed]}, today)
    assert len(found) == 1
    assert complaint in found[0]
