# SPDX-License-Identifier: AGPL-3.0-or-later
"""A hostile file does nothing. Each attack is written in the instructions of the pickle machine, since no honest pickler would write it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from ultralytics.nn import tasks

from tests.unit.model import official_form
from yolov12.errors import UserError
from yolov12.model import safeload, weights


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def name(module: str, attribute: str) -> bytes:
    return b"c" + f"{module}\n{attribute}\n".encode()


def archive(path: Path, value: bytes) -> Path:
    """A torch.save archive of {"model": value}, `value` being pickle instructions."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02}" + text("model") + value + b"s.")
        file.writestr("archive/version", b"3\n")
    return path


GETATTR = name("__builtin__", "getattr")
DETECT = name("ultralytics.nn.modules.head", "Detect")
IDENTITY = name("torch.nn.modules.linear", "Identity") + b")\x81"
FORWARD = GETATTR + DETECT + text("forward") + b"\x86R"
RUN = text("touch ran")

ATTACKS = {
    "os.system": name("posix", "system") + RUN + b"\x85R",
    "eval under its Python 2 name": name("__builtin__", "eval") + text("open('ran', 'w')") + b"\x85R",
    "a class outside the list": name("subprocess", "Popen") + RUN + b"\x85R",
    "upstream's own installer": name("ultralytics.utils.checks", "check_requirements") + RUN + b"\x85R",
    "a function in a module of layers": name("torch.nn.modules.module", "register_module_forward_hook") + b")R",
    "a module imported by a module of layers": name("ultralytics.nn.modules.block", "torch") + b"0N",
    "STACK_GLOBAL": text("posix") + text("system") + b"\x93" + RUN + b"\x85R",
    "INST": b"(" + RUN + b"iposix\nsystem\n",
    "OBJ": b"(" + FORWARD + RUN + b"o",
    "EXT1": b"\x82\x01" + RUN + b"\x85R",
    "getattr to the globals of a method": GETATTR + FORWARD + text("__globals__") + b"\x86R",
    "getattr to another method": GETATTR + DETECT + text("fuse") + b"\x86R",
    "getattr to a dunder": GETATTR + DETECT + text("__subclasses__") + b"\x86R",
    "calling a method": FORWARD + RUN + RUN + b"\x86R",
    "calling a constructor": name("ultralytics.nn.tasks", "DetectionModel") + text("yolo12n.yaml") + b"\x85R",
    "NEWOBJ with arguments": name("torch.nn.modules.linear", "Linear") + b"K\x02K\x02\x86\x81",
    "calling an instance": IDENTITY + RUN + b"\x85R",
    "torch's caller of functions": name("torch._tensor", "_rebuild_from_type_v2") + b"(" + FORWARD + b"NNNtR",
    "a numpy array of objects": name("numpy", "dtype") + text("O8") + b"\x85R",
    "a codec by name": name("_codecs", "encode") + RUN + text("rot13") + b"\x86R",
    "a set of a module": name("__builtin__", "set") + IDENTITY + b"\x85R",
    "append to a module": name("torch.nn.modules.container", "ModuleList") + b")\x81Na",
    "items set in a module": IDENTITY + text("a") + b"Ns",
    "state for a function": FORWARD + b"}b",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_an_attack_is_refused_and_runs_nothing(attack: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    file = archive(tmp_path / "evil.pt", attack)
    with pytest.raises(safeload.RefusedError):
        safeload.load(file)
    assert not Path("ran").exists()
    with pytest.raises(UserError, match="YOLOV12_TRUST_WEIGHTS=1"):
        weights.torch_safe_load(file)


class Evil:
    """What an ordinary hostile file looks like."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("where", ["itself", "in a layer"])
def test_code_in_an_honest_looking_file_does_not_run(where: str, tmp_path: Path):
    ran = tmp_path / "ran"
    model: object = Evil(ran)
    if where == "in a layer":
        model = tasks.DetectionModel("yolo12n.yaml", verbose=False)
        model.model[3].hidden = Evil(ran)
    file = tmp_path / "evil.pt"
    torch.save({"model": model}, file)
    with pytest.raises(UserError, match=r"asks for posix\.system"):
        weights.torch_safe_load(file)
    assert not ran.exists()


def test_the_same_file_runs_its_code_when_the_user_trusts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("YOLOV12_TRUST_WEIGHTS", "1")
    torch.save({"model": nn.Identity(), "extra": Evil(tmp_path / "ran")}, tmp_path / "evil.pt")
    weights.torch_safe_load(tmp_path / "evil.pt")
    assert (tmp_path / "ran").exists()
    assert "any code in it runs" in capsys.readouterr().err


def test_a_caller_that_asks_for_safety_gets_it_from_a_trusting_user_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("YOLOV12_TRUST_WEIGHTS", "1")
    torch.save({"model": Evil(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(UserError):
        weights.torch_safe_load(tmp_path / "evil.pt", safe_only=True)
    assert not (tmp_path / "ran").exists()


def through_a_teacher(folder: Path) -> Path:
    """A file whose unpickling constructs a DistillationModel, which loads a second file as its teacher."""
    torch.save({"model": Evil(folder / "ran")}, folder / "teacher.pt")
    student = IDENTITY + b"}" + text("yaml") + b"}sb"
    model = name("ultralytics.nn.distill_model", "DistillationModel")
    return archive(folder / "evil.pt", model + text(str(folder / "teacher.pt")) + student + b"\x86R")


def test_a_teacher_is_not_loaded_by_unpickling(tmp_path: Path):
    with pytest.raises(UserError):
        weights.torch_safe_load(through_a_teacher(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_upstreams_restricted_loader_is_not_enough(tmp_path: Path):
    """The reason for a loader of our own; once this fails, read `_SafeLoad` again."""
    code = "import sys; from ultralytics.nn.tasks import torch_safe_load; torch_safe_load(sys.argv[1], safe_only=True)"
    environment = {**os.environ, "YOLOV12_DISABLE": "1"}
    subprocess.run(
        [sys.executable, "-c", code, str(through_a_teacher(tmp_path))],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert (tmp_path / "ran").exists()


def test_state_can_not_smuggle_in_a_setstate_of_its_own(tmp_path: Path):
    build = b"}" + text("__setstate__") + FORWARD + b"sb"
    loaded = safeload.load(archive(tmp_path / "odd.pt", IDENTITY + build + b"}" + text("a") + b"K\x01sb"))
    assert loaded["model"].a == 1


def test_the_activation_in_a_checkpoints_yaml_is_not_evaluated_when_the_net_is_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    weights.install()
    model = tasks.DetectionModel("yolo12n.yaml", verbose=False)
    model.yaml["activation"] = "open('ran', 'w')"
    torch.save({"model": model}, "evil.pt")
    loaded, _ = tasks.load_checkpoint("evil.pt")
    with pytest.raises(TypeError, match="activation"):
        tasks.DetectionModel(loaded.yaml, verbose=False)
    assert not Path("ran").exists()


def test_the_activation_is_not_evaluated_in_a_conversion_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks, "SAFE_LOAD", False)  # as before anything was loaded
    turbo = official_form.build("n")
    turbo.yaml["activation"] = "open('ran', 'w')"
    with pytest.raises(UserError, match="its net can not be rebuilt"):
        weights.convert_file(official_form.save(turbo, tmp_path / "evil.pt"), tmp_path / "out.pt")
    assert not Path("ran").exists()


def test_activations_of_honest_yamls_still_work():
    weights.install()
    yaml = {**tasks.yaml_model_load("yolo12n.yaml"), "activation": "torch.nn.LeakyReLU(0.1)"}
    model = tasks.DetectionModel(yaml, verbose=False)
    assert isinstance(model.model[0].act, nn.LeakyReLU)
