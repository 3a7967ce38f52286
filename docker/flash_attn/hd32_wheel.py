# SPDX-License-Identifier: AGPL-3.0-or-later
"""A wheel from files in memory, byte for byte the same from the same files."""

from __future__ import annotations

import base64
import hashlib
import time
import zipfile
from pathlib import Path

EPOCH = 315532800  # 1980-01-01, the first day that a zip archive can say


def pack(
    folder: Path,
    version: str,
    platform: str,
    requires: list[str],
    files: dict[str, bytes],
    licences: dict[str, str],
    epoch_s: int,
) -> Path:
    """Write `flash_attn-{version}-py3-none-{platform}.whl` into `folder`; `files` maps paths in site-packages to contents.

    `epoch_s` is the time of every member, in seconds since 1970 (SOURCE_DATE_EPOCH); before 1980 means 1980.
    """
    info = f"flash_attn-{version}.dist-info"
    texts = {f"{info}/licenses/{name}": text for name, text in licences.items()}
    texts[f"{info}/METADATA"] = _metadata(version, requires, sorted(licences))
    texts[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: yolov12\nRoot-Is-Purelib: false\nTag: py3-none-{platform}\n"
    )
    # What describes the package comes last, as the wheel specification asks.
    members = dict(sorted(files.items())) | {path: texts[path].encode() for path in sorted(texts)}
    members[f"{info}/RECORD"] = _record(members, f"{info}/RECORD").encode()

    wheel = folder / f"flash_attn-{version}-py3-none-{platform}.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path, content in members.items():
            member = zipfile.ZipInfo(path, time.gmtime(max(epoch_s, EPOCH))[:6])
            member.external_attr = (0o100755 if path.endswith(".so") else 0o100644) << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, content)
    return wheel


def _metadata(version: str, requires: list[str], licences: list[str]) -> str:
    lines = [
        "Metadata-Version: 2.4",
        "Name: flash_attn",
        f"Version: {version}",
        "Summary: FlashAttention-2 for head dimension 32 alone, built for the yolov12 image (unofficial)",
        "License-Expression: AGPL-3.0-or-later AND BSD-3-Clause",
        *(f"License-File: {name}" for name in licences),
        *(f"Requires-Dist: {requirement}" for requirement in requires),
    ]
    return "\n".join(lines) + "\n"


def _record(members: dict[str, bytes], own_path: str) -> str:
    """One line for each member, as the wheel specification asks: path, unpadded base64 of its sha256, size."""
    lines = []
    for path, content in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(content)}")
    return "\n".join([*lines, f"{own_path},,"]) + "\n"
