# SPDX-License-Identifier: AGPL-3.0-or-later
"""Turn one target of `docker buildx bake --print` into the arguments of `docker buildx build`, each ended by a NUL byte.

`bake` itself can not be used: version 0.13 ignores the network of a target, and secrets and tags are the caller's.

    docker buildx bake --file docker/docker-bake.json --print train | python3 docker/replay.py train
"""

from __future__ import annotations

import json
import sys
from typing import Any

KNOWN = {"context", "dockerfile", "target", "tags", "args", "labels"}


def arguments(target: dict[str, Any]) -> list[str]:
    """The options for one target, the context last.

    Raises:
        ValueError: the target has a key that this does not know how to say, and would otherwise lose.
    """
    if unknown := sorted(target.keys() - KNOWN):
        raise ValueError(f"docker/replay.py does not know the keys {', '.join(unknown)} of the bake file")
    options = ["--file", target["dockerfile"], "--target", target["target"]]
    for key, option in (("args", "--build-arg"), ("labels", "--label")):
        for name, value in target.get(key, {}).items():
            options += [option, f"{name}={value}"]
    for tag in target.get("tags", []):
        options += ["--tag", tag]
    return [*options, target["context"]]


def main() -> None:
    """Read the plan on stdin; the target's name is the only argument."""
    plan = json.load(sys.stdin)
    sys.stdout.write("".join(f"{argument}\0" for argument in arguments(plan["target"][sys.argv[1]])))


if __name__ == "__main__":
    main()
