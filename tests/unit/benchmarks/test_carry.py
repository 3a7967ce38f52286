# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is packed for a machine without network: locked versions, photos, and which commit it was."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from benchmarks import carry, system

LOCK = """\
# made by a resolver
ultralytics==8.4.190 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via yolov12
ultralytics-thop==2.2.3 \\
    --hash=sha256:cc
"""


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """A folder that carry wrote from two photos, with one empty wheel in place of those of the network."""

    def download(requirements, folder):
        folder.mkdir()
        zipfile.ZipFile(folder / "ultralytics-8.4.190-py3-none-any.whl", "w").close()

    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    (data / "bccd.yaml").write_text("names: {}\n")
    (data / "images/a.jpg").write_bytes(b"jpeg")
    (data / "labels.cache").write_bytes(b"made by someone's run")
    data.chmod(0o555)
    monkeypatch.setattr(carry, "download", download)
    assert carry.main(arguments(tmp_path / "carry")) == 0
    return tmp_path / "carry"


def arguments(out: Path) -> list[str]:
    return [word for name in ("data", "built") for word in (f"--{name}", str(out.parent / name))] + ["--out", str(out)]


def test_a_pin_is_taken_with_its_hashes():
    assert (
        carry.locked(LOCK, ("ultralytics",))
        == "ultralytics==8.4.190 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
    )


def test_a_pin_whose_name_only_begins_the_same_is_another():
    assert carry.locked(LOCK, ("ultralytics-thop",)).startswith("ultralytics-thop==2.2.3")


def test_a_package_that_the_lock_lacks_is_named():
    with pytest.raises(ValueError, match="has no polars"):
        carry.locked(LOCK, ("ultralytics", "polars"))


def test_the_lock_has_every_package_that_is_carried():
    assert carry.locked(carry.LOCK.read_text(), carry.WHEELS).count("==") == len(carry.WHEELS)


def test_the_photos_are_packed_writable_and_without_caches(packed):
    names = sorted(path.relative_to(packed / "bccd").as_posix() for path in (packed / "bccd").rglob("*"))
    assert names == ["bccd.yaml", "images", "images/a.jpg"]
    assert (packed / "bccd").stat().st_mode & 0o200


def test_the_commit_is_packed_with_a_digest_of_the_code(packed):
    assert (packed / "commit").read_text() == f"{system.commit()}:{system.code_digest()}\n"


def test_packing_again_starts_afresh(packed):
    (packed / "wheels" / "old-1.0-py3-none-any.whl").touch()
    carry.main(arguments(packed))
    assert not (packed / "wheels" / "old-1.0-py3-none-any.whl").exists()


def test_more_than_can_be_carried_is_an_error(packed, monkeypatch):
    monkeypatch.setattr(carry, "MAX_MIB", 0)
    assert carry.main(arguments(packed)) == 1


def test_the_newest_wheel_that_was_built_of_each_package_is_packed_too(packed):
    built = packed.parent / "built"
    built.mkdir()
    names = [
        f"{name}-py3-none-linux_x86_64.whl" for name in ("yolov12_kernels-1.0+sm90", "yolov12_kernels-1.0+sm80", "x-1")
    ]
    for age, name in enumerate(names):
        (built / name).touch()
        os.utime(built / name, (1000 - age, 1000 - age))
    carry.main(arguments(packed))
    assert {path.name for path in (packed / "wheels").iterdir()} == {"ultralytics-8.4.190-py3-none-any.whl", names[0]}
