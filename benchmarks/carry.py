# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pack what the benchmarks need on a GPU machine that has torch but no network: `python benchmarks/carry.py`, then gpu.sh there.

Writes the git-ignored folder .carry: wheels of the packages below in the locked versions, those that docker/ built where dist/ has any
(docs/kernels.md), stand-ins, the BCCD photos, and which commit this is. Packages that such a machine has (torch, OpenCV, numpy, ...)
stay out: the folder has to be small enough to be carried.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import system, training  # noqa: E402  # run as a file, so the checkout is put on the path first

PYTHON = "3.12"
LOCK = ROOT / f"env/locks/train-py{PYTHON.replace('.', '')}.txt"
WHEELS = (
    "annotated-types",
    "colorama",
    "onnxslim",
    "pydantic",
    "pydantic-core",
    "pydantic-settings",
    "python-dotenv",
    "typing-inspection",
    "ultralytics",
    "ultralytics-platform",
    "ultralytics-thop",
)
BUILT = ("flash_attn", "yolov12_kernels")
"""Packages that docker/ builds. Without them the machine uses torch's own operations, or what it has."""
STAND_INS = {
    # Its wheel is 50 MB. ultralytics' trainer uses it for one thing, the results table inside a checkpoint, and does without.
    "polars.py": '"""Empty: polars is not here, and training does without (benchmarks/carry.py)."""\n',
}
GLIBCS = (17, 24, 26, 27, 28, 31, 34)  # pip takes a wheel only for a platform that is named exactly
MAX_MIB = 32


def main(arguments: list[str] | None = None) -> int:
    """Write .carry and print its size; 1 if it grew beyond what can be carried beside the repository."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / ".carry")
    parser.add_argument("--data", type=Path, default=ROOT / training.BCCD, help="folder of BCCD")
    parser.add_argument("--built", type=Path, default=ROOT / "dist", help="folder with wheels that docker/ built")
    options = parser.parse_args(arguments)
    out: Path = options.out
    shutil.rmtree(out, ignore_errors=True)
    (out / "stand-ins").mkdir(parents=True)
    for name, text in STAND_INS.items():
        (out / "stand-ins" / name).write_text(text)
    download(locked(LOCK.read_text(), WHEELS), out / "wheels")
    for wheel in newest(options.built):
        shutil.copy2(wheel, out / "wheels")
        print(f"{out.name}: with {wheel.name}")
    training.copy_dataset(options.data, out / "bccd")
    (out / "commit").write_text(f"{system.commit()}:{system.code_digest()}\n")
    mib = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 2**20
    print(f"{out.name}: {len(list((out / 'wheels').iterdir()))} wheels, {mib:.1f} MiB of {MAX_MIB}")
    return 0 if mib <= MAX_MIB else 1


def newest(folder: Path) -> list[Path]:
    """The newest wheel in `folder` of each package in BUILT that has any."""
    found = [list(folder.glob(f"{package}-*.whl")) for package in BUILT]
    return [max(wheels, key=lambda wheel: wheel.stat().st_mtime) for wheels in found if wheels]


def locked(lock: str, names: tuple[str, ...]) -> str:
    """The lines of a hash lock that pin `names`; ValueError says which of them it lacks."""
    pins = {pin.partition("==")[0]: pin for pin in re.findall(r"^[a-z0-9-]+==.*(?:\n +--hash=.*)*", lock, re.MULTILINE)}
    missing = [name for name in names if name not in pins]
    if missing:
        raise ValueError(f"{LOCK.name} has no {', '.join(missing)}")
    return "".join(pins[name].rstrip(" \\") + "\n" for name in names)


def download(requirements: str, folder: Path) -> None:
    """Fetch and check the wheels for the GPU machine's Python, whatever this one is."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in GLIBCS] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", PYTHON, "--implementation", "cp", "--dest", str(folder)]
    for platform in platforms:
        command += ["--platform", platform]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements)
        file.flush()
        subprocess.run([*command, "--require-hashes", "--requirement", file.name], check=True)


if __name__ == "__main__":
    sys.exit(main())
