# SPDX-License-Identifier: AGPL-3.0-or-later
"""A TensorRT engine as it lies on disk: the plan alone, or with a header in front as ultralytics writes it.

The header is the length of a JSON text in 4 bytes, little-endian, and the text (ultralytics/utils/export/engine.py:478;
nn/backends/base.py:133 reads it).
"""

from __future__ import annotations

import json
from typing import Any

LENGTH_BYTES = 4


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Metadata and plan; no metadata where what would be the header is none, so that the plan is all of it."""
    begin = LENGTH_BYTES
    end = begin + int.from_bytes(content[:begin], "little")
    if begin < end <= len(content):
        try:
            metadata = json.loads(content[begin:end])
        except (ValueError, RecursionError):  # the bytes of a plan
            metadata = None
        if isinstance(metadata, dict):
            return metadata, content[end:]
    return {}, content
