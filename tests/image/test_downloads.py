# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a build fetches from elsewhere than the package index, with stand-ins on this machine: an installer like Miniforge's, sources like
nccl-tests'. The real ones were not run where this was written. Needs BUILD_NETWORK=host, by which a build reaches the stand-ins."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.image.harness import STRANGER, Image, docker
from tests.image.test_build import build_target, plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(autouse=True, scope="module")
def _builder(image: Image) -> None:
    """An engine that answers, and a build that reaches this machine."""
    if os.environ.get("BUILD_NETWORK") != "host":
        pytest.skip("needs BUILD_NETWORK=host, so that the build reaches a server of this test")


# Miniforge

# Knows the options that docker/stages/miniforge.sh uses, and no others. Its environments are made of the base's Python.
INSTALLER = r"""#!/bin/sh
set -eu
[ "$1 $2 $3" = "-b -k -p" ] || { echo "the stand-in does not know: $*" >&2; exit 2; }
prefix=$4
mkdir -p "$prefix/bin" "$prefix/etc/profile.d" "$prefix/pkgs"
echo archive >"$prefix/pkgs/python.conda"
cat >"$prefix/bin/conda" <<'CONDA'
#!/bin/sh
set -eu
prefix=$(dirname "$(dirname "$0")")
case "$*" in
"create --quiet --yes --offline --solver classic --prefix /opt/yolov12 python=3."*)
    [ -f "$prefix/pkgs/python.conda" ] || { echo "no packages left to make it from" >&2; exit 1; }
    python3 -m venv --without-pip --copies /opt/yolov12 && mkdir /opt/yolov12/conda-meta ;;
"clean --quiet --yes --all --force-pkgs-dirs") rm -r "$prefix/pkgs" ;;
"config --system --add envs_dirs /opt") echo "envs_dirs: [/opt]" >"$prefix/.condarc" ;;
*) echo "the stand-in does not know: conda $*" >&2; exit 2 ;;
esac
CONDA
chmod +x "$prefix/bin/conda"
cat >"$prefix/etc/profile.d/conda.sh" <<'FUNCTION'
conda() {
    [ "$1 $2" = "activate yolov12" ] || return 2
    export CONDA_PREFIX=/opt/yolov12 CONDA_DEFAULT_ENV=yolov12
    PATH=/opt/yolov12/bin:$PATH
}
FUNCTION
"""
INSTALLER_SHA256 = hashlib.sha256(INSTALLER.encode()).hexdigest()


@pytest.fixture(scope="module")
def installer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the installer, which this machine serves."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "installer.sh").write_text(INSTALLER)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/installer.sh"
        server.shutdown()


def conda_plan(repository: Path, url: str, sha256: str = INSTALLER_SHA256) -> dict[str, Any]:
    """The target train-conda with a stand-in, whose Python is the base's; without kernels, which do not depend on the manager."""
    target = plan(repository, "train-conda")
    python = target["args"]["PYTHON_VERSION"]
    target["args"] |= {"MINIFORGE_URL": url, "MINIFORGE_SHA256": sha256, "FLASH_ATTN": "none", "ARCHS": "80 90"}
    target["args"] |= {"ENV_PYTHON": python, "LOCK": f"train-py{python.replace('.', '')}.txt"}
    return target


def test_another_installer_than_the_pinned_one_fails_the_build_with_one_sentence(repository: Path, installer: str):
    done = build_target(repository, conda_plan(repository, installer, "0" * 64) | {"target": "manager-conda"})
    assert done.returncode != 0
    assert f"fetch: {installer} has sha256 {INSTALLER_SHA256}, and the pin is {'0' * 64}" in done.stderr


def test_an_installer_that_is_not_there_fails_the_build_with_its_address(repository: Path, installer: str):
    done = build_target(repository, conda_plan(repository, f"{installer}.gone") | {"target": "manager-conda"})
    assert done.returncode != 0
    assert f"fetch: {installer}.gone can not be fetched" in done.stderr


def test_an_environment_with_another_python_than_the_lock_s_fails_the_build(repository: Path, installer: str):
    target = conda_plan(repository, installer) | {"target": "manager-conda"}
    target["args"]["ENV_PYTHON"] = "3.99"
    done = build_target(repository, target)
    assert done.returncode != 0
    assert "the lock is for 3.99" in done.stderr


# nccl-tests

