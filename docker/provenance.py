#!/usr/bin/env python3
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where an image was made, as a predicate of SLSA provenance 1.0: from the run of the workflow that this is called in, and the image's labels.

    docker image inspect IMAGE | docker/provenance.py >provenance.json

The form is that of https://actions.github.io/buildtypes/workflow/v1, as GitHub's own attestations have it. docker/sign.sh signs it: what it says is
worth as much as the signature, which in a workflow names the workflow. Exit code 2 with one sentence where there is no run, or where the image is
another one's.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

BUILD_TYPE = "https://actions.github.io/buildtypes/workflow/v1"


class ProvenanceError(Exception):
    """One sentence for the user."""


def predicate(environ: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, Any]:
    """The predicate; `environ` has what the runner sets, `labels` what `make build` wrote.

    Raises:
        ProvenanceError: this is no run of a workflow, a label is missing, or the image was not made from the commit of this run.
    """

    def of_run(name: str) -> str:
        if not environ.get(name):
            raise ProvenanceError(f"{name} is not set: only a run of a workflow knows where an image was made")
        return environ[name]

    def of_image(name: str) -> str:
        if not labels.get(name):
            raise ProvenanceError(
                f"the image has no label {name}: only one that `make build` made from a commit has all"
            )
        return labels[name]

    commit, made_from = of_run("GITHUB_SHA"), of_image("org.opencontainers.image.revision")
    if made_from != commit:
        raise ProvenanceError(f"the image was made from {made_from}, and this run is of {commit}")
    repository = f"{of_run('GITHUB_SERVER_URL')}/{of_run('GITHUB_REPOSITORY')}"
    workflow = of_run("GITHUB_WORKFLOW_REF")  # owner/name/.github/workflows/images.yml@refs/tags/v1.0.0
    path = workflow.partition("@")[0].removeprefix(f"{of_run('GITHUB_REPOSITORY')}/")
    base, _, digest = of_image("org.opencontainers.image.base.name").partition("@sha256:")
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"workflow": {"ref": of_run("GITHUB_REF"), "repository": repository, "path": path}},
            "internalParameters": {
                "github": {
                    name: of_run(variable)
                    for name, variable in (
                        ("event_name", "GITHUB_EVENT_NAME"),
                        ("repository_id", "GITHUB_REPOSITORY_ID"),
                        ("repository_owner_id", "GITHUB_REPOSITORY_OWNER_ID"),
                        ("runner_environment", "RUNNER_ENVIRONMENT"),
                    )
                },
                "yolov12": {"variant": of_image("yolov12.variant"), "inputs": of_image("yolov12.inputs")},
            },
            "resolvedDependencies": [
                {"uri": f"git+{repository}@{of_run('GITHUB_REF')}", "digest": {"gitCommit": commit}},
                {"uri": f"docker://{base}", **({"digest": {"sha256": digest}} if digest else {})},
            ],
        },
        "runDetails": {
            "builder": {"id": f"{of_run('GITHUB_SERVER_URL')}/{workflow}"},
            "metadata": {
                "invocationId": f"{repository}/actions/runs/{of_run('GITHUB_RUN_ID')}/attempts/{of_run('GITHUB_RUN_ATTEMPT')}"
            },
        },
    }


def labels_of(words: str) -> dict[str, str]:
    """The labels of the one image that `docker image inspect` told of.

    Raises:
        ProvenanceError: it told of none, or in another form.
    """
    try:
        (image,) = json.loads(words)
        return image["Config"]["Labels"] or {}
    except (ValueError, TypeError, KeyError) as error:
        raise ProvenanceError(
            f"this is not what `docker image inspect IMAGE` prints of one image: {words[:60]!r}"
        ) from error


def main() -> int:
    """Read what docker says of the image on stdin."""
    try:
        print(json.dumps(predicate(os.environ, labels_of(sys.stdin.read())), indent=1))
    except ProvenanceError as error:
        print(f"provenance: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
