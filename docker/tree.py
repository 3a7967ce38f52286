#!/usr/bin/env python3
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A hash of what is in an image: path, kind, mode, owner and content of each file, without times and without how layers divide it.

    docker/tree.py yolov12:train            # the hash
    docker/tree.py yolov12:train FILE       # and the list that it is made of, to compare two with diff

Needs docker and Python 3.11, without packages.
Two builds of the same inputs never have the same image id where the builder can not rewrite times (docs/registry.md). This hash can be.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

KINDS = {
    tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "link",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
    tarfile.FIFOTYPE: "fifo",
}


def entries(archive: IO[bytes]) -> Iterator[str]:
    """One line for each entry of a tar stream, in its order.

    A hard link has the content of its target, which comes first in the stream: which of the names is "the file" is the archiver's choice.
    """
    contents: dict[str, str] = {}
    with tarfile.open(fileobj=archive, mode="r|") as tar:
        for entry in tar:
            path = entry.name.removeprefix("./").rstrip("/")
            kind, content = KINDS.get(entry.type, "file"), "-"
            if entry.issym():
                content = entry.linkname
            elif entry.islnk():
                content = contents[path] = contents[entry.linkname.removeprefix("./")]
            elif (stream := tar.extractfile(entry)) is not None:
                content = contents[path] = hashlib.file_digest(stream, "sha256").hexdigest()
            yield f"{path}\t{kind}\t{entry.mode:04o}\t{entry.uid}:{entry.gid}\t{content}"


def listing(archive: IO[bytes]) -> str:
    """All entries of a tar stream, sorted."""
    return "".join(f"{line}\n" for line in sorted(entries(archive)))


def exported(image: str) -> str:
    """The listing of an image, by a container that is made and never started.

    Raises:
        subprocess.CalledProcessError: docker has said why.
    """
    container = subprocess.run(
        ["docker", "create", image], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    try:
        with subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            found = listing(process.stdout)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)
        return found
    finally:
        subprocess.run(["docker", "rm", "--force", container], stdout=subprocess.DEVNULL, check=True)


def main(arguments: list[str]) -> int:
    """Print the hash of an image, and write its listing where a file is named."""
    if len(arguments) not in (1, 2):
        print("tree: type docker/tree.py IMAGE, or docker/tree.py IMAGE FILE", file=sys.stderr)
        return 2
    try:
        found = exported(arguments[0])
    except subprocess.CalledProcessError as error:
        return error.returncode
    print(hashlib.sha256(found.encode()).hexdigest())
    for file in map(Path, arguments[1:]):
        file.write_text(found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
