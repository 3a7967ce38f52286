# SPDX-License-Identifier: AGPL-3.0-or-later
"""docker/stages/tensorrt.sh takes the vendor's packages from TENSORRT_INDEX alone, whatever else the base image or the builder names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.docker.loopback import Served, served

ROOT = Path(__file__).resolve().parents[3]
VERSION = "10.9.9"
PACKAGES = {
    "tensorrt_cu13": "tensorrt",
    "tensorrt_cu13_libs": "tensorrt_libs",
    "tensorrt_cu13_bindings": "tensorrt_bindings",
}


@pytest.fixture
def indexes(tmp_path: Path) -> Iterator[tuple[Served, Served]]:
    """The vendor's, which is empty, and a public one that has everything."""
    with served(tmp_path / "vendor") as vendor, served(tmp_path / "public") as public:
        for package, module in PACKAGES.items():
            public.add_wheel(package, module, VERSION)
        yield vendor, public


def run_stage(tmp_path: Path, index: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script, with an environment of this test and uv of this checkout for those of the image."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    script = (ROOT / "docker/stages/tensorrt.sh").read_text()
    places = {
        "/opt/installer/bin": ROOT / ".venv/bin",
        "/opt/yolov12": environment,
        "/run/stage/": f"{ROOT}/docker/stages/",
    }
    for there, here in places.items():
        assert there in script
        script = script.replace(there, str(here))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    return subprocess.run(
        ["bash", "-c", script, "tensorrt.sh", VERSION, index],
        env=clean | variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_packages_of_the_index_are_installed_and_written_down(tmp_path: Path, indexes: tuple[Served, Served]):
    vendor, public = indexes
    for package, module in PACKAGES.items():
        vendor.add_wheel(package, module, VERSION)
    done = run_stage(tmp_path, vendor.index, UV_DEFAULT_INDEX=public.index)
    assert (done.returncode, done.stdout) == (0, f"tensorrt {VERSION}\n"), done.stderr
    written = (tmp_path / "environment/share/yolov12/vendor.txt").read_text()
    assert written == f"tensorrt-cu13=={VERSION}\ntensorrt-cu13-libs=={VERSION}\ntensorrt-cu13-bindings=={VERSION}\n"
    assert public.asked == []


@pytest.mark.parametrize("named_by", ["UV_DEFAULT_INDEX", "UV_INDEX", "UV_EXTRA_INDEX_URL", "uv.toml"])
def test_what_the_index_lacks_is_taken_from_no_other(tmp_path: Path, indexes: tuple[Served, Served], named_by: str):
    vendor, public = indexes
    for package, module in list(PACKAGES.items())[:2]:
        vendor.add_wheel(package, module, VERSION)
    variables = {named_by: public.index}
    if named_by == "uv.toml":
        (tmp_path / "config/uv").mkdir(parents=True)
        (tmp_path / "config/uv/uv.toml").write_text(f'[[index]]\nurl = "{public.index}"\n')
        variables = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    done = run_stage(tmp_path, vendor.index, **variables)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"TENSORRT_INDEX={vendor.index}: TensorRT {VERSION} can not be installed from there (see above)"
    )
    assert "/simple/tensorrt-cu13-bindings/" in vendor.asked
    assert public.asked == []
