# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the build arguments DALI and TENSORRT put into the image, and that it works without a GPU. Where a test needs an image with other choices
it builds one, of which most lies in the builder's cache, and removes it."""

from __future__ import annotations

import functools
import http.server
import json
import os
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.harness import STRANGER, Image, docker, mount
from tests.image.test_build import build_target, plan
from tests.unit.export.trt_stand_in import API, RTX_API

pytestmark = pytest.mark.timeout(900)

DALI = """
import sys
import numpy as np
from pathlib import Path
from nvidia.dali import fn, pipeline_def, types

files = [np.frombuffer(file.read_bytes(), np.uint8) for file in sorted(Path("images/train").iterdir())[:4]]

@pipeline_def(batch_size=4, num_threads=2, device_id=None)
def pipe():
    picture = fn.decoders.image(fn.external_source(lambda: files, dtype=types.UINT8), device="cpu", output_type=types.RGB)
    picture = fn.resize(picture, resize_x=320, resize_y=320, mode="not_larger")
    picture = fn.crop(picture, crop=(320, 320), out_of_bounds_policy="pad", fill_values=114)
    shift = np.array([[1, 0, 5], [0, 1, 7]], np.float32)
    picture = fn.warp_affine(picture, matrix=shift.flatten().tolist(), fill_value=114, inverse_map=True)
    return fn.crop_mirror_normalize(picture, mirror=1, std=[255.0] * 3, output_layout="CHW", dtype=types.FLOAT)

(pictures,) = pipe().run()
pictures = pictures.as_array()
print(pictures.shape, pictures.dtype, 0.1 < pictures.std() < 0.5)
"""
ARCHS = ("75", "80", "86", "89", "120")
"""All that TensorRT-RTX builds for."""
ENGINE = """
import numpy as np, onnx, tensorrt_rtx as trt
from onnx import TensorProto as T, helper as h, numpy_helper

weights = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
x, y = (h.make_tensor_value_info(name, T.FLOAT, shape) for name, shape in (("x", [1, 3, 8, 8]), ("y", [1, 4, 6, 6])))
graph = h.make_graph([h.make_node("Conv", ["x", "w"], ["c"]), h.make_node("Relu", ["c"], ["y"])], "g", [x], [y], [weights])
model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9)
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network, parser = builder.create_network(0), None
parser = trt.OnnxParser(network, logger)
assert parser.parse(model.SerializeToString()), [str(parser.get_error(i)) for i in range(parser.num_errors)]
config = builder.create_builder_config()
config.num_compute_capabilities = 1
config.set_compute_capability(trt.ComputeCapability.SM89, 0)
print(network.num_layers, len(bytes(builder.build_serialized_network(network, config))) > 1000)
"""


def test_what_was_chosen_is_installed_and_labelled(image: Image):
    installed = json.loads(
        image.python(
            "import json, importlib.util as u; print(json.dumps([bool(u.find_spec(n)) for n in ('nvidia.dali', 'tensorrt', 'tensorrt_rtx')]))"
        )
    )
    tensorrt = image.label("tensorrt")
    assert installed == [image.label("dali") == "1", tensorrt in ("10", "11"), tensorrt == "rtx"]


def test_dali_decodes_resizes_and_warps_on_the_cpu(image: Image, photo_workspace: Path):
    if image.label("dali") != "1":
        pytest.skip("an image without DALI")
    (photo_workspace / "pipe.py").write_text(DALI)
    ran = image.run("python", "pipe.py", options=mount(photo_workspace, *STRANGER)).check()
    assert ran.out == "(4, 3, 320, 320) float32 True\n"


def test_a_library_of_dali_asks_for_nothing_that_was_left_out(image: Image):
    """Beside what is loaded when there is a GPU: the driver."""
    if image.label("dali") != "1":
        pytest.skip("an image without DALI")
    folder = "/opt/yolov12/lib/python3*/site-packages/nvidia"
    program = f"cd {folder} && ldd {{dali,nvimgcodec}}/*.so* nvimgcodec/extensions/*.so* | grep 'not found' || true"
    assert image.run("bash", "-c", program, options=STRANGER).check().out == ""


def test_an_engine_without_tensorrt_is_refused_with_the_build_that_has_it(image: Image, workspace: Path):
    if image.label("tensorrt") in ("10", "11", "rtx"):
        pytest.skip("an image with TensorRT")
    ran = image.run("export", "model=yolov12n.yaml", "format=engine", options=mount(workspace))
    assert ran.code == 2
    assert "make build TENSORRT=10 TENSORRT_INDEX=ADDRESS" in ran.log
    assert len([line for line in ran.log.splitlines() if line.startswith("error: ")]) == 1


