# SPDX-License-Identifier: AGPL-3.0-or-later
"""The images without torch, `deploy` and `deploy-ort`: they run what the train image exported, find the same boxes, and keep the same rules."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.image import test_contents as contents
from tests.image import test_start as start
from tests.image import test_users as users
from tests.image.harness import STRANGER, Image, docker, exists, mount
from tests.unit.docker import lean_stand_in

# What the train image's own ultralytics finds with the same file.
EXPECTED = """
import json
from ultralytics import YOLO
model = YOLO("model.onnx", task="detect")
found = {}
for result in model.predict("images/val", imgsz=96, conf=0.00001, rect=False, verbose=False, device="cpu"):
    found[result.path.rpartition("/")[2]] = result.boxes.data.tolist()
print(json.dumps(found))
"""
ON_THE_CPU = {
    "yolov12:deploy": "model.onnx runs on the CPU: this ONNX Runtime has no other\n",
    "yolov12:deploy-ort": "model.onnx runs on the CPU: no NVIDIA driver is visible (docker run --gpus all)\n",
}
INJECTED = ("--env=YOLOV12_SERVICE_HOST=10.0.0.1", "--env=YOLOV12_PORT=tcp://10.0.0.1:80")
"""By Kubernetes, for a Service that is called yolov12."""


def built(name: str) -> Image:
    if not exists(name):
        pytest.skip(f"needs the image {name} (make build VARIANT={name.partition(':')[2]})")
    return Image(name)


@pytest.fixture(scope="session", params=list(ON_THE_CPU))
def deploy(request: pytest.FixtureRequest) -> Image:
    """Each of them."""
    return built(request.param)


@pytest.fixture(scope="session")
def with_lean_runtime() -> Image:
    return built("yolov12:deploy")


@pytest.fixture(scope="session")
def for_cuda() -> Image:
    return built("yolov12:deploy-ort")


@pytest.fixture
def exported(image: Image, photo_workspace: Path) -> Path:
    """The workspace with photographs and model.onnx, exported by the train image."""
    options = mount(photo_workspace, *STRANGER)
    export = "from ultralytics import YOLO; import os; os.rename(YOLO('yolov12n.yaml').export(format='onnx', imgsz=96), 'model.onnx')"
    image.run("python", "-c", export, options=options, timeout_s=300).check()
    return photo_workspace


def test_it_finds_the_boxes_that_the_train_image_finds_and_says_where_it_ran(
    image: Image, deploy: Image, exported: Path
):
    options = mount(exported, *STRANGER)
    expected = json.loads(image.python(EXPECTED, options=options).splitlines()[-1])
    command = ("predict", "model=model.onnx", "source=images/val", "conf=0.00001")
    ran = deploy.run(*command, options=(*options, *INJECTED)).check()
    assert ran.out.splitlines()[-1] == "4 pictures, in runs/predict"
    assert ran.log == ON_THE_CPU[deploy.name]
    lines = (exported / "runs/predict/predictions.jsonl").read_text().splitlines()
    found = {Path(line["picture"]).name: line["boxes"] for line in map(json.loads, lines)}
    assert found.keys() == expected.keys()
    assert sum(map(len, found.values())) > 0
    for name, boxes in found.items():
        assert len(boxes) == len(expected[name])
        for box, row in zip(boxes, expected[name], strict=True):
            assert box["class"] == int(row[5])
            assert [*box["box"], box["score"]] == pytest.approx(row[:5], abs=0.05)


# Rules of the train image that are not tested for each variant there, each by its own test

RULES = (
    contents.test_the_image_verifies_itself_as_a_stranger,
    contents.test_an_image_over_its_budget_does_not_verify,
    users.test_root_becomes_the_owner_of_the_workspace,
    users.test_root_stays_root_when_asked_to,
    users.test_root_without_capabilities_says_that_it_stays_root,
    users.test_root_without_a_mount_becomes_someone_who_is_not_root,
    users.test_group_0_can_write_in_the_workbench,
    users.test_with_nothing_mounted_and_nothing_writable_it_says_where_it_works,
    users.test_a_stranger_leaves_files_that_are_his,
    users.test_the_images_user_is_a_number,
    start.test_no_arguments_and_no_terminal_give_help,
    start.test_the_shell_works_for_a_stranger,
    start.test_a_command_that_is_not_there_fails_as_in_a_shell,
    start.test_process_1_reaps_and_forwards,
    start.test_sigterm_reaches_the_command,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__.removeprefix("test_"))
def test_it_keeps_a_rule_of_the_train_image(deploy: Image, rule: Callable[..., None], request: pytest.FixtureRequest):
    others = [name for name in inspect.signature(rule).parameters if name != "image"]
    rule(image=deploy, **{name: request.getfixturevalue(name) for name in others})


def test_the_nonroot_image_is_the_same_with_a_number_that_is_not_root_s(deploy: Image):
    nonroot = built(f"{deploy.name}-nonroot")
    assert nonroot.inspect("{{.Config.User}}") == "1000:0"
    assert nonroot.inspect("{{json .RootFS.Layers}}") == deploy.inspect("{{json .RootFS.Layers}}")
    assert nonroot.run(*users.WHO).check().out.split() == ["1000", "0", "1000:0"]


@pytest.mark.parametrize("user", ["1000:0", "12345:54321"])
def test_any_user_can_predict(deploy: Image, exported: Path, user: str):
    exported.chmod(0o777)
    command = ("predict", "model=model.onnx", "source=images/val", "out=found", "save=0")
    deploy.run(*command, options=mount(exported, "--read-only", "--tmpfs=/tmp", f"--user={user}")).check()
    assert (exported / "found/predictions.jsonl").stat().st_uid == int(user.partition(":")[0])


# What is inside


def test_the_versions_inside_are_those_of_its_lock_and_of_the_pins(deploy: Image, repository: Path):
    variant = deploy.name.partition(":")[2]
    lock = (repository / f"env/locks/{variant}-py311.txt").read_text()
    program = "import json, importlib.metadata as m; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    found = {
        re.sub(r"[-_.]+", "-", name).lower(): version for name, version in json.loads(deploy.python(program)).items()
    }
    ours = {"pip", "yolov12-deploy"}  # Debian's pip, and the wheel that the build makes
    found = {name: version for name, version in found.items() if name not in ours}
    assert found == dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ \\\n]+)", lock, re.MULTILINE))
    pins = yaml.safe_load((repository / "env/versions.yaml").read_text())["packages"]
    assert {name: pins[name]["version"] for name in found if name in pins}.items() <= found.items()


def test_it_has_no_torch_and_no_compiler(deploy: Image):
    program = "import importlib.util as u; print(*(n for n in ('torch', 'ultralytics', 'pydantic') if u.find_spec(n)))"
    assert deploy.python(program) == ""
    assert deploy.run("bash", "-c", "type -P gcc nvcc || true").out == ""


def test_every_module_of_its_package_and_every_console_script_can_be_imported(deploy: Image):
    program = """
