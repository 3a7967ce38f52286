# SPDX-License-Identifier: AGPL-3.0-or-later
"""The reader of GPU code: on files made here, on libraries of the environment, and on damaged bytes."""

from __future__ import annotations

import struct
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov12.tools import gpu_code as program
from yolov12.tools.gpu_code import GpuCode, GpuCodeError, difference, gpu_code, main, read

CUBIN, PTX, LTO = 2, 1, 8


def entry(kind: int, arch: int, payload: bytes = b"x" * 24, flags: int = 0x11, header_size: int = 64) -> bytes:
    """One entry: its header (kind, version, sizes, compressed size, -, minor, major, arch, name, flags) and what follows."""
    head = struct.pack("<HHIQIIHHIIIQ", kind, 0x101, header_size, len(payload), 0, 0, 0, 9, arch, 0, 0, flags)
    return head.ljust(header_size, b"\0") + payload


def fatbin(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return struct.pack("<IHHQ", program.FATBIN_MAGIC, 1, 16, len(body)) + body


def elf(sections: dict[str, bytes], section_type: int = 1) -> bytes:
    """A 64-bit ELF file with these sections and the one that has their names."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in (*sections, ".shstrtab"))
    contents = {**sections, ".shstrtab": names}
    table, body, offset = struct.pack("<IIQQQQIIQQ", *[0] * 10), b"", 64
    for name, content in contents.items():
        at = names.index(name.encode() + b"\0")
        table += struct.pack("<IIQQQQIIQQ", at, section_type, 0, 0, offset, len(content), 0, 0, 1, 0)
        body += content
        offset += len(content)
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HHIQQQIHHH", 3, 62, 1, 0, 0, offset, 0, 64, 0, 0)
    return head + struct.pack("<HHH", 64, len(contents) + 1, len(contents)) + body + table


SAMPLE = elf(
    {
        ".text": b"\x90" * 40,
        ".nv_fatbin": fatbin(entry(CUBIN, 80), entry(CUBIN, 90, b"zz" * 60)) + bytes(8) + fatbin(entry(PTX, 90)),
        "__nv_relfatbin": fatbin(entry(CUBIN, 120, header_size=112)),
    }
)


def test_cubins_and_ptx_of_every_fat_binary_are_listed():
    assert read(SAMPLE) == GpuCode(frozenset({"80", "90", "120"}), frozenset({"90"}))
    assert str(read(SAMPLE)) == "sm_80 sm_90 sm_120 compute_90"


def test_code_for_one_arch_only_or_one_family_only_has_its_letter():
    content = elf({".nv_fatbin": fatbin(entry(CUBIN, 90, flags=0x100011), entry(PTX, 100, flags=0x208011))})
    assert read(content) == GpuCode(frozenset({"90a"}), frozenset({"100f"}))


def test_a_compressed_payload_is_not_looked_into():
    looks_like_one = fatbin(entry(CUBIN, 75))
    assert read(elf({".nv_fatbin": fatbin(entry(CUBIN, 80, looks_like_one, flags=0x8011))})).cubins == {"80"}


def test_intermediate_code_is_no_code():
    assert str(read(elf({".nv_fatbin": fatbin(entry(LTO, 90))}))) == "no GPU code"


def test_a_library_without_a_fat_binary_has_no_gpu_code():
    assert read(elf({".text": b"\x90"})) == GpuCode(frozenset(), frozenset())


def test_a_file_of_debug_symbols_has_sections_without_content():
    assert read(elf({".nv_fatbin": b"\x01" * 32}, section_type=program.NOBITS)).cubins == frozenset()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"#!/bin/sh\n", "is not an ELF file"),
        (b"\x7fELF\x01\x01" + bytes(60), "is not a 64-bit little-endian ELF file"),
        (b"\x7fELF\x02\x01", "is damaged: it ends before byte 48"),
        (b"\x7fELF\x02\x01" + bytes(60), "has no table of sections"),
        (SAMPLE[:-30], "is damaged: it ends before byte"),
        (elf({".nv_fatbin": b"\x01" * 32}), "is damaged: no whole fat binary at byte 64"),
        (elf({".nv_fatbin": fatbin(entry(CUBIN, 80))[:-8]}), "is damaged: no whole fat binary at byte 64"),
        (elf({".nv_fatbin": fatbin(entry(CUBIN, 80)[:-8])}), "is damaged: no whole entry of a fat binary at byte 80"),
    ],
)
def test_what_can_not_be_read_is_one_sentence_that_names_the_file(tmp_path, content, sentence):
    file = tmp_path / "lib.so"
    file.write_bytes(content)
    with pytest.raises(GpuCodeError) as error:
        gpu_code(file)
    assert str(error.value).startswith(f"{file} {sentence}")


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.touch()])
def test_a_missing_file_a_folder_and_an_empty_file_are_errors_too(tmp_path, make):
    make(tmp_path / "lib.so")
    with pytest.raises(GpuCodeError, match=r"lib\.so can not be read"):
        gpu_code(tmp_path / "lib.so")


def answer(content: bytes) -> GpuCode | str:
    """What was read, or the declared error; anything else fails the test that asks."""
    try:
        return read(content)
    except GpuCodeError as error:
        return str(error)


@given(st.integers(0, len(SAMPLE)), st.integers(0, len(SAMPLE)), st.binary(max_size=40))
def test_damaged_bytes_give_an_answer_or_the_declared_error(begin, length, replacement):
    assert answer(SAMPLE[:begin] + replacement + SAMPLE[begin + length :])


# Where numbers stand that are offsets, sizes and counts: of the ELF header, of the table of sections, of fat binaries and their entries.
TABLE = struct.unpack_from("<Q", SAMPLE, 0x28)[0]
FIELDS = [0x28, 0x38, *range(TABLE, len(SAMPLE) - 8, 8), *range(104, 104 + 16 + 64, 4)]


@given(st.dictionaries(st.sampled_from(FIELDS), st.integers(0, 2**64 - 1), min_size=1, max_size=3))
def test_any_number_in_any_field_gives_an_answer_or_the_declared_error(numbers):
    content = bytearray(SAMPLE)
    for at, number in numbers.items():
        content[at : at + 8] = struct.pack("<Q", number)
    assert answer(bytes(content))


def test_an_offset_that_no_machine_can_hold_is_the_declared_error():
    content = bytearray(SAMPLE)
    content[0x28:0x30] = b"\xff" * 8
    assert "is damaged: it ends before byte" in answer(bytes(content))


@given(st.dictionaries(st.sampled_from([75, 80, 86, 89, 90, 100, 120]), st.sampled_from([CUBIN, PTX]), max_size=7))
def test_what_was_written_is_what_is_read(kinds):
    found = read(elf({".nv_fatbin": b"".join(fatbin(entry(kind, arch)) for arch, kind in kinds.items())}))
    assert found.cubins == {str(arch) for arch, kind in kinds.items() if kind == CUBIN}
    assert found.ptx == {str(arch) for arch, kind in kinds.items() if kind == PTX}


@pytest.mark.parametrize(
    ("expected", "sentence"),
    [
        ("80 90 120", "PTX for compute_90, which was not asked for"),
        ("80 90", "code for sm_120, which was not asked for and PTX for compute_90, which was not asked for"),
        ("75 80 90 120", "no code for sm_75 and PTX for compute_90, which was not asked for"),
    ],
)
def test_a_difference_names_each_arch(expected, sentence):
    assert difference(read(SAMPLE), expected) == sentence


def test_exactly_what_was_expected_is_no_difference():
    assert difference(GpuCode(frozenset({"80", "90"}), frozenset()), "90 80") is None


def test_the_program_runs_without_the_package(tmp_path, repository):
    """The builder stage has this one file, and Python's standard library."""
    library = tmp_path / "lib.so"
    library.write_bytes(elf({".nv_fatbin": fatbin(entry(CUBIN, 90))}))
    command = [
        sys.executable,
        "-I",
        "-S",
        str(repository / "yolov12/tools/gpu_code.py"),
        str(library),
        "--expect",
        "90",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "sm_90\n", "")


def test_the_program_fails_with_one_sentence_on_a_difference(tmp_path, capsys):
    library = tmp_path / "lib.so"
    library.write_bytes(elf({".nv_fatbin": fatbin(entry(CUBIN, 90))}))
    assert main([str(library), "--expect", "80 90"]) == 2
    assert capsys.readouterr().err == f"gpu-code: {library} has no code for sm_80; it holds sm_90\n"


def test_the_program_fails_with_one_sentence_on_a_file_that_it_can_not_read(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("hello")
    assert main([str(tmp_path / "notes.txt")]) == 2
    assert capsys.readouterr().err == f"gpu-code: {tmp_path}/notes.txt is not an ELF file\n"


# What `cuobjdump -lelf -lptx` of CUDA 13 lists for the pinned libraries.
LISTED = {
    ("nvidia-cublas", "libcublasLt.so.13"): (
        "75 80 86 89 90 90a 100 100a 103 120 120f 121",
        "75 120",
    ),
    ("nvidia-curand", "libcurand.so.10"): ("75 80 86 89 90 100 103 120 121", "121"),
    ("nvidia-cufile", "libcufile.so.0"): ("75 80 86", "86"),
}


@pytest.mark.parametrize(("distribution", "library"), LISTED, ids=lambda name: name)
def test_libraries_of_the_environment_read_as_cuobjdump_lists_them(distribution, library):
    try:
        found = [file for file in files(distribution) or [] if file.name == library]
    except PackageNotFoundError:
        found = []
    if not found:
        pytest.skip(f"{distribution} is not installed, or of another CUDA")
    cubins, ptx = LISTED[distribution, library]
    assert gpu_code(str(found[0].locate())) == GpuCode(frozenset(cubins.split()), frozenset(ptx.split()))