@pytest.fixture(scope="module")
def other(image: Image, repository: Path) -> Iterator[Image]:
    """An image without DALI and with TensorRT for RTX."""
    target = plan(repository, "train", DALI="0", TENSORRT="rtx", ARCHS=image.label("archs"))
    name = "yolov12-test:no-dali-rtx"
    done = build_target(repository, target, "--tag", name, "--load")
    assert done.returncode == 0, done.stderr[-3000:]
    yield Image(name)
    docker("rmi", name)


def test_an_image_without_dali_and_with_tensorrt_for_rtx_verifies_and_says_so(other: Image):
    said = other.run("verify", options=STRANGER).check().out
    assert "not in this image (DALI=0)" in said
    assert "tensorrt-rtx-cu13-libs" in said
    assert (other.label("dali"), other.label("tensorrt")) == ("0", "rtx")
    assert int(other.inspect("{{.Size}}")) < float(other.label("size_budget_gb")) * 1e9


def test_tensorrt_for_rtx_builds_an_engine_without_a_gpu(other: Image):
    assert other.python(ENGINE) == "2 True"


def test_tensorrt_for_rtx_has_every_name_that_the_builder_calls(other: Image):
    names = {owner: [*API.get(owner, ()), *RTX_API.get(owner, ())] for owner in {**API, **RTX_API}}
    look = "import tensorrt_rtx as t; print([(o, n) for o, names in {}.items() for n in names if not hasattr(getattr(t, o), n)])"
    assert other.python(look.format(names)) == "[]"


def test_tensorrt_for_rtx_builds_the_engine_of_an_export(other: Image, workspace: Path):
    ran = other.run(
        "export",
        "model=yolov12n.yaml",
        "format=engine",
        "imgsz=64",
        f"arch={','.join(ARCHS)}",
        options=mount(workspace),
    ).check()
    assert f"for {' '.join(f'sm_{arch}' for arch in ARCHS)}" in ran.log
    assert "the engine itself is not verified" in ran.log
    (engine,) = workspace.glob("*.engine")
    assert engine.stat().st_size > 1e6


# TensorRT of the vendor's index, for which an index on this machine stands, with wheels that hold nothing


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    if os.environ.get("BUILD_NETWORK") != "host":
        pytest.skip("the builder reaches this machine's loopback with BUILD_NETWORK=host only")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/simple"
    server.shutdown()


def empty_wheel(folder: Path, name: str, version: str, module: str) -> None:
    """A wheel in a simple index, with one module that knows its version."""
    place, stem = folder / "simple" / name.replace("_", "-"), f"{name}-{version}"
    place.mkdir(parents=True)
    with zipfile.ZipFile(place / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}/__init__.py", f"__version__ = {version!r}\n")
        wheel.writestr(
            f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: MIT\n"
        )
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")
    (place / "index.html").write_text(f'<a href="{stem}-py3-none-any.whl">{stem}</a>')


@pytest.mark.parametrize("major", ["10", "11"])
def test_tensorrt_is_installed_from_the_index_that_is_named(
    image: Image, repository: Path, tmp_path: Path, index: str, major: str
):
    target = plan(repository, "train", TENSORRT=major, TENSORRT_INDEX=index)
    version = target["args"][f"TENSORRT_{major}"]
    for name, module in (
        ("tensorrt_cu13", "tensorrt"),
        ("tensorrt_cu13_libs", "tensorrt_libs"),
        ("tensorrt_cu13_bindings", "tensorrt_bindings"),
    ):
        empty_wheel(tmp_path, name, version, module)
    done = build_target(repository, target | {"target": "tensorrt"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"tensorrt {version}" in done.stderr


def test_an_index_without_tensorrt_fails_the_build_with_its_address(repository: Path, index: str):
    done = build_target(
        repository, plan(repository, "train", TENSORRT="10", TENSORRT_INDEX=index) | {"target": "tensorrt"}
    )
    assert done.returncode != 0
    assert f"TENSORRT_INDEX={index}: TensorRT 10." in done.stderr
    assert "can not be installed from there" in done.stderr


@pytest.mark.parametrize(
    ("name", "words"), [("TENSORRT_11", "use make build"), ("TENSORRT_INDEX", "type TENSORRT_INDEX=ADDRESS")]
)
def test_a_missing_argument_of_tensorrt_fails_the_build_with_its_name(repository: Path, name: str, words: str):
    target = plan(repository, "train", TENSORRT="11", TENSORRT_INDEX="http://127.0.0.1:9/simple") | {
        "target": "tensorrt"
    }
    target["args"] = {key: value for key, value in target["args"].items() if key != name}
    done = build_target(repository, target)
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if f"{name}: is not set" in line and words in line]
