# SPDX-License-Identifier: AGPL-3.0-or-later
"""Wheels with a compiled library: what is in them, and that the same files make the same bytes."""

from __future__ import annotations

import base64
import hashlib
import importlib
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.unit.tools.test_gpu_code import CUBIN, elf, entry, fatbin

DOCKER = Path(__file__).resolve().parents[3] / "docker"
sys.path.insert(0, str(DOCKER))  # as the builders do
wheel = importlib.import_module("native.wheel")
sys.path.remove(str(DOCKER))

INFO = "some_ops-1.2.3+sm80.sm90.dist-info"


@pytest.fixture(autouse=True)
def some_day(monkeypatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def pack(folder: Path) -> Path:
    package = wheel.Package("some_ops", "1.2.3+sm80.sm90", "What it is", "MIT", requires=["torch==9.9"])
    files = {"some_ops/z.py": b"z = 1\n", "some_ops/_ops.so": b"\x7fELF", "some_ops/__init__.py": b""}
    return wheel.pack(folder, package, files, {"LICENSE.b": "b", "LICENSE.a": "a"})


def test_the_wheel_is_named_for_its_archs_and_every_python(tmp_path):
    assert pack(tmp_path).name.startswith("some_ops-1.2.3+sm80.sm90-py3-none-linux_")


def test_the_record_lists_every_member_with_its_hash_and_size(tmp_path):
    with zipfile.ZipFile(pack(tmp_path)) as archive:
        record = archive.read(f"{INFO}/RECORD").decode()
        names = []
        for path, digest, size in (line.rsplit(",", 2) for line in record.splitlines()):
            names.append(path)
            if path.endswith("/RECORD"):
                assert (digest, size) == ("", "")
                continue
            content = archive.read(path)
            expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            assert (digest, size) == (f"sha256={expected}", str(len(content)))
        assert sorted(names) == sorted(archive.namelist())


def test_metadata_names_the_torch_that_it_needs_and_its_licences(tmp_path):
    with zipfile.ZipFile(pack(tmp_path)) as archive:
        metadata = Parser().parsestr(archive.read(f"{INFO}/METADATA").decode())
        assert (metadata["Name"], metadata["Version"]) == ("some_ops", "1.2.3+sm80.sm90")
        assert (metadata["Summary"], metadata["License-Expression"]) == ("What it is", "MIT")
        assert metadata.get_all("Requires-Dist") == ["torch==9.9"]
        assert metadata.get_all("License-File") == ["LICENSE.a", "LICENSE.b"]
        assert archive.read(f"{INFO}/licenses/LICENSE.a") == b"a"
        assert "Tag: py3-none-linux_" in archive.read(f"{INFO}/WHEEL").decode()


def test_the_same_files_make_the_same_wheel_in_every_time_zone(tmp_path, monkeypatch):
    first = pack(tmp_path / "a").read_bytes()
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert pack(tmp_path / "b").read_bytes() == first
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    assert pack(tmp_path / "c").read_bytes() != first


def test_a_time_before_zip_archives_existed_and_none_at_all_are_their_first_day(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    early = pack(tmp_path / "early")
    with zipfile.ZipFile(early) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert pack(tmp_path / "unset").read_bytes() == early.read_bytes()


def test_the_package_knows_what_it_was_built_for(tmp_path):
    (tmp_path / "some_ops").mkdir()
    (tmp_path / "some_ops/__init__.py").write_text("from some_ops import _build\n")
    (tmp_path / "some_ops/notes.txt").write_text("not packed")
    files = wheel.package_files(tmp_path / "some_ops", {"ARCHS": ["80"], "TORCH": "9.9"}, "_ops.so", b"code")
    assert sorted(files) == ["some_ops/__init__.py", "some_ops/_build.py", "some_ops/_ops.so"]
    facts: dict[str, object] = {}
    exec(files["some_ops/_build.py"].decode(), facts)
    assert (facts["ARCHS"], facts["TORCH"]) == (["80"], "9.9")


@pytest.mark.parametrize(
    ("name", "archs", "complaint"),
    [
        ("flash_attn-2.8.3.post2+hd32.sm80.sm90-py3-none-linux_x86_64.whl", (80, 90), ""),
        ("yolov12_kernels-1.1+sm90-py3-none-linux_x86_64.whl", (90,), ""),
        ("yolov12_kernels-1.1+sm80.sm90-py3-none-linux_x86_64.whl", (90,), "has no code for sm_80; it holds sm_90"),
        ("flash_attn-2.8.3.post2+hd32.sm90-py3-none-linux_x86_64.whl", (80, 90), "has code for sm_80"),
    ],
)
def test_a_wheel_whose_code_is_not_what_its_name_promises_fails_the_stage(
    tmp_path: Path, name: str, archs: tuple[int, ...], complaint: str
) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as made:
        made.writestr("ops/_ops.so", elf({".nv_fatbin": fatbin(*(entry(CUBIN, arch) for arch in archs))}))
    command = ["bash", DOCKER / "native/check.sh", tmp_path, "ops/_ops.so", DOCKER.parent / "yolov12/tools/gpu_code.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) is bool(complaint)
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == bool(complaint)