import importlib.metadata, pkgutil, yolov12_deploy
for entry in importlib.metadata.entry_points(group="console_scripts"):
    entry.load()
names = [module.name for module in pkgutil.iter_modules(yolov12_deploy.__path__)]
if importlib.util.find_spec("tensorrt_lean_bindings") is None:
    names.remove("lean_session")
for name in names:
    importlib.import_module(f"yolov12_deploy.{name}")
print(len(names) > 8)
"""
    assert deploy.python(program) == "True"


def test_the_bill_of_materials_and_the_licences_name_what_is_inside(deploy: Image):
    program = """
import importlib.metadata, json, pathlib, sys
folder = pathlib.Path(sys.prefix, "share/yolov12")
bill = json.loads((folder / "sbom.cdx.json").read_text())
purls = [part["purl"] for part in bill["components"]]
assert len(purls) == len(set(purls)), purls
wanted = ("onnxruntime", "onnxruntime-gpu", "tensorrt-lean-cu13-libs", "nvidia-cudnn-cu13", "numpy")
for found in importlib.metadata.distributions():
    name = found.name.lower().replace("_", "-")
    assert f"pkg:pypi/{name}@{found.version}" in purls, name
    if name in wanted:
        texts = list((folder / f"licenses/{name}-{found.version}").iterdir())
        assert texts and all(text.stat().st_size for text in texts), name
        print(name)
