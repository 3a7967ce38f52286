# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is in the image, read from the inside, against what env/ promises; and what must not be in it."""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from docker.stages import describe, locks
from env import render
from tests.image.harness import STRANGER, Image, docker, mount

# Debian's own; what else had these bits would let a container's user become someone else.
SETUID_OF_DEBIAN = {
    *("chfn", "chsh", "gpasswd", "mount", "newgrp", "passwd", "su", "umount"),
    *("chage", "expiry", "unix_chkpwd"),
}


def as_root(image: Image, program: str) -> str:
    return image.run("bash", "-c", program, options=("--env=YOLOV12_USER=root",)).check().out.strip()


def promised(image: Image) -> dict[str, Any]:
    """What the image was built to be: image.json."""
    return json.loads(as_root(image, "cat /opt/yolov12/share/yolov12/image.json"))


def test_the_versions_inside_are_those_of_the_lock(image: Image, repository: Path):
    described = promised(image)
    parts = locks.by_layer((repository / "env/locks" / described["lock"]).read_text())
    left_out = describe.left_out(described)
    lock = "".join(part for name, part in parts.items() if name not in left_out)
    locked = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ \\\n]+)", lock, re.MULTILINE))
    found = json.loads(
        image.python(
            "import json, importlib.metadata as m; print(json.dumps({d.name: d.version for d in m.distributions()}))"
        )
    )
    found = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found.items()}
    ours = ("pip", "yolov12", "yolov12-kernels", "flash-attn")  # Debian's pip, and the wheels that the build makes
    assert {name: version for name, version in found.items() if name not in ours} == locked


def test_the_versions_inside_are_the_pinned_ones(image: Image):
    pins = render.load()
    group = promised(image)["lock"].partition("-py")[0]
    cuda = pins.matrix["locks"][group].get("cuda", pins.cuda)
    major = f"cu{cuda.partition('.')[0]}"
    pinned = {name: pin["version"] for name, pin in pins.packages(cuda).items()}
    program = "import json, importlib.metadata as m; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    found = {name: version for name, version in json.loads(image.python(program)).items() if name in pinned}
    assert {"torch", "ultralytics", "triton", f"nvidia-nccl-{major}", f"nvidia-cudnn-{major}"} <= found.keys()
    assert found == {name: pinned[name] for name in found}


def test_everything_that_is_installed_can_be_imported(each: Image):
    """setuptools first: it stands for distutils, which Debian's Python has not, for whoever asks for that later."""
    program = """
import importlib, importlib.metadata
names = sorted(importlib.metadata.packages_distributions(), key=lambda name: (name != "setuptools", name))
for name in filter(str.isidentifier, names):
    try:
        importlib.import_module(name)
    except (ImportError, OSError) as error:
        print("broken:", name, error)
print(len(names) > 5)
"""
    lines = each.python(program).splitlines()
    without_mxnet = "broken: rec2idx No module named 'mxnet'"  # a program of DALI's, for MXNet's record files
    assert [line for line in lines if line.startswith("broken:") and line != without_mxnet] == []
    assert lines[-1] == "True", "the test must be able to fail"


def test_onnx_runtime_leaves_no_identifier_of_the_machine(each: Image):
    program = "set -e; python -c 'import onnxruntime'; find / -xdev \\( -name deviceid -o -name .ses -o -name onnxruntime.db \\) 2>/dev/null || true"
    assert each.run("bash", "-c", program).check().out == ""


def test_the_bill_of_materials_fits_the_schema(each: Image):
    bill = as_root(each, "cat /opt/yolov12/share/yolov12/sbom.cdx.json")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    for part in json.loads(bill)["components"]:
        url = PackageURL.from_string(part["purl"])
        assert (url.name, url.version) == (part["name"], part["version"])


def test_torch_has_code_for_every_promised_arch(image: Image, repository: Path):
    archs = yaml.safe_load((repository / "env/matrix.yaml").read_text())["archs"].values()
    compiled = image.python("import torch; print(torch._C._cuda_getArchFlags())").split()
    assert {f"sm_{arch['code']}" for arch in archs} <= set(compiled)


def test_flash_attention_is_built_for_the_archs_of_the_image(image: Image):
    if promised(image)["flash_attn"] is None:
        assert image.python("import importlib.util; print(importlib.util.find_spec('flash_attn'))") == "None"
        return
    archs = set(image.label("archs").split())
    served = {"86": "80", "75": None}  # sm_86 runs the code for sm_80; sm_75 has no FlashAttention
    wanted = {served.get(arch, arch) for arch in archs} - {None}
    version = image.python("import flash_attn; print(flash_attn.__version__)")
    assert set(re.findall(r"sm(\d+)", version)) == wanted


