# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is signed about where an image was made: from a run's variables and an image's labels alone."""

from __future__ import annotations

import io
import json
import sys

import pytest

from docker import provenance
from docker.provenance import ProvenanceError

COMMIT = "c0ffee" * 6 + "c0ff"
RUN = {
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "team/yolov12",
    "GITHUB_REF": "refs/tags/v1.2.3",
    "GITHUB_SHA": COMMIT,
    "GITHUB_WORKFLOW_REF": "team/yolov12/.github/workflows/images.yml@refs/tags/v1.2.3",
    "GITHUB_EVENT_NAME": "push",
    "GITHUB_REPOSITORY_ID": "1",
    "GITHUB_REPOSITORY_OWNER_ID": "2",
    "GITHUB_RUN_ID": "3",
    "GITHUB_RUN_ATTEMPT": "4",
    "RUNNER_ENVIRONMENT": "github-hosted",
}
LABELS = {
    "org.opencontainers.image.revision": COMMIT,
    "org.opencontainers.image.base.name": f"debian:12-slim@sha256:{'a' * 64}",
    "yolov12.variant": "train",
    "yolov12.inputs": "0123",
}


def test_it_names_workflow_commit_base_image_and_run():
    found = provenance.predicate(RUN, LABELS)
    assert found["buildDefinition"] == {
        "buildType": "https://actions.github.io/buildtypes/workflow/v1",
        "externalParameters": {
            "workflow": {
                "ref": "refs/tags/v1.2.3",
                "repository": "https://github.com/team/yolov12",
                "path": ".github/workflows/images.yml",
            }
        },
        "internalParameters": {
            "github": {
                "event_name": "push",
                "repository_id": "1",
                "repository_owner_id": "2",
                "runner_environment": "github-hosted",
            },
            "yolov12": {"variant": "train", "inputs": "0123"},
        },
        "resolvedDependencies": [
            {"uri": "git+https://github.com/team/yolov12@refs/tags/v1.2.3", "digest": {"gitCommit": COMMIT}},
            {"uri": "docker://debian:12-slim", "digest": {"sha256": "a" * 64}},
        ],
    }
    assert found["runDetails"] == {
        "builder": {"id": "https://github.com/team/yolov12/.github/workflows/images.yml@refs/tags/v1.2.3"},
        "metadata": {"invocationId": "https://github.com/team/yolov12/actions/runs/3/attempts/4"},
    }


def test_a_base_image_without_a_digest_has_none():
    labels = LABELS | {"org.opencontainers.image.base.name": "mine/debian:12"}
    assert provenance.predicate(RUN, labels)["buildDefinition"]["resolvedDependencies"][1] == {
        "uri": "docker://mine/debian:12"
    }


@pytest.mark.parametrize("missing", RUN)
def test_each_variable_of_the_run_is_asked_for_by_its_name(missing):
    with pytest.raises(ProvenanceError, match=f"^{missing} is not set: only a run of a workflow knows"):
        provenance.predicate(RUN | {missing: ""}, LABELS)


@pytest.mark.parametrize("revision", ["0" * 40, f"{COMMIT}-dirty"])
def test_an_image_that_was_not_made_from_the_run_s_commit_is_refused(revision):
    with pytest.raises(ProvenanceError, match=f"^the image was made from {revision}, and this run"):
        provenance.predicate(RUN, LABELS | {"org.opencontainers.image.revision": revision})


@pytest.mark.parametrize("missing", LABELS)
def test_each_label_of_the_image_is_asked_for_by_its_name(missing):
    for labels in (LABELS | {missing: ""}, {name: value for name, value in LABELS.items() if name != missing}):
        with pytest.raises(ProvenanceError, match=f"^the image has no label {missing}: "):
            provenance.predicate(RUN, labels)


@pytest.mark.parametrize("words", ["", "no such image", "[]", "{}", "[1]", '[{"Config": {}}]', "[{}, {}]", "null"])
def test_what_is_no_image_s_description_is_one_sentence(words):
    with pytest.raises(ProvenanceError, match=r"^this is not what `docker image inspect IMAGE` prints"):
        provenance.labels_of(words)


def test_docker_s_words_come_in_and_json_goes_out(monkeypatch, capsys):
    for name, value in RUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps([{"Config": {"Labels": LABELS}}])))
    assert provenance.main() == 0
    assert json.loads(capsys.readouterr().out) == provenance.predicate(RUN, LABELS)


def test_outside_a_workflow_it_is_one_sentence(monkeypatch, capsys):
    monkeypatch.delenv("GITHUB_SHA", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps([{"Config": {"Labels": None}}])))
    assert provenance.main() == 2
    assert capsys.readouterr().err.startswith("provenance: GITHUB_SHA is not set: ")
