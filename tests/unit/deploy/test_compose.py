# SPDX-License-Identifier: AGPL-3.0-or-later
"""The manifests of deploy/ name what exists."""

import json
from pathlib import Path

import yaml

from yolov12.verb_table import VERBS


def test_compose_runs_a_verb_of_the_image_that_make_build_makes(repository: Path):
    service = yaml.safe_load((repository / "deploy/compose/compose.yaml").read_text())["services"]["yolov12"]
    bake = json.loads((repository / "docker/docker-bake.json").read_text())
    assert service["image"] in bake["target"]["train"]["tags"]
    assert service["command"][0] in VERBS