MAKEFILE = """\
build/all_reduce_perf: all_reduce.cu
\tmkdir -p build
\t$(CUDA_HOME)/bin/nvcc $(NVCC_GENCODE) -ccbin $(CXX) -I$(NCCL_HOME)/include -o $@ $< -L$(NCCL_HOME)/lib -lnccl
"""
PROGRAM = """\
#include <cstdio>
#include <nccl.h>
__global__ void one(int *out) { *out = 1; }
int main() {
    int version;
    if (ncclGetVersion(&version) != ncclSuccess) return 1;
    if (version < 0) one<<<1, 1>>>(nullptr);
    std::printf("stand-in with NCCL %d\\n", version);
}
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address and commit of a git repository that this machine serves."""
    repository = tmp_path_factory.mktemp("served") / "nccl-tests"
    repository.mkdir()
    (repository / "Makefile").write_text(MAKEFILE)
    (repository / "all_reduce.cu").write_text(PROGRAM)
    git = ["git", "-C", str(repository), "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "stand-in"]):
        subprocess.run([*git, *arguments], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--export-all", "--listen=127.0.0.1", f"--port={port}", f"--base-path={repository.parent}"]
    with subprocess.Popen(["git", "daemon", *options, str(repository.parent)]) as daemon:
        deadline = time.monotonic() + 30
        while not is_listening(port) and time.monotonic() < deadline:
            time.sleep(0.1)
        yield f"git://127.0.0.1:{port}/nccl-tests", commit
        daemon.terminate()


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def nccl_arguments(url: str, commit: str) -> dict[str, str]:
    return {"NCCL_TESTS": "1", "NCCL_TESTS_URL": url, "NCCL_TESTS_COMMIT": commit}


def test_a_commit_that_is_not_there_fails_the_build_with_one_sentence(repository: Path, sources: tuple[str, str]):
    url, _ = sources
    target = plan(repository, "train") | {"target": "nccl-tests-1"}
    target["args"] |= nccl_arguments(url, "0" * 40)
    done = build_target(repository, target)
    assert done.returncode != 0
    assert f"nccl-tests: commit {'0' * 40} can not be fetched from {url}" in done.stderr


# An image with both


@pytest.fixture(scope="module")
def chosen(repository: Path, installer: str, sources: tuple[str, str]) -> Iterator[Image]:
    """The image with conda and NVIDIA's nccl-tests, as far as the stand-ins go."""
    target = conda_plan(repository, installer)
    target["args"] |= nccl_arguments(*sources)
    done = build_target(repository, target, "--tag", "yolov12:test-downloads", "--load")
    assert done.returncode == 0, done.stderr[-3000:]
    yield Image("yolov12:test-downloads")
    docker("rmi", "yolov12:test-downloads")


@pytest.mark.parametrize("bash", ["-c", "-lc", "-euc"])
def test_conda_activate_is_conda_s_own_and_the_environment_is_the_same_place(chosen: Image, bash: str):
    program = "conda activate yolov12; echo $CONDA_PREFIX; type -P python"
    ran = chosen.run("bash", bash, program, options=STRANGER).check()
    assert ran.out == "/opt/yolov12\n/opt/yolov12/bin/python\n"


def test_of_the_manager_only_itself_stays(chosen: Image):
    ran = chosen.run("bash", "-c", "ls -A /opt/miniforge", options=STRANGER).check()
    assert ran.out.split() == [".condarc", "bin", "etc"]
    assert "VIRTUAL_ENV" not in chosen.inspect("{{json .Config.Env}}")


def test_conda_s_environment_holds_the_whole_lock(chosen: Image):
    ran = chosen.run("verify", options=STRANGER).check()
    assert ran.out.splitlines()[-1] == "everything that could be compared agrees"


def test_nvidia_s_program_takes_the_place_of_our_check_and_finds_the_image_s_nccl(chosen: Image):
    ran = chosen.run("/root/yolov12/build/all_reduce_perf", options=STRANGER).check()
    major, minor, patch = map(int, chosen.python("import torch; print(*torch.cuda.nccl.version())").split())
    assert ran.out == f"stand-in with NCCL {major * 10000 + minor * 100 + patch}\n"
    ours = chosen.run("cat", "/root/yolov12/build/p2pBandwidthLatencyTest", options=STRANGER).check().out
    assert "Not NVIDIA's" in ours
