# SPDX-License-Identifier: AGPL-3.0-or-later
"""What of the upstream sdist is compiled, and the edits that it needs. It is unpacked for the build only; none of it is kept here."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from native.build import BuildError

KERNELS = tuple(f"flash_{way}_hdim32_{dtype}_sm80.cu" for way in ("bwd", "fwd") for dtype in ("bf16", "fp16"))
"""4 of upstream's 72 files, the slow ones first. `sm80` names the instructions they use; they compile for every arch from there on."""

DISABLED = ("DROPOUT", "ALIBI", "SOFTCAP", "LOCAL", "UNEVEN_K")
"""Upstream's FLASHATTENTION_DISABLE_* switches for what YOLOv12's attention never asks for; each halves the number of kernels."""

SOURCES = "csrc/flash_attn/src"
CUTLASS = "csrc/cutlass/include"
WANTED = (f"{SOURCES}/", f"{CUTLASS}/", "LICENSE", "AUTHORS")


@dataclass(frozen=True)
class Edit:
    """One replacement in an upstream file, where the text must stand exactly once."""

    file: str
    old: str
    new: str
    why: str


EDITS = (
    Edit(
        f"{SOURCES}/flash.h",
        "#include <ATen/cuda/CUDAGeneratorImpl.h>",
        "#include <ATen/cuda/PhiloxCudaState.h>",
        why="one type is used of it; the rest needs the headers of cuBLAS, cuSPARSE and cuSOLVER",
    ),
    Edit(
        f"{SOURCES}/flash_fwd_launch_template.h",
        "BOOL_SWITCH(return_softmax, ReturnSoftmaxConst,",
        "DROPOUT_SWITCH(return_softmax, ReturnSoftmaxConst,",
        why="attention weights are returned with dropout only, so without it half of the forward kernels are never launched",
    ),
)


def verify(sdist: Path, sha256: str) -> None:
    """Raise BuildError unless the file has this hash."""
    if not sdist.is_file():
        raise BuildError(f"--sdist {sdist}: no such file")
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != sha256:
        raise BuildError(f"{sdist.name} has sha256 {found}, and the pin is {sha256}: fetch it again, or mend the pin")


def unpack(sdist: Path, target: Path) -> None:
    """Write the files that the build needs below `target`, without the archive's top folder.

    Raises:
        BuildError: not a tar archive, or a member would land outside `target`.
    """
    try:
        with tarfile.open(sdist) as archive:
            for member in archive:
                name = "/".join(PurePosixPath(member.name).parts[1:])
                if not member.isfile() or not name.startswith(WANTED):
                    continue
                if ".." in PurePosixPath(name).parts:
                    raise BuildError(
                        f"{sdist.name} holds {member.name}, which would be written outside the build folder"
                    )
                content = archive.extractfile(member)
                file = target / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content.read() if content else b"")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BuildError(f"{sdist.name} can not be unpacked: {error}") from error


def apply(edits: tuple[Edit, ...], root: Path) -> None:
    """Make each edit below `root`; BuildError where the text is not what it was when the edit was written."""
    for edit in edits:
        file = root / edit.file
        if not file.is_file():
            raise BuildError(
                f"the sdist has no {edit.file}, which needs an edit: read the new version, and change EDITS"
            )
        text = file.read_text()
        if (count := text.count(edit.old)) != 1:
            raise BuildError(
                f"{edit.file} holds {edit.old!r} {count} times, not once: read the new version, and change EDITS"
            )
        file.write_text(text.replace(edit.old, edit.new))


def licences(root: Path) -> dict[str, str]:
    """File name -> text of the licences that must travel with the library.

    The sdist has CUTLASS's only on top of each of its headers.
    """
    header = root / CUTLASS / "cutlass/cutlass.h"
    try:
        comment = header.read_text().split("*/", 1)[0]
        ours = {name: (root / name).read_text() for name in ("LICENSE", "AUTHORS")}
    except OSError as error:
        raise BuildError(f"the sdist has no {Path(error.filename).name}, which must travel with the library") from error
    if "SPDX-License-Identifier: BSD-3-Clause" not in comment:
        raise BuildError(f"{CUTLASS}/cutlass/cutlass.h does not begin with a BSD-3-Clause licence: read the new one")
    lines = [line.strip().strip("*/").strip() for line in comment.splitlines()]
    return {
        "LICENSE.flash-attention": ours["LICENSE"],
        "AUTHORS.flash-attention": ours["AUTHORS"],
        "LICENSE.cutlass": "\n".join(lines).strip() + "\n",
    }
