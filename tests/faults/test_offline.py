# SPDX-License-Identifier: AGPL-3.0-or-later
"""Training, validation, prediction and export as a new user without a network: nothing is needed, and nothing is tried.

One child process does it all, with a fresh home and none of ultralytics' variables set. An audit hook records and refuses
every look-up and connection (children of the loader inherit it), and every program that is started. Where `unshare`
works the child also gets an empty network namespace, which native code can not get around either.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

PROGRAM = '''
import json, os, sys, traceback
from pathlib import Path

out, log = Path(sys.argv[1]), Path(sys.argv[2])


def watch(event, arguments):
    """Called by the interpreter itself before it acts; see "audit events" in Python's documentation."""
    is_network = event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        is_network = isinstance(arguments[1], tuple)  # a host and a port; the path of a local socket is a string
    if is_network or event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
        frames = "".join(traceback.format_stack(limit=6)[:-1])
        with open(log, "a") as file:
            file.write(json.dumps({"event": event, "what": repr(arguments[:2]), "from": frames}) + "\\n")
    if is_network:
        raise OSError("there is no network in this test")


sys.addaudithook(watch)

from yolov12 import YOLO
from yolov12.data import synth
from yolov12.export import boxes, onnx, parity

data = synth.write(out / "data", 8, 4, 64)
text = data.read_text(encoding="utf-8").replace("circle", "c\\u00edrculo")  # such names want another font
data.write_text(text, encoding="utf-8")
YOLO("yolov12n.yaml").train(
    data=str(data), epochs=1, imgsz=64, batch=4, workers=2, device="cpu", project=str(out), name="train"
)
best = out / "train" / "weights" / "best.pt"
YOLO(best).val(data=str(data), imgsz=64, device="cpu", project=str(out), name="val")
YOLO(best).predict(out / "data" / "images" / "val", imgsz=64, save=True, project=str(out), name="predict")
exported = onnx.export(YOLO(best), out / "best.onnx", imgsz=64)
pictures = sorted((out / "data" / "images" / "val").iterdir())
parity.require_raw(parity.compare_raw(YOLO(best).model, exported, pictures))
YOLO(exported, task="detect").predict(pictures[0], imgsz=64, device="cpu")
'''

HIDDEN = ("YOLO_OFFLINE", "YOLO_AUTOINSTALL", "YOLO_CONFIG_DIR", "MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")


def empty_network() -> list[str]:
    """The command prefix that takes the network away, or nothing where the kernel does not let us."""
    prefix = ["unshare", "--user", "--map-root-user", "--net"]
    if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
        return prefix
    return []


@pytest.fixture(scope="module")
def offline_run(tmp_path_factory, repository):
    """(finished process, its folder, what it tried)."""
    folder = tmp_path_factory.mktemp("offline")
    log = folder / "tried.jsonl"
    environment = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    (folder / "home").mkdir()
    environment |= {"HOME": str(folder / "home"), "PYTHONPATH": str(repository)}
    command = [*empty_network(), sys.executable, "-c", PROGRAM, str(folder), str(log)]
    finished = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    tried = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return finished, folder, tried


@pytest.mark.timeout(900)
def test_the_whole_way_from_data_to_onnx_works_without_a_network(offline_run):
    finished, folder, _ = offline_run
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]
    assert (folder / "best.onnx").is_file()
    assert len(list((folder / "predict").glob("*.jpg"))) == 4


@pytest.mark.timeout(900)
def test_no_connection_and_no_look_up_is_tried(offline_run):
    network = [attempt for attempt in offline_run[2] if attempt["event"].startswith("socket.")]
    assert not network, json.dumps(network, indent=1)


@pytest.mark.timeout(900)
def test_nothing_is_installed_behind_the_users_back(offline_run):
    programs = [attempt["what"] for attempt in offline_run[2] if not attempt["event"].startswith("socket.")]
    assert not [program for program in programs if "pip" in program or "curl" in program or "wget" in program]


def test_the_watch_itself_sees_a_look_up(tmp_path):
    program = PROGRAM.split("from yolov12 import YOLO")[0] + "import socket; socket.getaddrinfo('example.com', 80)"
    log = tmp_path / "tried.jsonl"
    finished = subprocess.run(
        [sys.executable, "-c", program, tmp_path, log], capture_output=True, text=True, check=False
    )
    assert "there is no network in this test" in finished.stderr
    assert "example.com" in log.read_text()
