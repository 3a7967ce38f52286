# SPDX-License-Identifier: AGPL-3.0-or-later
"""A wheel from files in memory, byte for byte the same from the same files."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sysconfig
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

EPOCH = 315532800  # 1980-01-01, the first day that a zip archive can say


@dataclass(frozen=True)
class Package:
    """What a wheel says of itself, beside its files."""

    name: str
    version: str
    summary: str
    licence: str
    """SPDX expression."""
    requires: list[str]


def package_files(package: Path, facts: dict[str, object], library: str, content: bytes) -> dict[str, bytes]:
    """Path in site-packages -> content: a folder's Python files, the library, and in `_build.py` what the package knows of its build."""
    files = {f"{package.name}/{file.name}": file.read_bytes() for file in sorted(package.glob("*.py"))}
    lines = [f"{name} = {json.dumps(value)}" for name, value in facts.items()]
    text = "\n".join(["# SPDX-License-Identifier: AGPL-3.0-or-later", "# Written by the build.", *lines]) + "\n"
    return files | {f"{package.name}/_build.py": text.encode(), f"{package.name}/{library}": content}


def pack(folder: Path, package: Package, files: dict[str, bytes], licences: dict[str, str]) -> Path:
    """Write `{name}-{version}-py3-none-{platform}.whl` into `folder`; `files` maps paths in site-packages to contents.

    The time of every member is SOURCE_DATE_EPOCH, in seconds since 1970, where that is set; before 1980 means 1980.
    """
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    info = f"{package.name}-{package.version}.dist-info"
    texts = {f"{info}/licenses/{name}": text for name, text in licences.items()}
    texts[f"{info}/METADATA"] = _metadata(package, sorted(licences))
    texts[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: yolov12\nRoot-Is-Purelib: false\nTag: py3-none-{platform}\n"
    )
    # What describes the package comes last, as the wheel specification asks.
    members = dict(sorted(files.items())) | {path: texts[path].encode() for path in sorted(texts)}
    members[f"{info}/RECORD"] = _record(members, f"{info}/RECORD").encode()

    wheel = folder / f"{package.name}-{package.version}-py3-none-{platform}.whl"
    folder.mkdir(parents=True, exist_ok=True)
    date_time = time.gmtime(max(int(os.environ.get("SOURCE_DATE_EPOCH", EPOCH)), EPOCH))[:6]
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path, content in members.items():
            member = zipfile.ZipInfo(path, date_time)
            member.external_attr = (0o100755 if path.endswith(".so") else 0o100644) << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, content)
    return wheel


def _metadata(package: Package, licences: list[str]) -> str:
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {package.name}",
        f"Version: {package.version}",
        f"Summary: {package.summary}",
        f"License-Expression: {package.licence}",
        *(f"License-File: {name}" for name in licences),
        *(f"Requires-Dist: {requirement}" for requirement in package.requires),
    ]
    return "\n".join(lines) + "\n"


def _record(members: dict[str, bytes], own_path: str) -> str:
    """One line for each member, as the wheel specification asks: path, unpadded base64 of its sha256, size."""
    lines = []
    for path, content in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(content)}")
    return "\n".join([*lines, f"{own_path},,"]) + "\n"