"""
    named = set(deploy.python(program).split())
    runtime = {"onnxruntime", "tensorrt-lean-cu13-libs"}, {"onnxruntime-gpu", "nvidia-cudnn-cu13"}
    assert named == {"numpy"} | runtime[deploy.name == "yolov12:deploy-ort"]


def test_nvidia_s_runtime_is_asked_for_compute_and_utility(deploy: Image):
    environment = json.loads(deploy.inspect("{{json .Config.Env}}"))
    assert "NVIDIA_VISIBLE_DEVICES=all" in environment
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in environment


def test_its_size_is_within_its_budget_and_less_than_half_of_the_train_image(image: Image, deploy: Image):
    size = int(deploy.inspect("{{.Size}}"))
    assert size <= float(deploy.inspect('{{index .Config.Labels "yolov12.size_budget_gb"}}')) * 1e9
    assert size * 2 < int(image.inspect("{{.Size}}"))


def test_nvidia_s_libraries_lie_in_layers_without_the_packages(deploy: Image):
    """So that a pull fetches them side by side, and a change of the predictor leaves them where they are."""
    stages = ["environment.sh", "environment.sh", "environment.sh", "deploy.sh"]
    made = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", deploy.name).splitlines()
    assert [stage for line in reversed(made) for stage in stages[2:] if f"bash /run/stage/{stage}" in line] == stages


# The runtimes


def test_tensorrt_s_lean_runtime_has_what_the_predictor_calls(with_lean_runtime: Image, repository: Path):
    """It can be imported without a GPU. The tests of the predictor use a stand-in with these names."""
    program = f"""
import tensorrt_lean_bindings as trt
missing = [f"{{kind}}.{{name}}" for kind, names in {lean_stand_in.API}.items() for name in names if not hasattr(getattr(trt, kind), name)]
print(missing, all(hasattr(trt, name) for name in {lean_stand_in.FUNCTIONS}), trt.__version__)
"""
    pins = yaml.safe_load((repository / "env/versions.yaml").read_text())["packages"]
    assert with_lean_runtime.python(program) == f"[] True {pins['tensorrt-lean-cu13-bindings']['version']}"


def test_an_engine_without_a_gpu_is_one_sentence(with_lean_runtime: Image, photo_workspace: Path):
    (photo_workspace / "best.engine").write_bytes(b"ftrt")
    command, options = ("predict", "model=best.engine", "source=images/val"), mount(photo_workspace, *STRANGER)
    ran = with_lean_runtime.run(*command, options=options)
    assert ran.code == 2
    assert ran.log.startswith("error: model=best.engine: an engine is native code.")
    ran = with_lean_runtime.run(*command, options=(*options, "--env=YOLOV12_TRUST_WEIGHTS=1"))
    assert ran.code == 2
    reason = "no NVIDIA driver is visible (docker run --gpus all)"
    assert ran.log == f"error: model=best.engine runs on a GPU only, and {reason}; without one, name an ONNX file\n"


def test_an_engine_in_the_other_image_names_the_one_that_takes_it(for_cuda: Image, photo_workspace: Path):
    (photo_workspace / "best.engine").write_bytes(b"ftrt")
    ran = for_cuda.run("predict", "model=best.engine", "source=images/val", options=mount(photo_workspace, *STRANGER))
    assert (ran.code, "take the image yolov12:deploy" in ran.log) == (2, True)


def test_all_that_onnx_runtime_s_provider_for_cuda_is_linked_with_is_inside_but_for_the_driver(for_cuda: Image):
    program = "ldd /opt/yolov12/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime_providers_cuda.so"
    linked = for_cuda.run("bash", "-c", program, options=STRANGER).check().out
    assert re.findall(r"(\S+) => not found", linked) == ["libcuda.so.1"]
    assert {"libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10", "libcudart.so.13"} <= set(
        re.findall(r"(\S+) => /opt/", linked)
    )


def test_what_the_provider_for_cuda_loads_later_is_inside_too(for_cuda: Image):
    """cuDNN, which its convolutions are, and NVRTC, with which cuDNN compiles kernels. cuFFT is left out."""
    program = "import ctypes; [ctypes.CDLL(name) for name in ('libcudnn.so.9', 'libcudnn_graph.so.9', 'libnvrtc.so.13')]; print('loaded')"
    assert for_cuda.python(program) == "loaded"


def test_the_provider_for_cuda_is_there(for_cuda: Image):
    assert "CUDAExecutionProvider" in for_cuda.python(
        "import onnxruntime; print(*onnxruntime.get_available_providers())"
    )


# Usage


def test_what_it_can_not_do_names_the_image_that_can(deploy: Image):
    ran = deploy.run("train", "data=my.yaml", options=STRANGER)
    assert (ran.code, "yolov12:train" in ran.log) == (2, True)
    assert "Traceback" not in ran.log


def test_a_model_that_is_not_there_is_a_usage_error(deploy: Image):
    ran = deploy.run("predict", "model=best.onnx", "source=/usr/share/pixmaps", options=STRANGER)
    assert (ran.code, "Traceback" in ran.log) == (2, False)
