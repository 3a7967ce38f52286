# SPDX-License-Identifier: AGPL-3.0-or-later
"""An engine as it lies on disk: a plan, by default behind the header that ultralytics reads (utils/export/engine.py:478, nn/backends/base.py:133).

The header is the length of a JSON text in 4 bytes, little-endian, and the text. A plan alone is what trtexec and Triton load. docker/deploy reads
both too, in code of its own, since it must not import this package's rooms.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

LENGTH_BYTES = 4
PLAN_BYTES = "plan_bytes"
"""Key of the header: how long the plan is, so that a file that was cut is known before TensorRT sees it."""
BUILT_BY = "built_by"
"""Key of the header: what made the plan and for which GPUs, see builder.Maker."""


def framed(metadata: Mapping[str, Any], plan: bytes) -> bytes:
    """The plan behind its header."""
    text = json.dumps({**metadata, PLAN_BYTES: len(plan)}).encode()
    return len(text).to_bytes(LENGTH_BYTES, "little", signed=True) + text + plan


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Metadata and plan; no metadata where what would be the header is none, so that the plan is all of it."""
    end = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    if LENGTH_BYTES < end <= len(content):
        try:
            metadata = json.loads(content[LENGTH_BYTES:end])
        except (ValueError, RecursionError):  # the bytes of a plan
            metadata = None
        if isinstance(metadata, dict):
            return metadata, content[end:]
    return {}, content


def digest(plan: bytes) -> str:
    """What the cache and promise 9 know a plan by: framed or not, it is the same native code."""
    return hashlib.sha256(plan).hexdigest()
