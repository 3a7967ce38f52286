# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which GPU archs a library or program holds code for, read from its file; nothing is loaded, and only the standard library is used.

    python gpu_code.py LIB                     sm_80 sm_90 compute_90
    python gpu_code.py LIB --expect "80 90"    exit code 2 and one sentence unless it is exactly these

nvcc embeds code as "fat binaries", one after another in a section of the ELF file. Each is a header and entries; an entry's own header says
for which arch it is, and whether it is machine code (a cubin) or PTX, so what follows, often compressed, need not be read. NVIDIA documents
no layout. This one was worked out from the files of CUDA 13.0 and compared with what `cuobjdump -lelf -lptx` lists for them.
"""

from __future__ import annotations

import argparse
import mmap
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SECTIONS = (b".nv_fatbin", b"__nv_relfatbin")
"""The second has what is compiled with -rdc=true, before device code is linked."""
FATBIN_MAGIC = 0xBA55ED50
CUBIN, PTX = 2, 1
SUFFIXES = {0x100000: "a", 0x200000: "f"}
"""Flags of an entry: code that runs on that very arch only, or on its family only."""
NOBITS = 8
"""ELF's type for a section without content, as a file of separated debug symbols has."""

Buffer = bytes | mmap.mmap


class GpuCodeError(Exception):
    """The file is not what can be read here; the message is a sentence that names it."""


@dataclass(frozen=True)
class GpuCode:
    """Archs as nvcc names them after `sm_` and `compute_`: "80", "90a", "120"."""

    cubins: frozenset[str]
    """What the file has machine code for; it also runs on GPUs of the same major version and a later minor one."""
    ptx: frozenset[str]
    """What a driver can compile, slowly and at first use, for every GPU from that arch on."""

    def __str__(self) -> str:
        names = [f"sm_{arch}" for arch in in_order(self.cubins)] + [f"compute_{arch}" for arch in in_order(self.ptx)]
        return " ".join(names) or "no GPU code"


def in_order(archs: frozenset[str]) -> list[str]:
    """By number, and "90" before "90a"."""
    return sorted(archs, key=lambda arch: (int(arch.rstrip("af")), arch))


def gpu_code(path: Path | str) -> GpuCode:
    """The GPU code in an ELF file; empty sets when it has none.

    Raises:
        GpuCodeError: no such file, not a 64-bit little-endian ELF file, or a damaged one.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return read(content)
    except (OSError, ValueError) as error:  # mmap raises ValueError for an empty file
        raise GpuCodeError(f"{path} can not be read: {error}") from error
    except GpuCodeError as error:
        raise GpuCodeError(f"{path} {error}") from None


def read(content: Buffer) -> GpuCode:
    """`gpu_code` of a file's content; the messages of its GpuCodeError go on from the file's name."""
    found: dict[int, set[str]] = {CUBIN: set(), PTX: set()}
    for begin, end in _fatbin_sections(content):
        for kind, arch in _entries(content, begin, end):
            found.setdefault(kind, set()).add(arch)  # other kinds are no code yet: LTO intermediates, for example
    return GpuCode(frozenset(found[CUBIN]), frozenset(found[PTX]))


def difference(found: GpuCode, expected: str) -> str | None:
    """What is missing or too much against "80 90", in words; None if the cubins are exactly these and there is no PTX."""
    wanted = frozenset(expected.split())
    parts = [f"no code for sm_{arch}" for arch in sorted(wanted - found.cubins)]
    parts += [f"code for sm_{arch}, which was not asked for" for arch in in_order(found.cubins - wanted)]
    parts += [f"PTX for compute_{arch}, which was not asked for" for arch in in_order(found.ptx)]
    return " and ".join(parts) or None


def _fatbin_sections(content: Buffer) -> Iterator[tuple[int, int]]:
    """(begin, end) in the file of each section with fat binaries."""
    if content[:4] != b"\x7fELF":
        raise GpuCodeError("is not an ELF file")
    if content[4:6] != b"\x02\x01":
        raise GpuCodeError("is not a 64-bit little-endian ELF file")
    (table,) = _unpack("<Q", content, 0x28)
    entry_size, count, names_index = _unpack("<HHH", content, 0x3A)
    if count == 0:
        raise GpuCodeError("has no table of sections, by which its GPU code would be found")
    if names_index >= count:
        raise GpuCodeError("is damaged: the section with the names of sections does not exist")
    # name, type, flags, address, offset, size
    headers = [_unpack("<IIQQQQ", content, table + index * entry_size) for index in range(count)]
    names = headers[names_index][4]
    for name, kind, _, _, offset, size in headers:
        at = names + name
        if kind == NOBITS or not any(content[at : at + len(known) + 1] == known + b"\0" for known in SECTIONS):
            continue
        if offset + size > len(content):
            raise GpuCodeError("is damaged: a section with GPU code goes past the end of the file")
        yield offset, offset + size


def _entries(content: Buffer, at: int, section_end: int) -> Iterator[tuple[int, str]]:
    """(kind, arch) of each entry of the fat binaries between two places."""
    while at < section_end:
        if section_end - at < 16 or content[at : at + 8] == bytes(8):  # zeros between them, from the linker's alignment
            at += 8
            continue
        magic, _, header_size, size = _unpack("<IHHQ", content, at)
        entry, end = at + header_size, at + header_size + size
        if magic != FATBIN_MAGIC or header_size < 16 or end > section_end:
            raise GpuCodeError(f"is damaged: no whole fat binary at byte {at}")
        while entry < end:
            kind, _, entry_header_size, payload_size = _unpack("<HHIQ", content, entry)
            (number,) = _unpack("<I", content, entry + 28)
            (flags,) = _unpack("<Q", content, entry + 40)
            following = entry + entry_header_size + payload_size
            if entry_header_size < 48 or following > end:
                raise GpuCodeError(f"is damaged: no whole entry of a fat binary at byte {entry}")
            yield kind, f"{number}{''.join(suffix for flag, suffix in SUFFIXES.items() if flags & flag)}"
            entry = following
        at = end


def _unpack(layout: str, content: Buffer, at: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(layout, content, at)
    except (struct.error, OverflowError) as error:  # the second from an offset past 2^63
        raise GpuCodeError(f"is damaged: it ends before byte {at + struct.calcsize(layout)}") from error


def main(argv: list[str] | None = None) -> int:
    """Print what a file has, or with --expect compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("--expect", help='the archs that there must be cubins for, and no others: "80 90"')
    arguments = parser.parse_args(argv)
    try:
        found = gpu_code(arguments.library)
    except GpuCodeError as error:
        print(f"gpu-code: {error}", file=sys.stderr)
        return 2
    if arguments.expect is not None and (wrong := difference(found, arguments.expect)):
        print(f"gpu-code: {arguments.library} has {wrong}; it holds {found}", file=sys.stderr)
        return 2
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
