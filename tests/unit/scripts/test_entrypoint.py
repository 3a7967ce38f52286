# SPDX-License-Identifier: AGPL-3.0-or-later
"""The entrypoint has to know the verbs by name, since `env` is a program too; it knows the same ones as the launcher."""

import re
from pathlib import Path

from yolov12.verb_table import LATER, VERBS


def test_the_entrypoint_knows_exactly_the_verbs_of_the_launcher(repository: Path):
    words = re.search(r"\n +train \|.*?\)\n", (repository / "scripts/entrypoint.sh").read_text(), re.DOTALL)[0]
    named = set(re.findall(r"[a-z][a-z-]+", words))
    assert named == {*VERBS, *LATER}