def test_our_kernels_load_and_have_code_for_each_arch_of_the_image(image: Image):
    if promised(image)["yolov12_kernels"] is None:
        assert image.python("import importlib.util; print(importlib.util.find_spec('yolov12_kernels'))") == "None"
        return
    version, loaded = image.python("import yolov12_kernels as k; print(k.__version__, k.load())").split()
    assert (set(re.findall(r"sm(\d+)", version)), loaded) == (set(image.label("archs").split()), "None")


def test_packages_for_gpus_can_be_compiled_where_cuda_is_the_main_line_s(image: Image):
    program = (
        "import torch; from yolov12.export import aoti_toolkit; print(torch.version.cuda, aoti_toolkit.cuda_home())"
    )
    cuda, home = image.python(program).split()
    assert home.endswith("/nvidia/cu13") if cuda.startswith("13.") else home == "None"


def test_labels_say_what_it_is(each: Image):
    labels = json.loads(each.inspect("{{json .Config.Labels}}"))
    for name in ("title", "description", "version", "licenses", "base.name"):
        assert labels.get(f"org.opencontainers.image.{name}"), name
    assert re.fullmatch(r"[0-9a-f]{64}", labels["yolov12.inputs"])
    assert labels["org.opencontainers.image.licenses"] == "AGPL-3.0-or-later"
    assert labels["org.opencontainers.image.version"] == each.python("import yolov12; print(yolov12.__version__)")


def test_nvidia_s_runtime_is_asked_for_compute_utility_and_video(image: Image):
    environment = json.loads(image.inspect("{{json .Config.Env}}"))
    assert "NVIDIA_VISIBLE_DEVICES=all" in environment
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in environment


def test_the_build_left_nothing_behind(each: Image):
    # The wheels of Debian's python3-venv and, in dev, of virtualenv are what those install from.
    program = """
    shopt -s nullglob
    ls -d /opt/installer /opt/cuda /run/stage /run/secrets /src /wheel* /locks /var/cache/uv /root/.cache /root/.config /root/.triton 2>/dev/null
    ls -A /tmp /var/tmp /var/lib/apt/lists
    find / -xdev \\( -name '*.deb' -o -name '*.whl' -o -name 'pip-*.whl' \\) -not -path '/usr/share/python-wheels/*' \\
        -not -path '*/virtualenv/seed/wheels/embed/*'
    """
    assert [line for line in as_root(each, program).splitlines() if line and not line.endswith(":")] == []


def test_no_certificate_of_the_builder_is_inside(each: Image):
    assert as_root(each, "find / -xdev -name 'ca.crt' 2>/dev/null || true") == ""
    assert "ca.crt" not in each.inspect("{{json .Config.Env}}")


def test_no_secret_is_in_the_environment_or_the_history(each: Image):
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", each.name)
    said = history + each.inspect("{{json .Config}}")
    assert not re.search(r"(?i)(token|password|passwd|secret|api_?key)=\S", said)
    found = as_root(
        each,
        "find / -xdev \\( -name '.netrc' -o -name 'id_rsa*' -o -name '.pypirc' -o -name 'pip.conf' \\) 2>/dev/null || true",
    )
    assert found == ""


def test_nothing_but_debian_s_own_programs_changes_the_user(each: Image):
    found = as_root(each, "find / -xdev -type f -perm /6000 2>/dev/null || true").split()
    assert {Path(name).name for name in found} <= SETUID_OF_DEBIAN


def test_nobody_but_root_can_change_the_environment(each: Image):
    assert as_root(each, "find /opt/yolov12 -xdev \\( -not -user root -o -perm /022 \\) -not -type l | head") == ""


def test_everything_in_the_environment_can_be_read_by_anyone(each: Image):
    assert as_root(each, "find /opt/yolov12 /root/yolov12 -xdev -not -type l -not -perm -004 | head") == ""


def test_python_files_come_compiled_and_are_not_checked_against_their_source(image: Image):
    program = """
import pathlib, sysconfig
site = pathlib.Path(sysconfig.get_path("purelib"))
flags = {p: int.from_bytes(p.read_bytes()[4:8], "little") for name in ("yolov12", "ultralytics", "torch/nn") for p in (site / name).rglob("*.pyc")}
print(len(flags) > 100, {flag for flag in flags.values()})
"""
    assert image.python(program, options=STRANGER) == "True {1}"


