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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.image.harness import STRANGER, Image, docker
from tests.image.test_build import build_target, plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(autouse=True)
def _builder(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine has built the image, so most of what is needed lies in its cache."""
    if os.environ.get("BUILD_NETWORK") != "host":
        pytest.skip("needs BUILD_NETWORK=host, so that the build reaches a server of this test")
    monkeypatch.setenv("ARCHS", image.inspect('{{index .Config.Labels "yolov12.archs"}}'))


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


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[str, str], str]]:
    """A web server on this machine; a function from name and content to an address."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def serve(name: str, content: str) -> str:
            (tmp_path / name).write_text(content)
            return f"http://127.0.0.1:{server.server_address[1]}/{name}"

        yield serve
        server.shutdown()


def conda_plan(repository: Path, url: str, sha256: str) -> dict[str, Any]:
    """The target train-conda with a stand-in, whose Python is the base's; without what does not depend on the manager."""
    target = plan(repository, "train-conda")
    python = target["args"]["PYTHON_VERSION"]
    target["args"] |= {"MINIFORGE_URL": url, "MINIFORGE_SHA256": sha256, "FLASH_ATTN": "none"}
    target["args"] |= {"ENV_PYTHON": python, "LOCK": f"train-py{python.replace('.', '')}.txt"}
    return target


def test_another_installer_than_the_pinned_one_fails_the_build_with_one_sentence(repository: Path, served):
    url = served("installer.sh", INSTALLER)
    done = build_target(repository, conda_plan(repository, url, "0" * 64) | {"target": "manager-conda"})
    assert done.returncode != 0
    found = hashlib.sha256(INSTALLER.encode()).hexdigest()
    assert f"miniforge: {url} has sha256 {found}, and the pin is {'0' * 64}" in done.stderr


def test_an_installer_that_is_not_there_fails_the_build_with_its_address(repository: Path, served):
    url = served("installer.sh", INSTALLER) + ".gone"
    done = build_target(repository, conda_plan(repository, url, "0" * 64) | {"target": "manager-conda"})
    assert done.returncode != 0
    assert f"miniforge: {url} can not be fetched" in done.stderr


def test_an_environment_with_another_python_than_the_lock_s_fails_the_build(repository: Path, served):
    url = served("installer.sh", INSTALLER)
    target = conda_plan(repository, url, hashlib.sha256(INSTALLER.encode()).hexdigest()) | {"target": "manager-conda"}
    target["args"]["ENV_PYTHON"] = "3.99"
    done = build_target(repository, target)
    assert done.returncode != 0
    assert "the lock is for 3.99" in done.stderr


@pytest.fixture
def conda_image(repository: Path, served) -> Iterator[Image]:
    url = served("installer.sh", INSTALLER)
    target = conda_plan(repository, url, hashlib.sha256(INSTALLER.encode()).hexdigest())
    name = "yolov12:test-conda"
    done = build_target(repository, target, name)
    assert done.returncode == 0, done.stderr[-3000:]
    yield Image(name)
    docker("rmi", name)


def test_an_image_of_conda_s_has_its_function_its_environment_and_the_whole_lock(conda_image: Image):
    for bash in ("-c", "-lc", "-euc"):
        ran = conda_image.run(
            "bash", bash, "conda activate yolov12; echo $CONDA_PREFIX; type -P python", options=STRANGER
        )
        assert ran.check().out == "/opt/yolov12\n/opt/yolov12/bin/python\n"
    assert conda_image.run("bash", "-c", "ls -A /opt/miniforge", options=STRANGER).out.split() == [
        ".condarc",
        "bin",
        "etc",
    ]
    verified = conda_image.run("verify", options=STRANGER).check()
    assert verified.out.splitlines()[-1] == "everything that could be compared agrees"
    assert "VIRTUAL_ENV" not in conda_image.inspect("{{json .Config.Env}}")


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


@pytest.fixture
def sources(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Address and commit of a git repository that this machine serves."""
    repository = tmp_path / "served/nccl-tests"
    repository.mkdir(parents=True)
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


def nccl_plan(repository: Path, url: str, commit: str) -> dict[str, Any]:
    target = plan(repository, "train")
    target["args"] |= {"NCCL_TESTS": "1", "NCCL_TESTS_URL": url, "NCCL_TESTS_COMMIT": commit}
    return target


def test_a_commit_that_is_not_there_fails_the_build_with_one_sentence(repository: Path, sources):
    url, _ = sources
    done = build_target(repository, nccl_plan(repository, url, "0" * 40) | {"target": "nccl-tests-1"})
    assert done.returncode != 0
    assert f"nccl-tests: commit {'0' * 40} can not be fetched from {url}" in done.stderr


def test_nvidia_s_program_takes_the_place_of_our_check_and_finds_the_image_s_nccl(repository: Path, sources):
    name = "yolov12:test-nccl"
    done = build_target(repository, nccl_plan(repository, *sources), name)
    assert done.returncode == 0, done.stderr[-3000:]
    try:
        built = Image(name)
        ran = built.run("/root/yolov12/build/all_reduce_perf", options=STRANGER).check()
        major, minor, patch = map(int, built.python("import torch; print(*torch.cuda.nccl.version())").split())
        assert ran.out == f"stand-in with NCCL {major * 10000 + minor * 100 + patch}\n"
        ours = built.run("cat", "/root/yolov12/build/p2pBandwidthLatencyTest", options=STRANGER).check().out
        assert "Not NVIDIA's" in ours
    finally:
        docker("rmi", name)