def test_the_licence_is_inside(each: Image, repository: Path):
    assert as_root(each, "cat /root/yolov12/LICENSE") == (repository / "LICENSE").read_text().strip()


def test_the_image_verifies_itself_as_a_stranger(image: Image):
    ran = image.run("verify", options=STRANGER).check()
    print(ran)  # shown by .ci/run
    assert ran.out.splitlines()[-1] == "everything that could be compared agrees"
    assert "--    " not in ran.out, "in an image everything can be compared"


def test_an_image_over_its_budget_does_not_verify(image: Image, tmp_path: Path):
    file = "/opt/yolov12/share/yolov12/image.json"
    promised = json.loads(as_root(image, f"cat {file}"))
    (tmp_path / "image.json").write_text(json.dumps(promised | {"size_budget_gb": 0.1}))
    ran = image.run("verify", options=(*STRANGER, f"--volume={tmp_path}/image.json:{file}:ro"))
    assert ran.code == 1
    assert "expected at most 0.10 GB" in ran.out


def test_every_debian_package_has_its_licence(each: Image):
    program = """
    for package in $(dpkg-query --show --showformat '${Package}\\n'); do
        [[ -s /usr/share/doc/$package/copyright ]] || echo "$package"
    done
    """
    assert as_root(each, program) == ""


def test_the_bill_of_materials_names_what_is_inside(image: Image):
    bill = json.loads(as_root(image, "cat /opt/yolov12/share/yolov12/sbom.cdx.json"))
    purls = {part["purl"] for part in bill["components"]}
    version = image.python("import torch; print(torch.__version__.split('+')[0])")
    assert f"pkg:pypi/torch@{version}" in purls
    assert any(purl.startswith("pkg:deb/debian/libc6@") for purl in purls)
    assert len(purls) == len(bill["components"])


def test_every_console_script_can_be_imported(each: Image):
    program = """
import importlib.metadata
for entry in importlib.metadata.entry_points(group="console_scripts"):
    try:
        entry.load()
    except (ImportError, SystemExit):
        print("broken:", entry.name)
"""
    broken = {line.split()[1] for line in each.python(program).splitlines() if line.startswith("broken:")}
    # They need click, an extra of python-dotenv, and with torch 2.9 a folder of its sources.
    known = {"dotenv", "torchfrtrace"}
    if each.label("dali") == "1":
        known.add("rec2idx")  # reads MXNet's record files, with MXNet
    assert broken <= known


# What torch.compile calls at run time


def test_the_launcher_of_triton_s_kernels_can_be_compiled(image: Image):
    """On a GPU Triton compiles this C file first. What it links, libcuda, comes with the driver, so here an empty library stands for it."""
    program = """
import pathlib, subprocess, tempfile
from triton.backends.nvidia import driver
from triton.runtime.build import _build
with tempfile.TemporaryDirectory() as folder:
    empty = pathlib.Path(folder, "empty.c")
    empty.touch()
    for library in driver.libraries:
        file = library.removeprefix(":") if ".so" in library else f"lib{library}.so"
        subprocess.run(["gcc", "-shared", "-o", f"{folder}/{file}", str(empty)], check=True)
    source = pathlib.Path(driver.__file__).with_name("driver.c")
    built = _build("cuda_utils", str(source), folder, [folder], driver.include_dirs, driver.libraries, [])
    print(pathlib.Path(built).stat().st_size > 10000)
"""
    assert image.python(program) == "True"


def test_triton_has_nvidia_s_backend_and_no_other(image: Image):
    assert image.python("from triton.backends import backends; print(*backends)") == "nvidia"


def test_torch_compile_works_on_the_cpu(image: Image, workspace: Path):
    (workspace / "compiled.py").write_text(
        "import torch\n"
        "wave = torch.compile(lambda x: torch.sin(x) + torch.cos(x))\n"
        "x = torch.linspace(0, 1, 1000)\n"
        "print(torch.allclose(wave(x), torch.sin(x) + torch.cos(x)))\n"
    )
    options = mount(workspace, "--read-only", "--tmpfs=/tmp:exec", "--user=12345:0")
    assert image.run("python", "compiled.py", options=options, timeout_s=300).check().out == "True\n"
